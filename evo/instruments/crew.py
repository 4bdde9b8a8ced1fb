"""Who lives the jobs: this process, or Ray workers with a whole job each. Both come to the same figures.

A job that is on the shelf is not lived again; one that is done is on the shelf at once, so that a stop loses no more
than what was in hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evo import plugins
from evo.config import ConfigError
from evo.instruments.jobs import Files, Job, Outcome, run_job
from evo.instruments.shelf import Shelf

Told = Callable[[str], None]
DEATHS = 3
"""Workers that a job may take with it before the command gives up."""


class JobError(ValueError):
    """A job that cannot be lived: one line with the reason and the cure."""


class OutOfTimeError(Exception):
    """The time that a command was given is over; what was done is kept."""


@dataclass(frozen=True)
class Mistake:
    """What a job met that no second try would mend, in a form that travels."""

    text: str
    by_disk: bool


class JobWorker:
    """The Ray actor: one thread, one job at a time."""

    def __init__(self, carried: plugins.Carried) -> None:
        torch.set_num_threads(1)
        plugins.bring(carried)

    def run(self, job: Job, shape: Files | None) -> tuple[Outcome, Files] | Mistake:
        try:
            return run_job(job, shape)
        except (OSError, ValueError) as err:
            return Mistake(str(err), isinstance(err, OSError))

    def pid(self) -> int:
        return os.getpid()


class Crew:
    """Lives jobs for a shelf.

    workers: Ray workers, 0 for this process. told: hears of each finished job. pulse: called again and again; what it
    raises (Interrupted, OutOfTimeError) ends the work.
    """

    def __init__(self, shelf: Shelf, workers: int, device: torch.device, told: Told, pulse: Callable[[], None]) -> None:
        self.shelf, self.workers, self.device = shelf, workers, device
        self._told, self._pulse = told, pulse
        self._open = contextlib.ExitStack()
        self._actors: list[Any] = []
        self._used: list[str] = []

    @property
    def mixed(self) -> str | None:
        """A sentence where some outcomes that were asked for come from other code than this process runs."""
        return self.shelf.mixed(self._used)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Their outcomes, in the order of the jobs. Raises JobError, OSError, and what `pulse` raises."""
        wanted: dict[str, Job] = {}
        for job in jobs:
            # Of two jobs that come to the same, the one whose network is asked for.
            if not self.shelf.done(job) and (job.keeps or job.key not in wanted):
                wanted[job.key] = job
        todo = list(wanted.values())
        count = len({job.key for job in jobs})
        done = count - len(todo)
        if done and todo:
            self._told(f"{done} of {count} jobs were done before")
        for number, (job, outcome, files) in enumerate(self._lived(todo), start=done + 1):
            self.shelf.put(job, outcome, files)
            self._told(f"{number:>{len(str(count))}}/{count}  {line(job, outcome)}")
        self._used += [job.key for job in jobs]
        outcomes = [self.shelf.get(job.key) for job in jobs]
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        for actor in self._actors:
            import ray

            ray.kill(actor)
        self._actors = []
        self._open.close()

    def _lived(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome, Files]]:
        if not jobs:
            return
        if self.workers:
            yield from self._spread(jobs)
            return
        for job in jobs:
            self._pulse()
            yield job, *run_job(job, self._shape(job), self._pulse)

    def _spread(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome, Files]]:
        import ray
        from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

        gone = (RayActorError, NodeDiedError, WorkerCrashedError, OutOfMemoryError, ObjectLostError)
        self._muster()
        waiting, deaths = deque(jobs), Counter[str]()
        held: dict[Any, tuple[int, Job]] = {}
        idle = list(range(len(self._actors)))
        while waiting or held:
            self._pulse()
            while idle and waiting:
                job = waiting.popleft()
                # Ray shows each worker its own GPU as number 0.
                sent = dataclasses.replace(job, settings={**job.settings, "device": self.device.type})
                worker = idle.pop(0)
                held[self._actors[worker].run.remote(sent, self._shape(job))] = (worker, job)
            ready, _ = ray.wait(list(held), num_returns=1, timeout=0.25)
            for future in ready:
                worker, job = held.pop(future)
                idle.append(worker)
                try:
                    answer = ray.get(future)
                except gone as err:
                    deaths[job.key] += 1
                    if deaths[job.key] == DEATHS:
                        raise JobError(
                            f"{job.label}, seed {job.seed}: {DEATHS} workers died over it; "
                            "write fewer --workers, or a smaller network"
                        ) from err
                    ray.kill(self._actors[worker])
                    self._actors[worker] = self._hired()
                    waiting.appendleft(job)
                    continue
                if isinstance(answer, Mistake):
                    raise OSError(answer.text) if answer.by_disk else JobError(answer.text)
                yield job, *answer

    def _shape(self, job: Job) -> Files | None:
        return None if job.shape_of is None else self.shelf.files(job.shape_of)

    def _muster(self) -> None:
        """The workers, and Ray under them, once there is something to do."""
        if self._actors:
            return
        # Ray takes a second to import: only those who want it pay.
        from evo import cluster

        present = cluster.cpus()
        if self.workers > present:
            raise ConfigError(
                f"workers: expected at most {present}, one job on each of {present} CPUs, got {self.workers}; "
                f"write --workers {present}"
            )
        self._open.enter_context(cluster.session(self.device))
        self._actors = [self._hired() for _ in range(self.workers)]

    def _hired(self) -> Any:
        import ray

        from evo import cluster

        gpus = cluster.gpus(self.device) / self.workers
        return ray.remote(JobWorker).options(num_cpus=1, num_gpus=gpus, max_restarts=0).remote(plugins.carried())


def line(job: Job, outcome: Outcome) -> str:
    """One line on a finished job, for standard error."""
    return (
        f"{job.label}, seed {job.seed}: {outcome.validation_information:.3f} nats, "
        f"{outcome.active_parameters:,} parameters, {outcome.work:,} steps, {outcome.seconds:.1f} s"
    )
