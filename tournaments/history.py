"""History: what triggers look at, how strictly they test it, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tournaments.trajectory import Shape

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """One stretch of training. improvement: fall of its mean loss against the stretch before, as a share of it.

    shape: of the path that the weights took through it.
    """

    improvement: float
    shape: Shape


@dataclass(frozen=True)
class Spread:
    """How differently a layer's units vary. ratios, errors: (p,) variance of each unit's activation over the layer's
    mean variance, averaged over the looks, and its standard error. samples: that all looks together saw.
    """

    ratios: tuple[float, ...]
    errors: tuple[float, ...]
    samples: int


@dataclass(frozen=True)
class Credit:
    """What the economy allows now. purse: parameters that the balance buys. doubtful: those that it would buy without
    what was earned since the last growth. wanted: the most that one event may add.

    highs: the figure that earns, at every look since the last growth, that one's first; empty where each credit has
    passed a test of its own.
    """

    purse: int
    doubtful: int
    wanted: int
    highs: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class History:
    """Since the last growth, which itself moves every statistic; what no trigger asks for is left empty.

    losses: training loss (nats) of each step. gradient_norms: whole-gradient norm of each step before clipping.
    extreme_units of units: dead or saturated at the latest look, over all hidden layers. activity: layer -> (active
    units, units) of each look, the latest last. spreads: layer -> its units' variances. evaluations: one a cycle, the
    latest last. cycles: since the last growth, or birth. credit: what can be bought.
    """

    losses: Array
    gradient_norms: Array
    extreme_units: int = 0
    units: int = 0
    activity: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    evaluations: tuple[Evaluation, ...] = ()
    cycles: int | None = None
    credit: Credit | None = None


@dataclass(frozen=True)
class Firing:
    """fired: statistic beyond threshold (below it where it is a p-value or a bound, as the reason says)."""

    name: str
    fired: bool
    statistic: float | None
    threshold: float | None
    reason: str


BLOCKS = 24
RECENT = 6
SHORTEST = 4
"""The window is cut into BLOCKS of at least SHORTEST steps, of which RECENT are the present: with these counts an exact
rank test comes within a tenth of any rate from .1% up."""


@dataclass(frozen=True)
class Settings:
    """false_alarm: rate of each trigger, per look. window: most recent steps that are looked at.

    tolerance: fall of the loss over the window, as a share of its mean, below which training stands still.
    share: of units that may be dead or saturated. busy: of a layer's units that may be active. ratio: of a unit's
    variance to its layer's mean that is tolerated, once so many `samples` were seen. patience: consecutive looks that
    `active` and `stagnation` want to agree. improvement: fall of the loss between two looks, as a share, that is no
    stagnation. every: cycles between two growths.
    """

    false_alarm: float = 0.01
    window: int = 960
    tolerance: float = 0.1
    share: float = 0.1
    busy: float = 0.9
    ratio: float = 2.0
    samples: int = 1000
    patience: int = 3
    improvement: float = 0.15
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm < 0.5:
            raise ValueError(f"growth.false_alarm: expected a rate between 0 and .5, got {self.false_alarm}; write .01")
        if self.window < BLOCKS * SHORTEST:
            raise ValueError(f"window: expected {BLOCKS * SHORTEST} steps at least, got {self.window}")
        if min(self.patience, self.every) < 1:
            raise ValueError(f"patience, every: expected 1 look at least, got {self.patience} and {self.every}")


def verdict(name: str, fired: bool, statistic: float, threshold: float, told: str, limit: str) -> Firing:
    """told: what was seen. limit: what it is held against."""
    return Firing(name, fired, statistic, threshold, f"{told}; {'beyond' if fired else 'not beyond'} {limit}")


def unknown(name: str, why: str) -> Firing:
    """A trigger that cannot tell does not fire."""
    return Firing(name, False, None, None, f"not known: {why}")


def tested(name: str, p: float, level: float, told: str) -> Firing:
    """A test's verdict: fired where p is no more than the level."""
    return verdict(name, p <= level, p, level, f"{told}, p {p:.2g}", f"{level:g}")
