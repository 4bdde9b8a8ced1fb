"""Units behind a derivative that is all but zero: what their consumers ask of them, and edges that make them move.

The gradient at the pre-activation of a dead unit is 0, so no edge into it promises anything, and none of value 0 ever
learns. But its consumers say what they would have it put out: with the gradient at its activation, G̃ = Σ_t G_t W_t, in
place of G the statistics of a place and all that is built on them hold as if the unit's derivative were 1. The values
that come of it are then stretched until the unit really moves, and what that gains is measured on the evidence, to
second order: mean(G̃ Δh) − ½ f̃ mean(Δh²).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tournaments.edges import choose_edges, edge_noise
from tournaments.findings import Findings
from tournaments.place import PlaceStatistics, Residual, residual

STRETCHES = (0.5, 1.0, 2.0, 4.0)
"""Tried lengths of the change, in units of the unit's own pre-activation: of its standard deviation and mean."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Some units of a layer as rows: slots[i] is row i of `place`, whose gradients are those at the activations."""

    layer: str
    slots: tuple[int, ...]
    place: PlaceStatistics
    left: Residual


@dataclass(frozen=True)
class Woken:
    """Values of the edges into one unit, in the columns' order; nats that they gain, and beyond noise."""

    values: tuple[float, ...]
    raw: float
    predicted: float


def asked(findings: Findings, layer: str, slots: Sequence[int]) -> Asked:
    """What the consumers of these units ask of them. layer: one of one position, as are its consumers."""
    stats, at = findings.statistics(layer), list(slots)
    network, evidence = findings.network, findings.evidence
    G = torch.zeros(len(stats.G), len(at), dtype=stats.G.dtype, device=stats.G.device)
    Gs = torch.zeros_like(G)
    for t in findings.consumers(layer):
        weight = findings.weight(layer, t)[:, at]
        G += findings.statistics(t).G @ weight
        Gs += network.lower(t, evidence.fisher[t]).flatten(0, 1) @ weight
    H = [findings.features(s, layer) for s in stats.columns]
    ones = torch.ones(len(G), 1, dtype=G.dtype, device=G.device)
    C = torch.cat([h.t() @ G for h in (*H, ones)]) / len(G)
    place = PlaceStatistics(
        layer, stats.columns, stats.A, C, Gs.t() @ Gs / len(Gs), G, stats.present[at], stats.samples, stats.positions
    )
    return Asked(layer, tuple(at), place, residual(place))


@torch.no_grad()
def wake(findings: Findings, units: Asked, row: int, columns: Sequence[int], choices: int) -> Woken:
    """The best values for new edges from these columns into a unit. choices: among how many edges they were chosen.

    Where no stretch gains anything `raw` is 0, and the values are the closed form's own.
    """
    place, layer, slot = units.place, units.layer, units.slots[row]
    allowed = torch.zeros_like(place.present)
    allowed[row, list(columns)] = True
    known = {e.column: e.value for e in choose_edges(place, units.left, allowed, len(columns))}
    values = torch.tensor([known.get(j, 0.0) for j in columns], dtype=torch.float64)
    H = torch.stack([_feature(findings, place, j) for j in columns], dim=1).double()
    change = H @ values.to(H.device)
    z = _pre_activation(findings, layer, slot)
    spread = float(change.std())
    if spread <= 0:
        return Woken(tuple(values.tolist()), 0.0, 0.0)
    own = float(z.std() + z.mean().abs()) / spread
    phi, g, f = findings.network.nonlinearity, place.G[:, row].double(), float(place.f[row])
    best, most = 1.0, 0.0
    for stretch in (1.0, *(own * s for s in STRETCHES)):
        moved = phi(z + stretch * change) - phi(z)
        gain = float((g * moved).mean() - 0.5 * f * moved.square().mean())
        if gain > most:
            best, most = stretch, gain
    noise = edge_noise(choices, findings.evidence.samples) * len(columns)
    return Woken(tuple((best * values).tolist()), most, max(most - noise, 0.0))


def _feature(findings: Findings, place: PlaceStatistics, column: int) -> Tensor:
    for source, (first, last) in place.columns.items():
        if first <= column < last:
            return findings.features(source, place.layer)[:, column - first]
    raise AssertionError("the constant's column is no feature")


def _pre_activation(findings: Findings, layer: str, slot: int) -> Tensor:
    """(r,) of a unit, double precision."""
    z = torch.full(
        (findings.evidence.samples,),
        findings.network.unit(layer, slot).bias,
        dtype=torch.float64,
        device=findings.evidence.x.device,
    )
    for s in findings.sources(layer):
        z += findings.features(s, layer).double() @ findings.weight(s, layer)[slot].double()
    return z
