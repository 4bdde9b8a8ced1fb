"""The cliff of a ladder: below which density information falls away, with an interval.

Two marks, both on the mean information over seeds as a function of x = log10 density:
- half: where the curve, made monotone by isotonic regression and joined by straight lines, falls to half of its value
  at the densest rung;
- steepest: the middle of the logistic low + (high − low)/(1 + exp(−(x − middle)/width)), fitted by least squares.

Intervals are from redrawing every rung's mean as mean + s/√S · t, with t from Student's distribution with S − 1
degrees of freedom: with three seeds a plain bootstrap of them would cover far less than it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Vector = NDArray[np.float64]
DRAWS = 400
PINNED = 1e-3
"""Decades from an end of the ladder within which a fitted middle is held by that end."""


ITERATIONS = 200
TOLERANCE = 1e-7
"""A fit has ended where no parameter, in nats or decades, moves by more in a step."""


@dataclass(frozen=True)
class Mark:
    """A density with its 95% interval; None where there is none, or one seed a rung."""

    density: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cliff:
    """half_value: nats that `half` is defined by. bracket: the rungs on both sides of `half`."""

    half: Mark
    steepest: Mark
    half_value: float
    bracket: tuple[float, float] | None


def locate(
    densities: Sequence[float], information: Sequence[Sequence[float]], rng: np.random.Generator, draws: int = DRAWS
) -> Cliff:
    """densities: one a rung. information: nats, (rungs, seeds). Raises ValueError for fewer than 3 rungs."""
    if len(densities) < 3:
        raise ValueError(f"densities: expected 3 rungs or more to find a cliff between, got {len(densities)}; add some")
    order = np.argsort(densities)
    x = np.log10(np.asarray(densities, dtype=np.float64)[order])
    y = [np.asarray(information[i], dtype=np.float64) for i in order]
    means = np.array([seeds.mean() for seeds in y])
    half, value = _half(x, means)
    [steepest] = _steepest(x, means[None])
    bracket = None
    if half is not None:
        above = int(np.searchsorted(x, half))
        bracket = (float(10 ** x[max(above - 1, 0)]), float(10 ** x[above]))
    halves: list[float | None] = []
    steeps: list[float | None] = []
    if min(len(seeds) for seeds in y) > 1:
        drawn = np.array([[_redrawn(seeds, rng) for seeds in y] for _ in range(draws)])
        halves, steeps = [_half(x, curve)[0] for curve in drawn], _steepest(x, drawn)
    return Cliff(_mark(half, halves), _mark(steepest, steeps), value, bracket)


def _redrawn(seeds: Vector, rng: np.random.Generator) -> float:
    error = float(seeds.std(ddof=1)) / math.sqrt(len(seeds))
    return float(seeds.mean()) + error * float(rng.standard_t(len(seeds) - 1))


def _half(x: Vector, means: Vector) -> tuple[float | None, float]:
    """(log10 density, nats): where the monotone curve crosses half of its top, if it does."""
    rising = np.asarray(optimize.isotonic_regression(means).x, dtype=np.float64)
    value = float(rising[-1]) / 2
    if value <= 0 or rising[0] >= value:
        return None, value
    above = int(np.argmax(rising >= value))
    share = (value - rising[above - 1]) / (rising[above] - rising[above - 1])
    return float(x[above - 1] + share * (x[above] - x[above - 1])), value


def _steepest(x: Vector, means: Vector) -> list[float | None]:
    """log10 density for each row of means (curves, rungs), or None where that is flat or its middle lies outside of the
    ladder.
    """
    low = means.min(axis=1)
    spread = means.max(axis=1) - low
    gap, one = float(np.diff(x).min()), np.ones(len(means))
    least = np.stack([low - spread, 0 * one, x[0] * one, gap / 10 * one], axis=1)
    most = np.stack([low + spread, 3 * spread, x[-1] * one, 3 * float(x[-1] - x[0]) * one], axis=1)
    middle = x[(means >= (low + spread / 2)[:, None]).argmax(axis=1)]
    start = np.stack([low, spread, np.clip(middle, x[0] + 1e-6, x[-1] - 1e-6), gap * one], axis=1)
    found = _fitted(x, means, start, least, most)[:, 2]
    inside = (spread > 0) & (found > x[0] + PINNED) & (found < x[-1] - PINNED)
    return [float(at) if there else None for at, there in zip(found, inside, strict=True)]


def _fitted(x: Vector, y: Vector, p: Vector, least: Vector, most: Vector) -> Vector:
    """(curves, 4): bottom, height, middle and width of the logistic through each row of y (curves, rungs), within
    limits, by the method of Levenberg and Marquardt on all curves at once.

    A parameter that a limit holds is left out of the step (as in projected Newton methods).
    """
    damping, done = np.full(len(p), 1e-3), np.zeros(len(p), dtype=bool)
    residual, slopes = _misfit(x, y, p)
    for _ in range(ITERATIONS):
        gradient = np.einsum("crp,cr->cp", slopes, residual)
        free = ~(((p <= least) & (gradient > 0)) | ((p >= most) & (gradient < 0)))
        inner = np.einsum("crp,crq->cpq", slopes, slopes) * (free[:, :, None] & free[:, None, :])
        size = np.einsum("cpp->cp", inner)
        # What nothing depends on has no size; it stays where it is.
        inner += np.eye(p.shape[1]) * np.where(free & (size > 0), size * damping[:, None] + 1e-15, 1.0)[:, None, :]
        step = np.linalg.solve(inner, -(gradient * free)[:, :, None])[:, :, 0]
        tried = np.clip(p + step, least, most)
        after, slopes_after = _misfit(x, y, tried)
        fall = (residual**2).sum(axis=1) - (after**2).sum(axis=1)
        better = (fall > 0) & ~done
        done |= (np.abs(tried - p).max(axis=1) < TOLERANCE) | (damping > 1e12)
        p = np.where(better[:, None], tried, p)
        residual = np.where(better[:, None], after, residual)
        slopes = np.where(better[:, None, None], slopes_after, slopes)
        damping = np.where(better, damping / 5, damping * 4)
        if done.all():
            break
    return p


def _misfit(x: Vector, y: Vector, p: Vector) -> tuple[Vector, Vector]:
    """Residuals (curves, rungs) of the logistic, and their derivatives (curves, rungs, 4) by its parameters."""
    bottom, height, middle, width = (column[:, None] for column in p.T)
    along = (x - middle) / width
    share = 1 / (1 + np.exp(-np.clip(along, -50, 50)))
    steep = height * share * (1 - share) / width
    slopes = np.stack([np.ones_like(share), share, -steep, -steep * along], axis=2)
    return bottom + height * share - y, slopes


def _mark(point: float | None, drawn: Sequence[float | None]) -> Mark:
    if point is None:
        return Mark(None)
    found = [value for value in drawn if value is not None]
    if len(found) < max(0.9 * len(drawn), 1):
        return Mark(float(10**point))
    low, high = np.quantile(found, [0.025, 0.975])
    return Mark(float(10**point), float(10**low), float(10**high))
