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
    steepest = _steepest(x, means)
    bracket = None
    if half is not None:
        above = int(np.searchsorted(x, half))
        bracket = (float(10 ** x[max(above - 1, 0)]), float(10 ** x[above]))
    halves, steeps = [], []
    if min(len(seeds) for seeds in y) > 1:
        for _ in range(draws):
            drawn = np.array([_redrawn(seeds, rng) for seeds in y])
            halves.append(_half(x, drawn)[0])
            steeps.append(_steepest(x, drawn))
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


def _steepest(x: Vector, means: Vector) -> float | None:
    """log10 density, or None where the curve is flat or its middle lies outside of the ladder."""
    low, spread = float(means.min()), float(means.max() - means.min())
    if spread <= 0:
        return None

    def residuals(p: Vector) -> Vector:
        bottom, height, middle, width = p
        return np.asarray(bottom + height / (1 + np.exp(-np.clip((x - middle) / width, -50, 50))) - means)

    gap = float(np.diff(x).min())
    limits = ([low - spread, 0.0, x[0], gap / 10], [low + spread, 3 * spread, x[-1], 3 * float(x[-1] - x[0])])
    middle = float(x[int(np.argmax(means >= low + spread / 2))])
    start = np.array([low, spread, np.clip(middle, x[0] + 1e-6, x[-1] - 1e-6), gap])
    found = float(optimize.least_squares(residuals, start, bounds=limits).x[2])
    return found if x[0] + PINNED < found < x[-1] - PINNED else None


def _mark(point: float | None, drawn: Sequence[float | None]) -> Mark:
    if point is None:
        return Mark(None)
    found = [value for value in drawn if value is not None]
    if len(found) < max(0.9 * len(drawn), 1):
        return Mark(float(10**point))
    low, high = np.quantile(found, [0.025, 0.975])
    return Mark(float(10**point), float(10**low), float(10**high))
