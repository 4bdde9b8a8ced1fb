"""Seed networks of every family, and random legal actions on any network, made from what a network declares."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces import axes, surgery
from search_spaces.actions import (
    Action,
    Connect,
    Disconnect,
    Edge,
    Insert,
    Narrow,
    NoChange,
    Remove,
    Skip,
    Spoke,
    Unit,
    Widen,
)
from search_spaces.families import FAMILIES
from search_spaces.network import Network, Place
from search_spaces.optimizer_state import OptimizerState

SEEDS: dict[str, dict[str, Any]] = {
    "mlp": {
        "family": "mlp",
        "activation": "tanh",
        "layers": [["input", 5], ["hidden1", 4], ["hidden2", 3], ["output", 3]],
        "links": [
            ["input", "hidden1"],
            ["input", "hidden2"],
            ["hidden1", "hidden2"],
            ["hidden1", "output"],
            ["hidden2", "output"],
        ],
    },
    "mlp-without-hidden-layers": {
        "family": "mlp",
        "activation": "relu",
        "layers": [["input", 6], ["output", 2]],
        "links": [["input", "output"]],
    },
    "convnet": {
        "family": "convnet",
        "activation": "relu",
        "picture": [2, 9, 8],
        "layers": [["input", 2], ["channel1", 3], ["channel2", 2], ["hidden1", 3], ["output", 3]],
    },
    "convnet-without-hidden-layers": {
        "family": "convnet",
        "activation": "gelu",
        "picture": [1, 4, 6],
        "layers": [["input", 1], ["channel1", 2], ["output", 2]],
    },
}
"""At least one of every family: a new family joins the contract by being listed here."""

Rng = np.random.Generator


@torch.no_grad()
def seed_network(name: str, rng: Rng, dtype: torch.dtype = torch.float64, density: float = 0.6) -> Network:
    """A network of that seed in eval mode, with random masks, weights and running statistics."""
    network = FAMILIES[SEEDS[name]["family"]].from_blueprint(SEEDS[name]).to(dtype).eval()
    buffers = dict(network.named_buffers())
    masks = network.masks()
    for key, buffer in buffers.items():
        if key in masks.values():
            buffer.copy_(torch.from_numpy(rng.random(buffer.shape) < density))
        elif buffer.is_floating_point():
            buffer.copy_(torch.from_numpy(rng.uniform(0.5, 2.0, buffer.shape)))
        else:
            buffer.fill_(3)
    for key, parameter in network.named_parameters():
        parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
        if key in masks:
            parameter.mul_(buffers[masks[key]])
    return network


def random_state(network: Network, rng: Rng) -> OptimizerState:
    """A state in which every element is told from every other, and none looks fresh."""
    state = OptimizerState.fresh(network)
    for part, (values, _) in state.parts().items():
        for tensor in values.values():
            drawn = rng.integers(1, 2**31, tensor.shape) if part == "age" else rng.uniform(0.1, 0.9, tensor.shape)
            tensor.copy_(torch.from_numpy(np.asarray(drawn)))
    return state


def inputs(network: Network, rng: Rng, n: int = 7) -> Tensor:
    """(n, features), in the network's number type."""
    dtype = next(network.parameters()).dtype
    return torch.from_numpy(rng.standard_normal((n, math.prod(network.input_shape())))).to(dtype)


# --- what a network looks like


def weights(network: Network, link: str) -> tuple[Tensor, Tensor]:
    """Weights and mask of a link, (target units, source units, reach); see families/links.py."""
    source, _, target = link.partition(">")
    sizes = network.axis_sizes()
    values = surgery.tensors(network)
    shape = (sizes[target], sizes[source], -1)
    return values[f"links.{link}"].detach().reshape(shape), values[f"mask.{link}"].bool().reshape(shape)


def links(network: Network) -> list[str]:
    return [name.removeprefix("links.") for name in network.masks()]


def sources(network: Network, layer: str) -> list[str]:
    return [s for s, _, t in (link.partition(">") for link in links(network)) if t == layer]


def targets(network: Network, layer: str) -> list[str]:
    return [t for s, _, t in (link.partition(">") for link in links(network)) if s == layer]


def edges_into(network: Network, layer: str, on: bool) -> list[Edge]:
    """Active edges that lead into a layer with their values, or masked ones."""
    found = []
    for source in sources(network, layer):
        values, mask = (tensor.flatten(1) for tensor in weights(network, f"{source}>{layer}"))
        for row, column in (mask == on).nonzero().tolist():
            found.append(Edge(f"{source}>{layer}", row, column, float(values[row, column])))
    return found


def hidden(network: Network) -> list[Place]:
    return [place for place in network.places() if "Widen" in place.grows]


def own_parameters(network: Network, layer: str) -> int:
    """Parameters that come with a unit beside its weights: a bias, a scale."""
    expressions = network.axes()
    return sum(expressions[name] == layer for name, _ in network.named_parameters())


def cost(network: Network, action: Action) -> int:
    """Parameters that an action adds, counted from the action and the units that it takes out."""
    match action:
        case NoChange():
            return 0
        case Widen() | Insert():
            # A layer that is put in is like the one that it comes before: its units bring what that one's bring.
            own = own_parameters(network, action.site if isinstance(action, Widen) else action.before)
            return sum(own + len(unit.fan_in) + len(unit.fan_out) for unit in action.units)
        case Narrow() | Remove():
            slots = action.slots if isinstance(action, Narrow) else range(network.axis_sizes()[action.site])
            units = [network.unit(action.site, slot) for slot in slots]
            return -sum(own_parameters(network, action.site) + len(u.fan_in) + len(u.fan_out) for u in units)
        case Connect() | Skip():
            return len(action.edges)
        case Disconnect():
            return -len(action.edges)


# --- random legal actions


def random_action(network: Network, rng: Rng, keep: bool, kind: str | None = None) -> Action:
    """A legal action; NoChange where none (of that kind) is possible. keep: one that claims to keep the function."""
    options = [(k, place) for place in network.places() for k in sorted(place.grows) if kind in (None, k)]
    for at in rng.permutation(len(options)):
        name, place = options[at]
        action = _MAKERS[name](network, place, rng, keep)
        if action is not None:
            return action
    return NoChange()


def halved_clone(network: Network, layer: str, slot: int) -> Widen:
    """A clone that takes half of its original's fan-out."""
    unit = network.unit(layer, slot)
    fan_out = tuple(dataclasses.replace(spoke, value=spoke.value / 2) for spoke in unit.fan_out)
    return Widen(layer, (dataclasses.replace(unit, fan_out=fan_out),), ((slot, 0.5),))


def _some(rng: Rng, count: int) -> list[int]:
    """At least one of `range(count)`, in random order, and rarely many."""
    return [int(i) for i in rng.permutation(count)[: 1 + min(int(rng.geometric(0.4)), count - 1)]]


def _unit(rng: Rng, into: Sequence[tuple[str, int]], out: Sequence[tuple[str, int]], keep: bool) -> Unit:
    """into, out: (layer, slots there) that the unit may be joined to."""
    fan_in = tuple(
        Spoke(into[i][0], slot, float(rng.standard_normal()))
        for i in _some(rng, len(into))
        for slot in _some(rng, into[i][1])
    )
    fan_out = tuple(
        Spoke(out[i][0], slot, 0.0 if keep else float(rng.standard_normal()))
        for i in _some(rng, len(out))
        for slot in _some(rng, out[i][1])
    )
    return Unit(fan_in, fan_out, float(rng.standard_normal()))


def _widen(network: Network, place: Place, rng: Rng, keep: bool) -> Action | None:
    layer = place.layer
    into = [(s, weights(network, f"{s}>{layer}")[0][0].numel()) for s in sources(network, layer)]
    out = [(t, weights(network, f"{layer}>{t}")[0][:, 0].numel()) for t in targets(network, layer)]
    if not out:
        return None
    return Widen(layer, tuple(_unit(rng, into, out, keep) for _ in range(int(rng.integers(1, 4)))))


def _narrow(network: Network, place: Place, rng: Rng, keep: bool) -> Action | None:
    size = network.axis_sizes()[place.layer]
    slots = range(size) if not keep else _silent(network, place.layer)
    picked = [slots[i] for i in _some(rng, len(slots))][: size - 1] if slots else []
    return Narrow(place.layer, tuple(picked)) if picked else None


def _silent(network: Network, layer: str) -> list[int]:
    """Units that send nothing on."""
    return [
        slot
        for slot in range(network.axis_sizes()[layer])
        if all(not weights(network, f"{layer}>{t}")[0][:, slot].any() for t in targets(network, layer))
    ]


def _insert(network: Network, place: Place, rng: Rng, keep: bool) -> Action:
    sizes = network.axis_sizes()
    after = [p.layer for p in network.places()]
    after = after[after.index(place.layer) :]
    into, out = [(s, sizes[s]) for s in place.sources], [(t, sizes[t]) for t in after]
    name = next(f"extra{i}" for i in range(1, 99) if f"extra{i}" not in sizes)
    return Insert(name, place.layer, tuple(_unit(rng, into, out, keep) for _ in range(int(rng.integers(1, 4)))))


def _remove(network: Network, place: Place, rng: Rng, keep: bool) -> Action | None:
    layer = place.layer
    bare = any(set(sources(network, t)) == {layer} for t in targets(network, layer))
    loud = keep and len(_silent(network, layer)) < network.axis_sizes()[layer]
    return None if bare or loud else Remove(layer)


def _connect(network: Network, place: Place, rng: Rng, keep: bool) -> Action | None:
    edges = edges_into(network, place.layer, on=False)
    picked = [edges[i] for i in _some(rng, len(edges))] if edges else []
    value: Callable[[], float] = (lambda: 0.0) if keep else (lambda: float(rng.standard_normal()))
    return Connect(place.layer, tuple(dataclasses.replace(e, value=value()) for e in picked)) if picked else None


def _disconnect(network: Network, place: Place, rng: Rng, keep: bool) -> Action | None:
    edges = [edge for edge in edges_into(network, place.layer, on=True) if not keep or edge.value == 0]
    picked = [edges[i] for i in _some(rng, len(edges))] if edges else []
    return Disconnect(place.layer, tuple(picked)) if picked else None


def _skip(network: Network, place: Place, rng: Rng, keep: bool) -> Action | None:
    free = [s for s in place.sources if s not in sources(network, place.layer)]
    if not free:
        return None
    source, sizes = free[int(rng.integers(len(free)))], network.axis_sizes()
    link = f"{source}>{place.layer}"
    every = [(row, column) for row in range(sizes[place.layer]) for column in range(sizes[source])]
    values = [0.0 if keep else float(v) for v in rng.standard_normal(len(every))]
    return Skip(link, tuple(Edge(link, *every[i], values[i]) for i in _some(rng, len(every))))


_MAKERS: dict[str, Callable[[Network, Place, Rng, bool], Action | None]] = {
    "Widen": _widen,
    "Narrow": _narrow,
    "Insert": _insert,
    "Remove": _remove,
    "Connect": _connect,
    "Disconnect": _disconnect,
    "Skip": _skip,
}


# --- which slots are old


def atoms(dimension: axes.Dimension) -> list[str]:
    """Names of the axes of which a dimension is the product."""
    match dimension:
        case axes.Axis(name):
            return [name]
        case axes.Product(factors):
            return [name for factor in factors for name in atoms(factor)]
        case axes.Sum():
            raise NotImplementedError("no family here concatenates")


def grid(network: Network, name: str, tensor: Tensor) -> tuple[list[str], Tensor]:
    """A tensor with one dimension for each axis on which it lies, and their names."""
    names = [n for dimension in axes.parse(network.axes()[name]) for n in atoms(dimension)]
    sizes = network.axis_sizes()
    return names, tensor.detach().reshape([int(n) if n.isdigit() else sizes[n] for n in names])


def old_block(network: Network, name: str, tensor: Tensor, slots: dict[str, list[int]]) -> Tensor:
    """The part of a tensor that lies on these slots of each axis named, on all slots of every other."""
    names, values = grid(network, name, tensor)
    for dim, axis in enumerate(names):
        if axis in slots:
            values = values.index_select(dim, torch.tensor(slots[axis]))
    return values
