"""A pool of Ray actors that run trials. A worker that dies or hangs is replaced, and what it had in hand runs again.

A trial is a pure function of data, parent and request: where and how often it runs makes no difference to its result.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from evo.config import ConfigError
from evo.shipping import ShippedBody, ShippedRequest, ShippedResult, ShippedTask
from evo.task import Task
from evo.trials import Body, TrialRequest, TrialResult
from evo.workers import attempt, lost

WORKER_CPUS = 0.5
"""Claimed by a worker: it idles while its network trains, and the network idles while it works."""

LEASE_SECONDS = 300.0
DEATHS = 3
"""Workers that a trial may take with it before it is given up as lost."""

# ActorUnavailableError, an actor that may come back, is a RayActorError too: replacing it is safe and simple.
_GONE = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError, ObjectLostError)


class Worker:
    """The actor: holds the task, runs trials on one thread."""

    def __init__(self, task: ShippedTask, device: str) -> None:
        torch.set_num_threads(1)
        self._device = torch.device(device)
        self._task = task.unpacked(self._device)

    def run(self, parent: ShippedBody, requests: Sequence[ShippedRequest]) -> list[ShippedResult]:
        body = parent.unpacked(self._device)
        return [ShippedResult.of(attempt(self._task, body, r.unpacked(self._device))) for r in requests]

    def pid(self) -> int:
        return os.getpid()


@dataclass(frozen=True)
class _Lease:
    worker: int
    requests: tuple[int, ...]
    until: float


class RayPool:
    """The workers of one network, inside its trial's placement group, or in one of their own outside of Tune.

    reference: the `ShippedTask` in the object store. gpus: share of a GPU that each worker claims.
    """

    def __init__(
        self, task: Task, reference: Any, workers: int, device: torch.device, gpus: float = 0.0,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:  # fmt: skip
        assert workers > 0
        self.lease_seconds = lease_seconds
        self._task, self._reference, self._device, self._gpus = task, reference, device, gpus
        within: PlacementGroup | None = ray.util.get_current_placement_group()
        self._own = within is None
        # The first bundle of a trial's group is the network's own. Actors outside of the group would wait for ever on
        # a cluster that is full of trials, each of which waits for its workers.
        self._first = 0 if within is None else 1
        self._group = placement_group([_claim(gpus)] * workers, strategy="PACK") if within is None else within
        assert self._group.bundle_count >= self._first + workers
        self._workers = [self._start(i) for i in range(workers)]

    @staticmethod
    def of(task: Task, workers: int, device: torch.device, lease_seconds: float = LEASE_SECONDS) -> RayPool:
        """A pool for this process, with the data put into the object store."""
        gpus = 1.0 / workers if device.type == "cuda" else 0.0
        return RayPool(task, ray.put(ShippedTask.of(task)), workers, device, gpus, lease_seconds)

    def __call__(self, parent: Body, requests: Sequence[TrialRequest]) -> list[TrialResult]:
        shared = ray.put(ShippedBody.of(parent))
        waiting, deaths = deque(range(len(requests))), Counter[int]()
        results: dict[int, TrialResult] = {}
        leases: dict[Any, _Lease] = {}
        idle = list(range(len(self._workers)))
        while len(results) < len(requests):
            while idle and waiting:
                # Two leases a worker and round even out unlike speeds; whoever was in a crash goes alone.
                count = max(1, len(waiting) // (2 * len(self._workers)))
                chosen = [waiting.popleft()]
                while len(chosen) < count and waiting and not deaths[chosen[0]] and not deaths[waiting[0]]:
                    chosen.append(waiting.popleft())
                worker = idle.pop(0)
                shipped = [ShippedRequest.of(requests[i]) for i in chosen]
                until = time.monotonic() + self.lease_seconds
                leases[self._workers[worker].run.remote(shared, shipped)] = _Lease(worker, tuple(chosen), until)
            for future, lease in _over(leases):
                del leases[future]
                answers = _answers(future, lease)
                if answers is None:
                    self._replace(lease.worker)
                    deaths.update(lease.requests)
                    fatal = {i for i in lease.requests if deaths[i] >= DEATHS}
                    results.update({i: lost(self._task, parent, requests[i], 0.0) for i in fatal})
                    waiting.extendleft(i for i in reversed(lease.requests) if i not in fatal)
                else:
                    bodies = zip(lease.requests, answers, strict=True)
                    results.update({i: answer.unpacked(self._device) for i, answer in bodies})
                idle.append(lease.worker)
        if requests and all(deaths[i] >= DEATHS for i in range(len(requests))):
            raise RuntimeError(f"{DEATHS} workers died over each of {len(requests)} trials; see the logs of Ray")
        return [results[i] for i in range(len(requests))]

    def pids(self) -> list[int]:
        """Process ids of the workers; waits until they run."""
        found: list[int] = ray.get([worker.pid.remote() for worker in self._workers])
        return found

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []
        if self._own:
            remove_placement_group(self._group)

    def _start(self, index: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=self._first + index)
        claim = _claim(self._gpus)
        actor = ray.remote(Worker).options(
            num_cpus=claim["CPU"], num_gpus=claim.get("GPU", 0), scheduling_strategy=strategy, max_restarts=0
        )
        # Ray shows each worker its own GPU as number 0.
        return actor.remote(self._reference, self._device.type)

    def _replace(self, index: int) -> None:
        ray.kill(self._workers[index])
        self._workers[index] = self._start(index)


def worker_bundles(workers: int, gpus: float) -> list[dict[str, float]]:
    """What the pool of one network asks for inside a trial's placement group."""
    return [_claim(gpus) for _ in range(workers)]


def _claim(gpus: float) -> dict[str, float]:
    return {"CPU": WORKER_CPUS, **({"GPU": gpus} if gpus else {})}


def _over(leases: dict[Any, _Lease]) -> list[tuple[Any, _Lease]]:
    """Leases that have been answered, or have run out; waits for at least one."""
    left = min(lease.until for lease in leases.values()) - time.monotonic()
    ready, _ = ray.wait(list(leases), num_returns=1, timeout=max(left, 0.0))
    now = time.monotonic()
    return [(future, leases[future]) for future in leases if future in ready or leases[future].until <= now]


def _answers(future: Any, lease: _Lease) -> list[ShippedResult] | None:
    """None where the worker died, or has held the lease for too long."""
    try:
        answers: list[ShippedResult] = ray.get(future, timeout=0.0 if lease.until <= time.monotonic() else None)
    except (*_GONE, ray.exceptions.GetTimeoutError):
        return None
    except RayTaskError as err:
        if isinstance(err.cause, ConfigError):
            # What is wrong is the user's to mend: as it was raised, without Ray's account of where.
            raise err.cause from err
        raise
    return answers
