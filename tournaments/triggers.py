"""Triggers: whether and why a network should grow now. Pure functions of its recent history.

`History` is what happened since the last growth, which itself moves every statistic. Each trigger tests one thing, at
the false-alarm rate that it is given, per look:

- plateau: the training loss has stopped falling. Fires when a fall of `tolerance` of the loss over the window can be
  ruled out; the rate is that of firing while the loss still falls by so much.
- spike: the gradient varies more than before. Fires when the variances in the last blocks of the window rank above
  those of the earlier blocks (Mann and Whitney, exact); the rate is that of firing on noise of any distribution, also
  on noise correlated over less than a block. Comparing single batches by a fixed ratio fires on 42% of pure noise.
- extrema: more units are dead or saturated than the `share` that is tolerated, by more than chance.

An expression of names with `and` and `or` (`and` binds first) says which together make a network grow.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]

ALWAYS = "always"


@dataclass(frozen=True, eq=False)
class History:
    """Since the last growth. losses: training loss (nats) of each step. gradient_norms: whole-gradient norm of each
    step before clipping. extreme_units of units: dead or saturated at the latest look, over all hidden layers.
    """

    losses: Array
    gradient_norms: Array
    extreme_units: int = 0
    units: int = 0


@dataclass(frozen=True)
class Firing:
    """fired: statistic beyond threshold (below it where it is a p-value or a bound, as the reason says)."""

    name: str
    fired: bool
    statistic: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True)
class Settings:
    """false_alarm: rate of each trigger, per look. window: most recent steps that are looked at.

    tolerance: fall of the loss over the window, as a share of its mean, below which training stands still.
    share: of units that may be dead or saturated.
    """

    false_alarm: float = 0.01
    window: int = 960
    tolerance: float = 0.1
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm < 0.5:
            raise ValueError(f"growth.false_alarm: expected a rate between 0 and .5, got {self.false_alarm}; write .01")
        if self.window < BLOCKS * SHORTEST:
            raise ValueError(f"window: expected {BLOCKS * SHORTEST} steps at least, got {self.window}")


BLOCKS = 24
RECENT = 6
SHORTEST = 4
"""The window is cut into BLOCKS of at least SHORTEST steps, of which RECENT are the present: with these counts an exact
rank test comes within a tenth of any rate from .1% up."""


def plateau(history: History, settings: Settings) -> Firing:
    """Straight line through the block means of the loss; block means, as neighbouring losses are correlated."""
    blocks = _blocks(history.losses, settings.window)
    if blocks is None:
        return _unknown("plateau", len(history.losses))
    means = blocks.mean(1)
    index = np.arange(BLOCKS) - (BLOCKS - 1) / 2
    spread = float((index**2).sum())
    slope = float(index @ means) / spread
    level = float(means.mean())
    residual = means - level - slope * index
    error = math.sqrt(float((residual**2).sum()) / (BLOCKS - 2) / spread)
    scale = max(abs(level), sys.float_info.min)
    fall = 0.0 - slope * BLOCKS / scale
    most = fall + float(special.stdtrit(BLOCKS - 2, 1 - settings.false_alarm)) * error * BLOCKS / scale
    fired = most < settings.tolerance
    told = f"loss fell by {fall:.1%} in {blocks.size} steps, by {most:.1%} at most"
    return Firing(
        "plateau",
        fired,
        most,
        settings.tolerance,
        f"{told}; {_against(fired)} {settings.tolerance:.1%} (p {_p(settings)})",
    )


def spike(history: History, settings: Settings) -> Firing:
    """Rank-sum test of the gradient norm's variance, block by block, recent blocks against those before."""
    blocks = _blocks(history.gradient_norms, settings.window)
    if blocks is None:
        return _unknown("spike", len(history.gradient_norms))
    variances = blocks.var(1, ddof=1)
    before, recent = variances[:-RECENT], variances[-RECENT:]
    p = _rank_sum(recent, before)
    fired = p <= settings.false_alarm
    ratio = float(np.median(recent)) / max(float(np.median(before)), sys.float_info.min)
    told = f"gradient variance of the last {recent.size * blocks.shape[1]} steps is {ratio:.2g} × that before"
    return Firing("spike", fired, p, settings.false_alarm, f"{told}, p {p:.2g}; {_against(fired)} {_p(settings)}")


def extrema(history: History, settings: Settings) -> Firing:
    """Binomial test of the count of dead or saturated units against the tolerated share."""
    if history.units <= 0:
        return _unknown("extrema", 0)
    p = float(stats.binom.sf(history.extreme_units - 1, history.units, settings.share))
    fired = p <= settings.false_alarm
    told = f"{history.extreme_units} of {history.units} units dead or saturated, {settings.share:.0%} tolerated"
    return Firing("extrema", fired, p, settings.false_alarm, f"{told}, p {p:.2g}; {_against(fired)} {_p(settings)}")


TRIGGERS: Mapping[str, Callable[[History, Settings], Firing]] = {
    "plateau": plateau,
    "spike": spike,
    "extrema": extrema,
}


def parse(expression: str) -> tuple[tuple[str, ...], ...]:
    """ "a or b and c" -> (("a",), ("b", "c")): any of these, each all of its names. "always" -> (("always",),)."""
    words = expression.split()
    if words == [ALWAYS]:
        return ((ALWAYS,),)
    cure = f"write {ALWAYS!r}, or names of {', '.join(TRIGGERS)} joined by 'or' and 'and'"
    names, joints = words[::2], words[1::2]
    unknown = [name for name in names if name not in TRIGGERS] + [joint for joint in joints if joint not in _JOINTS]
    if unknown or len(names) != len(joints) + 1:
        raise ValueError(f"growth.triggers: cannot read {expression!r}" + (f" at {unknown[0]!r}" if unknown else "")
                         + f"; {cure}")  # fmt: skip
    either: list[list[str]] = [[names[0]]]
    for joint, name in zip(joints, names[1:], strict=True):
        if joint == "or":
            either.append([])
        either[-1].append(name)
    return tuple(tuple(group) for group in either)


def judge(expression: str, history: History, settings: Settings) -> Firing:
    """The expression's verdict, with the reasons of every trigger that it names."""
    groups = parse(expression)
    if groups == ((ALWAYS,),):
        return Firing(ALWAYS, True, None, None, "growth is considered at every cycle")
    looks = {name: TRIGGERS[name](history, settings) for group in groups for name in group}
    fired = any(all(looks[name].fired for name in group) for group in groups)
    if len(looks) == 1:
        return next(iter(looks.values()))
    reason = "; ".join(
        f"{name} {'fired' if look.fired else 'did not fire'}: {look.reason}" for name, look in looks.items()
    )
    return Firing(" or ".join(" and ".join(group) for group in groups), fired, None, None, reason)


_JOINTS = ("or", "and")


def _blocks(series: Array, window: int) -> Array | None:
    """The series' latest steps as (BLOCKS, steps); None where it is too short, or has a value that is not finite."""
    values = np.asarray(series, dtype=np.float64)[-window:]
    length = len(values) // BLOCKS
    if length < SHORTEST:
        return None
    values = values[len(values) - BLOCKS * length :]
    return values.reshape(BLOCKS, length) if np.isfinite(values).all() else None


def _rank_sum(recent: Array, before: Array) -> float:
    """P of as many pairs (before < recent) where all orders are equally likely. Ties count against firing."""
    pairs = int((before[:, None] < recent).sum())
    return float(_pairs()[pairs:].sum())


@functools.cache
def _pairs() -> Array:
    """Probability of each count of pairs (before < recent), 0 to RECENT · (BLOCKS − RECENT), exactly."""
    most = RECENT * (BLOCKS - RECENT)
    lowest = RECENT * (RECENT - 1) // 2
    ways = np.zeros((RECENT + 1, lowest + most + 1))  # subsets of so many ranks with that sum
    ways[0, 0] = 1
    for rank in range(BLOCKS):
        for size in reversed(range(RECENT)):
            ways[size + 1, rank:] += ways[size, : ways.shape[1] - rank]
    return ways[RECENT, lowest:] / math.comb(BLOCKS, RECENT)


def _unknown(name: str, steps: int) -> Firing:
    told = (
        f"{steps} finite steps since the last growth, {BLOCKS * SHORTEST} are needed"
        if name != "extrema"
        else "no units"
    )
    return Firing(name, False, None, None, f"not known: {told}")


def _against(fired: bool) -> str:
    return "beyond" if fired else "not beyond"


def _p(settings: Settings) -> str:
    return f"{settings.false_alarm:g}"
