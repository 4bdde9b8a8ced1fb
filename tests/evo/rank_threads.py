"""Ranks as threads of one process, over gloo on loopback: all that ranks do, but their processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from evo.ranks import Meeting, RankLostError, Ranks
from evo.resolution import at_scale
from evo.segments import Segment, Segmented, train
from evo.task import Task
from evo.trials import Body, TrialRequest, TrialResult
from evo.workers import InProcess

CPU, HOME = torch.device("cpu"), "127.0.0.1"


def together(size: int, work: Callable[[Ranks], Any], timeout: float = 20.0) -> list[Any]:
    """What each rank makes of the work, or the error that it raised."""
    meeting = Meeting(HOME)
    address = meeting.convene()

    def one(rank: int) -> Any:
        ranks = Ranks.join(address, rank, size, CPU, HOME, timeout)
        try:
            return work(ranks)
        except Exception as error:  # each rank's own is what tests look at
            return error
        finally:
            ranks.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


class Threads:
    """A runner of trials that trains segments on so many threads."""

    def __init__(self, task: Task, ranks: int) -> None:
        self.task, self.ranks, self._trials = task, ranks, InProcess(task)

    def __call__(self, parent: Body, requests: Sequence[TrialRequest]) -> list[TrialResult]:
        return self._trials(parent, requests)

    def train(self, parent: Body, segment: Segment) -> Segmented:
        data = at_scale(self.task, segment.scale).splits["train"]
        found = together(self.ranks, lambda ranks: train(data, self.task.kind, parent, segment, ranks))
        # The error that the others lost a rank by, if there is one: as `RankPool` does.
        for one in sorted(found, key=lambda one: isinstance(one, RankLostError)):
            if isinstance(one, Exception):
                raise one
        first = found[0]
        assert isinstance(first, Segmented)
        return first
