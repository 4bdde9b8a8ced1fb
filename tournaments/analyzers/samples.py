"""What a layer shows on each sample, as rows of numbers that an analyzer can take for points or features."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tournaments.findings import Findings

Array = NDArray[np.float64]

WIDTH = 1024
"""Features of a picture at most: its maps are averaged down to fewer positions."""

ROUNDING = 1e-7
"""Of float32: a unit that varies by less than this share of its size is constant."""


@torch.no_grad()
def rows(findings: Findings, layer: str) -> Array:
    """(n, p) float64: what the layer feeds onwards; of the output its logits or predicted values, by one more pass."""
    network, evidence = findings.network, findings.evidence
    if layer in evidence.activations:
        values = evidence.activations[layer]
    else:
        assert layer == "output", f"the evidence has no activations of {layer}"
        training = network.training
        values = network.eval()(evidence.x)
        network.train(training)
    if layer == "input":
        values = values.reshape(-1, *network.input_shape())
    if values.dim() > 2:
        side = max(1, math.isqrt(WIDTH // values.shape[1]))
        h, w = (min(side, int(s)) for s in values.shape[2:])
        values = functional.adaptive_avg_pool2d(values, (h, w))
    return np.asarray(values.flatten(1).double().cpu().numpy())


def standardised(values: Array) -> Array:
    """(n, p'): centred columns of standard deviation 1, constant ones left out."""
    centred = values - values.mean(0)
    spread = centred.std(0)
    size = np.maximum(np.abs(values).max(0, initial=0.0), np.finfo(np.float64).tiny)
    kept = spread > ROUNDING * size
    return np.asarray(centred[:, kept] / spread[kept])
