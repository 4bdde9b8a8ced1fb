"""From a growable network to a plain PyTorch module: dead units gone, masks folded into the weights.

Works for any family through what every `Network` declares: dead units are found along its axes and taken out by its
own actions, then `lowering` traces what remains.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.lowering import lower
from search_spaces import axes, surgery
from search_spaces.actions import Action, Disconnect, Edge, Narrow, Remove, Skip, Spoke, Unit, Widen
from search_spaces.axes import Axis, Dimension, Product, Sum
from search_spaces.network import Network

Flags = NDArray[np.bool_]

PROBES = 8
TOLERANCE = 1e-10
"""Largest relative change of an output, in float64, with which an action still counts as keeping the function."""


def to_plain(network: Network) -> nn.Module:
    """The same function as a plain module in eval mode, on the network's device and in its number type.

    Its forward takes x (n, inputs) and gives (n, outputs), as the network's does.
    """
    return lower(prune(network))


def inputs(network: Network) -> int:
    """How many numbers the network takes a sample."""
    return math.prod(network.input_shape())


# --- dead units


@torch.no_grad()
def prune(network: Network) -> Network:
    """The network without its dead units, in eval mode; the function is kept and the original left alone.

    Dead is a unit that no other feeds (a constant, which moves into its consumers' biases) and one from which no path
    leads to the output. Taking one out may leave others dead, so it goes on until there are none. Inputs stay.
    """
    like = next(network.parameters())
    # In float64, so that folding constant after constant into a bias costs no precision.
    pruned: Network = copy.deepcopy(network).to(device="cpu", dtype=torch.float64).eval()
    probe = torch.from_numpy(np.random.Generator(np.random.Philox(0)).standard_normal((PROBES, inputs(network))))
    wanted = pruned(probe)
    refused: set[tuple[str, int]] = set()
    while (found := _next(pruned, refused)) is not None:
        site, ways = found
        for actions in ways:
            # Not every family can do without a unit everywhere: a constant channel before a zero-padded convolution
            # looks different at the border. Whatever is not legal, or changes the function, is left as it is.
            try:
                cleared = surgery.apply(pruned, actions)[0]
            except ValueError:
                continue
            if _gap(cleared(probe), wanted) <= TOLERANCE:
                pruned = cleared
                break
        else:
            refused.add((site, pruned.axis_sizes()[site]))
    return pruned.to(device=like.device, dtype=like.dtype)


def _next(network: Network, refused: set[tuple[str, int]]) -> tuple[str, list[tuple[Action, ...]]] | None:
    """A layer with dead units and ways to clear them, the best first; None when nothing is dead.

    refused: layers that could not be cleared, with their sizes then.
    """
    sizes = network.axis_sizes()
    fed, read = _traffic(network)
    for place in network.places():
        site = place.layer
        if "Narrow" not in place.grows or (site, sizes[site]) in refused:
            continue
        none = np.zeros(sizes[site], dtype=bool)
        unread = ~read.get(site, none)
        dead = [int(slot) for slot in np.flatnonzero(unread | ~fed.get(site, none))]
        if not dead:
            continue
        constants = _constants(network, site)
        folds = tuple(0.0 if unread[slot] else float(constants[slot]) for slot in dead)
        if len(dead) < sizes[site]:
            ways: list[tuple[Action, ...]] = [(Narrow(site, tuple(dead), folds),)]
            silent = tuple(slot for slot, fold in zip(dead, folds, strict=True) if fold == 0)
            return site, [*ways, (Narrow(site, silent),)] if silent else ways
        whole = _removal(network, site, dead, folds)
        return site, [whole, (Narrow(site, tuple(dead[1:]), folds[1:]),)] if len(dead) > 1 else [whole]
    return None


def _removal(network: Network, site: str, dead: list[int], folds: tuple[float, ...]) -> tuple[Action, ...]:
    """Take out a layer all of whose units are dead."""
    sources, targets = _neighbours(network, site)
    actions: list[Action] = []
    if any(folds):
        # Narrow folds constants, but must leave a unit: one that sends zero, and goes with the layer.
        blank = Unit((Spoke(sources[0], 0, 0.0),), (Spoke(targets[0], 0, 0.0),))
        actions += [Widen(site, (blank,)), Narrow(site, tuple(dead), folds)]
    for target in targets:
        if set(_neighbours(network, target)[0]) == {site}:
            # It must keep a link that leads into it, if only one that connects nothing.
            edge = Edge(f"input>{target}", 0, 0)
            actions += [Skip(edge.link, (edge,)), Disconnect(edge.link, (edge,))]
    return (*actions, Remove(site))


def _neighbours(network: Network, site: str) -> tuple[list[str], list[str]]:
    """Layers that are linked into `site`, and layers that it is linked into, connected or not."""
    names = {"input", *(place.layer for place in network.places())}
    sources: list[str] = []
    targets: list[str] = []
    for name in dict(network.named_parameters()):
        produced, *consumed = [set(_names(d)) & names for d in axes.parse(network.axes()[name])]
        for layer in itertools.chain.from_iterable(consumed):
            if site in produced:
                sources.append(layer)
            if layer == site:
                targets.extend(produced)
    return sources, targets


def _traffic(network: Network) -> tuple[dict[str, Flags], dict[str, Flags]]:
    """For each axis, which slots some weight other than zero leads to, and which ones some such weight leads from."""
    sizes, expressions = network.axis_sizes(), network.axes()
    masks, buffers = network.masks(), dict(network.named_buffers())
    fed: dict[str, Flags] = {}
    read: dict[str, Flags] = {}
    for name, weight in network.named_parameters():
        dimensions = axes.parse(expressions[name])
        if len(dimensions) < 2:
            continue
        effective = weight.detach() * buffers[masks[name]] if name in masks else weight.detach()
        live = (effective != 0).numpy()
        for i, dimension in enumerate(dimensions):
            flags = _any_along(live, i)
            seen = read if i else fed
            for axis, part in _along(dimension, flags, sizes):
                seen[axis] = seen[axis] | part if axis in seen else part
    return fed, read


def _along(dimension: Dimension, flags: Flags, sizes: Mapping[str, int]) -> Iterator[tuple[str, Flags]]:
    """Flags over a dimension as flags over each of its axes: set where any slot that lies there is."""
    match dimension:
        case Axis(name):
            if not name.isdigit():
                yield name, flags
        case Product(factors):
            grid = flags.reshape([axes.size(f, sizes) for f in factors])
            for i, factor in enumerate(factors):
                yield from _along(factor, _any_along(grid, i), sizes)
        case Sum(terms):
            ends = np.cumsum([axes.size(t, sizes) for t in terms])[:-1]
            for term, part in zip(terms, np.split(flags, ends), strict=True):
                yield from _along(term, part, sizes)


def _any_along(grid: Flags, dim: int) -> Flags:
    return np.asarray(grid.any(axis=tuple(i for i in range(grid.ndim) if i != dim)))


def _names(dimension: Dimension) -> Iterable[str]:
    match dimension:
        case Axis(name):
            return (name,)
        case Product(parts) | Sum(parts):
            return itertools.chain.from_iterable(_names(p) for p in parts)


def _constants(network: Network, site: str) -> Tensor:
    """(units,) what each unit of a layer puts out, as far as that does not depend on the input."""
    seen: list[Tensor] = []

    def tap(name: str, values: Tensor) -> Tensor:
        if name == f"act:{site}":
            seen.append(values)
        return values

    network(torch.zeros(1, inputs(network), dtype=torch.float64), tap)
    return seen[0][0].flatten(1)[:, 0] if seen[0].dim() > 2 else seen[0][0]


def _gap(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest output (or 1). NaN in the same place is no difference."""
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    scale = max(1.0, float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().max()))
    return float(torch.where(same, 0.0, (found - wanted).abs()).max()) / scale
