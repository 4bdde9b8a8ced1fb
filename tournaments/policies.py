"""Policies: what a credit is, how it is earned, and what it buys.

All that earns is measured on held-out data that decides growth, never on test data:

    policy        a credit is           earned                                         buys
    nats          a nat                 by new highs of held-out information           parameters, at their price
    correct       a correct prediction  by new highs of the count of held-out ones     parameters, at price · n/H(Y)
    spike         a credit              10 a spike of the gradient's variance          one growth of any size, for 100
    proportional  a parameter           a tenth of those present, each cycle           one parameter

n correct predictions are worth H(Y) nats a sample, which makes prices and endowments of the first two comparable. A
growth that cost a flat fee is not refunded.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tournaments import economy
from tournaments.economy import Ledger


@dataclass(frozen=True)
class Terms:
    """What a price depends on. price: nats a parameter. held: samples that decide growth. entropy: nats, H(Y)."""

    price: float
    held: int
    entropy: float


@dataclass(frozen=True)
class Seen:
    """What may earn. information: held-out nats. correct: held-out predictions that were, 0 where nobody asks. spikes:
    new ones of the gradient's variance. parameters: present; 0 where no cycle has passed since the last earning.
    """

    information: float
    correct: int = 0
    spikes: int = 0
    parameters: int = 0


SPIKE, GROWTH = 10.0, 100.0
"""Credits that a spike earns, and that a growth costs."""

PROPORTION = 0.1
"""Parameters that a cycle allows, as a share of those present."""


@dataclass(frozen=True)
class Policy:
    """unit: of the ledger. figure: whose highs earn, None where something else does. income: credits for what was seen,
    where there is no figure. rate: credits a parameter costs. flat: credits a growth costs whatever its size, instead.
    endowed: credits that a nat of endowment is.
    """

    unit: str
    rate: Callable[[Terms], float]
    figure: Callable[[Seen], float] | None = None
    income: Callable[[Seen], float] = lambda seen: 0.0
    flat: float = 0.0
    endowed: Callable[[Terms], float] = lambda terms: 0.0

    def highs(self, seen: Seen) -> float | None:
        """The figure whose highs earn; None where something else does."""
        return None if self.figure is None else self.figure(seen)

    def open(self, endowment: float, seen: Seen, terms: Terms) -> Ledger:
        """The ledger of a newborn. endowment: nats."""
        start = seen.information if self.figure is None else self.figure(seen)
        return Ledger(endowment * self.endowed(terms), max(start, 0.0))

    def earn(self, ledger: Ledger, seen: Seen) -> Ledger:
        """Credits what was seen."""
        if self.figure is not None:
            return economy.earn(ledger, self.figure(seen))
        return dataclasses.replace(ledger, earned=ledger.earned + self.income(seen))

    def purse(self, ledger: Ledger, terms: Terms) -> int:
        """The largest growth, in parameters, that the ledger can afford now."""
        if not self.flat:
            return economy.purse(ledger, self.rate(terms))
        return sys.maxsize if ledger.balance >= self.flat and not ledger.resting else 0

    def pay(self, ledger: Ledger, delta_parameters: int, terms: Terms, cooldown: int = 0) -> Ledger:
        """Settles an adopted change. Raises ValueError where it is more than `purse` says."""
        if not self.flat:
            return economy.pay(ledger, delta_parameters, self.rate(terms), cooldown)
        if delta_parameters <= 0:
            return ledger
        return economy.pay(ledger, 1, self.flat, cooldown)


POLICIES: Mapping[str, Policy] = {
    "nats": Policy("nats", lambda terms: terms.price, lambda seen: seen.information, endowed=lambda terms: 1.0),
    "correct": Policy(
        "correct predictions",
        lambda terms: terms.price * terms.held / terms.entropy,
        lambda seen: float(seen.correct),
        endowed=lambda terms: terms.held / terms.entropy,
    ),
    "spike": Policy("credits", lambda terms: GROWTH, income=lambda seen: SPIKE * seen.spikes, flat=GROWTH),
    "proportional": Policy("parameters", lambda terms: 1.0, income=lambda seen: PROPORTION * seen.parameters),
}
