"""Links: what actions on units and edges write, for every family whose layers are joined by links.

The weights of a link are the parameter `links.SOURCE>TARGET`, its mask the buffer `mask.SOURCE>TARGET`. Reshaped, both
are (target units, source units, reach). A dense link has reach 1; a 3x3 kernel 9, its taps row by row; a linear layer
behind a flattened picture h*w, the picture's positions row by row. Actions count slots accordingly:

    Edge.row              target unit
    Edge.column           source unit * reach + r
    Spoke.slot, fan-in    source unit * reach + r    (which column of the new unit's row)
    Spoke.slot, fan-out   target unit * reach + r    (which row, and which of the new unit's `reach` columns there)

So a spoke is one weight, never a bundle of them, and costs one parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.actions import Connect, Disconnect, Edge, Narrow, Spoke, Unit, Widen
from search_spaces.edits import IndexMap, Write

Writes = dict[str, tuple[Write, ...]]


@dataclass(frozen=True)
class Link:
    """Units of the later layer, units of the source, weights that join a pair of them."""

    target: int
    source: int
    reach: int = 1


def existing(number: int, count: int, where: str) -> int:
    """`number`, where it is one of `count` slots. Raises ValueError otherwise."""
    if not 0 <= number < count:
        raise ValueError(f"{where}: slot {number} does not exist; write 0 to {count - 1}")
    return number


def positions(name: str, edges: Sequence[Edge], link: Link) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Flat positions (m,) and values (m,) of edges in the weights of their link."""
    source, _, target = name.partition(">")
    columns = link.source * link.reach
    flat = [existing(e.row, link.target, target) * columns + existing(e.column, columns, source) for e in edges]
    if len(set(flat)) != len(flat):
        raise ValueError(f"{name}: an edge is given twice; write each once")
    return np.array(flat, dtype=np.int64), np.array([e.value for e in edges], dtype=np.float64)


def switched_on(name: str, edges: Sequence[Edge], link: Link) -> Writes:
    """Writes that give these edges of one link their values and unmask them."""
    position, value = positions(name, edges, link)
    return {
        f"links.{name}": (Write(position, value),),
        f"mask.{name}": (Write(position, np.ones(len(position))),),
    }


def unit_writes(site: str, first: int, units: Sequence[Unit], links: Mapping[str, Link], bias: str) -> Writes:
    """Writes that give new units of layer `site`, at slots from `first`, their fan-in, fan-out and bias.

    links: as they are after the edit. bias: name of the parameter that takes the units' biases.
    """
    by_link: dict[str, list[Edge]] = {}

    def known(name: str) -> Link:
        if name not in links:
            raise ValueError(f"{site}: there is no link {name!r} for a new unit; write one of {', '.join(links)}")
        return links[name]

    for own, unit in enumerate(units, start=first):
        if not unit.fan_in or not unit.fan_out:
            raise ValueError(f"{site}: a new unit needs fan-in and fan-out, or it never wakes up; give it both")
        for s in unit.fan_in:
            name = f"{s.layer}>{site}"
            known(name)
            by_link.setdefault(name, []).append(Edge("", own, s.slot, s.value))
        for s in unit.fan_out:
            name = f"{site}>{s.layer}"
            link = known(name)
            row, r = divmod(existing(s.slot, link.target * link.reach, s.layer), link.reach)
            by_link.setdefault(name, []).append(Edge("", row, own * link.reach + r, s.value))
    writes: Writes = {}
    for name, edges in by_link.items():
        writes |= switched_on(name, edges, links[name])
    values = np.array([u.bias for u in units], dtype=np.float64)
    writes[bias] = (Write(np.arange(first, first + len(units), dtype=np.int64), values),)
    return writes


def rewired(action: Connect | Disconnect, links: Mapping[str, Link], masks: Mapping[str, Tensor]) -> Writes:
    """Writes that switch masked edges on, or active ones off."""
    on = isinstance(action, Connect)
    if not action.edges:
        raise ValueError(f"{action.name} {action.site}: no edges were given; write NoChange instead")
    by_link: dict[str, list[Edge]] = {}
    for edge in action.edges:
        by_link.setdefault(edge.link, []).append(edge)
    writes: Writes = {}
    for name, edges in by_link.items():
        if name not in links:
            raise ValueError(f"{action.name}: there is no link {name!r}; write one of {', '.join(links)}")
        position, value = positions(name, edges, links[name])
        present = masks[name].reshape(-1)[torch.from_numpy(position).to(masks[name].device)].bool().cpu().numpy()
        wrong = np.flatnonzero(present == on)
        if len(wrong):
            edge, standing = edges[int(wrong[0])], "already connected" if on else "not connected"
            raise ValueError(f"{action.name} {name}: edge ({edge.row}, {edge.column}) is {standing}; leave it out")
        writes[f"links.{name}"] = (Write(position, value if on else np.zeros(len(edges))),)
        writes[f"mask.{name}"] = (Write(position, np.full(len(edges), float(on))),)
    return writes


def widened(action: Widen, units: int) -> IndexMap:
    """The map of a layer that had so many units: old ones, rescaled where they are split, then the new ones."""
    kept = IndexMap.keep(units, fresh=len(action.units))
    if not action.splits:
        return kept
    factor = np.ones(len(kept.source))
    for number, by in action.splits:
        factor[existing(number, units, action.site)] = by
    return IndexMap(kept.source, factor)


def dropped(action: Narrow, units: int) -> tuple[int, ...]:
    """The slots that Narrow takes out of a layer that has so many units, checked."""
    site, slots = action.site, action.slots
    for number in slots:
        existing(number, units, site)
    if len(set(slots)) != len(slots):
        raise ValueError(f"Narrow {site}: a slot is given twice; write each once")
    if len(slots) >= units:
        raise ValueError(f"Narrow {site}: all {units} units would go; leave one, or write Remove where that is legal")
    if action.folds and len(action.folds) != len(slots):
        raise ValueError(f"Narrow {site}: {len(slots)} slots but {len(action.folds)} folds; write one a slot, or none")
    return slots


def fold(action: Narrow, weight: Tensor, bias: Tensor, link: Link) -> Write:
    """The bias of a layer behind `link` when the slots of Narrow are gone, which put out the constants `folds`.

    weight: of the link, masked. bias: (target units,). It is the same bias afterwards: it keeps its moments.
    """
    sent = weight.detach().double().reshape(link.target, link.source, link.reach)[:, list(action.slots)].sum(2)
    constant = torch.tensor(action.folds, dtype=torch.float64, device=weight.device)
    value = (bias.detach().double() + sent @ constant).cpu().numpy()
    return Write(np.arange(len(value), dtype=np.int64), value, fresh=False)


def unit_at(
    site: str,
    number: int,
    links: Mapping[str, Link],
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    bias: float,
) -> Unit:
    """The unit at slot `number` of layer `site` as data: its active weights, in and out, and this bias."""

    def spokes(layer: str, name: str, at: tuple[slice | int, ...]) -> list[Spoke]:
        link = links[name]
        shape = (link.target, link.source, link.reach)
        values = weights[name].detach().double().cpu().reshape(shape)[at].reshape(-1).tolist()
        present = masks[name].bool().cpu().reshape(shape)[at].reshape(-1).tolist()
        return [Spoke(layer, i, value) for i, value in enumerate(values) if present[i]]

    fan_in: list[Spoke] = []
    fan_out: list[Spoke] = []
    for name in links:
        source, _, target = name.partition(">")
        if target == site:
            fan_in += spokes(source, name, (number,))
        if source == site:
            fan_out += spokes(target, name, (slice(None), number))
    return Unit(tuple(fan_in), tuple(fan_out), bias)
