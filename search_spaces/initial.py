"""Initial weights beyond He's: layer-sequential unit variance, and detectors of pairs of bits."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from search_spaces.network import Network

TOLERANCE = 0.01
"""Relative deviation of a layer's variance from 1 at which it is left alone; Mishkin & Matas stop at 0.1."""

ROUNDS = 10


@torch.no_grad()
def lsuv(network: Network, x: Tensor) -> dict[str, float]:
    """Layer-sequential unit variance (Mishkin & Matas 2016, arXiv:1511.06422), on the weights that the masks leave.

    Layer by layer from the input, all weights into a layer are divided by the standard deviation of its
    pre-activations over the samples, places and units, until that is 1; layers before it are settled then. Units
    without an input, and layers whose pre-activations do not vary at all, are left out. Their start from orthonormal
    matrices has no counterpart under a mask: here it is whatever the weights are, in a seed He's.

    x: (n, features) training samples. Returns the variance of every layer that was scaled, as it is now.
    """
    if len(x) < 2:
        raise ValueError(f"network.initial: lsuv needs 2 training samples at least, got {len(x)}; write initial: he")
    x = x.to(next(network.parameters()))
    was = network.training
    network.eval()  # running statistics must not move: nothing has been learned yet
    found = {}
    for place in network.places():
        for _ in range(ROUNDS):
            variance = _variance(network, place.layer, x)
            if variance is None:
                break
            found[place.layer] = variance
            if abs(variance - 1) < TOLERANCE:
                break
            for name in network.masks():
                if name.rpartition(">")[2] == place.layer:
                    network.get_parameter(name).div_(variance**0.5)
    network.train(was)
    return found


def _variance(network: Network, layer: str, x: Tensor) -> float | None:
    """Of the pre-activations of the layer's units that have an input; None where there is none that could be scaled."""
    seen: list[Tensor] = []

    def tap(name: str, values: Tensor) -> Tensor:
        if name == f"pre:{layer}":
            seen.append(values)
        return values

    network(x, tap)
    [values] = seen
    fed = torch.zeros(values.shape[1], dtype=torch.bool)
    for name, mask in network.masks().items():
        if name.rpartition(">")[2] == layer:
            fed |= network.get_buffer(mask).cpu().flatten(1).any(dim=1)
    if not bool(fed.any()):
        return None
    variance = float(values[:, fed.to(values.device)].double().var(correction=0))
    return variance if 1e-12 < variance < float("inf") else None


@torch.no_grad()
def xor(network: Network, x: Tensor, rng: np.random.Generator) -> None:
    """Has the first hidden layer detect pairs of bits: two units a pair, relu(a − b) and relu(b − a), biases 0.

    On inputs of 0 and 1 the weights are +1 and −1; bits that are lo and hi, as parity's −1 and 1, are told by ±1/(hi −
    lo). So the two units of a pair add up to a XOR b, exactly. The pairs are the neighbours (1, 2), (3, 4) ...,
    so that every bit is in one; of an odd number the last bit is paired with the first. Units to spare take further
    pairs, drawn without replacement, and what is left after all pairs keeps the weights that it was drawn.

    x: (n, features) training samples, to see that they are bits. Raises ValueError where that, the activation or the
    size of the layer is not as it must be.
    """
    sizes, cure = network.axis_sizes(), "or write initial: he"
    first = network.places()[0].layer
    if network.family != "mlp" or first == "output":
        raise ValueError(
            f"network.initial: xor needs an mlp with a hidden layer; write network.hidden: [8], say, {cure}"
        )
    if network.blueprint()["activation"] != "relu":
        raise ValueError(f"network.initial: xor needs network.activation relu, as relu(a - b) detects a pair; {cure}")
    values = torch.unique(x).tolist()
    if len(values) != 2:
        told = f"{len(values)} values from {values[0]:g} to {values[-1]:g}" if values else "none"
        raise ValueError(
            "network.initial: xor needs inputs that are bits, of two values, as parity:N has; this task's have "
            f"{told}; {cure}"
        )
    bits, units = sizes["input"], sizes[first]
    if bits < 2:
        raise ValueError(f"network.initial: xor needs 2 bits at least, this task has {bits}; {cure}")
    pairs = [(i, (i + 1) % bits) for i in range(0, bits, 2)]
    if units < 2 * len(pairs):
        raise ValueError(
            f"network.initial: xor of {bits} bits needs {2 * len(pairs)} units in {first}, two a pair, got {units}; "
            f"write network.hidden: [{2 * len(pairs)}] or more, {cure}"
        )
    taken = {tuple(sorted(pair)) for pair in pairs}
    others = [pair for pair in itertools.combinations(range(bits), 2) if pair not in taken]
    pairs += [others[i] for i in rng.permutation(len(others))[: units // 2 - len(pairs)]]
    link = f"input>{first}"
    weight, mask = network.get_parameter(f"links.{link}"), network.get_buffer(f"mask.{link}")
    step = 1 / (values[1] - values[0])
    weight[: 2 * len(pairs)] = 0
    mask[: 2 * len(pairs)] = 0
    for i, (a, b) in enumerate(pairs):
        for row, sign in ((2 * i, step), (2 * i + 1, -step)):
            weight[row, a], weight[row, b] = sign, -sign
            mask[row, a] = mask[row, b] = 1
    network.get_parameter(f"biases.{first}").zero_()
