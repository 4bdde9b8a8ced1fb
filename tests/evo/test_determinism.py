"""The same seed gives the same weights and events, bit for bit, whoever ran the trials and whoever died on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evo import cluster, faults
from evo.config import Config
from evo.data import load_task
from evo.events import STABLE
from evo.grower import Grower
from evo.network_trial import Life
from evo.pool import RayPool
from evo.progress import silent
from evo.recorder import read_events
from evo.settings import build
from evo.sweep import run_search
from evo.task import Task
from evo.trials import TrialRunner
from evo.workers import make_runner

SMALL = {
    "task": "digits", "seed": 7, "training.epochs": 40, "data.limit": 400, "growth.cycles": 3,
    "tournament.rungs": [3, 6], "tournament.candidates": 2, "network.density": 0.15,
}  # fmt: skip
DEATH = "kill-once"


@pytest.fixture(scope="module", autouse=True)
def ray_running() -> Iterator[None]:
    with cluster.session(torch.device("cpu")):
        yield


def grow(folder: Path, workers: int, kill: bool = False) -> None:
    config = build(SMALL)
    task = load_task(config)
    with make_runner(workers, task) as runner:
        grower = Grower(config, task, folder, runner=runner)
        while not grower.done:
            grower.advance()
            if kill:
                assert isinstance(runner, RayPool)
                os.kill(runner.pids()[0], signal.SIGKILL)
                kill = False
        grower.close()


def mortal(
    config: Config, task: Task, folder: Path, network: str, generation: int, parent: str | None, runner: TrialRunner
) -> Life:
    """A grower that dies once, in the first commit of n001's after this, between its snapshot and its events."""
    grower = Grower(config, task, folder, network, generation, parent, runner)
    if network == "n001" and (folder / DEATH).exists():
        (folder / DEATH).unlink()
        faults._armed = ("snapshot.saved", 2)
    return grower


# Ray's processes find installed modules, not those of a folder of tests.
mortal.__module__ = "__main__"


def search(folder: Path, workers: int = 0) -> None:
    config = build({**SMALL, "workers": workers, "search.networks": 4, "search.population": 2})
    run_search(config, load_task(config), folder, silent, begin=mortal)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "snapshots").rglob("*.*"))}


def same(one: Path, other: Path) -> None:
    left, right = (read_events(folder)[list(STABLE)] for folder in (one, other))
    differing = [name for name in STABLE if not left[name].equals(right[name])]
    assert differing == []
    assert files(one) == files(other)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    grow(folder, 0)
    return folder


def test_the_run_that_is_compared_with_grew(alone: Path) -> None:
    rows = read_events(alone)
    assert (rows["kind"] == "candidate").sum() > 4
    assert len(files(alone)) > 8


@pytest.mark.parametrize(("workers", "kill"), [(1, False), (2, True)])
def test_growing_with_workers_killed_or_not(tmp_path: Path, alone: Path, workers: int, kill: bool) -> None:
    grow(tmp_path, workers, kill)
    same(tmp_path, alone)


def test_search_over_two_generations_with_a_killed_grower(tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    search(unbroken)
    broken.mkdir()
    (broken / DEATH).touch()
    search(broken, workers=1)
    assert not (broken / DEATH).exists()
    rows: Any = read_events(unbroken)
    parents = rows.loc[rows["kind"] == "started"].set_index("network")["parent"]
    assert parents.isna().tolist() == [True, True, False, False]
    assert all(parent.split("/")[0] in ("n000", "n001") for parent in parents[2:])
    same(unbroken, broken)
