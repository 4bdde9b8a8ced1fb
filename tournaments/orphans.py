"""Orphans: units that an edge or a unit, taken out, leaves without fan-in or without fan-out; they go with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search_spaces import surgery
from search_spaces.actions import Disconnect, Edge, Narrow
from tournaments.findings import Findings


def orphans(findings: Findings, edges: Sequence[Edge]) -> tuple[list[Narrow], int]:
    """Narrow actions, to be applied after `edges` are gone, for units left without fan-in or fan-out, and how many
    parameters go with them beside `edges`.

    A unit that goes may be the last that another feeds, or is fed by: that one goes as well, until none is left. A unit
    without fan-in puts out a constant, which is folded into its consumers' biases; where no bias can take it, as a
    picture is padded with zeros, the unit stays.
    """
    network, _ = surgery.apply(findings.network, (Disconnect("*", tuple(edges)),))
    narrows: list[Narrow] = []
    while (narrow := _next(left := Findings(network, findings.evidence, 0, 0, findings.draw))) is not None:
        narrows.append(narrow)
        network, _ = surgery.apply(left.network, (narrow,))
    return narrows, findings.network.count() - len(edges) - network.count()


def _next(findings: Findings) -> Narrow | None:
    """The orphans of the first layer that has some, but for one where they are all of its units."""
    sizes = findings.network.axis_sizes()
    for layer, place in findings.places.items():
        if "Narrow" not in place.grows or not findings.consumers(layer):
            continue
        fed, heard = findings.fed(layer), findings.heard(layer)
        folds = {
            slot: constant(findings, layer, slot) if not bool(fed[slot]) and bool(heard[slot]) else 0.0
            for slot in torch.nonzero(~(fed & heard)).view(-1).tolist()
        }
        if not foldable(findings, layer):
            folds = {slot: value for slot, value in folds.items() if value == 0.0}
        slots = tuple(folds)[: sizes[layer] - 1]
        if slots:
            return Narrow(layer, slots, tuple(folds[slot] for slot in slots))
    return None


def foldable(findings: Findings, layer: str) -> bool:
    """Whether the consumers' biases can take over a constant that a unit of `layer` puts out."""
    return all(findings.places[t].positions == 1 for t in findings.consumers(layer))


def constant(findings: Findings, layer: str, slot: int) -> float:
    """What a unit without fan-in puts out."""
    return float(findings.network.nonlinearity(torch.tensor(findings.network.unit(layer, slot).bias)))
