"""Trajectories: how straight a path the weights take, and what a path without any aim would look like.

Of S snapshots W_1 … W_S with velocities V_t = W_{t+1} − W_t and the displacement Δ = W_S − W_1:

    stretch    τ = Σ‖V_t‖ / ‖Δ‖
    curvature  κ = Σ‖V_t⊥‖ / Σ‖V_t∥‖     parts across and along Δ; 0 where S < 3 or Δ ≈ 0

A straight path has τ = 1 and κ = 0. The null is a random walk, V_t independent with mean 0 and covariance C, of
n = S − 1 steps. In high dimension its velocities are of equal length and orthogonal, so τ = √n = √(S−1) and
κ = √(n−1) = √(S−2). At an effective dimension d = (tr C)²/tr C² both scatter: to first order

    ln τ − ½ ln n     = −½ x̄              Var x̄ = 2(n−1)/(n d),   x̄ = mean over t of Σ_{s≠t} V_t·V_s / tr C
    ln κ − ½ ln (n−1) = −½ x̄ n/(n−1)

so that sd ln τ = √((1−1/n)/2d) and sd ln κ = √(n/(n−1)/2d), and the two move together. Weights that circle in a basin
go beyond both: positions drawn independently have τ ≈ n. All follows from the Gram matrix V Vᵀ of the velocities.

How far is beyond? Where d is small, as for small networks, d alone does not tell. But steps without aim are as likely
backward as forward: all ±V_1 … ±V_n are equally probable, so the path's own τ and κ are ranked among those of all sign
patterns (Fisher's randomisation). That is exact for any covariance, dimension, and course of the step sizes.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.randomness import keyed

Array = NDArray[np.float64]

SNAPSHOTS = 15
PATTERNS = 8192
"""All sign patterns of 14 velocities, up to a common sign; of longer paths so many are drawn."""


@dataclass(frozen=True)
class Shape:
    """Of a path: stretch τ, curvature κ, effective dimension of its velocities, their number n, and the probability
    that steps without aim, of the same lengths and directions, go as far in τ and κ together.
    """

    stretch: float
    curvature: float
    dimension: float
    velocities: int
    chance: float


def shape(gram: Array) -> Shape | None:
    """gram: (n, n) of the velocities. None where nothing moved, where n < 3, or where a value is not finite."""
    n = len(gram)
    if n < 3 or not np.isfinite(gram).all() or not gram.diagonal().max() > 0:
        return None
    gram = gram / gram.diagonal().max()
    signs = _signs(n)
    stretches, curvatures = shapes(gram.diagonal(), signs * (signs @ gram))
    larger = np.maximum(_above(stretches), _above(curvatures))
    return Shape(float(stretches[0]), float(curvatures[0]), dimension(gram), n, float((larger <= larger[0]).mean()))


def shapes(squares: Array, toward: Array) -> tuple[Array, Array]:
    """τ and κ, (m,) each, of m paths. squares: (n,) or (m, n), V_t². toward: (m, n), V_t·Δ."""
    speeds = np.sqrt(squares)
    travelled = speeds.sum(-1)
    distance = np.sqrt(np.maximum(toward.sum(1), 0.0))
    shortest = 1e-6 * travelled
    returned = distance <= shortest
    divisor = np.where(returned, shortest, distance)
    along = np.minimum(np.abs(toward) / divisor[:, None], speeds)
    across = np.sqrt(np.maximum(squares - along**2, 0.0))
    curvature = np.where(returned, 0.0, across.sum(1) / np.maximum(along.sum(1), 1e-12 * travelled))
    return travelled / divisor, curvature


def dimension(gram: Array) -> float:
    """d = mean V_t²V_s² / mean (V_t·V_s)² over t ≠ s.

    E V_t²V_s² = (tr C)² and E (V_t·V_s)² = tr C² for independent velocities; dependent ones make it smaller.
    """
    squares = gram.diagonal()
    alone = squares.sum() ** 2 - (squares**2).sum()
    together = (gram**2).sum() - (squares**2).sum()
    return float(alone / max(together, 1e-12 * alone))


def expected(velocities: int) -> tuple[float, float]:
    """(τ, κ) of a random walk in high dimension."""
    return math.sqrt(velocities), math.sqrt(velocities - 1)


def deviations(velocities: int, dimension: float) -> tuple[float, float]:
    """Standard deviations of (ln τ, ln κ) of a random walk, to first order in 1/d."""
    n = velocities
    return math.sqrt((1 - 1 / n) / (2 * dimension)), math.sqrt(n / (n - 1) / (2 * dimension))


@functools.lru_cache(maxsize=4)
def _signs(count: int) -> Array:
    """(patterns, count) of ±1, the path's own first: all up to a common sign, or PATTERNS of them."""
    if 2 ** (count - 1) <= PATTERNS:
        bits = np.arange(2 ** (count - 1))[:, None] >> np.arange(count) & 1
        return np.asarray(1.0 - 2.0 * bits)
    signs = np.asarray(1.0 - 2.0 * keyed("signs", count).integers(0, 2, (PATTERNS, count)))
    signs[0] = 1.0
    return signs


def _above(values: Array) -> Array:
    """(m,): share of all values that are no smaller than each, to within rounding."""
    rounded = np.round(values / np.abs(values).max(), 12) if np.abs(values).max() > 0 else values
    beyond = len(values) - np.searchsorted(np.sort(rounded), rounded, side="left")
    return np.asarray(beyond / len(values))
