"""Seeds: the tiny networks that growth starts from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.families import Convnet, Mlp
from search_spaces.initial import lsuv, xor
from search_spaces.network import Network

Picture = tuple[int, int, int]

WIRINGS = ("even", "uniform")
INITIALS = ("he", "lsuv", "xor")


def seed(
    settings: Mapping[str, Any],
    shape: Sequence[int],
    picture: Picture | None,
    outputs: int,
    rng: np.random.Generator,
    x: Tensor | None = None,
) -> Network:
    """A network of the family, layer sizes, activation and density that `settings` names, for this task.

    settings: family, hidden, density, activation; wiring (even or uniform) and initial (he, lsuv or xor; see
    `initial`). x: (n, features) training samples, for what measures them. Raises ValueError naming the setting that
    cannot be.
    """
    family, hidden = str(settings["family"]), [int(units) for units in settings["hidden"]]
    if family not in SEEDS:
        raise ValueError(f"network.family: expected one of {', '.join(SEEDS)}, got {family!r}")
    if picture is None and family == "convnet":
        raise ValueError("network.family: a convnet needs pictures, but this task has none; write mlp")
    if not hidden and family == "convnet":
        raise ValueError("network.hidden: a convnet needs a layer of channels, got []; write for example [4]")
    network = SEEDS[family](math.prod(shape), picture or (1, 1, 1), hidden, outputs, str(settings["activation"]))
    wiring, initial = str(settings.get("wiring", "even")), str(settings.get("initial", "he"))
    if wiring not in WIRINGS:
        raise ValueError(f"network.wiring: expected one of {', '.join(WIRINGS)}, got {wiring!r}")
    if initial not in INITIALS:
        raise ValueError(f"network.initial: expected one of {', '.join(INITIALS)}, got {initial!r}")
    connect(network, float(settings["density"]), rng, wiring)
    if initial != "he":
        if x is None:
            raise ValueError(f"network.initial: {initial} looks at training samples, got none; write initial: he")
        if initial == "xor":
            xor(network, x, rng)
        else:
            lsuv(network, x)
    return network


def _mlp(inputs: int, picture: Picture, hidden: Sequence[int], outputs: int, activation: str) -> Network:
    names = ["input", *(f"hidden{i}" for i in range(1, len(hidden) + 1)), "output"]
    layers = list(zip(names, [inputs, *hidden, outputs], strict=True))
    return Mlp(layers, list(itertools.pairwise(names)), activation)


def _convnet(inputs: int, picture: Picture, hidden: Sequence[int], outputs: int, activation: str) -> Network:
    names = ["input", *(f"channel{i}" for i in range(1, len(hidden) + 1)), "output"]
    return Convnet(picture, list(zip(names, [picture[0], *hidden, outputs], strict=True)), activation)


SEEDS: Mapping[str, Callable[[int, Picture, Sequence[int], int, str], Network]] = {"mlp": _mlp, "convnet": _convnet}


@torch.no_grad()
def connect(network: Network, density: float, rng: np.random.Generator, wiring: str = "even") -> None:
    """Draw every mask at `density` and weights He-scaled to the fan-in that a unit really has.

    wiring even: every unit gets at least one input, and every hidden unit at least one output: one that lacks either
    never wakes up. uniform: each link gets its share of edges anywhere, with no such promise; one in all at least.
    """
    if not 0 < density <= 1:
        raise ValueError(f"network.density: expected more than 0 and at most 1, got {density}")
    shapes = {name: (len(w), w[0].numel()) for name in network.masks() for w in [network.get_parameter(name)]}
    if wiring == "uniform":
        masks = _uniform(list(shapes.values()), density, rng)
    for i, (name, mask_name) in enumerate(network.masks().items()):
        weight, mask = network.get_parameter(name), network.get_buffer(mask_name)
        q, p = shapes[name]
        source, _, target = name.removeprefix("links.").rpartition(">")
        if wiring == "uniform":
            drawn = masks[i]
        else:
            drawn = _sparse(q, p, max(1, round(density * p * q)), source != "input", rng)
        fan_in = np.maximum(drawn.sum(axis=1, keepdims=True), 1)
        gain = 1.0 if target == "output" else 2.0
        values = rng.standard_normal((q, p)) * np.sqrt(gain / fan_in) * drawn
        weight.copy_(torch.from_numpy(values).view(weight.shape))
        mask.copy_(torch.from_numpy(drawn).view(mask.shape))


def _sparse(q: int, p: int, count: int, feed_columns: bool, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(q, p) with about `count` edges, spread evenly: every row one, and every column too if asked for."""
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


def _uniform(shapes: Sequence[tuple[int, int]], density: float, rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Masks (q, p) with round(density · p · q) edges each, every set of them as likely; one edge in all at least."""
    counts = [round(density * p * q) for q, p in shapes]
    if not any(counts):
        cells = np.array([p * q for q, p in shapes])
        counts[int(rng.choice(len(shapes), p=cells / cells.sum()))] = 1
    masks = [np.zeros(shape, dtype=bool) for shape in shapes]
    for mask, count in zip(masks, counts, strict=True):
        mask.reshape(-1)[rng.choice(mask.size, count, replace=False)] = True
    return masks


def density_for(inputs: int, hidden: Sequence[int], outputs: int, parameters: int) -> float:
    """The density at which an mlp of these layers has about `parameters` active weights and biases."""
    sizes = [inputs, *hidden, outputs]
    cells = sum(p * q for p, q in itertools.pairwise(sizes))
    return min(1.0, max(parameters - sum(sizes[1:]), 1) / cells)
