"""Ranks as Ray actors: a pool whose workers run a tournament's trials each alone, and its segments together.

A trial is short and fits one process, and R of them side by side need no exchange: that is the better use of R
processes. Only the segments between tournaments, which are one network's long work, are shared batch by batch.

Ranks that die or hang are replaced, all of them, and the segment runs again from where it began: as a trial, it is a
pure function, and comes to the same bits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import ray
import torch
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.util.placement_group import PlacementGroup

from evo import segments
from evo.crew import DEATHS, GONE, LEASE_SECONDS, taken_away
from evo.pool import RayPool, Worker
from evo.ranks import SILENCE_SECONDS, Address, Meeting, RankLostError, Ranks
from evo.resolution import at_scale
from evo.segments import Segment, Segmented
from evo.shipping import ShippedBody, ShippedTask
from evo.task import Task
from evo.training import Trained
from evo.trials import Body, pack, unpack

LOOK_SECONDS = 2.0
"""Between two looks at whether ranks make progress; and how long one that lost the others waits to hear why."""


class RankWorker(Worker):
    """The actor: a worker that is also one of several ranks."""

    def __init__(self, task: ShippedTask, device: str) -> None:
        super().__init__(task, device)
        self._ranks: Ranks | None = None

    def join(self, address: Address, rank: int, size: int, timeout: float) -> None:
        """Returns once all ranks have met. Raises RankLostError."""
        if self._ranks is not None:
            self._ranks.close()
        self._ranks = Ranks.join(address, rank, size, self._device, _here(), timeout)

    def train(self, parent: ShippedBody, segment: Segment) -> tuple[Trained, ShippedBody] | None:
        """What the first rank has, which is what all have. Raises RankLostError, RanksDifferError."""
        ranks = self._ranks
        assert ranks is not None, "join first"
        data = at_scale(self._task, segment.scale).splits["train"]
        found = segments.train(data, self._task.kind, parent.unpacked(self._device), segment, ranks)
        return None if ranks.rank else (found.trained, ShippedBody.of(pack(found.network, found.state)))


class RankPool(RayPool):
    """The ranks of one network, inside its trial's placement group, or in one of their own outside of Tune."""

    actor: ClassVar[type[Worker]] = RankWorker

    def __init__(
        self, task: Task, reference: Any, workers: int, device: torch.device, claim: Mapping[str, float],
        lease_seconds: float = LEASE_SECONDS, group: PlacementGroup | None = None,
    ) -> None:  # fmt: skip
        super().__init__(task, reference, workers, device, claim, lease_seconds, group)
        self.ranks = workers
        self.silence_seconds = SILENCE_SECONDS
        self._meeting = Meeting(_here())
        self._together: tuple[Address, list[Any]] | None = None

    def train(self, parent: Body, segment: Segment) -> Segmented:
        """A copy of the parent, trained by all ranks. Raises RanksDifferError where they come apart, GetTimeoutError
        where they are not to be had, and RuntimeError where DEATHS times in a row some died over this segment.
        """
        shared = ray.put(ShippedBody.of(parent))
        deaths = 0
        while True:
            try:
                trained, body = self._train(shared, segment)
                network, state = unpack(body.unpacked(self._device))
                return Segmented(trained, network, state)
            except RankLostError as lost:
                self._together = None
                self.queue.failed(f"training together: {lost}")
                self._crew.renew()
                deaths += not taken_away(lost.__cause__)
                if deaths >= DEATHS:
                    raise RuntimeError(
                        f"training.ranks: {deaths} times a rank died or hung over the steps from {segment.moment.step}"
                        f"; the last time: {lost}; see the logs of Ray, then resume"
                    ) from lost
            except BaseException:
                # The others still wait for the one that failed, and would for long.
                self._together = None
                self._crew.renew()
                raise

    def _train(self, shared: Any, segment: Segment) -> tuple[Trained, ShippedBody]:
        """Raises RankLostError."""
        address, actors = self._gathered()
        pending = {actor.train.remote(shared, segment): rank for rank, actor in enumerate(actors)}
        found: tuple[Trained, ShippedBody] | None = None
        seen, since = self._meeting.beats(address, self.ranks), time.monotonic()
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=LOOK_SECONDS)
            for future in ready:
                try:
                    found = self._answer(future, pending.pop(future)) or found
                except RankLostError:
                    self._reason(pending)
                    raise
            now = self._meeting.beats(address, self.ranks)
            if ready or now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > self.silence_seconds:
                silent = ", ".join(map(str, sorted(pending.values())))
                raise RankLostError(f"no progress for {self.silence_seconds:g} s, waiting for ranks {silent}")
        assert found is not None
        return found

    def _gathered(self) -> tuple[Address, list[Any]]:
        """All ranks, who have found each other. A worker that was replaced since must be found anew."""
        try:
            actors = self._crew.everyone(self.lease_seconds)
        except TimeoutError as error:
            # One of Ray's errors: in a search, another try may be given other machines.
            raise GetTimeoutError(f"training.ranks: {error}") from error
        if self._together is None or self._together[1] != actors:
            address = self._meeting.convene()
            met = [
                actor.join.remote(address, rank, self.ranks, self.silence_seconds) for rank, actor in enumerate(actors)
            ]
            for rank, future in enumerate(met):
                self._answer(future, rank, self.lease_seconds)
            self._together = address, actors
        return self._together

    def _answer(self, future: Any, rank: int, seconds: float | None = None) -> Any:
        """Raises RankLostError where the rank is gone, or lost the others; any other error as it was raised there."""
        try:
            return ray.get(future, timeout=seconds)
        except (*GONE, GetTimeoutError) as error:
            raise RankLostError(f"rank {rank} died: {str(error).splitlines()[0]}") from error
        except RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from error
            raise

    def _reason(self, pending: Mapping[Any, int]) -> None:
        """Raises another rank's error that was no loss, if there is one: a rank that fails is lost to the others."""
        ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=LOOK_SECONDS) if pending else ([], [])
        for future in ready:
            with contextlib.suppress(RankLostError):
                self._answer(future, pending[future])


def _here() -> str:
    """The address of this node that the others know."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
