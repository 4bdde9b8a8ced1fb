"""Lives of a second, whole in every part: what the tests of the cycle, the grower and the kills grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from evo.config import Config
from evo.data import load_task
from evo.events import STABLE
from evo.grower import Grower
from evo.recorder import read_events
from evo.settings import build
from evo.task import Task
from evo.trials import TrialRunner

SMALL: dict[str, Any] = {
    "task": "digits", "seed": 7, "data.limit": 300, "training.steps": 160, "training.warmup": 5, "growth.cycles": 3,
    "network.density": 0.15, "tournament.rungs": [3, 5], "tournament.candidates": 2, "tournament.placebo_every": 2,
    "tournament.evidence_samples": 64, "record.mlflow": False,
}  # fmt: skip

SHORT: dict[str, Any] = {"growth.cycles": 2, "training.steps": 60, "tournament.rungs": [2, 3], "training.warmup": 2}
"""What makes it shorter still."""


def made(**settings: Any) -> tuple[Config, Task]:
    """Config and data of a small life, some settings changed: made(**{"growth.cycles": 2})."""
    config = build({**SMALL, **settings})
    return config, load_task(config)


def live(config: Config, task: Task, folder: Path, runner: TrialRunner | None = None, **born: Any) -> Grower:
    """To its end."""
    grower = Grower(config, task, folder, runner=runner, **born)
    while not grower.done:
        grower.advance()
    grower.close()
    return grower


def stable(folder: Path, network: str | None = None) -> pd.DataFrame:
    """All that may not differ between two runs of one seed."""
    return read_events(folder, network)[list(STABLE)]


def saved(folder: Path) -> dict[str, bytes]:
    """Every file of every snapshot."""
    home = folder / "snapshots"
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def same(one: Path, other: Path) -> list[str]:
    """What differs between two runs, empty if nothing does."""
    left, right = stable(one), stable(other)
    differing = [name for name in STABLE if not left[name].equals(right[name])]
    ours, theirs = saved(one), saved(other)
    return differing + [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def cut(folder: Path, commits: int) -> None:
    """Takes the events of the newest commits away, as if their process had been killed before it wrote them."""
    for path in sorted((folder / "events").glob("*.parquet"))[-commits:]:
        path.unlink()
