"""Growing from Python: what is checked before a folder is made, how a run ends, stops and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fake_grower
import numpy as np
import pytest
import torch
from fake_grower import CYCLES, FakeGrower

import evo
from evo import api, drive
from evo.config import Config, ConfigError
from evo.task import fingerprint

X = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
QUIET = {"record.mlflow": False}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeGrower]:
    return fake_grower.install(monkeypatch, tmp_path)


def test_grows_to_the_end_and_reports(fake: type[FakeGrower]) -> None:
    told: list[Mapping[str, Any]] = []
    run = evo.grow("parity:4", seed=7, config={"name": "a"}, progress=told.append, **QUIET)
    assert run.finished
    assert run.info["config"]["seed"] == 7
    assert run.test is not None
    stages = [update["stage"] for update in told]
    assert stages == ["start", *["cycle"] * CYCLES, "report"]
    assert told[0]["run"] == str(run.folder) == "runs/a"
    assert told[1]["network"] == "n000"
    assert fake.last is not None
    assert fake.last.closed


def test_settings_come_in_every_form(fake: type[FakeGrower], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("training: {epochs: 5, warmup: 1}\ntask: parity:3\n")
    run = evo.grow(config=file, training={"epochs": 6}, **{**QUIET, "growth.cycles": 9})
    config = run.info["config"]
    assert (config["task"], config["training"]["epochs"], config["training"]["warmup"]) == ("parity:3", 6.0, 1)
    assert config["growth"]["cycles"] == 9
    again = evo.grow(config=Config.model_validate(config), name="other")
    assert again.info["config"] == {**config, "name": "other"}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"epochs": 3}, "epochs"),
        ({"network.family": "mpl"}, "network.family"),
        ({"device": "cuda:7"}, "device"),
        ({"task": "digitz"}, "task"),
        ({"data.limit": 60, "task": "parity:8"}, "data.limit"),
        ({"name": "a b"}, "name"),
    ],
)
def test_what_is_wrong_is_found_before_a_folder_is_made(
    fake: type[FakeGrower], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], field: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"^{field}: "):
        evo.grow(config={"task": "parity:4"}, **QUIET, **settings)
    assert os.listdir() == []


def test_a_grower_that_fails_at_once_leaves_no_folder(fake: type[FakeGrower]) -> None:
    def fail(cycle: int) -> None:
        raise ValueError("growth.max_parameters: too few")

    fake.before = staticmethod(fail)
    with pytest.raises(ValueError, match="max_parameters"):
        evo.grow("parity:4", **QUIET)
    assert os.listdir("runs") == []
    assert fake.last is not None
    assert fake.last.closed


def test_a_grower_that_fails_later_leaves_what_was_recorded(fake: type[FakeGrower]) -> None:
    def fail(cycle: int) -> None:
        if cycle == 3:
            raise OSError(28, "No space left on device")

    fake.before = staticmethod(fail)
    with pytest.raises(OSError, match="No space"):
        evo.grow("parity:4", name="a", **QUIET)
    fake.before = staticmethod(lambda cycle: None)
    assert len(evo.resume("a").decisions) == CYCLES


def test_ctrl_c_stops_after_the_decision_and_resume_ends_the_same(fake: type[FakeGrower]) -> None:
    whole = evo.grow("parity:4", name="whole", **QUIET)
    for cycle in (0, 3):
        fake.before = staticmethod(fake_grower.interrupt(cycle))
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(evo.Interrupted) as stopped:
            evo.grow("parity:4", name=f"at{cycle}", **QUIET)
        assert stopped.value.signum == signal.SIGINT
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
        broken = evo.Run.open(f"runs/at{cycle}")
        assert len(broken.decisions) == cycle + 1
        assert broken.test is None
        fake.before = staticmethod(lambda cycle: None)
        resumed = evo.resume(f"at{cycle}")
        assert resumed.finished
        assert resumed.events.drop(columns=["time"]).equals(whole.events.drop(columns=["time"]))


def test_a_second_ctrl_c_stops_at_once(fake: type[FakeGrower]) -> None:
    def twice(cycle: int) -> None:
        if cycle == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    fake.before = staticmethod(twice)
    with pytest.raises(KeyboardInterrupt) as stopped:
        evo.grow("parity:4", name="a", **QUIET)
    assert not isinstance(stopped.value, evo.Interrupted)
    assert len(evo.Run.open("runs/a").decisions) == 2


def test_budget_ends_after_the_current_decision_with_a_report(fake: type[FakeGrower]) -> None:
    run = evo.grow("parity:4", budget=1e-9, name="a", **QUIET)
    assert len(run.decisions) == 0
    clock = iter([0.0, 1.0, 2.0, 3.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive.time, "monotonic", lambda: next(clock))
        run = evo.grow("parity:4", budget=2.5, name="b", **QUIET)
    assert len(run.decisions) == 2
    assert run.test is not None
    assert len(evo.resume("b").decisions) == CYCLES


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        (torch.from_numpy(X), torch.from_numpy(Y)),
        torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    ],
    ids=["arrays", "tensors", "dataset"],
)
def test_data_in_memory(fake: type[FakeGrower], source: Any) -> None:
    run = evo.grow(source, name="mine", **QUIET)
    assert run.info["task"] == "arrays"
    assert fake.last is not None
    assert fake.last.task.shape == (3,)
    with pytest.raises(ConfigError, match=r"arrays in memory.*data=\(X, y\)"):
        evo.resume("mine")
    with pytest.raises(ConfigError, match="began with other data"):
        evo.resume("mine", data=(X + 1, 1 - Y))
    assert evo.resume("mine", data=(X, Y)).finished


def test_data_in_memory_that_is_none(fake: type[FakeGrower]) -> None:
    with pytest.raises(ValueError, match="expected"):
        evo.grow(3, **QUIET)
    with pytest.raises(ConfigError, match=r"^task: 'arrays' means data in memory"):
        evo.grow("arrays", **QUIET)
    assert os.listdir() == []


def test_a_table_is_found_again_from_elsewhere(fake: type[FakeGrower], tmp_path: Path) -> None:
    rows = "\n".join(f"{i % 7},{i % 3},{'ab'[i % 2]}" for i in range(200))
    Path("t.csv").write_text(f"p,q,y\n{rows}\n")
    evo.grow("table", data={"path": "t.csv", "target": "y"}, name="mine", **QUIET)
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    assert evo.resume(tmp_path / "runs" / "mine").finished
    (tmp_path / "t.csv").write_text(f"p,q,y\n{rows}\n9,9,a\n")
    with pytest.raises(ConfigError, match=r"^data: run mine began with other data"):
        evo.resume(tmp_path / "runs" / "mine")


def test_a_resumed_run_says_what_is_different_now(fake: type[FakeGrower]) -> None:
    run = evo.grow("parity:4", budget=1e-9, name="a", **QUIET)
    page = run.folder / "run.json"
    page.write_text(json.dumps({**run.info, "versions": {"torch": "1.0"}}))
    (run.folder / "report").mkdir()
    (run.folder / "report" / "front.json").write_text('{"front": []}')
    told: list[Mapping[str, Any]] = []
    evo.resume("a", progress=told.append)
    notes = [update["text"] for update in told if update["stage"] == "note"]
    assert len(notes) == 2
    assert "no test figures" in notes[0]
    assert notes[1].startswith("begun with torch 1.0, goes on with ")
    page.write_text(json.dumps({**run.info, "versions": [1]}))
    evo.resume("a", progress=told.append)  # says no versions, and goes on


@pytest.mark.parametrize("config", [None, "x", {"zzz": 1}])
def test_a_run_whose_settings_are_damaged_is_told(fake: type[FakeGrower], config: Any) -> None:
    run = evo.grow("parity:4", **QUIET)
    path = run.folder / "run.json"
    path.write_text(json.dumps({**run.info, "config": config}))
    with pytest.raises(ConfigError, match=r"run\.json"):
        evo.resume(run.folder)


def test_search_is_stopped_and_resumed_alike(fake: type[FakeGrower], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def run_search(config: Config, task: Any, folder: Path, progress: Any, stop: Any) -> None:
        calls.append(config.search.networks)
        grower = FakeGrower(config, task, folder)
        while not grower.done and not stop():
            progress({"stage": "cycle", "network": "n000", "generation": 0, **grower.advance()})

    monkeypatch.setitem(sys.modules, "evo.sweep", types.SimpleNamespace(run_search=run_search))
    fake.before = staticmethod(fake_grower.interrupt(2, signal.SIGTERM))
    with pytest.raises(evo.Interrupted) as stopped:
        evo.search("parity:4", name="s", **{"search.networks": 1}, **QUIET)
    assert stopped.value.signum == signal.SIGTERM
    fake.before = staticmethod(lambda cycle: None)
    run = evo.resume("s")
    assert calls == [1, 1]
    assert run.info["kind"] == "search"
    assert run.finished


def test_ctrl_c_before_a_network_was_born_leaves_nothing(
    fake: type[FakeGrower], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_search(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setitem(sys.modules, "evo.sweep", types.SimpleNamespace(run_search=run_search))
    with pytest.raises(evo.Interrupted, match="stopped before a network was born"):
        evo.search("parity:4", name="s", **QUIET)
    assert os.listdir("runs") == []


def test_threads_are_one_while_growing_and_restored(fake: type[FakeGrower]) -> None:
    seen: list[int] = []
    fake.before = staticmethod(lambda cycle: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        evo.grow("parity:4", **QUIET)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_fingerprint_tells_data_apart() -> None:
    one, two = (api._load(Config(task="spirals", seed=seed), None) for seed in (0, 1))
    assert fingerprint(one) == fingerprint(api._load(Config(task="spirals", seed=0), None))
    assert fingerprint(one) != fingerprint(two)


def test_import_is_light_and_names_are_listed() -> None:
    code = "import evo, sys, json; print(json.dumps([sorted(dir(evo)), [m for m in sys.modules if m in %r]]))"
    heavy = ["torch", "ray", "mlflow", "pandas", "numpy", "pydantic"]
    done = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    names, loaded = json.loads(done.stdout)
    assert set(evo.__all__) <= set(names)
    assert loaded == []
    assert all(getattr(evo, name) is not None for name in evo.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'grov'"):
        _ = evo.grov
