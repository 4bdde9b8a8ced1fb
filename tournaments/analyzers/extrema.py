"""Dead and saturated units: where a layer wastes capacity, and where it is short of it.

Every activation function has a low and a high end, and a sample is counted where it lies beyond one of them:

    relu      low: 0                high: above 0 (linear)
    gelu      low: |a| < .02        high: a ≥ gelu(2), where it is x to within 2.3%
    tanh      low: below −.9        high: above .9       (the outer twentieths of the range)
    sigmoid   low: below .05        high: above .95

A unit is dead when it leaves the low end on fewer than 1% of samples, and always active when it leaves it on more than
90%. It is saturated when it lies beyond either end on more than 95% of them and is not dead: an always active ReLU is a
linear unit, a tanh between its ends is a switch. A channel is one unit, and every position of a picture a sample of it.

Cost: three passes over the activations, without any multiplication.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.network import Network
from tournaments.analysis import Analysis, Cost, Measure, share_error
from tournaments.evidence import Evidence
from tournaments.findings import Findings

Array = NDArray[np.float64]

DEAD = 0.01
SATURATED = 0.95
ACTIVE = 0.9


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
    is 0 or 1; the positions of one picture are no independent samples, so the errors are those over pictures. mean:
    activation over the samples, the constant that a dead unit puts out. dead, saturated, active: the verdicts.
    samples: n behind every share, positions included.
    """

    layer: str
    activation: str
    samples: int
    low: Array
    high: Array
    low_se: Array
    high_se: Array
    mean: Array
    dead: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    active: NDArray[np.bool_]

    @property
    def units(self) -> int:
        return len(self.low)

    @property
    def extreme(self) -> int:
        """How many units are dead or saturated."""
        return int((self.dead | self.saturated).sum())


def extrema(findings: Findings) -> Analysis:
    """dead_share, saturated_share, extreme_share (either) and active_share of every hidden layer's units.

    Their standard errors are binomial over the units, those of a layer taken for draws from what training makes.
    arrays, (units,) each: LAYER.low, LAYER.high, LAYER.mean; LAYER.dead, LAYER.saturated, LAYER.active: 0 or 1.
    """
    measures: list[Measure] = []
    arrays: dict[str, Array] = {}
    layers = hidden_extrema(findings.network, findings.evidence)
    for found in layers:
        verdicts = {"dead": found.dead, "saturated": found.saturated, "active": found.active}
        told = {**verdicts, "extreme": found.dead | found.saturated}
        for name in ("dead", "saturated", "extreme", "active"):
            part = float(told[name].mean())
            measures.append(Measure(found.layer, f"{name}_share", part, float(share_error(part, found.units)), "share"))
        for name, values in {"low": found.low, "high": found.high, "mean": found.mean, **verdicts}.items():
            arrays[f"{found.layer}.{name}"] = values.astype(np.float64)
    operations = float(sum(3 * found.samples * found.units for found in layers))
    return Analysis("extrema", tuple(measures), Cost(findings.evidence.samples, operations), arrays)


def hidden_extrema(network: Network, evidence: Evidence) -> list[Extrema]:
    """Findings for every hidden layer, from input to output."""
    activation = str(network.blueprint().get("activation", "relu"))
    hidden = [place.layer for place in network.places() if place.layer in evidence.activations]
    return [layer_extrema(layer, activation, evidence.activations[layer]) for layer in hidden]


@torch.no_grad()
def layer_extrema(layer: str, activation: str, activations: Tensor) -> Extrema:
    """Findings for one layer. activations: (n, p) or (n, p, h, w), after the function; counted where it lies."""
    if activation not in ENDS:
        raise ValueError(f"activation: unknown function {activation!r}; write one of {', '.join(ENDS)}")
    if activations.ndim < 2 or activations.shape[0] == 0:
        raise ValueError(
            f"activations of {layer}: expected samples by units (n, p), or with positions (n, p, h, w), "
            f"got shape {tuple(activations.shape)}"
        )
    n = activations.shape[0]
    maps = activations.flatten(2) if activations.ndim > 2 else activations.unsqueeze(2)
    positions = maps.shape[2]
    ends = ENDS[activation]
    low_NP = ends.low(maps).sum(2, dtype=torch.float64) / positions
    high_NP = ends.high(maps).sum(2, dtype=torch.float64) / positions
    counted = torch.stack(
        [
            low_NP.sum(0),
            high_NP.sum(0),
            maps.sum((0, 2), dtype=torch.float64) / positions,
            low_NP.square().sum(0),
            high_NP.square().sum(0),
        ]
    )
    low, high, mean, low_square, high_square = (counted / n).cpu().numpy()  # one transfer
    dead = 1 - low < DEAD
    saturated = ~dead & (low + high > SATURATED)
    if activation == "relu":  # at 0 it passes nothing on; only its linear side is saturation
        saturated = ~dead & (high > SATURATED)
    return Extrema(
        layer=layer,
        activation=activation,
        samples=n * positions,
        low=low,
        high=high,
        low_se=_error_over_pictures(low, low_square, n, positions),
        high_se=_error_over_pictures(high, high_square, n, positions),
        mean=mean,
        dead=dead,
        saturated=saturated,
        active=1 - low > ACTIVE,
    )


def share(findings: Iterable[Extrema]) -> tuple[int, int]:
    """(dead or saturated units, all units) over the layers, as the trigger wants them."""
    listed = list(findings)
    return sum(f.extreme for f in listed), sum(f.units for f in listed)


def _error_over_pictures(shares: Array, squares: Array, n: int, positions: int) -> Array:
    """Of a mean over n pictures, from their mean squared share; no less than if all positions were independent."""
    between = np.sqrt(np.maximum(squares - shares**2, 0.0) / n)
    return np.asarray(np.maximum(between, share_error(shares, n * positions)))
