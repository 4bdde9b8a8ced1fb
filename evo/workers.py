"""Who runs a tournament's trials: this process, or a pool of Ray actors. Both give the same results, bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from evo import memory, placement
from evo.memory import Parts
from evo.placement import WAIT_SECONDS
from evo.task import Task
from evo.trials import Body, TrialRequest, TrialResult, TrialRunner, run_trial
from evo.vitals import Trials


class InProcess:
    """Trials one after the other, right here."""

    def __init__(self, task: Task) -> None:
        self.queue = Trials()
        self._task = task

    def __call__(self, parent: Body, requests: Sequence[TrialRequest]) -> list[TrialResult]:
        results = []
        for left, request in zip(reversed(range(len(requests))), requests, strict=True):
            self.queue.in_flight, self.queue.waiting = 1, left
            results.append(attempt(self._task, parent, request))
            self.queue.done += 1
        return results


@contextlib.contextmanager
def make_runner(
    workers: int, task: Task, wait: float = WAIT_SECONDS, note: Callable[[str], None] = lambda _: None, ranks: int = 1
) -> Iterator[TrialRunner]:
    """A runner on `workers` processes, 0 for this one, with all that it needs started before and ended after. Several
    ranks take the place of workers, and train together as well.

    wait: seconds for room on a full cluster, of which `note` is told. Arithmetic runs on one thread meanwhile, as it
    does in every worker: the order of a sum depends on their number. Raises ConfigError where there is no such room.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if workers == 0 and ranks == 1:
            yield InProcess(task)
            return
        # Ray takes a second to import: only those who want it pay.
        from evo import cluster
        from evo.pool import RayPool
        from evo.rank_pool import RankPool

        # One GPU is not enough for ranks, whichever of them the data lie on.
        device = device_of(task) if ranks == 1 else torch.device(device_of(task).type)
        placement.pool(cluster.nodes(device), workers, device.type, ranks=ranks)
        with cluster.session(device):
            plan = placement.pool(cluster.nodes(device), workers, device.type, ranks=ranks)
            kind = RankPool if ranks > 1 else RayPool
            with contextlib.closing(kind.of(task, plan, device, wait=wait, note=note)) as pool:
                yield pool
    finally:
        torch.set_num_threads(threads)


def device_of(task: Task) -> torch.device:
    """Where the task's data lie, and hence where it is computed on."""
    device: torch.device = task.splits["train"].x.device
    return device


def attempt(task: Task, parent: Body, request: TrialRequest) -> TrialResult:
    """`run_trial`, in as many parts as memory asks for; a fork that does not fit even so has lost."""
    began = time.perf_counter()

    def tried(parts: Parts) -> TrialResult:
        return run_trial(task, parent, dataclasses.replace(request, parts=parts))

    try:
        return memory.fitted(request.parts, request.training.batch_size, tried)[0]
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
    return lost(task, parent, request, time.perf_counter() - began)


def lost(task: Task, parent: Body, request: TrialRequest, seconds: float) -> TrialResult:
    """The result of a trial that could not be run to its end: diverged, with the network that it started from."""
    return TrialResult(
        arm=request.arm,
        seed=request.seed,
        growth=np.full(len(task.splits["growth"]), np.nan),
        as_is=np.full(len(task.splits["growth"]), np.nan),
        audit=np.full(len(task.splits["audit"]), np.nan),
        body=parent if request.start is None else request.start,
        train_loss=float("nan"),
        norm=float("nan"),
        diverged=True,
        seconds=seconds,
    )
