"""Gradient flow: how much of the loss's gradient reaches each layer, and which units it never reaches.

The evidence holds the gradient of every sample's loss at every pre-activation. On a sample, a unit's gradient is the
norm over the positions of a picture (one, in a dense layer), and

    gradient(l) = mean over samples of √(mean over units of that norm²)     nats per unit of pre-activation

so that neither a layer's width nor the number of samples changes its scale. A unit is silent if its root mean square
over the samples is below `SILENT` times that of the loudest unit of the network: no step of training moves it but by
decay. The ratio of first to last layer is judged against `VANISHING` and 1 / VANISHING, at two standard errors.

Cost: one pass over the gradients that the evidence has, 2 multiply-adds each.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tournaments.analysis import Analysis, Cost, Measure, share_error
from tournaments.findings import Findings

Array = NDArray[np.float64]

SILENT = 1e-6
VANISHING = 1e-2


def gradients(findings: Findings) -> Analysis:
    """Of every layer: gradient (nats per unit of pre-activation), silent_share (binomial error over its units).

    Of the network: ratio, first layer's gradient over the output's (1 if the output has none), by the delta method;
    vanishing and exploding, 1 where the ratio lies beyond its limit by two standard errors.
    arrays: LAYER (units,), each unit's root mean square over the samples.
    """
    squares = {layer: _squares(findings.evidence.gradients[layer]) for layer in findings.places}
    norms = {layer: square.mean(1).sqrt() for layer, square in squares.items()}
    units = {layer: _array(square.mean(0).sqrt()) for layer, square in squares.items()}
    loudest = max(float(each.max(initial=0.0)) for each in units.values())
    measures = []
    for layer, norm in norms.items():
        measures.append(Measure(layer, "gradient", float(norm.mean()), _error(_array(norm)), "nats per unit"))
        silent = float((units[layer] <= SILENT * loudest).mean())
        count = len(units[layer])
        measures.append(Measure(layer, "silent_share", silent, float(share_error(silent, count)), "share"))
    names = list(findings.places)
    ratio, se = _ratio(_array(norms[names[0]]), _array(norms[names[-1]]))
    vanishing, exploding = ratio + 2 * se < VANISHING, ratio - 2 * se > 1 / VANISHING
    measures.append(Measure("", "ratio", ratio, se, "1"))
    measures.append(Measure("", "vanishing", float(vanishing), 0.0, "1"))
    measures.append(Measure("", "exploding", float(exploding), 0.0, "1"))
    operations = 2.0 * sum(findings.evidence.gradients[layer].numel() for layer in names)
    return Analysis("gradients", tuple(measures), Cost(findings.evidence.samples, operations), units)


@torch.no_grad()
def _squares(gradient: Tensor) -> Tensor:
    """(n, units) float64: squared gradients, summed over positions."""
    wide = gradient.double().square()
    return wide.flatten(2).sum(2) if wide.dim() > 2 else wide


def _ratio(first: Array, last: Array) -> tuple[float, float]:
    """Ratio of the two means of paired (n,) norms, and its standard error."""
    below = float(last.mean())
    if below == 0.0:
        return 1.0, 0.0
    ratio = float(first.mean()) / below
    return ratio, _error(first - ratio * last) / below


def _error(values: Array) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _array(values: Tensor) -> Array:
    return np.asarray(values.cpu().numpy(), dtype=np.float64)
