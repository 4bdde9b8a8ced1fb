"""A run in this process: from its first network, or from where it stopped, to its report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo import faults, live, origins, replica, run_folder
from evo.config import Config
from evo.progress import Progress, silent
from evo.stopping import Interrupted, Stop

if TYPE_CHECKING:
    from evo.run import Run
    from evo.task import Task


def carry_out(
    kind: str, config: Config, task: Task, folder: str | Path | None, progress: Progress, stop: Stop | None = None
) -> Run:
    """A run in this process, from its folder or address on, a new one where that is None. config: settled and checked.

    stop: is asked at every safe point, where signals are not this process's to hear.
    """
    if folder is not None:
        return _drive(kind, config, task, run_folder.find(folder), progress, stop)
    from evo.task import fingerprint

    folder, config = run_folder.create(kind, config, data_sha256=fingerprint(task))
    try:
        return _drive(kind, config, task, folder, progress, stop)
    except BaseException:
        # Also when Ctrl-C came before the first decision: a folder without an event is no run.
        run_folder.discard(folder)
        raise


@dataclass(frozen=True)
class _Watch:
    """Tells what happens, and whether it is time to stop. deadline: by time.monotonic()."""

    progress: Progress
    stop: Stop
    deadline: float | None
    check: Callable[[], None] = lambda: None

    def told(self, update: Mapping[str, Any]) -> None:
        """Raises Interrupted where a stop was asked for."""
        self.progress(update)
        self.stop.check()
        self.check()

    def enough(self) -> bool:
        return self.stop.asked is not None or (self.deadline is not None and time.monotonic() >= self.deadline)

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles what it calls back, though nobody reads that file; a terminal or a stream cannot be pickled.
        return _Watch, (silent, Stop(), None)


def _drive(kind: str, config: Config, task: Task, folder: Path, progress: Progress, asked: Stop | None = None) -> Run:
    """Runs to the end, to the end of the budget, or to the next safe point after Ctrl-C; then reports."""
    from evo import extension
    from evo.life import Plan
    from evo.run import Run

    # Beside its cycles, a life has a last stretch in which it only learns.
    cycles = Plan.of(config, len(task.splits["train"])).cycles + 1
    lives = len(extension.lives(Run.open(folder).info, config))
    deadline = None if config.budget is None else time.monotonic() + config.budget
    patience = {"stage": "note", "text": "stopping after this decision ...", "lasts": True}
    plan = {
        "kind": kind, "task": task.name, "seed": config.seed,
        "networks": config.search.networks if kind == "search" else lives, "cycles": cycles,
    }  # fmt: skip
    place = replica.address(folder)
    at = {**plan, "stage": "running", "until": None if config.budget is None else time.time() + config.budget}
    with (
        run_folder.locked(folder) as check,
        one_thread(),
        asked or Stop(lambda: progress(patience)) as stop,
        live.beating(place, live.DRIVER, lambda: {**at, "stopping": stop.asked is not None}, config.record.heartbeat),
    ):
        progress({"stage": "start", "run": place, **plan})
        live.clear(place)
        origins.bring(folder, config)
        watch = _Watch(progress, stop, deadline, check)
        with _mirrored(folder, config):
            try:
                if kind == "search":
                    from evo.sweep import run_search

                    run_search(config, task, folder, watch.told, watch.enough)
                else:
                    _grow_one(config, task, folder, watch.told, watch.enough)
                stop.check()
            except Interrupted as stopped:
                begun = any((folder / "events").glob("*.parquet"))
                told = (
                    f"stopped, and kept everything in {replica.address(folder)}"
                    if begun
                    else "stopped before a network was born"
                )
                raise Interrupted(told, stopped.signum) from None
            at["stage"] = "report"
            progress({"stage": "report"})
            run = Run.open(folder)
            _report(run, task)
            if not len(run.front):
                progress({"stage": "note", "text": "the budget was spent before a network was born; resume with more"})
        if run.finished:
            _tidy(run, config, check)
        faults.point("run.finished")
    return run


def _tidy(run: Run, config: Config, check: Callable[[], None]) -> None:
    """One event file a network, and only the snapshots to be kept; a killed tidying is done again on resume.

    check: raises where another process has taken the run over meanwhile, which may add to it.
    """
    from evo import recorder, retention, stored_snapshots

    check()
    recorder.compact(run.folder)
    replica.push_compacted(run.folder)
    if config.record.keep != "all" or config.record.keep_each is not None:
        stay = retention.kept(run.events, run.front, config.record)
        for name in stay:
            stored_snapshots.fetch(run.folder, *name)
        retention.tidy(run.folder, stay)
        check()
        stored_snapshots.tidy(run.folder, stay)


def _grow_one(config: Config, task: Task, folder: Path, progress: Progress, enough: Callable[[], bool]) -> None:
    """Its life, and those that were added to it, one after the other."""
    from evo import extension
    from evo.grower import Grower
    from evo.run import Run
    from evo.workers import make_runner

    def note(text: str) -> None:
        progress({"stage": "note", "text": text})

    parent, planned = origins.place_of(config.network.parent), extension.lives(Run.open(folder).info, config)
    with make_runner(config.workers, task, config.wait, note, config.training.ranks) as runner:
        for number, (network, own) in enumerate(planned):
            grower = Grower(own, task, folder, network, generation=number, parent=parent, runner=runner)
            grower.watch()
            about = {"stage": "cycle", "network": network, "generation": number}
            try:
                while not grower.done and not enough():
                    progress({**about, **grower.advance()})
            finally:
                grower.close()
            if not grower.done:
                return
            parent = f"{network}/{grower.cycle:06d}"


def _report(run: Run, task: Task) -> None:
    """Reads the test set, once in the run's life, and draws. A budget that is spent ends a run as well as its plan."""
    from evo import report

    if len(run.front):
        run.evaluate_test(task)
        replica.push(run.folder, "report/")  # the test set was read
        report.write(run, task)
        replica.push(run.folder, "report/")


@contextlib.contextmanager
def _mirrored(folder: Path, config: Config) -> Iterator[None]:
    """Keeps MLflow up with the run. What it does not get to stays queued for the next resume, or `evo ui`."""
    if not config.record.mlflow:
        yield
        return
    from evo.mlflow_mirror import Mirror

    mirror = Mirror(folder, config.record.tracking_uri)
    try:
        yield
    except (Interrupted, Exception):
        mirror.close(timeout=5.0)
        raise
    mirror.close()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A network's arithmetic runs on one thread, so that it is the same on every machine with such a CPU."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
