"""A run as a user sees it: its folder read back as tables, its best network as a plain module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evo import foreign, replica, run_folder
from evo import front as fronts
from evo.books import decisions
from evo.recorder import read_events
from evo.storage import is_remote

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from evo.ensembles import Ensemble
    from evo.task import Task
    from search_spaces.checkpoint import Checkpoint

ENDS = {"finished": "finished", "failed": "failed"}


class RunError(ValueError):
    """A folder that is no run, or a request that the run cannot meet: one line with the cure."""


@dataclass(frozen=True)
class Entry:
    """One point of the front, with its figures and, on demand, its network."""

    network: str
    snapshot: str
    information_nats: float
    validation_information_nats: float
    active_parameters: int
    peak_parameters: int | None
    accuracy: float | None
    r2: float | None
    test_information_nats: float | None
    test_accuracy: float | None
    test_r2: float | None
    folder: Path

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The growable network with its masks, its optimiser's state and its lineage."""
        from search_spaces import checkpoint

        return checkpoint.load(self.folder)

    @cached_property
    def module(self) -> nn.Module:
        """The network as plain PyTorch in eval mode: masks folded into the weights, dead units gone."""
        from evo.export import to_plain

        return to_plain(self.checkpoint.network).eval()


class Run:
    """A view of a run's folder as it was when first looked at; open it again to see how it went on."""

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        self.folder = folder
        self.info = info

    def __repr__(self) -> str:
        return f"Run({self.address!r})"

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Raises RunError where the folder is missing or holds no run. path: a folder, or an address in a bucket."""
        folder = run_folder.find(path) if is_remote(path) else Path(path)
        cure = "write the folder of a run, as `evo runs` lists them"
        if not folder.is_dir():
            raise RunError(f"run: there is no folder {str(folder)!r}; {cure}")
        foreign.check(folder)
        try:
            info = foreign.read_json(folder / "run.json")
        except FileNotFoundError:
            raise RunError(f"run: {str(folder)!r} holds no run.json, so it is no run; {cure}") from None
        except (OSError, ValueError) as err:
            raise RunError(f"run: {str(folder / 'run.json')!r} is no readable JSON ({err}); {cure}") from err
        if not isinstance(info, dict) or info.get("kind") not in ("grow", "search"):
            raise RunError(f"run: {str(folder / 'run.json')!r} should be an object with kind grow or search; {cure}")
        return cls(folder, info)

    @property
    def address(self) -> str:
        """What names it: its folder, or where it lies in a bucket."""
        return replica.address(self.folder)

    @property
    def name(self) -> str:
        return str(self.info.get("name") or self.folder.resolve().name)

    def setting(self, *path: str) -> Any:
        """A value of the run's config, None where it has none: run.setting("tournament", "confidence")."""
        value: Any = self.info.get("config")
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @cached_property
    def events(self) -> pd.DataFrame:
        """Every committed event, by network and row number."""
        return read_events(self.folder)

    @cached_property
    def decisions(self) -> pd.DataFrame:
        return decisions(self.events)

    @cached_property
    def networks(self) -> pd.DataFrame:
        """One row a network: where it came from, how far it got and how it ended."""
        rows = []
        for network, life in self.events.groupby("network", sort=True):
            birth, last = life.iloc[0], life.iloc[-1]
            counts = life.loc[life["kind"] != "candidate", "active_parameters"].dropna()
            rows.append(
                {
                    "network": network,
                    "generation": birth["generation"],
                    "parent": birth["parent"] if isinstance(birth["parent"], str) and birth["parent"] else None,
                    "born_parameters": int(counts.iloc[0]) if len(counts) else None,
                    "active_parameters": int(counts.iloc[-1]) if len(counts) else None,
                    "decisions": int((life["kind"] == "decision").sum()),
                    "state": ENDS.get(last["kind"], "unfinished"),
                    "reason": last["reason"] if last["kind"] in ENDS and isinstance(last["reason"], str) else "",
                }
            )
        names = ("network", "generation", "parent", "born_parameters", "active_parameters", "decisions", "state")
        return pd.DataFrame(rows, columns=[*names, "reason"])

    @property
    def finished(self) -> bool:
        """Every life has ended, and every network that the run was to have was born."""
        more = self.info.get("extensions")
        lives = 1 + len(more) if isinstance(more, list) else 1
        wanted = self.setting("search", "networks") if self.info["kind"] == "search" else lives
        born = len(self.networks)
        ended = bool((self.networks["state"] != "unfinished").all())
        return ended and born >= (wanted if isinstance(wanted, int) else 1)

    @cached_property
    def test(self) -> dict[str, Any] | None:
        """What report/front.json recorded when the test set was read; None before that."""
        return fronts.read_test(self.folder)

    @cached_property
    def front(self) -> pd.DataFrame:
        """The Pareto front, by active parameters; with test figures once the test set was read."""
        front = fronts.front(self.events)
        return front if self.test is None else fronts.with_test(front, self.test)

    def evaluate_test(self, task: Task | None = None) -> pd.DataFrame:
        """Reads the test set for the front, once in the run's life. Give the task where it came from memory."""
        if self.test is None:
            fronts.evaluate_test(self.folder, fronts.front(self.events), task or self.load_task())
            self.__dict__.pop("test", None)
            self.__dict__.pop("front", None)
        return self.front

    def load_task(self) -> Task:
        """The run's data, from its config. Raises ValueError where they are not what it learned from."""
        from evo.api import IN_MEMORY
        from evo.data import load_task
        from evo.settings import build
        from evo.task import fingerprint

        if self.info.get("task") == IN_MEMORY:
            raise RunError(f"run {self.name} learned from arrays in memory, which are not stored; pass the task")
        task = load_task(build(self.info.get("config") or {}))
        if self.info.get("data_sha256", fingerprint(task)) != fingerprint(task):
            raise RunError(
                f"run {self.name} learned from other data than {task.name} holds now; restore the file as it was"
            )
        return task

    @property
    def best(self) -> Entry:
        """The highest validation information of the run."""
        return self.choose()

    def choose(self, max_parameters: int | None = None) -> Entry:
        """The highest validation information among the snapshots of at most so many active parameters."""
        if not len(self.front):
            raise RunError(f"run {self.name}: no snapshot was saved yet; resume the run, then ask again")
        within = self.front if max_parameters is None else self.front[self.front["active_parameters"] <= max_parameters]
        if not len(within):
            least = int(self.front["active_parameters"].min())
            raise RunError(
                f"max_parameters: no snapshot of run {self.name} has at most {max_parameters} active parameters, "
                f"the smallest has {least}; write {least} or more"
            )
        figures = _record(within.iloc[int(within["validation_information_nats"].argmax())])
        optional = ("accuracy", "r2", "test_information_nats", "test_accuracy", "test_r2")
        folder = fronts.snapshot_folder(self.folder, figures["network"], figures["snapshot"])
        return Entry(**{**dict.fromkeys(optional), **figures}, folder=folder)

    def ensemble(
        self,
        members: Sequence[str] | None = None,
        greedy: int | None = None,
        test: bool = False,
        task: Task | None = None,
    ) -> Ensemble:
        """Several snapshots as one predictor, with its figures against the best single one; see `evo.ensembles`."""
        from evo.ensembles import ensemble

        return ensemble(self, members, greedy, test, task)

    def plot(self, kind: str = "front") -> Figure:
        """A picture: front, growth, lineage, predictions or decisions."""
        from evo.plots import PICTURES

        if kind not in PICTURES:
            raise RunError(f"kind: there is no picture {kind!r}; write one of {', '.join(PICTURES)}")
        return PICTURES[kind](self)

    @property
    def seconds(self) -> float:
        """From the first event to the last by the clock; the pause before a resume counts."""
        times = self.events["time"].dropna()
        if not len(times):
            return 0.0
        first = self.events.loc[times.index[int(times.argmin())]]
        own = first["seconds"] if pd.notna(first["seconds"]) else 0.0
        return float(times.max() - times.min() + own)

    def summary(self) -> dict[str, Any]:
        """What --json prints: plain values only."""
        return {
            "run": self.address,
            "front": [_record(entry) for _, entry in self.front.iterrows()],
            "decisions": [_record(decision) for _, decision in self.decisions.iterrows()],
            "seconds": round(self.seconds, 3),
        }


def _record(row: pd.Series) -> dict[str, Any]:
    """A table's row as JSON takes it: missing and non-finite values as None, counts as whole numbers."""
    record: dict[str, Any] = {}
    for key, value in row.items():
        plain = value.item() if hasattr(value, "item") else value
        if plain is pd.NA or (isinstance(plain, float) and not math.isfinite(plain)):
            plain = None
        counted = str(key).endswith("_parameters") or key in ("generation", "cycle", "step", "candidates")
        record[str(key)] = int(plain) if counted and plain is not None else plain
    return record
