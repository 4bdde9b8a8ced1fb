"""Few seeds compared: Student's intervals, paired differences, and Holm's correction for the count of comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Z95 = 1.645
"""Standard errors below a mean at its lower 95% bound, where samples are many."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its two-sided interval; without one (NaN) where there is a single seed.

    p: two-sided, of a mean of zero.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        pairs = {"mean": self.mean, "low": self.low, "high": self.high, "p": self.p, "n": self.n}
        return {name: value if math.isfinite(value) else None for name, value in pairs.items()}


def estimate(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Of independent seeds, by Student's t."""
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, len(x))
    error = float(x.std(ddof=1)) / math.sqrt(len(x))
    if error == 0:
        return Estimate(mean, mean, mean, 1.0 if mean == 0 else 0.0, len(x))
    reach = float(stats.t.ppf(0.5 + level / 2, len(x) - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, len(x) - 1))
    return Estimate(mean, mean - reach, mean + reach, p, len(x))


def paired(one: Sequence[float], other: Sequence[float], level: float = 0.95) -> Estimate:
    """Of the difference one − other, seed by seed: both lived on the same splits, batches' seeds and beginnings."""
    assert len(one) == len(other), f"{len(one)} seeds against {len(other)}"
    return estimate(np.subtract(one, other).tolist(), level)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their count so that the chance of any false claim stays at the level (Holm 1979).

    NaN, where nothing could be compared, stays NaN and does not count.
    """
    order = sorted((p, i) for i, p in enumerate(ps) if not math.isnan(p))
    corrected, highest = [math.nan] * len(ps), 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected
