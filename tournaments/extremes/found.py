"""Which units are extreme, as the proposers of this folder ask, and what it costs to take some of them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from search_spaces.actions import Disconnect, Edge, Skip
from tournaments.analyzers.extrema import SATURATED, extrema, layer_extrema
from tournaments.findings import Findings


@dataclass(frozen=True, eq=False)
class Extremes:
    """One hidden layer's slots, ascending. A switch counts as high or low by the end at which it lies more often.

    high: saturated, mostly at the high end. low: dead, or mostly at the low end. mean: (units,) activation.
    """

    dead: tuple[int, ...]
    saturated: tuple[int, ...]
    high: tuple[int, ...]
    low: tuple[int, ...]
    mean: NDArray[np.float64]


def extremes(findings: Findings) -> dict[str, Extremes]:
    """Every hidden layer's, in the network's order."""
    return findings.once("extremes", lambda: _find(findings))


def _find(findings: Findings) -> dict[str, Extremes]:
    arrays = findings.analysis(extrema).arrays
    found = {}
    for layer in findings.places:
        if f"{layer}.dead" not in arrays:
            continue
        low, high = arrays[f"{layer}.low"], arrays[f"{layer}.high"]
        dead, saturated = arrays[f"{layer}.dead"] > 0, arrays[f"{layer}.saturated"] > 0
        found[layer] = Extremes(
            _slots(dead),
            _slots(saturated),
            _slots(saturated & (high >= low)),
            _slots(dead | (low > SATURATED)),
            arrays[f"{layer}.mean"],
        )
    return found


def _slots(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(chosen))


def dense(findings: Findings, layer: str) -> bool:
    """Whether each unit of a hidden layer is one feature of all that it feeds, and is one row of its own place."""
    consumers = findings.consumers(layer)
    return (
        findings.places[layer].positions == 1
        and bool(consumers)
        and all(findings.places[t].positions == 1 and findings.reach(layer, t) == 1 for t in consumers)
    )


def missed(findings: Findings, layer: str, slots: Sequence[int]) -> float:
    """Nats lost when these units put out their means for good: ½ Σ var(h) w² f, as in pruning."""
    if not slots:
        return 0.0
    total, at = 0.0, list(slots)
    for t in findings.consumers(layer):
        spread = findings.features(layer, t)[:, at].var(dim=0).double()
        stake = findings.weight(layer, t)[:, at].double().square() * findings.statistics(t).f.double()[:, None]
        total += 0.5 * float((spread * stake).sum())
    return total


def opened(findings: Findings, links: Sequence[tuple[str, str]]) -> tuple[list[Skip], list[Disconnect]]:
    """Actions that make those of the links that the network lacks, and actions that leave them empty again.

    A link comes with an edge, and a unit with its links: so a place is held by an edge of value 0 until the new units'
    own edges are in. Together they cost nothing.
    """
    names = [f"{s}>{t}" for s, t in dict.fromkeys(links) if not findings.linked(s, t)]
    holders = {name: (Edge(name, 0, 0, 0.0),) for name in names}
    return [Skip(n, e) for n, e in holders.items()], [Disconnect(n, e) for n, e in holders.items()]


def may_link(findings: Findings, source: str, target: str) -> bool:
    """Whether there is such a link, or a Skip could make it, with one weight for each pair of units."""
    place = findings.places[target]
    if findings.linked(source, target):
        return place.positions == 1 and findings.reach(source, target) == 1
    return "Skip" in place.grows and source in place.sources


def alive(findings: Findings, layer: str, outputs: torch.Tensor) -> torch.Tensor:
    """(m,) bool: which of these outputs (r, m) a unit of `layer` could put out and not be dead."""
    if not outputs.shape[1]:
        return torch.ones(0, dtype=torch.bool, device=outputs.device)
    activation = str(findings.network.blueprint().get("activation", "relu"))
    return torch.from_numpy(~layer_extrema(layer, activation, outputs).dead).to(outputs.device)
