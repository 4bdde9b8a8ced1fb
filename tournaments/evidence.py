"""Evidence: what one probe pass over training data sees at every layer. All screening and analysis read this object.

n samples, t positions of a picture that share weights (1 for dense layers), p link columns, q link rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces.network import Network
from tournaments.objective import Kind, losses, sampled


@dataclass(frozen=True)
class Evidence:
    """x, y: the samples. activations: layer -> (n, ...) what it feeds onwards, "input" included.

    gradients: layer -> (n, ...) *negative* per-sample loss gradients at its pre-activations, nats per unit.
    fisher: the same with labels sampled from the model, whose second moment is the Fisher matrix. loss: nats, the mean.
    rows: samples that a pass may see at once; None: all.
    """

    kind: Kind
    x: Tensor
    y: Tensor
    activations: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]
    loss: float
    rows: int | None = None

    @property
    def samples(self) -> int:
        return len(self.x)

    @torch.no_grad()
    def losses(self, network: Network) -> Tensor:
        """(n,) nats, of another network on the same samples, in evaluation mode."""
        training = network.training
        network.eval()
        rows = self.rows or len(self.x)
        parts = zip(torch.split(self.x, rows), torch.split(self.y, rows), strict=True)
        found = torch.cat([losses(self.kind, network(xs), ys) for xs, ys in parts])
        network.train(training)
        return found

    @property
    def finite(self) -> bool:
        """Whether all Gram matrices of it are: squares overflow long before what they are squares of does."""
        seen = (*self.activations.values(), *self.gradients.values(), *self.fisher.values())
        return bool(torch.stack([values.square().sum() for values in seen]).isfinite().all())


def collect(
    network: Network, x: Tensor, y: Tensor, kind: Kind, rng: np.random.Generator, rows: int | None = None
) -> Evidence:
    """One forward and two backward passes in evaluation mode. rng: draws the model's labels.

    x: (n, *shape), y: (n,) or (n, q), training data. rows: samples that a pass sees, all if None; the labels are the
    same.
    """
    if rows is not None and rows < len(x):
        parts = [
            collect(network, xs, ys, kind, rng)
            for xs, ys in zip(torch.split(x, rows), torch.split(y, rows), strict=True)
        ]
        return _joined(parts, x, y)
    training = network.training
    network.eval()
    pre: dict[str, Tensor] = {}
    act: dict[str, Tensor] = {"input": x}

    def tap(name: str, value: Tensor) -> Tensor:
        kind_of, _, layer = name.partition(":")
        if kind_of == "pre":
            pre[layer] = value
        else:
            act[layer] = value.detach()
        return value

    outputs = network(x, tap)
    per_sample = losses(kind, outputs, y)
    imagined = losses(kind, outputs, sampled(kind, outputs, rng))
    nodes = list(pre.values())
    # A layer may feed nothing, once what it fed has been removed: its gradients are zero.
    real = torch.autograd.grad(per_sample.sum(), nodes, retain_graph=True, materialize_grads=True)
    model = torch.autograd.grad(imagined.sum(), nodes, materialize_grads=True)
    network.train(training)
    return Evidence(
        kind=kind,
        x=x,
        y=y,
        activations=act,
        gradients={layer: -g for layer, g in zip(pre, real, strict=True)},
        fisher={layer: -g for layer, g in zip(pre, model, strict=True)},
        loss=float(per_sample.detach().mean()),
    )


def _joined(parts: Sequence[Evidence], x: Tensor, y: Tensor) -> Evidence:
    """What passes over parts of the samples saw, as one."""

    def all_of(seen: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {layer: torch.cat([values[layer] for values in seen]) for layer in seen[0]}

    return Evidence(
        kind=parts[0].kind,
        x=x,
        y=y,
        activations=all_of([part.activations for part in parts]) | {"input": x},
        gradients=all_of([part.gradients for part in parts]),
        fisher=all_of([part.fisher for part in parts]),
        loss=sum(part.loss * part.samples for part in parts) / len(x),
        rows=parts[0].samples,
    )
