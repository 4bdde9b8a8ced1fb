"""A trial without Ray around it: lives of true networks, one of which goes on from a copy of another shape."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_life import made, same

from evo import network_trial
from evo.network_trial import Common, NetworkTrial, grower
from evo.recorder import read_events
from evo.shipping import ShippedTask
from search_spaces import checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in Ray's object store comes from here."""
    monkeypatch.setattr(network_trial.ray, "get", lambda reference: reference)


def trial(folder: Path, network: str, generation: int = 0, **settings: Any) -> NetworkTrial:
    """As Tune makes it, but for what only Ray can give."""
    config, task = made()
    folder.mkdir(exist_ok=True)
    birth = {"network": network, "generation": generation, "parent": None, "settings": settings}
    held = object.__new__(NetworkTrial)
    held.config = {"birth": birth}
    data = (ShippedTask.of(task),)
    held.setup(held.config, Common(config, folder, data, "cpu", workers=0, ranks=1, claim={}, price=1e-4, begin=grower))
    return held


def shapes(folder: Path, snapshot: str) -> dict[str, int]:
    return checkpoint.load(folder / "snapshots" / snapshot).network.axis_sizes()


def test_a_network_goes_on_from_a_copy_of_another_shape(tmp_path: Path) -> None:
    run = tmp_path / "run"
    one = trial(run, "n000", **{"network.hidden": [9], "network.density": 0.2})
    other = trial(run, "n001", **{"network.hidden": [4]})
    for _ in range(2):
        one.step()
    other.step()
    assert shapes(run, "n000/000000")["hidden1"] == 9
    assert shapes(run, "n001/000000")["hidden1"] == 4
    copy = tmp_path / "copy"
    copy.mkdir()
    one.save_checkpoint(str(copy))

    birth = {"network": "n002", "generation": 1, "parent": None, "settings": {"training.learning_rate": 0.004}}
    assert other.reset_config({"birth": birth})
    other.config = {"birth": birth}
    other.load_checkpoint(str(copy))
    told = other.step()
    assert told["update"]["parent"] == "n000/000002"
    assert told["clock"] == 3
    assert shapes(run, "n002/000000") == shapes(run, "n000/000002")
    born = read_events(run, "n002").iloc[0]
    assert (born["parent"], born["generation"]) == ("n000/000002", 1)
    settings = json.loads(born["config"])
    assert settings["growth"]["cycles"] == 1
    assert settings["training"]["learning_rate"] == 0.004
    assert checkpoint.load(run / "snapshots" / "n002" / "000001").lineage == ["n000/000002"]
    for held in (one, other):
        held.cleanup()


@pytest.mark.parametrize("cycles", [0, 1, 2])
def test_a_copy_that_died_goes_on_by_itself(tmp_path: Path, cycles: int) -> None:
    """Tune gives a restarted trial the copy again, and its life goes on all the same."""
    runs = [tmp_path / "whole", tmp_path / "killed"]
    for run in runs:
        one = trial(run, "n000")
        one.step()
        copy = tmp_path / f"copy-{run.name}"
        copy.mkdir()
        one.save_checkpoint(str(copy))
        held, done, lived = trial(run, "n001", 1), False, 0
        held.load_checkpoint(str(copy))
        while not done:
            if run.name == "killed" and lived == cycles:
                held = trial(run, "n001", 1)  # another process, which knows nothing
                held.load_checkpoint(str(copy))
            done, lived = held.step()["done"], lived + 1
        held.cleanup()
        one.cleanup()
    assert same(*runs) == []


def test_a_worker_imports_nothing_that_it_seldom_needs() -> None:
    """Each of these takes a third of a second or more, in every process of a search."""
    seldom = ("typer", "networkx", "scipy.stats", "matplotlib", "mlflow", "optuna", "sklearn")
    probe = f"import sys, evo.network_trial, evo.grower; print([m for m in {seldom} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
