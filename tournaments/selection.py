"""Selection: which arm of a tournament is adopted.

A candidate that adds c > 0 parameters must show more than they cost: bound > max(floor, price·c); among those the
largest bound per parameter is the best grower. One that adds none or gives some back may lose what it saves:
bound + price·|c| > 0; among those the largest sum is the best shrinker (negative gains are never ranked by ratio, which
rewards size). Of the two the one with the larger net, bound − price·c, is adopted; if there is neither, NoChange.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """arm: its number. cost: ΔParams. bound: lower confidence bound of ΔMI, nats."""

    arm: int
    cost: int
    bound: float


@dataclass(frozen=True)
class Choice:
    """arm: 0 for NoChange. reason: a sentence for the record."""

    arm: int
    reason: str


def select(contenders: Sequence[Contender], price: float, floor: float = 0.0) -> Choice:
    """The arm to adopt. price: nats a parameter, floor: nats. Ties go to the lower arm number."""
    growers = [c for c in contenders if c.cost > 0 and c.bound > max(floor, price * c.cost)]
    shrinkers = [c for c in contenders if c.cost <= 0 and net(c, price) > (floor if c.cost == 0 else 0.0)]
    best: list[tuple[Contender, str]] = []
    if growers:
        grower = max(growers, key=lambda c: (c.bound / c.cost, -c.arm))
        best.append((grower, f"at least {grower.bound:.4f} nats for {grower.cost} parameters, worth their price"))
    if shrinkers:
        shrinker = max(shrinkers, key=lambda c: (net(c, price), -c.arm))
        saved = -shrinker.cost
        change = "at a loss below" if shrinker.bound < 0 else "and gains"
        kept = f"{change} {abs(shrinker.bound):.4f} nats"
        swap = f"gains at least {shrinker.bound:.4f} nats at the same count"
        best.append((shrinker, f"saves {saved} parameters {kept}" if saved else swap))
    if not best:
        top = max(contenders, key=lambda c: c.bound, default=None)
        if top is None:
            return Choice(0, "no candidate finished its trial")
        return Choice(0, f"no candidate beat doing nothing: the best bound is {top.bound:.4f} nats")
    winner, reason = max(best, key=lambda item: (net(item[0], price), -item[0].arm))
    return Choice(winner.arm, reason)


def net(contender: Contender, price: float) -> float:
    """bound − price·cost, nats."""
    return contender.bound - price * contender.cost
