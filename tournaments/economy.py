"""The economy: credits are earned and growth is paid with them. Pure functions over a frozen ledger.

A parameter's price rises geometrically through a life, from `birth` to `final`, in units of ½ ln(N)/N nats: what a
parameter costs a description of N samples, per sample. Credit comes from new highs of a held-out figure alone, so
nothing is earned twice. Pruning refunds at the day's price, but in all never more than growth has paid: parameters
bought cheaply early and sold dearly late would otherwise mint credit. What a credit is, is the `policies`' subject.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Literal

Phase = Literal["coarse", "medium", "fine"]
PHASES: tuple[Phase, Phase, Phase] = ("coarse", "medium", "fine")


@dataclass(frozen=True)
class Ledger:
    """endowment, earned, spent, refunded: credits since birth, in the policy's unit. best: the highest that the earning
    figure has been. cooldown: ticks until growth is allowed again.
    """

    endowment: float
    best: float
    earned: float = 0.0
    spent: float = 0.0
    refunded: float = 0.0
    cooldown: int = 0

    def __post_init__(self) -> None:
        for name in ("endowment", "earned", "spent", "refunded", "cooldown"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"ledger.{name}: expected a finite number of 0 or more, got {getattr(self, name)}")
        if not math.isfinite(self.best):
            raise ValueError(f"ledger.best: expected a finite figure, got {self.best}; measure before growth begins")

    @property
    def balance(self) -> float:
        """Credit left: always the endowment and what was earned and refunded, less what was spent."""
        return self.endowment + self.earned + self.refunded - self.spent

    @property
    def resting(self) -> bool:
        """Whether the cool-down forbids growth."""
        return self.cooldown > 0


def earn(ledger: Ledger, figure: float) -> Ledger:
    """Credits the part of a held-out figure that is above every earlier one; NaN earns nothing."""
    if not ledger.best < figure < math.inf:
        return ledger
    return dataclasses.replace(ledger, earned=ledger.earned + (figure - ledger.best), best=figure)


def afford(ledger: Ledger, delta_parameters: int, price: float) -> bool:
    """Whether a change by so many parameters may be made now. Pruning and swaps of equal count always may."""
    if delta_parameters <= 0:
        return True
    return not ledger.resting and delta_parameters * _checked(price) <= ledger.balance


def purse(ledger: Ledger, price: float) -> int:
    """The largest growth, in parameters, that the ledger can afford now."""
    if ledger.resting or ledger.balance <= 0:
        return 0
    count = int(ledger.balance / _checked(price))
    return count if afford(ledger, count, price) else count - 1  # where the division was rounded up


def pay(ledger: Ledger, delta_parameters: int, price: float, cooldown: int = 0) -> Ledger:
    """Settles an adopted change: growth is spent and starts the cool-down, pruning is refunded.

    cooldown: cycles of training alone that follow. As every cycle begins with `tick`, one more is kept: a cycle grows
    once at most. Raises ValueError where `afford` says no.
    """
    cost = delta_parameters * _checked(price)
    if delta_parameters > 0:
        if not afford(ledger, delta_parameters, price):
            why = f"{ledger.cooldown} cycles of cool-down to go" if ledger.resting else f"balance {ledger.balance:g}"
            raise ValueError(f"growth: expected an affordable change, got {delta_parameters} parameters at {price:g} "
                             f"with {why}; ask `afford` first")  # fmt: skip
        return dataclasses.replace(ledger, spent=ledger.spent + cost, cooldown=cooldown + 1)
    refund = max(min(-cost, ledger.spent - ledger.refunded), 0.0)
    return dataclasses.replace(ledger, refunded=ledger.refunded + refund)


def tick(ledger: Ledger) -> Ledger:
    """A cycle begins."""
    return dataclasses.replace(ledger, cooldown=max(ledger.cooldown - 1, 0))


def price(progress: float, n_samples: int, birth: float, final: float) -> float:
    """Nats a parameter at `progress` (0 to 1) of a life. birth, final: in units of ½ ln(N)/N, N training samples."""
    if n_samples < 2:
        raise ValueError(f"n_samples: expected 2 training samples at least, got {n_samples}")
    if not (birth > 0 and final > 0):
        raise ValueError(f"economy.price: expected prices above 0 at birth and in the end, got {birth} and {final}")
    return birth * math.pow(final / birth, _clamped(progress)) * 0.5 * math.log(n_samples) / n_samples


def phase(progress: float, epoch: float = 0.0, begins: tuple[float, float] | None = None) -> Phase:
    """The third of a life in which `progress` (0 to 1) falls. begins: instead, epochs at which medium and fine do."""
    if begins is not None:
        return PHASES[(epoch >= begins[0]) + (epoch >= max(begins))]
    return PHASES[min(int(3 * _clamped(progress)), 2)]


def limit(
    phase: Phase, parameters: int, limits: tuple[float, float, float], caps: tuple[int, int, int] | None = None
) -> int:
    """The largest growth of one event: the phase's cap where there are caps, else its share of the parameters present,
    and 1 at least unless it is 0.
    """
    if caps is not None:
        return caps[PHASES.index(phase)]
    allowed = limits[PHASES.index(phase)]
    return max(int(allowed * parameters), 1) if allowed > 0 else 0


def to_json(ledger: Ledger) -> str:
    """One line of JSON; `from_json` gives back an equal ledger, to the bit."""
    return json.dumps(dataclasses.asdict(ledger), separators=(",", ":"))


def from_json(text: str) -> Ledger:
    """Raises ValueError where the text is no ledger, or one that cannot be."""
    try:
        return Ledger(**json.loads(text))
    except (TypeError, json.JSONDecodeError) as err:
        raise ValueError(f"ledger: expected JSON as `to_json` writes it, got {text[:80]!r} ({err})") from err


def _clamped(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


def _checked(price: float) -> float:
    if not 0 < price < math.inf:
        raise ValueError(f"price: expected nats a parameter above 0, got {price}")
    return price
