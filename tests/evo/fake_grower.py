"""A grower that grows nothing: it commits the events of a made-up life, a cycle at a time, as the true one does."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_run
import pytest

from evo.recorder import Recorder

CYCLES = 6


class FakeGrower:
    """before: called with the cycle at the beginning of every advance, to hurt it."""

    before: Callable[[int], None] = staticmethod(lambda cycle: None)
    last: FakeGrower | None = None

    def __init__(self, config: Any, task: Any, folder: Path, network: str = "n000", **_: Any) -> None:
        FakeGrower.last = self
        self.config, self.task, self.closed = config, task, False
        self.recorder = Recorder(folder, network)
        rows = fake_run.life(network, cycles=CYCLES, seed=config.seed)
        groups = itertools.groupby(rows[1:-1], key=lambda r: r["cycle"])
        self.commits = [[rows[0], *next(groups)[1]], *[list(g) for _, g in groups]]
        self.commits[-1].append(rows[-1])
        self.cycle = sum(commit[-1]["seq"] <= self.recorder.last_seq for commit in self.commits)

    @property
    def done(self) -> bool:
        return self.cycle >= CYCLES

    def advance(self) -> dict[str, Any]:
        type(self).before(self.cycle)
        rows = [{k: v for k, v in r.items() if k != "network"} | {"network": "n000"} for r in self.commits[self.cycle]]
        self.recorder.commit(rows)
        self.cycle += 1
        snapshot = next(r for r in rows if r["kind"] == "snapshot")
        decision = next(r for r in rows if r["kind"] == "decision")
        both = {k: v for row in (decision, snapshot) for k, v in row.items() if v is not None}
        return {**both, "action": decision["action"], "cycle": self.cycle, "done": self.done}

    def watch(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def no_runner(workers: int, task: Any, *_: Any) -> Iterator[None]:
    yield None


def interrupt(cycle: int, number: int = signal.SIGINT) -> Callable[[int], None]:
    def before(now: int) -> None:
        if now == cycle:
            os.kill(os.getpid(), number)

    return before


def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeGrower]:
    """Puts the fake in the true one's place, keeps MLflow and the test set out, and works in an empty folder."""
    from evo import report, run

    monkeypatch.chdir(tmp_path)
    FakeGrower.before, FakeGrower.last = staticmethod(lambda cycle: None), None
    monkeypatch.setitem(sys.modules, "evo.grower", types.SimpleNamespace(Grower=FakeGrower))
    monkeypatch.setitem(sys.modules, "evo.workers", types.SimpleNamespace(make_runner=no_runner))

    def evaluate(self: run.Run, task: Any = None) -> None:
        fake_run.record_test(self.folder, self.front.to_dict("records"))
        for name in ("test", "front"):
            self.__dict__.pop(name, None)

    monkeypatch.setattr(run.Run, "evaluate_test", evaluate)
    monkeypatch.setattr(report, "write", lambda run, task=None: run.folder / "report" / "report.html")
    return FakeGrower
