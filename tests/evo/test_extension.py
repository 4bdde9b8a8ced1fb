"""More budget for a run that has ended: what is added, what stays, and that it comes out the same twice."""

from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fake_grower
import fake_run
import pytest
from small_life import SMALL, same

import evo
from evo import extension, faults, recorder, report, stored_snapshots
from evo.config import Config, ConfigError
from evo.extension import More
from evo.recorder import read_events
from evo.run import Run
from evo.settings import build
from evo.storage import open_store
from search_spaces import checkpoint

pytestmark = pytest.mark.usefixtures("no_pictures")


def copied(run: Run, to: Path) -> Path:
    return Path(shutil.copytree(run.folder, to / run.folder.name))


def test_another_life_goes_on_from_the_last_snapshot_the_same_twice(first: Run, tmp_path: Path) -> None:
    one, other = (copied(first, tmp_path / name) for name in ("one", "other"))
    old, figures = read_events(one), (one / "report" / "front.json").read_bytes()
    told: list[Mapping[str, Any]] = []
    run = evo.resume(one, cycles=1, progress=told.append)
    assert run.finished
    rows = read_events(one)
    assert rows[rows["network"] == "n000"].reset_index(drop=True).equals(old)
    born = rows[rows["network"] == "n001"].iloc[0]
    last = old[old["kind"] == "snapshot"]["snapshot"].iloc[-1]
    assert (born["parent"], born["generation"]) == (f"n000/{last}", 1)
    settings = json.loads(born["config"])
    assert settings["growth"]["cycles"] == 1
    assert settings["training"]["steps"] == round(SMALL["training.steps"] / 3)
    assert checkpoint.load(one / "snapshots" / "n001" / "000001").lineage == [f"n000/{last}"]
    assert (one / "report" / "front.json").read_bytes() == figures
    added = run.front[run.front["network"] == "n001"]
    assert added["test_accuracy"].isna().all()
    assert sum("test set was read once" in str(update.get("text")) for update in told) == 1
    assert next(u for u in told if u["stage"] == "start")["networks"] == 2
    (noted,) = run.info["extensions"]
    assert noted["network"] == "n001"
    assert noted["settings"]["growth.cycles"] == 1

    evo.resume(other, cycles=1)
    assert same(one, other) == []
    for folder in (one, other):
        evo.resume(folder, steps=60)
    assert same(one, other) == []
    born = read_events(one, "n002").iloc[0]
    assert born["parent"] == "n001/000002"
    assert json.loads(born["config"])["training"]["steps"] == 60
    assert json.loads(born["config"])["growth"]["cycles"] == 1  # in proportion: 60 of 160 steps, 3 cycles


def test_stopped_within_the_added_life_it_resumes_to_the_same(first: Run, tmp_path: Path) -> None:
    whole, cut = (copied(first, tmp_path / name) for name in ("whole", "cut"))
    evo.resume(whole, epochs=30.0, cycles=2)

    def stop(update: Mapping[str, Any]) -> None:
        if update["stage"] == "cycle" and update["network"] == "n001":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evo.resume(cut, epochs=30.0, cycles=2, progress=stop)
    assert not Run.open(cut).finished
    assert evo.resume(cut).finished
    assert same(whole, cut) == []


def test_a_run_that_has_not_ended_ends_first(first: Run, tmp_path: Path) -> None:
    def stop(update: Mapping[str, Any]) -> None:
        if update["stage"] == "cycle":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evo.grow(config=SMALL, out=str(tmp_path), name="first", progress=stop)
    evo.resume(tmp_path / "first", cycles=1)
    whole = copied(first, tmp_path / "whole")
    evo.resume(whole, cycles=1)
    assert same(whole, tmp_path / "first") == []


def test_run_json_is_amended_whole_or_not_at_all(first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(first, tmp_path)
    before = (folder / "run.json").read_bytes()

    def broken(point: str) -> None:
        if point == "run.amended":
            raise OSError("power cut")

    monkeypatch.setattr(faults, "point", broken)
    with pytest.raises(OSError, match="power cut"):
        evo.resume(folder, cycles=1)
    monkeypatch.undo()
    amended = json.loads((folder / "run.json").read_bytes())
    assert {k: v for k, v in amended.items() if k != "extensions"} == json.loads(before)
    assert not list(folder.glob(".run.json*"))
    assert not Run.open(folder).finished
    monkeypatch.setattr(report, "write", lambda run, task=None: None)
    assert evo.resume(folder).finished


# --- what a search may be given


def searched(folder: Path, **search: Any) -> Run:
    """Of no event yet."""
    return Run(folder, {"name": "s", "kind": "search", "config": {"search": search}})


def config_of(**search: Any) -> Any:
    return build({f"search.{key}": value for key, value in {"networks": 4, **search}.items()})


@pytest.mark.parametrize("algorithm", ["nsga2", "nsga3", "tpe", "regularised", "asha"])
def test_more_networks_are_noted_and_no_other_setting_is_changed(tmp_path: Path, algorithm: str) -> None:
    run = searched(tmp_path, algorithm=algorithm, networks=4)
    made = extension.extended(run, config_of(algorithm=algorithm), 100, More(networks=9))
    assert made["config"] == {"search": {"algorithm": algorithm, "networks": 9}}
    assert [(e["networks"], e["before"]) for e in made["extensions"]] == [(9, 4)]
    again = extension.extended(
        Run(run.folder, made), config_of(algorithm=algorithm, networks=9), 100, More(networks=12)
    )
    assert [(e["networks"], e["before"]) for e in again["extensions"]] == [(9, 4), (12, 9)]
    assert extension.extended(run, config_of(algorithm=algorithm), 100, More(networks=4)) == run.info


@pytest.mark.parametrize(
    ("kind", "more", "search", "told"),
    [
        ("search", More(networks=3), {}, "--networks: expected at least the 4 that s was asked for, got 3; write"),
        ("search", More(steps=3), {}, "run: s is a search, whose lives are as long as they were begun; write --netw"),
        ("search", More(networks=8, cycles=1), {}, "run: s is a search, whose lives are"),
        ("search", More(networks=8), {"algorithm": "pbt"}, "--networks: s is a population of pbt, all born at once"),
        ("grow", More(networks=8), {}, "run: s is one network, with no more beside it; write --cycles, --steps or"),
        ("grow", More(steps=8, epochs=2.0), {}, "--steps, --epochs: expected one of them, got 8 and 2"),
        ("grow", More(steps=-1), {}, "training.steps: expected a whole number ≥ 1, got -1"),
        ("grow", More(epochs=-1.0), {}, "training.epochs: expected a number > 0 or null, got -1.0"),
        ("grow", More(cycles=0), {}, "growth.cycles: expected a whole number ≥ 1, got 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_added_is_one_line(
    tmp_path: Path, kind: str, more: More, search: dict[str, Any], told: str
) -> None:
    run = Run(tmp_path, {"name": "s", "kind": kind, "config": {"search": search}})
    with pytest.raises(ConfigError) as caught:
        extension.extended(run, config_of(**search), 100, more)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_parents_that_were_tidied_away_are_told_of(first: Run, tmp_path: Path) -> None:
    folder = copied(first, tmp_path)
    shutil.rmtree(folder / "snapshots" / "n000" / "000001")
    run = Run(folder, {**first.info, "kind": "search"})
    with pytest.raises(
        ConfigError, match=r"--networks: children may start from any .* has removed 1 of first's at its"
    ):
        extension.extended(run, config_of(), 100, More(networks=8))
    made = extension.extended(run, config_of(algorithm="regularised"), 100, More(networks=8))
    assert made["config"]["search"]["networks"] == 8


def test_in_a_bucket_the_store_says_what_is_there(first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)
    for network, snapshot in stored_snapshots.kept(first.folder):
        store.create(f"snapshots/{network}/{snapshot}/0a1b/packed.safetensors", b"")
        store.create(f"snapshots/{network}/{snapshot}/0a1b/{stored_snapshots.HEAD}", b"{}")
    monkeypatch.setattr(stored_snapshots.replica, "of", lambda folder: types.SimpleNamespace(store=store))
    run = Run(tmp_path / "a replica that has fetched nothing", {**first.info, "kind": "search"})
    run.__dict__["events"] = first.events
    made = extension.extended(run, config_of(), 100, More(networks=8))
    assert made["config"]["search"]["networks"] == 8
    store.remove(f"snapshots/n000/000001/0a1b/{stored_snapshots.HEAD}")
    with pytest.raises(ConfigError, match="has removed 1 of"):
        extension.extended(run, config_of(), 100, More(networks=8))


def test_damaged_extensions_are_one_line(first: Run) -> None:
    for damaged in (7, ["n001"], {"network": "n001"}):
        with pytest.raises(ConfigError, match=r"^run.json: expected a list of objects as extensions, got "):
            extension.lives({"extensions": damaged}, build())


def test_a_search_that_has_ended_is_given_more_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_grower.install(monkeypatch, tmp_path)
    asked: list[int] = []

    def run_search(config: Config, task: Any, folder: Path, *_: Any) -> None:
        asked.append(config.search.networks)
        for number in range(config.search.networks):
            name = f"n{number:03d}"
            if recorder.read_table(folder, name).num_rows == 0:
                rows = fake_run.life(name, cycles=3, seed=number)
                for row in rows:
                    if row["kind"] == "snapshot":
                        (folder / "snapshots" / name / row["snapshot"]).mkdir(parents=True)
                recorder.Recorder(folder, name).commit(rows)

    monkeypatch.setitem(sys.modules, "evo.sweep", types.SimpleNamespace(run_search=run_search))
    run = evo.search("parity:4", name="a", **{"search.networks": 3, "record.mlflow": False})
    assert run.finished
    before = read_events(run.folder)
    told: list[Mapping[str, Any]] = []
    again = evo.resume("a", networks=5, progress=told.append)
    assert again.finished
    assert asked == [3, 5]
    after = read_events(run.folder)
    assert len(after["network"].unique()) == 5
    assert after[after["network"] < "n003"].equals(before)
    assert again.info["config"] == {**run.info["config"], "search": {**run.info["config"]["search"], "networks": 5}}
    assert [(e["networks"], e["before"]) for e in again.info["extensions"]] == [(5, 3)]
    assert sum("test set was read once" in str(update.get("text")) for update in told) == 1
    evo.resume("a", networks=5)
    assert len(Run.open(run.folder).info["extensions"]) == 1
