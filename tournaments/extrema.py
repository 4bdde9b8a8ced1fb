"""Dead and saturated units: where a layer wastes capacity, and where it is short of it.

Every activation function has a low and a high end, and a sample is counted where it lies beyond one of them:

    relu      low: 0                high: above 0 (linear)
    gelu      low: |a| < .02        high: a ≥ gelu(2), where it is x to within 2.3%
    tanh      low: below −.9        high: above .9       (the outer twentieths of the range)
    sigmoid   low: below .05        high: above .95

A unit is dead when it leaves the low end on fewer than 1% of samples. It is saturated when it lies beyond either end on
more than 95% of them and is not dead: an always active ReLU is a linear unit, a tanh between its ends is a switch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DEAD = 0.01
SATURATED = 0.95


@dataclass(frozen=True)
class Ends:
    """The two ends of an activation function, as tests on activations."""

    low: Callable[[Tensor], Tensor]
    high: Callable[[Tensor], Tensor]


_GELU_LINEAR = 2 * 0.5 * (1 + math.erf(math.sqrt(2)))

ENDS: Mapping[str, Ends] = {
    "relu": Ends(lambda a: a <= 0, lambda a: a > 0),
    "gelu": Ends(lambda a: a.abs() < 0.02, lambda a: a >= _GELU_LINEAR),
    "tanh": Ends(lambda a: a < -0.9, lambda a: a > 0.9),
    "sigmoid": Ends(lambda a: a < 0.05, lambda a: a > 0.95),
}


@dataclass(frozen=True, eq=False)
class Extrema:
    """One layer's units, (p,) each.

    low, high: shares of the samples beyond that end. low_se, high_se: their standard errors, above 0 even where a share
    is 0 or 1. mean: activation over the samples, the constant that a dead unit puts out. dead, saturated: the verdicts.
    samples: n behind every share.
    """

    layer: str
    activation: str
    samples: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    low_se: NDArray[np.float64]
    high_se: NDArray[np.float64]
    mean: NDArray[np.float64]
    dead: NDArray[np.bool_]
    saturated: NDArray[np.bool_]

    @property
    def units(self) -> int:
        return len(self.low)

    @property
    def extreme(self) -> int:
        """How many units are dead or saturated."""
        return int((self.dead | self.saturated).sum())


@torch.no_grad()
def extrema(layer: str, activation: str, activations: Tensor) -> Extrema:
    """Findings for one layer. activations: (n, p) after the function; the shares are counted where the tensor lies."""
    if activation not in ENDS:
        raise ValueError(f"activation: unknown function {activation!r}; write one of {', '.join(ENDS)}")
    if activations.ndim != 2 or activations.shape[0] == 0:
        raise ValueError(
            f"activations of {layer}: expected samples by units (n, p), got shape {tuple(activations.shape)}; "
            "flatten positions into samples"
        )
    n = activations.shape[0]
    ends = ENDS[activation]
    counted = torch.stack(
        [
            ends.low(activations).sum(0, dtype=torch.float64),
            ends.high(activations).sum(0, dtype=torch.float64),
            activations.sum(0, dtype=torch.float64),
        ]
    )
    low, high, mean = (counted / n).cpu().numpy()  # one transfer
    dead = 1 - low < DEAD
    saturated = ~dead & (low + high > SATURATED)
    if activation == "relu":  # at 0 it passes nothing on; only its linear side is saturation
        saturated = ~dead & (high > SATURATED)
    return Extrema(
        layer, activation, n, low, high, _standard_error(low, n), _standard_error(high, n), mean, dead, saturated
    )


def share(findings: Iterable[Extrema]) -> tuple[int, int]:
    """(dead or saturated units, all units) over the layers, as the trigger wants them."""
    listed = list(findings)
    return sum(f.extreme for f in listed), sum(f.units for f in listed)


def _standard_error(shares: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Binomial, with half a count added at either side, so that no share of a finite sample is certain."""
    eased = (shares * n + 0.5) / (n + 1)
    return np.sqrt(eased * (1 - eased) / n)
