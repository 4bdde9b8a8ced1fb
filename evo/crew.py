"""A crew of Ray actors that share out requests by leases. Who dies or hangs is replaced, and its requests run again.

It knows nothing of what is asked: this file, and what its actors load of it, need Ray alone.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from evo import causes
from evo.vitals import Trials

LEASE_SECONDS = 300.0

DEATHS = 3
"""Workers that a request may take with it, or starts that a worker may miss, before it is given up."""

START_SECONDS = 90.0
"""For so long requests wait for a first worker: an actor whose node was lost may be pending for ever."""

# ActorUnavailableError, an actor that may come back, is a RayActorError too: replacing it is safe and simple.
GONE = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError, ObjectLostError)


@dataclass(frozen=True)
class _Lease:
    worker: int
    requests: tuple[int, ...]
    until: float


class Crew:
    """`count` actors that `start(index)` makes, each with methods run(shared, requests) -> answers, and pid().

    What no worker is there for after START_SECONDS is done by this process.
    """

    def __init__(self, start: Callable[[int], Any], count: int, lease_seconds: float = LEASE_SECONDS) -> None:
        self.queue = Trials()
        self.lease_seconds = lease_seconds
        self._start = start
        self._missed = Counter[int]()
        self._idle: deque[int] = deque()
        self._starting: dict[Any, int] = {}
        self._began = time.monotonic()
        self._workers: list[Any] = [None] * count
        for index in range(count):
            self._send_for(index)

    def run(self, shared: Any, requests: Sequence[Any], here: Callable[[int], Any]) -> list[Any]:
        """An answer for each request, in their order; None where DEATHS workers died over it.

        shared: reference to what all requests are about. here: answers a request by its number in this process.
        """
        waiting, deaths = deque(range(len(requests))), Counter[int]()
        answers: dict[int, Any] = {}
        leases: dict[Any, _Lease] = {}
        self._began = time.monotonic()
        try:
            while len(answers) < len(requests):
                while self._idle and waiting:
                    chosen = self._chosen(waiting, deaths)
                    worker = self._idle.popleft()
                    future = self._workers[worker].run.remote(shared, [requests[i] for i in chosen])
                    leases[future] = _Lease(worker, chosen, time.monotonic() + self.lease_seconds)
                self.queue.waiting = len(waiting)
                self.queue.in_flight = sum(len(lease.requests) for lease in leases.values())
                if not leases and self._nobody():
                    if waiting:
                        first = waiting.popleft()
                        answers[first] = here(first)
                        self.queue.done += 1
                    self._look(0.0)
                    continue
                for future in self._look(self._patience(leases), leases):
                    found = _answers(future, leases[future])
                    lease = leases.pop(future)
                    if isinstance(found, list):
                        answers.update(zip(lease.requests, found, strict=True))
                        self.queue.done += len(found)
                        self._idle.append(lease.worker)
                        continue
                    self.queue.failed(f"a worker of its trials: {causes.of(found)}")
                    self._replace(lease.worker)
                    if not taken_away(found):
                        deaths.update(lease.requests)
                    fatal = {i for i in lease.requests if deaths[i] >= DEATHS}
                    answers.update(dict.fromkeys(fatal))
                    waiting.extendleft(i for i in reversed(lease.requests) if i not in fatal)
        finally:
            # Where an error ends it, workers are still busy: they are there again once they have answered.
            self._starting.update({future: lease.worker for future, lease in leases.items()})
            self.queue.in_flight = self.queue.waiting = 0
        if requests and all(deaths[i] >= DEATHS for i in range(len(requests))):
            raise RuntimeError(f"{DEATHS} workers died over each of {len(requests)} trials; see the logs of Ray")
        return [answers[i] for i in range(len(requests))]

    def pids(self) -> list[int]:
        """Process ids of the workers; waits until they run."""
        found: list[int] = ray.get([worker.pid.remote() for worker in self._workers])
        return found

    def everyone(self, seconds: float) -> list[Any]:
        """All workers, once they are all there. Raises TimeoutError where they are not within so many seconds."""
        until = time.monotonic() + seconds
        while len(self._idle) < len(self._workers):
            left = until - time.monotonic()
            if left <= 0 or not self._starting:
                there, all_ = len(self._idle), len(self._workers)
                raise TimeoutError(f"{there} of {all_} workers were there after {seconds:g} s; see the logs of Ray")
            self._look(left)
        return list(self._workers)

    def renew(self) -> None:
        """Other workers in the place of all."""
        for worker in self._workers:
            ray.kill(worker)
        self._idle.clear()
        self._starting.clear()
        for index in range(len(self._workers)):
            self._send_for(index)

    def close(self) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._workers, self._starting = [], {}
        self._idle.clear()

    # --- who is there

    def _send_for(self, index: int) -> None:
        self._workers[index] = worker = self._start(index)
        self._starting[worker.pid.remote()] = index

    def _replace(self, index: int) -> None:
        ray.kill(self._workers[index])
        if self._missed[index] < DEATHS:
            self._send_for(index)

    def _nobody(self) -> bool:
        """Whether there is no worker, and none is to be waited for any longer."""
        return not self._idle and (not self._starting or time.monotonic() - self._began >= START_SECONDS)

    def _chosen(self, waiting: deque[int], deaths: Counter[int]) -> tuple[int, ...]:
        """The next lease. Two a worker and round even out unlike speeds; whoever was in a crash goes alone."""
        count = max(1, len(waiting) // (2 * len(self._workers)))
        chosen = [waiting.popleft()]
        while len(chosen) < count and waiting and not deaths[chosen[0]] and not deaths[waiting[0]]:
            chosen.append(waiting.popleft())
        return tuple(chosen)

    def _patience(self, leases: dict[Any, _Lease]) -> float:
        """Seconds until something is overdue. Leases run out in the order in which they were given."""
        first = next(iter(leases.values()), None)
        until = first.until if first is not None else self._began + START_SECONDS
        return max(until - time.monotonic(), 0.0)

    def _look(self, seconds: float, leases: dict[Any, _Lease] | None = None) -> list[Any]:
        """Leases that have been answered or have run out; waits for one, or for a worker, for so long at most."""
        leases = leases or {}
        ready: list[Any] = []
        if leases or self._starting:
            futures = [*leases, *self._starting]
            ready, _ = ray.wait(futures, num_returns=1, timeout=seconds)
        for future in [future for future in ready if future in self._starting]:
            self._arrived(future, self._starting.pop(future))
        now = time.monotonic()
        answered = [future for future in ready if future in leases]
        return answered or [future for future, lease in leases.items() if lease.until <= now]

    def _arrived(self, future: Any, index: int) -> None:
        try:
            ray.get(future)
        except GONE as err:
            if getattr(err, "actor_init_failed", False):
                raise RuntimeError(f"a worker of the pool could not start: {err}") from err
            self._missed[index] += 1
            self.queue.failed(f"a worker of its trials, as it started: {causes.of(err)}")
            self._replace(index)
        except RayTaskError:
            self._idle.append(index)  # the error of a request that an earlier run was ended by
        else:
            self._missed[index] = 0
            self._idle.append(index)


def _answers(future: Any, lease: _Lease) -> list[Any] | RayError | GetTimeoutError:
    """Why not, where the worker died or has held the lease for too long."""
    try:
        answers: list[Any] = ray.get(future, timeout=0.0 if lease.until <= time.monotonic() else None)
    except (*GONE, GetTimeoutError) as err:
        return err
    return answers


def taken_away(error: BaseException | None) -> bool:
    """Whether it was the node that went, and not the process."""
    return isinstance(error, NodeDiedError) or getattr(error, "preempted", False) or "node has died" in str(error)
