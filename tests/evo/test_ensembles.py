"""Ensembles: figures against their formulas, choices on validation data alone, the test set read once a set."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_life import live, made
from typer.testing import CliRunner

from evo import ensembles, run_folder
from evo.cli import app
from evo.data import from_arrays
from evo.ensembles import EnsembleError, choose
from evo.run import Run
from evo.settings import build
from evo.training import predict
from search_spaces import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config, task = made(out=str(tmp_path_factory.mktemp("runs")), name="a")
    folder, config = run_folder.create("grow", config)
    live(config, task, folder)
    live(config, task, folder, network="n001")
    return Run.open(folder)


@pytest.fixture(autouse=True)
def unread(run: Run) -> None:
    (run.folder / ensembles.ENSEMBLES_FILE).unlink(missing_ok=True)


def test_probabilities_are_averaged_and_paired_with_the_best_single_one(run: Run) -> None:
    named = ["n000/000002", "n000/000004", "n001/000004"]
    found = run.ensemble(named)
    task = run.load_task()
    held = task.splits["validation"]
    told = [
        predict(checkpoint.load(run.folder / "snapshots" / name).network, held.x).double().softmax(1) for name in named
    ]
    each = [-p[range(len(held.y)), held.y].log() for p in told]
    together = -torch.stack(told).mean(0)[range(len(held.y)), held.y].log()
    best = min(each, key=lambda loss: float(loss.mean()))
    gain = best - together
    assert found.members == (("n000", "000002"), ("n000", "000004"), ("n001", "000004"))
    assert found.each == pytest.approx([task.entropy - float(loss.mean()) for loss in each])
    assert found.validation["information_nats"] == pytest.approx(task.entropy - float(together.mean()))
    assert found.validation["best_information_nats"] == pytest.approx(max(found.each))
    assert found.validation["gain_nats"] == pytest.approx(float(gain.mean()))
    assert found.validation["gain_se_nats"] == pytest.approx(float(gain.std()) / math.sqrt(len(gain)))
    assert found.test is None
    outputs = found.module(held.x)
    assert torch.allclose(outputs.double().softmax(1), torch.stack(told).mean(0), atol=1e-6)
    right = (torch.stack(told).mean(0).argmax(1) == held.y).double().mean()
    assert found.validation["accuracy"] == pytest.approx(float(right))


def test_one_member_is_itself_and_a_set_names_each_once(run: Run) -> None:
    found = run.ensemble(["n000/000003", "n000/000003"])
    assert found.members == (("n000", "000003"),)
    assert found.validation["gain_nats"] == 0.0
    assert found.validation["information_nats"] == pytest.approx(found.each[0])


def test_the_default_is_the_best_of_each_phase_of_the_best_network(run: Run) -> None:
    found = run.ensemble()
    assert {network for network, _ in found.members} == {run.best.network}
    shots = run.events[(run.events["kind"] == "snapshot") & (run.events["network"] == run.best.network)]
    phases = shots.set_index("snapshot")["phase"]
    assert [phases[name] for _, name in found.members] == ["coarse", "medium", "fine"]
    judged = shots.set_index("snapshot")["validation_information_nats"]
    for _, name in found.members:
        assert judged[name] == judged[phases[phases == phases[name]].index].max()


def test_greedy_begins_with_the_best_and_never_gets_worse(run: Run) -> None:
    one, several = run.ensemble(greedy=1), run.ensemble(greedy=4)
    assert one.members == several.members[:1] == ((run.best.network, run.best.snapshot),)
    assert 1 <= len(several.members) <= 4
    assert several.validation["information_nats"] >= one.validation["information_nats"]


def test_greedy_takes_what_complements() -> None:
    y = torch.tensor([0, 0, 1, 1])
    right = {"sure": [0.95, 0.95, 0.3, 0.3], "alike": [0.95, 0.95, 0.3, 0.3], "other": [0.35, 0.35, 0.9, 0.9]}
    first = np.array(list(right.values()))
    first[:, 2:] = 1 - first[:, 2:]
    told = np.stack([first, 1 - first], axis=2)
    names = [("n000", f"{i:06d}") for i in range(3)]
    picked = choose(told, y, "classification", 3, names)
    assert picked == [names[2], names[0]], "a third that only doubles a member makes it no better"
    values = torch.zeros(2, 1)
    three = np.array([[[1.0], [1.0]], [[-1.5], [-1.5]], [[9.0], [9.0]]])
    assert choose(three, values, "regression", 3, names) == [names[0], names[1]]
    assert choose(three[:0], values, "regression", 3, []) == []
    broken = np.full((1, 2, 1), np.nan)
    assert choose(broken, values, "regression", 1, names) == []


def test_values_are_averaged(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(300, 5))
    config = build({"task": "arrays", "training.steps": 120, "growth.cycles": 2, "tournament.rungs": [3, 5],
                    "tournament.evidence_samples": 64, "tournament.candidates": 2, "network.density": 0.5,
                    "out": str(tmp_path), "name": "r"})  # fmt: skip
    task = from_arrays(X, X[:, 0] * X[:, 1] + X[:, 2], config)
    folder, config = run_folder.create("grow", config)
    live(config, task, folder)
    found = Run.open(folder).ensemble(["n000/000001", "n000/000002"], task=task)
    x = task.splits["validation"].x
    means = [
        predict(checkpoint.load(folder / "snapshots" / "n000" / n).network, x).double() for n in ("000001", "000002")
    ]
    assert torch.allclose(found.module(x).double(), torch.stack(means).mean(0), atol=1e-6)
    assert set(found.validation) >= {"r2", "best_r2", "gain_nats", "gain_se_nats"}


def test_the_test_set_is_read_only_on_request_once_a_set_and_on_the_record(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run.folder / ensembles.ENSEMBLES_FILE
    run.ensemble(greedy=3)
    assert not path.exists()
    found = run.ensemble(["n000/000004", "n001/000004"], test=True)
    assert found.test is not None
    assert found.test["samples"] == len(run.load_task().splits["test"].y)
    [entry] = json.loads(path.read_text())["ensembles"]
    assert entry["key"] == ["n000/000004", "n001/000004"]
    assert entry["test"] == found.test
    before = path.read_bytes()
    again = run.ensemble(["n001/000004", "n000/000004"], test=True)
    assert again.test == found.test
    assert path.read_bytes() == before
    run.ensemble(["n001/000004"], test=True)
    assert len(json.loads(path.read_text())["ensembles"]) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ensembles": [1]}', '{"ensembles": [{"key": []}]}'])
def test_a_damaged_record_is_one_clear_line(run: Run, text: str) -> None:
    path = run.folder / ensembles.ENSEMBLES_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(EnsembleError, match=r"ensembles\.json: expected .*; move the file away") as caught:
        run.ensemble(greedy=1, test=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"members": []}, "expected one snapshot at least, got none"),
        ({"members": ["n000/000077"]}, r"has no snapshot 'n000/000077'; write NETWORK/SNAPSHOT, of n000/000000, "),
        ({"members": ["../x"]}, "has no snapshot"),
        ({"members": ["n000/000001"], "greedy": 2}, "given together with greedy"),
        ({"greedy": 0}, "expected 1 member or more, got 0"),
    ],
)
def test_what_cannot_be_is_told(run: Run, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(EnsembleError, match=told):
        run.ensemble(**asked)


def test_data_of_another_shape_are_told_before_anything_is_asked_of_them(run: Run) -> None:
    other = from_arrays((np.zeros((60, 3), np.float32), np.arange(60) % 2), None, build({}))
    with pytest.raises(EnsembleError, match=r"has 64 inputs and 10 outputs, but .* 3 and 2; restore the data"):
        run.ensemble(["n000/000004"], task=other)


def test_a_snapshot_that_was_not_kept_is_told(run: Run, tmp_path: Path) -> None:
    home = run.folder / "snapshots" / "n001" / "000004"
    home.rename(tmp_path / "away")
    try:
        with pytest.raises(EnsembleError, match="n001/000004 was not kept"):
            run.ensemble(["n001/000004"])
        assert ("n001", "000004") not in run.ensemble(greedy=5).members
    finally:
        (tmp_path / "away").rename(home)


def test_the_command_prints_a_table_or_json_alone(run: Run) -> None:
    where = [str(run.folder)]
    shown = CliRunner().invoke(app, ["ensemble", *where, "--greedy", "2", "--test"])
    assert shown.exit_code == 0, shown.output
    assert "chosen greedily on validation data" in shown.output
    assert [line.split()[0] for line in shown.output.splitlines()[-2:]] == ["validation", "test"]
    told = CliRunner().invoke(app, ["ensemble", *where, "--members", "n000/000001,n001/000002", "--json"])
    found = json.loads(told.stdout)
    assert [m["snapshot"] for m in found["members"]] == ["000001", "000002"]
    assert found["test"] is None
    both = CliRunner().invoke(app, ["ensemble", *where, "--phases", "--greedy", "2"])
    assert both.exit_code == 2
