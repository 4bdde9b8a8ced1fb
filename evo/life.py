"""Life: where one network stands between two cycles. Frozen; JSON round trip: a killed life goes on to the bit."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from evo.config import Config
from evo.memory import WHOLE, Parts
from tournaments.economy import Ledger


@dataclass(frozen=True)
class Plan:
    """How a life of `total` steps is cut: `cycles` cycles of `segment` steps of training and a tournament of at most
    `trial` steps, and a last stretch of `settle` steps of training alone.
    """

    total: int
    cycles: int
    segment: int
    trial: int
    settle: int

    @staticmethod
    def of(config: Config, samples: int) -> Plan:
        """The plan for this many training samples. A life too short for a tournament is one stretch of training."""
        batch = min(config.training.batch_size, samples)
        epochs = config.training.epochs
        total = config.training.steps if epochs is None else max(1, round(epochs * samples / batch))
        trial = sum(config.tournament.rungs)
        growing = round(total * (1 - config.growth.settle))
        cycles = min(config.growth.cycles, growing // (2 * trial))
        if cycles < 1:
            return Plan(total, 0, 0, trial, total)
        segment = growing // cycles - trial
        return Plan(total, cycles, segment, trial, total - cycles * (segment + trial))

    def cut(self, cycle: int, step: int) -> Plan:
        """The plan of a life that has to end: after so many cycles and steps nothing but the last stretch is left."""
        return Plan(step + self.settle, cycle, self.segment, self.trial, self.settle)


@dataclass(frozen=True)
class Life:
    """cycle: finished cycles. step: training steps of the network's own line, rungs of adopted forks included.

    information: nats on the deciding half, now. gains: sums of the books since birth (training, control, forks), nats.
    born: information at birth. peak: most parameters that it ever had. losses, norms: of every step since the last
    growth (the latest 960). rate: factor on the learning rate, halved when training diverged. spent: steps that are not
    in its line, of lost forks and of training that diverged. plateaus: so many were seen, where a rule of update scales
    may follow them. traces: JSON, what triggers remember. parts: in which memory has held its work so far.
    """

    cycle: int
    step: int
    ledger: Ledger
    information: float
    born: float
    peak: int
    gain_training: float = 0.0
    gain_control: float = 0.0
    gain_fork: float = 0.0
    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()
    rate: float = 1.0
    spent: int = 0
    tournaments: int = 0
    stale: int = 0
    best: float = float("-inf")
    done: bool = False
    reason: str = ""
    plateaus: int = 0
    traces: dict[str, Any] = dataclasses.field(default_factory=dict)
    parts: Parts = WHOLE

    def to_json(self) -> dict[str, Any]:
        """Floats survive: Python writes the shortest decimal that reads back to the same bits."""
        fields = dataclasses.asdict(self)
        if self.parts == WHOLE:
            del fields["parts"]
        return fields

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Life:
        """Raises ValueError where the fields are not those of a life."""
        try:
            rest = {**fields, "ledger": Ledger(**fields["ledger"]), "parts": Parts(**fields.get("parts", {}))}
            for key in ("losses", "norms"):
                rest[key] = tuple(float(v) for v in rest[key])
            return Life(**rest)
        except (KeyError, TypeError, ValueError) as err:
            told = json.dumps(fields)[:80]
            raise ValueError(f"state.json: expected the fields of a life, got {told} ({err})") from err


def length(config: Config, cycles: int) -> dict[str, Any]:
    """Settings of a life of so many cycles, each as long as the config's, by steps and, where these rule, by epochs."""
    share, training = cycles / config.growth.cycles, config.training
    return {
        "growth.cycles": cycles,
        "training.steps": max(1, round(training.steps * share)),
        "training.epochs": None if training.epochs is None else training.epochs * share,
    }
