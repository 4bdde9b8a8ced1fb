"""The loss of a sample in nats, for each kind of task, and labels sampled from a model.

n samples, q outputs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Kind = Literal["classification", "regression"]


def losses(kind: Kind, outputs_NQ: Tensor, y: Tensor) -> Tensor:
    """(n,) nats: cross-entropy, or the Gaussian negative log-likelihood at unit variance less its constant.

    outputs_NQ: logits (n, q) with y (n,) int64, or predicted values with y (n, q), standardised by the training split.
    """
    if kind == "classification":
        return functional.cross_entropy(outputs_NQ, y, reduction="none")
    return (outputs_NQ - y).square().sum(dim=1).mul(0.5)


def sampled(kind: Kind, outputs_NQ: Tensor, rng: np.random.Generator) -> Tensor:
    """Targets drawn from the model's own distribution, of the shape that `losses` takes: for the Fisher matrix."""
    n, q = outputs_NQ.shape
    if kind == "classification":
        u = torch.from_numpy(rng.random((n, 1))).to(outputs_NQ.device)
        return (outputs_NQ.detach().double().softmax(dim=1).cumsum(dim=1) < u).sum(dim=1).clamp(max=q - 1)
    noise = torch.from_numpy(rng.standard_normal((n, q))).to(outputs_NQ)
    return outputs_NQ.detach() + noise


def score(kind: Kind, outputs_NQ: Tensor, y: Tensor) -> float:
    """Accuracy, or R² averaged over the outputs."""
    if kind == "classification":
        return float((outputs_NQ.argmax(dim=1) == y).double().mean())
    residual = (outputs_NQ - y).double().square().sum(dim=0)
    total = (y.double() - y.double().mean(dim=0)).square().sum(dim=0)
    return float((1 - residual / total.clamp(min=1e-12)).mean())
