"""What the course of training says: whether the loss stands still, the gradient has grown wilder, the weights go round.

- plateau: the training loss has stopped falling. Fires when a fall of `tolerance` of the loss over the window can be
  ruled out; the rate is that of firing while the loss still falls by so much.
- spike: the gradient varies more than before. Fires when the variances in the last blocks of the window rank above
  those of the earlier blocks (Mann and Whitney, exact); the rate is that of firing on noise of any distribution, also
  on noise correlated over less than a block. Comparing single batches by a fixed ratio fires on 42% of pure noise.
- stagnation: the loss improves little and the weights get no further than by chance, at `patience` looks in a row. The
  rate is that of firing while the loss stands still and the weights walk without aim (`trajectory`).
"""

from __future__ import annotations

import functools
import math
import sys

import numpy as np
from scipy import special

from tournaments import trajectory
from tournaments.history import BLOCKS, RECENT, SHORTEST, Array, Firing, History, Settings, tested, unknown, verdict


def plateau(history: History, settings: Settings) -> Firing:
    """Straight line through the block means of the loss; block means, as neighbouring losses are correlated."""
    blocks = _blocks(history.losses, settings.window)
    if blocks is None:
        return unknown("plateau", _short(len(history.losses)))
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
    told = f"loss fell by {fall:.1%} in {blocks.size} steps, by {most:.1%} at most"
    limit = f"{settings.tolerance:.1%} (p {settings.false_alarm:g})"
    return verdict("plateau", most < settings.tolerance, most, settings.tolerance, told, limit)


def spike(history: History, settings: Settings) -> Firing:
    """Rank-sum test of the gradient norm's variance, block by block, recent blocks against those before."""
    blocks = _blocks(history.gradient_norms, settings.window)
    if blocks is None:
        return unknown("spike", _short(len(history.gradient_norms)))
    variances = blocks.var(1, ddof=1)
    before, recent = variances[:-RECENT], variances[-RECENT:]
    p = _rank_sum(recent, before)
    ratio = float(np.median(recent)) / max(float(np.median(before)), sys.float_info.min)
    told = f"gradient variance of the last {recent.size * blocks.shape[1]} steps is {ratio:.2g} × that before"
    return tested("spike", p, settings.false_alarm, told)


def stagnation(history: History, settings: Settings) -> Firing:
    """Of the last `patience` looks none improved on the one before by as much as `improvement`, and in each τ and κ lie
    beyond those of steps without aim. These are independent from look to look, so that the largest of the p-values,
    raised to the number of looks, is the p-value of all.
    """
    looks = history.evaluations[-settings.patience :]
    if len(looks) < settings.patience:
        return unknown("stagnation", f"{len(looks)} looks since the last growth, {settings.patience} are needed")
    best = max(look.improvement for look in looks)
    p = max(look.shape.chance for look in looks) ** settings.patience if best < settings.improvement else 1.0
    last = looks[-1].shape
    walk, spread = trajectory.expected(last.velocities), trajectory.deviations(last.velocities, last.dimension)
    told = (
        f"loss improved by {best:.1%} at most from look to look in {len(looks)} looks, {settings.improvement:.0%} are "
        f"enough; at the last τ is {last.stretch:.2f}, {walk[0]:.2f} ± {walk[0] * spread[0]:.2f} by chance, and κ "
        f"{last.curvature:.2f}, {walk[1]:.2f} ± {walk[1] * spread[1]:.2f} by chance"
    )
    return tested("stagnation", p, settings.false_alarm, told)


def spikes(norms: Array, new: int, start: int, settings: Settings) -> int:
    """How many spikes the latest `new` of the gradient norms show, the first of which is number `start` of a life.

    One look each time that the life's count of steps passes a multiple of the recent part of the window, so that no
    step is recent twice.
    """
    stride = settings.window * RECENT // BLOCKS
    seen = len(norms) - new
    looks = range(stride - start % stride, new + 1, stride)
    empty = np.empty(0)
    return sum(spike(History(empty, norms[: seen + at]), settings).fired for at in looks)


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


def _short(steps: int) -> str:
    return f"{steps} finite steps since the last growth, {BLOCKS * SHORTEST} are needed"
