"""Vitals: what a network is at, as its process knows it at any moment. Plain numbers in memory; telling is `live`'s."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Actors that only lease out work load this file too, and need no torch.
    from evo.segments import Segment, Segmented
    from evo.trials import Body, TrialRequest, TrialResult, TrialRunner

FIGURES = (
    "cycle", "step", "information_nats", "validation_information_nats", "active_parameters", "action", "seconds", "done"
)  # fmt: skip
"""What is told of the latest cycle, of all that `Grower.advance` returns."""


def unheard(cause: str) -> None:
    """Where nobody listens."""


@dataclass
class Trials:
    """The queue of a runner: trials in flight and waiting, and how many it has ever done.

    failed: told, in one line, of every worker that was lost; what it had in hand runs again.
    """

    in_flight: int = 0
    waiting: int = 0
    done: int = 0
    failed: Callable[[str], None] = unheard


@dataclass
class Vitals:
    """phase: starting, training, tournament, saving. since: when it began, seconds since 1970. cycles: of the plan."""

    network: str
    generation: int = 0
    cycles: int = 0
    phase: str = "starting"
    since: float = field(default_factory=time.time)
    trials: Trials = field(default_factory=Trials)
    figures: Mapping[str, Any] = field(default_factory=dict)

    def enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase, self.since = phase, time.time()

    def lived(self, update: Mapping[str, Any]) -> None:
        """A cycle is behind it."""
        self.figures = {name: update[name] for name in FIGURES if name in update}

    def told(self) -> dict[str, Any]:
        """As JSON takes it, but for figures that are not finite."""
        trials = {"in_flight": self.trials.in_flight, "waiting": self.trials.waiting, "done": self.trials.done}
        return {
            "network": self.network, "generation": self.generation, "cycles": self.cycles, "phase": self.phase,
            "since": self.since, "trials": trials, **self.figures,
        }  # fmt: skip


@dataclass(frozen=True)
class Watched:
    """A runner whose work shows in the vitals."""

    runner: TrialRunner
    vitals: Vitals

    def __call__(self, parent: Body, requests: Sequence[TrialRequest]) -> list[TrialResult]:
        self.vitals.enter("tournament")
        try:
            return self.runner(parent, requests)
        finally:
            self.vitals.trials.in_flight = self.vitals.trials.waiting = 0

    @property
    def ranks(self) -> int:
        """Processes of the runner that train one network together."""
        return int(getattr(self.runner, "ranks", 1))

    def train(self, parent: Body, segment: Segment) -> Segmented:
        """By the runner's ranks, of which it has more than one."""
        together: Any = self.runner
        trained: Segmented = together.train(parent, segment)
        return trained

    @staticmethod
    def over(runner: TrialRunner, vitals: Vitals) -> Watched:
        """A runner that keeps a queue shows it; of any other, only that it is at work is known."""
        vitals.trials = getattr(runner, "queue", vitals.trials)
        return Watched(runner, vitals)
