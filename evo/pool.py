"""A pool of Ray actors that run trials. A worker that dies or hangs is replaced, and what it had in hand runs again.

A trial is a pure function of data, parent and request: where and how often it runs makes no difference to its result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import ray
import torch
from ray.exceptions import RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from evo.config import ConfigError, UnavailableError
from evo.crew import LEASE_SECONDS, Crew
from evo.placement import WAIT_SECONDS, Plan
from evo.shipping import ShippedBody, ShippedRequest, ShippedResult, ShippedTask
from evo.task import Task
from evo.trials import Body, TrialRequest, TrialResult
from evo.vitals import Trials
from evo.workers import attempt, lost

NOTICE_SECONDS = 10.0
"""A cluster that has had no room for so long is said to be full."""


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


class RayPool:
    """The workers of one network, inside its trial's placement group, or in one of their own outside of Tune.

    reference: the `ShippedTask` in the object store. claim: what each worker claims, a bundle of the plan. group: of
    the workers' own, which `close` removes.
    """

    actor: ClassVar[type[Worker]] = Worker

    def __init__(
        self, task: Task, reference: Any, workers: int, device: torch.device, claim: Mapping[str, float],
        lease_seconds: float = LEASE_SECONDS, group: PlacementGroup | None = None,
    ) -> None:  # fmt: skip
        assert workers > 0
        self._task, self._reference, self._device, self._claim = task, reference, device, dict(claim)
        self._own = group
        within = group or ray.util.get_current_placement_group()
        # Actors outside of the group would wait for ever on a cluster that is full of trials, each of which waits for
        # its workers.
        assert within is not None, "a pool belongs in a placement group"
        self._group = within
        # The first bundle of a trial's group is the network's own.
        self._first = 1 if group is None else 0
        assert within.bundle_count >= self._first + workers
        self._crew = Crew(self._start, workers, lease_seconds)

    @classmethod
    def of(
        cls, task: Task, plan: Plan, device: torch.device, lease_seconds: float = LEASE_SECONDS,
        wait: float = WAIT_SECONDS, note: Callable[[str], None] = lambda _: None,
    ) -> Self:  # fmt: skip
        """A pool for this process, with the data put into the object store. wait: seconds for room on a full cluster,
        of which `note` is told.

        Raises UnavailableError where there was none.
        """
        group = placement_group(plan.bundles(), strategy=plan.strategy)
        try:
            _await(group, plan, wait, note)
            reference = ray.put(ShippedTask.of(task))
            return cls(task, reference, plan.processes, device, plan.bundle(), lease_seconds, group)
        except BaseException:
            remove_placement_group(group)
            raise

    @property
    def queue(self) -> Trials:
        """What is in flight, and what waits."""
        return self._crew.queue

    @property
    def lease_seconds(self) -> float:
        return self._crew.lease_seconds

    @lease_seconds.setter
    def lease_seconds(self, seconds: float) -> None:
        self._crew.lease_seconds = seconds

    def __call__(self, parent: Body, requests: Sequence[TrialRequest]) -> list[TrialResult]:
        shared = ray.put(ShippedBody.of(parent))

        def here(number: int) -> ShippedResult:
            return ShippedResult.of(attempt(self._task, parent, requests[number]))

        try:
            answers = self._crew.run(shared, [ShippedRequest.of(request) for request in requests], here)
        except RayTaskError as err:
            if isinstance(err.cause, ConfigError):
                # What is wrong is the user's to mend: as it was raised, without Ray's account of where.
                raise err.cause from err
            raise
        return [
            lost(self._task, parent, request, 0.0) if answer is None else answer.unpacked(self._device)
            for request, answer in zip(requests, answers, strict=True)
        ]

    def pids(self) -> list[int]:
        """Process ids of the workers; waits until they run."""
        return self._crew.pids()

    def close(self) -> None:
        self._crew.close()
        if self._own is not None:
            remove_placement_group(self._own)

    def _start(self, index: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=self._first + index)
        # Memory is the bundle's to claim: one process is all that it holds.
        actor = ray.remote(self.actor).options(
            num_cpus=self._claim["CPU"], num_gpus=self._claim.get("GPU", 0), scheduling_strategy=strategy,
            max_restarts=0,
        )  # fmt: skip
        # Ray shows each worker its own GPU as number 0.
        return actor.remote(self._reference, self._device.type)


def _await(group: PlacementGroup, plan: Plan, wait: float, note: Callable[[str], None]) -> None:
    if group.wait(timeout_seconds=min(NOTICE_SECONDS, wait)):
        return
    note(full(plan))
    if wait <= NOTICE_SECONDS or not group.wait(timeout_seconds=wait - NOTICE_SECONDS):
        raise UnavailableError(gave_up(plan, wait))


def full(plan: Plan) -> str:
    """The one line that says that a run waits."""
    return f"the cluster is full: waiting for {told(plan)} to be free; it goes on by itself"


def gave_up(plan: Plan, wait: float) -> str:
    return (
        f"wait: expected {told(plan)} to be free within {wait:g} s, but the cluster stayed full; resume the run later, "
        "or write a higher wait or fewer workers"
    )


def told(plan: Plan) -> str:
    """What one group claims."""
    bundles = plan.bundles()
    cpus, gpus = sum(b["CPU"] for b in bundles), sum(b.get("GPU", 0.0) for b in bundles)
    return f"{cpus:g} CPU{'s' * (cpus != 1)}" + (f" and {gpus:.3g} of a GPU" if gpus else "")
