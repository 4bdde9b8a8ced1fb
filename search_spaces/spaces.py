"""Seeds: the tiny networks that growth starts from."""

from __future__ import annotations

import math

import numpy as np
import torch

from search_spaces.families.mlp import Mlp


@torch.no_grad()
def seed_mlp(
    inputs: int, hidden: tuple[int, ...], outputs: int, density: float, activation: str, rng: np.random.Generator
) -> Mlp:
    """A chain of layers, each matrix connected at `density`, He-scaled to the fan-in that a unit really has.

    Every hidden unit gets at least one input and one output, and every output at least one input: a unit that lacks
    either side never wakes up. Raises ValueError for a density or layer size that cannot be.
    """
    if not 0 < density <= 1:
        raise ValueError(f"network.density: expected more than 0 and at most 1, got {density}")
    names = ["input", *(f"hidden{i}" for i in range(1, len(hidden) + 1)), "output"]
    sizes = [inputs, *hidden, outputs]
    links = list(zip(names[:-1], names[1:], strict=True))
    network = Mlp(list(zip(names, sizes, strict=True)), links, activation)
    for (source, target), p, q in zip(links, sizes[:-1], sizes[1:], strict=True):
        mask = _sparse(q, p, max(1, round(density * p * q)), source != "input", rng)
        fan_in = np.maximum(mask.sum(axis=1, keepdims=True), 1)
        gain = 1.0 if target == "output" else 2.0
        weight = rng.standard_normal((q, p)) * np.sqrt(gain / fan_in) * mask
        link = f"{source}>{target}"
        network.links[link].copy_(torch.from_numpy(weight))
        network.mask.get_buffer(link).copy_(torch.from_numpy(mask.astype(np.float32)))
    return network


def _sparse(q: int, p: int, count: int, feed_columns: bool, rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    """(q, p) bool with about `count` edges, spread evenly: every row one, and every column too if asked for."""
    mask = np.zeros((q, p), dtype=bool)
    columns = rng.permutation(p)
    for row in range(q):
        mask[row, columns[row % p]] = True
    if feed_columns:
        for i, column in enumerate(columns[q:]):
            mask[i % q, column] = True
    spare = count - int(mask.sum())
    if spare > 0:
        open_ = np.flatnonzero(~mask)
        mask.reshape(-1)[rng.choice(open_, min(spare, len(open_)), replace=False)] = True
    return mask


def density_for(inputs: int, hidden: tuple[int, ...], outputs: int, parameters: int) -> float:
    """The density at which a chain of these layers has about `parameters` active weights and biases."""
    sizes = [inputs, *hidden, outputs]
    cells = sum(p * q for p, q in zip(sizes[:-1], sizes[1:], strict=True))
    free = parameters - sum(sizes[1:])
    return min(1.0, max(free, 1) / cells) if cells else math.nan
