"""High to low routing: units that are always on lead to units that never are, in later layers.

    radius       a route leads at most 3 layers on
    fan-out      at most 4 new edges leave a unit
    fan-in       at most 5 new edges enter a unit
    reciprocity  at most a fifth of the new edges lead the other way round

A graph of layers has no way back, so the other way round is by roles: from a low unit that a route leads to, forward to
a high unit of a later layer. Such an edge starts at its closed form, which is zero where the low unit is dead as yet.
Edges into dead units start at values that wake them (see `waking`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.actions import Edge
from tournaments.candidate import Candidate
from tournaments.connecting import connected, edge_of
from tournaments.edges import ChosenEdge, edge_gains
from tournaments.extremes.found import dense, extremes, may_link
from tournaments.extremes.waking import Asked, asked, wake
from tournaments.findings import Findings

RADIUS = 3
FAN_OUT = 4
FAN_IN = 5
RECIPROCITY = 0.2

PAIRS = 20
"""So many times the budget of pairs are looked at, the most gainful."""

Site = tuple[int, int]
"""A unit: the number of its layer, counted from the input's 0, and its slot there."""


@dataclass(frozen=True)
class Route:
    """An edge that might be, with the nats that it promises by itself."""

    source: Site
    target: Site
    gain: float


def routes(
    forward: Iterable[Route],
    reverse: Iterable[Route],
    budget: int,
    radius: int = RADIUS,
    fan_out: int = FAN_OUT,
    fan_in: int = FAN_IN,
    reciprocity: float = RECIPROCITY,
) -> list[Route]:
    """The most gainful routes within the limits: `forward` ones, high to low, and a share of `reverse` ones.

    reverse: low to high, taken only from units that a chosen route leads to. The share of reverse ones never exceeds
    `reciprocity`, and falls short of it by less than one edge where there are enough of them.
    """
    chosen: list[Route] = []
    leaving, entering, backward = Counter[Site](), Counter[Site](), 0
    waiting = [_best_first(forward), _best_first(reverse)]

    def take(of: int) -> bool:
        for route in waiting[of]:
            known = of == 0 or entering[route.source] > 0
            near = 0 < route.target[0] - route.source[0] <= radius
            if known and near and leaving[route.source] < fan_out and entering[route.target] < fan_in:
                waiting[of].remove(route)
                chosen.append(route)
                leaving[route.source] += 1
                entering[route.target] += 1
                return True
        return False

    while len(chosen) < budget:
        if backward + 1 <= reciprocity * (len(chosen) + 1) and take(1):
            backward += 1
        elif not take(0):
            break
    return chosen


def _best_first(found: Iterable[Route]) -> list[Route]:
    return sorted(found, key=lambda r: (-r.gain, r.source, r.target))


def route(findings: Findings) -> list[Candidate]:
    """Edges from units that are always on to units that never are, and a few back, within the limits."""
    if not findings.grow:
        return []
    names = ["input", *findings.places]
    found = {name: units for name, units in extremes(findings).items() if dense(findings, name)}
    high = {name: units.high for name, units in found.items()}
    low = {name: units.low for name, units in found.items()}
    rows: dict[str, Asked] = {}
    for name, units in found.items():
        both = sorted({*units.high, *units.low})
        if both:
            rows[name] = asked(findings, name, both)
    forward = _pairs(findings, names, high, low, rows, wanting=True)
    reverse = _pairs(findings, names, low, high, rows, wanting=False)
    chosen = routes(forward, reverse, findings.grow)
    if not chosen:
        return []
    edges, raw, predicted = _valued(findings, names, rows, chosen, len(forward) + len(reverse))
    if raw <= 0:
        return []
    reason = f"{len(edges)} routes between units that are always on and units that never are"
    return [Candidate(connected(findings, edges), "route", reason, len(edges), predicted, raw)]


def _pairs(
    findings: Findings,
    names: Sequence[str],
    sources: Mapping[str, Sequence[int]],
    targets: Mapping[str, Sequence[int]],
    rows: Mapping[str, Asked],
    wanting: bool,
) -> list[Route]:
    """Masked edges between such units, within the radius. wanting: only those that promise something."""
    pairs = []
    for target, slots in targets.items():
        at = names.index(target)
        near = [s for s in names[max(at - RADIUS, 0) : at] if sources.get(s) and may_link(findings, s, target)]
        if not slots or not near:
            continue
        units = rows[target]
        mine = [units.slots.index(slot) for slot in slots]
        allowed = findings.column_mask(target, near)[list(units.slots)] & ~units.place.present
        gains = edge_gains(units.place, units.left, allowed)[mine]
        if wanting:
            gains *= _wakeable(findings, units, mine, gains)[:, None]
        for s in near:
            first = units.place.columns[s][0]
            block = gains[:, [first + slot for slot in sources[s]]]
            free = allowed[mine][:, [first + slot for slot in sources[s]]]
            if wanting:
                free &= block > 0
            which = torch.nonzero(free)
            if len(which) > PAIRS * findings.grow:
                best = block[which[:, 0], which[:, 1]].topk(PAIRS * findings.grow).indices.sort().values
                which = which[best]
            pairs += [
                Route((names.index(s), sources[s][j]), (at, slots[i]), float(block[i, j])) for i, j in which.tolist()
            ]
    return pairs


def _wakeable(findings: Findings, units: Asked, rows: Sequence[int], gains: Tensor) -> Tensor:
    """(len(rows),) 0 or 1: whether the best inputs that a unit may have gain anything by moving it."""
    found = []
    for row, by in zip(rows, gains, strict=True):
        best = by.topk(min(FAN_IN, len(by)))
        columns = best.indices[best.values > 0].tolist()
        found.append(float(bool(columns) and wake(findings, units, row, columns, len(by)).raw > 0))
    return torch.tensor(found, dtype=gains.dtype, device=gains.device)


def _valued(
    findings: Findings, names: Sequence[str], rows: Mapping[str, Asked], chosen: Sequence[Route], choices: int
) -> tuple[list[Edge], float, float]:
    """The routes as edges with their closed-form values; raw and predicted nats."""
    into: dict[Site, list[Route]] = {}
    for r in chosen:
        into.setdefault(r.target, []).append(r)
    edges: list[Edge] = []
    raw = predicted = 0.0
    for (at, slot), routed in into.items():
        units = rows[names[at]]
        columns = [units.place.columns[names[r.source[0]]][0] + r.source[1] for r in routed]
        woken = wake(findings, units, units.slots.index(slot), columns, choices)
        raw, predicted = raw + woken.raw, predicted + woken.predicted
        edges += [
            edge_of(findings, names[at], ChosenEdge(slot, j, v, 0.0))
            for j, v in zip(columns, woken.values, strict=True)
        ]
    return edges, raw, predicted
