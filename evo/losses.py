"""Deaths that were a machine's and not a network's.

Ray tells a lost machine in one of two ways: by name, once its control store knows, or only as a process that could not
be reached, where the caller's broken link was noticed first. The second may be a fault of that process, so that it
counts against its network until a machine is found to have died.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from evo import causes

PATIENCE_SECONDS = 60.0
"""How long after a process could not be reached a machine's death still explains it; Ray's own checks take about 15."""

LOOK_SECONDS = 1.0


def dead_machines() -> set[str]:
    """Ids of the cluster's nodes that are gone."""
    return {str(node["NodeID"]) for node in ray.nodes() if not node["Alive"]}  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Open:
    trial: Any
    network: str
    until: float


class Losses:
    """Takes back what a lost machine cost a trial. A machine explains one death of each network, so that a process
    which is never to be reached, on machines that live, is given up in the end.
    """

    def __init__(
        self, dead: Callable[[], set[str]] = dead_machines, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._dead, self._clock = dead, clock
        self._before = dead()
        self._explained: set[tuple[str, str]] = set()
        self._open: list[_Open] = []
        self._looked = -LOOK_SECONDS

    def died(self, trial: Any, network: str, cause: str) -> None:
        """A trial of Tune's that is tried again; `cause` as from `causes.of`."""
        if causes.machines(cause):
            trial.run_metadata.num_failures -= 1
        elif cause.startswith(causes.UNREACHABLE):
            self._open.append(_Open(trial, network, self._clock() + PATIENCE_SECONDS))

    def look(self) -> list[str]:
        """Networks whose death turns out to be a machine's, once each."""
        now = self._clock()
        if not self._open or now - self._looked < LOOK_SECONDS:
            return []
        self._looked = now
        gone, left, found = self._dead() - self._before, [], []
        for one in self._open:
            machine = next((node for node in sorted(gone) if (one.network, node) not in self._explained), None)
            if machine is not None:
                self._explained.add((one.network, machine))
                one.trial.run_metadata.num_failures -= 1
                found.append(one.network)
            elif now < one.until:
                left.append(one)
        self._open = left
        return found
