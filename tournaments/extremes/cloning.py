"""Vertical cloning: a saturated unit lives on in the layers next to its own, at 0.7 of its weights.

A layer graph leads forward, so a unit can not stand in another layer with all of its edges as they are. A clone in an
adjacent hidden layer M of the unit u has

    fan-in     of what u reads and M may read: u's weights, over a link of M's own or one made by a Skip;
               of what u reads in M itself (M below u): its inputs, by the product of both weights
    fan-out    to what u feeds and M may feed: u's weights, in the same way;
               to units of M itself (M above u): to what they feed, by the product of both weights

Products stand for the path through M as if its slopes were 1. Where they name more edges than u had, only as many stay,
the largest. Every weight, and the bias, is then taken times CLONE, and the weights times 1 + NOISE·ξ, keyed noise that
breaks the symmetry. Nothing is taken from u, and no line search changes a clone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces.actions import Spoke, Unit, Widen
from tournaments.candidate import Candidate
from tournaments.edges import edge_noise
from tournaments.extremes.found import dense, extremes, may_link, opened
from tournaments.findings import Findings
from tournaments.growing import cost_of

CLONE = 0.7
"""Share of the original's weights that a clone takes."""

NOISE = 0.1
"""Standard deviation of the relative noise on a clone's weights."""


@dataclass(frozen=True)
class Clone:
    """A clone that might be: where, of which unit, what it costs and gains (nats, along its own direction)."""

    layer: str
    original: int
    unit: Unit
    cost: int
    gain: float


def clone_vertical(findings: Findings, share: float = CLONE) -> list[Candidate]:
    """Saturated units of a layer, cloned in the hidden layers right below and above: the most gainful that fit."""
    candidates = []
    found = extremes(findings)
    for layer, units in found.items() if findings.grow else ():
        if not units.saturated or not dense(findings, layer):
            continue
        rng = findings.draw(f"clone_vertical {layer}")
        clones = [
            clone
            for slot in units.saturated
            for beside in _adjacent(list(found), layer)
            for clone in _cloned(findings, layer, slot, beside, share, rng)
        ]
        chosen: list[Clone] = []
        for clone in sorted(clones, key=lambda c: -c.gain):
            if sum(c.cost for c in chosen) + clone.cost <= findings.grow:
                chosen.append(clone)
        if chosen:
            candidates.append(_candidate(findings, layer, chosen, len(clones)))
    return candidates


def _candidate(findings: Findings, layer: str, chosen: Sequence[Clone], choices: int) -> Candidate:
    links = []
    for c in chosen:
        links += [(s.layer, c.layer) for s in c.unit.fan_in] + [(c.layer, s.layer) for s in c.unit.fan_out]
    skips, closings = opened(findings, links)
    sites = dict.fromkeys(c.layer for c in chosen)
    widens = [Widen(site, tuple(c.unit for c in chosen if c.layer == site)) for site in sites]
    raw = sum(c.gain for c in chosen)
    noise = edge_noise(choices, findings.evidence.samples)
    names = ", ".join(f"{c.original} in {c.layer}" for c in chosen)
    return Candidate(
        (*skips, *widens, *closings),
        "clone_vertical",
        f"saturated units of {layer} cloned: {names}",
        sum(c.cost for c in chosen),
        sum(max(c.gain - noise, 0.0) for c in chosen),
        raw,
        exact=True,
    )


def _adjacent(hidden: Sequence[str], layer: str) -> list[str]:
    at = hidden.index(layer)
    return [hidden[i] for i in (at - 1, at + 1) if 0 <= i < len(hidden)]


def _cloned(
    findings: Findings, layer: str, slot: int, beside: str, share: float, rng: np.random.Generator
) -> list[Clone]:
    """At most one: nothing where the clone would have no fan-in or no fan-out, or a link cannot be."""
    if "Widen" not in findings.places[beside].grows or not dense(findings, beside):
        return []
    twin = findings.network.unit(layer, slot)
    names = list(findings.places)
    at = names.index(beside)
    direct_in = [s for s in twin.fan_in if s.layer not in names[at:]]
    direct_out = [s for s in twin.fan_out if s.layer in names[at + 1 :]]
    fan_in, bias = _inputs_through(findings, beside, twin, direct_in)
    fan_out = _outputs_through(findings, beside, twin, direct_out)
    if not fan_in or not fan_out:
        return []
    if not all(may_link(findings, s.layer, beside) for s in fan_in):
        return []
    if not all(may_link(findings, beside, s.layer) for s in fan_out):
        return []

    def lessened(spokes: Sequence[Spoke]) -> tuple[Spoke, ...]:
        noise = 1 + NOISE * rng.standard_normal(len(spokes))
        return tuple(Spoke(s.layer, s.slot, share * s.value * float(by)) for s, by in zip(spokes, noise, strict=True))

    unit = Unit(lessened(fan_in), lessened(fan_out), share * bias)
    return [Clone(beside, slot, unit, cost_of(findings, beside, [unit]), _gain(findings, beside, unit))]


def _inputs_through(findings: Findings, layer: str, twin: Unit, direct: Sequence[Spoke]) -> tuple[list[Spoke], float]:
    """The twin's fan-in with its inputs in `layer` replaced by their inputs; its bias with theirs."""
    inside = [s for s in twin.fan_in if s.layer == layer]
    if not inside:
        return list(direct), twin.bias
    weights = torch.tensor([s.value for s in inside], dtype=torch.float64)
    slots = [s.slot for s in inside]
    sums = {s: weights @ findings.weight(s, layer)[slots].double().cpu() for s in findings.sources(layer)}
    bias = sum(s.value * findings.network.unit(layer, s.slot).bias for s in inside)
    return _largest(direct, sums, len(twin.fan_in)), twin.bias + bias


def _outputs_through(findings: Findings, layer: str, twin: Unit, direct: Sequence[Spoke]) -> list[Spoke]:
    """The twin's fan-out with what it feeds in `layer` replaced by what that feeds."""
    inside = [s for s in twin.fan_out if s.layer == layer]
    if not inside:
        return list(direct)
    weights = torch.tensor([s.value for s in inside], dtype=torch.float64)
    slots = [s.slot for s in inside]
    sums = {t: findings.weight(layer, t)[:, slots].double().cpu() @ weights for t in findings.consumers(layer)}
    return _largest(direct, sums, len(twin.fan_out))


def _largest(direct: Sequence[Spoke], sums: dict[str, Tensor], count: int) -> list[Spoke]:
    """`count` spokes of the largest size; what is named directly and by a sum is added up."""
    values = {(s.layer, s.slot): s.value for s in direct}
    for layer, along in sums.items():
        for slot, value in enumerate(along.tolist()):
            if value != 0.0:
                values[layer, slot] = values.get((layer, slot), 0.0) + value
    kept = sorted(values.items(), key=lambda item: -abs(item[1]))[:count]
    return [Spoke(layer, slot, value) for (layer, slot), value in kept]


@torch.no_grad()
def _gain(findings: Findings, layer: str, unit: Unit) -> float:
    """Nats of sending on the clone's output, at the best length along its fan-out: ½ c²/q where c > 0, else 0.

    c = Σ v_k mean(G_k h), q = Σ v_k² f_k var(h), with the mean of h left to the biases.
    """
    z = torch.full((findings.evidence.samples,), unit.bias, dtype=torch.float64, device=findings.evidence.x.device)
    for source in dict.fromkeys(s.layer for s in unit.fan_in):
        spokes = [s for s in unit.fan_in if s.layer == source]
        values = torch.tensor([s.value for s in spokes], dtype=torch.float64, device=z.device)
        z += findings.features(source, layer)[:, [s.slot for s in spokes]].double() @ values
    h = findings.network.nonlinearity(z)
    h = h - h.mean()
    c = q = 0.0
    for target in dict.fromkeys(s.layer for s in unit.fan_out):
        spokes, stats = [s for s in unit.fan_out if s.layer == target], findings.statistics(target)
        slots = [s.slot for s in spokes]
        values = torch.tensor([s.value for s in spokes], dtype=torch.float64, device=z.device)
        c += float((stats.G[:, slots].double() @ values * h).mean())
        q += float((values.square() * stats.f[slots].double()).sum() * h.square().mean())
    return 0.5 * c**2 / q if c > 0 and q > 0 else 0.0
