"""Proposals: from findings to candidates. A proposer is one function, listed in PROPOSERS.

Growth proposals spend about the same budget, or the ratio of gain to parameters would favour crumbs; each keeps the
values that its closed form gives, which `screening` then scales by a line search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from search_spaces.actions import Connect, Edge, Insert, Skip, Spoke, Unit, Widen
from tournaments.candidate import Candidate
from tournaments.findings import Findings
from tournaments.place import ChosenEdge, choose_edges, edge_noise
from tournaments.pruning import disconnect, narrow, weakest_edges
from tournaments.units import make_pool, pick_units, random_gates, targets

POOL = 96
RANDOM_UNITS = 32

Proposer = Callable[[Findings], list[Candidate]]


def connect(findings: Findings) -> list[Candidate]:
    """The most gainful masked edges of the links that there are: of every place, and of all places together."""
    ranked: list[tuple[str, ChosenEdge]] = []
    noise: dict[str, float] = {}
    candidates = []
    for layer in findings.places:
        allowed = findings.column_mask(layer, findings.sources(layer))
        if not bool((allowed & ~findings.statistics(layer).present).any()):
            continue
        chosen = choose_edges(findings.statistics(layer), findings.residual(layer), allowed, findings.grow)
        noise[layer] = edge_noise(findings.statistics(layer), allowed)
        ranked += [(layer, edge) for edge in chosen]
        if chosen:
            candidates.append(_connect(findings, layer, [(layer, e) for e in chosen], noise))
    ranked.sort(key=lambda item: -item[1].gain)
    best = ranked[: findings.grow]
    if len({layer for layer, _ in best}) > 1:
        candidates.append(_connect(findings, "*", best, noise))
    return candidates


def _connect(
    findings: Findings, site: str, edges: list[tuple[str, ChosenEdge]], noise: Mapping[str, float]
) -> Candidate:
    actions = Connect(site, tuple(_edge(findings, layer, e) for layer, e in edges))
    raw = sum(e.gain for _, e in edges)
    predicted = sum(max(e.gain - noise[layer], 0.0) for layer, e in edges)
    where = "all places" if site == "*" else site
    return Candidate(
        (actions,), "connect", f"best {len(edges)} masked edges of {where}", len(edges), predicted, raw
    )


def _edge(findings: Findings, layer: str, chosen: ChosenEdge) -> Edge:
    for source, (first, last) in findings.statistics(layer).columns.items():
        if first <= chosen.column < last:
            return Edge(f"{source}>{layer}", chosen.row, chosen.column - first, chosen.value)
    raise AssertionError("the constant's column is always present")


def skip(findings: Findings) -> list[Candidate]:
    """A link that jumps over layers, with its most gainful edges."""
    candidates = []
    for layer, place in findings.places.items():
        if "Skip" not in place.grows:
            continue
        for source in place.sources:
            if findings.linked(source, layer):
                continue
            allowed = findings.column_mask(layer, [source])
            stats = findings.statistics(layer)
            chosen = choose_edges(stats, findings.residual(layer), allowed, findings.grow)
            if chosen:
                noise = edge_noise(stats, allowed)
                candidates.append(
                    Candidate(
                        (Skip(f"{source}>{layer}", tuple(_edge(findings, layer, e) for e in chosen)),),
                        "skip",
                        f"{source} says more about {layer} than what lies between passes on",
                        len(chosen),
                        sum(max(e.gain - noise, 0.0) for e in chosen),
                        sum(e.gain for e in chosen),
                    )
                )
    return candidates


def widen(findings: Findings) -> list[Candidate]:
    """New units in a hidden layer, whole: fan-in by pursuit of the gradients of the layer's consumers."""
    candidates = []
    for layer, place in findings.places.items():
        if "Widen" not in place.grows or place.positions != 1:
            continue
        for count in _counts(findings, layer):
            units, predicted, raw = new_units(
                findings, findings.sources(layer), findings.consumers(layer), count, findings.grow, f"widen {layer} {count}"
            )
            if units:
                cost = sum(len(u.fan_in) + len(u.fan_out) + 1 for u in units)
                reason = f"{len(units)} features of {'+'.join(findings.sources(layer))} that {layer} lacks"
                candidates.append(Candidate((Widen(layer, units),), "widen", reason, cost, predicted, raw))
    return candidates


def insert(findings: Findings) -> list[Candidate]:
    """A new layer of depth between a hidden layer and one that it feeds; the link between them stays, as a skip."""
    candidates = []
    for layer, place in findings.places.items():
        if "Insert" not in place.grows or place.positions != 1:
            continue
        for source in findings.sources(layer):
            if source == "input" and len(findings.places) > 1:
                continue
            count = _counts(findings, layer)[0]
            units, predicted, raw = new_units(
                findings, [source], [layer], count, findings.grow, f"insert {source}>{layer}"
            )
            if units:
                cost = sum(len(u.fan_in) + len(u.fan_out) + 1 for u in units)
                name = _free_name(findings)
                reason = f"{len(units)} features of {source} for {layer}, one layer deeper"
                candidates.append(Candidate((Insert(name, layer, units),), "insert", reason, cost, predicted, raw))
    return candidates


def rewire(findings: Findings) -> list[Candidate]:
    """The weakest edges out, as many of the most gainful in: the count stays."""
    removed = weakest_edges(findings, max(1, findings.trim // 2))
    if removed is None:
        return []
    ranked: list[tuple[str, ChosenEdge]] = []
    for layer in findings.places:
        allowed = findings.column_mask(layer, findings.sources(layer))
        if bool((allowed & ~findings.statistics(layer).present).any()):
            stats = findings.statistics(layer)
            ranked += [(layer, e) for e in choose_edges(stats, findings.residual(layer), allowed, len(removed.edges))]
    ranked.sort(key=lambda item: -item[1].gain)
    best = ranked[: len(removed.edges)]
    if len(best) < len(removed.edges):
        return []
    added = Connect("*", tuple(_edge(findings, layer, e) for layer, e in best))
    gain = sum(e.gain for _, e in best)
    return [
        Candidate(
            (removed.action, added), "rewire", f"{len(best)} weakest edges for as many better ones", 0,
            gain - removed.loss, gain,
        )
    ]


def drawn(findings: Findings) -> list[Candidate]:
    """Random units and random edges, for what a linear screening cannot see. Fan-out zero: the function is kept."""
    rng = findings.draw("drawn")
    candidates = []
    for layer, place in findings.places.items():
        if "Widen" not in place.grows or place.positions != 1:
            continue
        sources, consumers = findings.sources(layer), findings.consumers(layer)
        columns = [(s, j) for s in sources for j in range(findings.mask(s, layer).shape[1])]
        rows = [(t, i) for t in consumers for i in range(len(findings.mask(layer, t)))]
        count = _counts(findings, layer)[0]
        per = max(findings.grow // count, 3)
        fan_out = min(len(rows), max(1, (per - 1) // 3))
        fan_in = min(len(columns), max(1, per - 1 - fan_out))
        units = []
        for _ in range(count):
            inputs = [columns[int(i)] for i in rng.choice(len(columns), fan_in, replace=False)]
            outputs = [rows[int(i)] for i in rng.choice(len(rows), fan_out, replace=False)]
            weights = rng.standard_normal(fan_in) * math.sqrt(2.0 / fan_in)
            units.append(
                Unit(
                    tuple(Spoke(s, j, float(w)) for (s, j), w in zip(inputs, weights, strict=True)),
                    tuple(Spoke(t, i, 0.0) for t, i in outputs),
                )
            )
        cost = count * (fan_in + fan_out + 1)
        candidates.append(Candidate((Widen(layer, tuple(units)),), "drawn", f"{count} random units", cost, 0.0))
    return candidates


def clone(findings: Findings) -> list[Candidate]:
    """The unit that matters most, twice: fan-in copied with a little noise, fan-out shared half and half."""
    rng = findings.draw("clone")
    candidates = []
    for layer, place in findings.places.items():
        if "Widen" not in place.grows or place.positions != 1:
            continue
        sources, consumers = findings.sources(layer), findings.consumers(layer)
        spread = findings.features(layer, consumers[0]).var(dim=0)
        weight = torch.stack(
            [
                (findings.weight(layer, t).square() * findings.statistics(t).f[:, None]).sum(dim=0)
                for t in consumers
            ]
        ).sum(dim=0)
        slot = int((spread * weight).argmax())
        fan_in = tuple(
            Spoke(s, int(j), float(findings.weight(s, layer)[slot, j]) * (1 + 0.1 * float(rng.standard_normal())))
            for s in sources
            for j in torch.nonzero(findings.mask(s, layer)[slot]).view(-1).tolist()
        )
        fan_out = tuple(
            Spoke(t, int(i), 0.5 * float(findings.weight(layer, t)[i, slot]))
            for t in consumers
            for i in torch.nonzero(findings.mask(layer, t)[:, slot]).view(-1).tolist()
        )
        if not fan_in or not fan_out:
            continue
        bias = float(findings.network.get_parameter(f"biases.{layer}").detach()[slot])
        action = Widen(layer, (Unit(fan_in, fan_out, bias),), ((slot, 0.5),))
        cost = len(fan_in) + len(fan_out) + 1
        candidates.append(Candidate((action,), "clone", f"unit {slot} carries the most", cost, 0.0))
    return candidates


def new_units(
    findings: Findings, sources: list[str], consumers: list[str], count: int, budget: int, purpose: str
) -> tuple[tuple[Unit, ...], float, float]:
    """`count` units from `sources` to `consumers` for `budget` parameters; predicted and raw nats of them together."""
    rng = findings.draw(purpose)
    stats = [findings.statistics(t) for t in consumers]
    if any(s.positions != 1 for s in stats) or not sources or not consumers:
        return (), 0.0, 0.0
    G, f = torch.cat([s.G for s in stats], dim=1), torch.cat([s.f for s in stats])
    rows = [(t, i) for t, s in zip(consumers, stats, strict=True) for i in range(s.G.shape[1])]
    columns = [(s, j) for s in sources for j in range(findings.features(s, consumers[0]).shape[1])]
    H = torch.cat([findings.features(s, consumers[0]) for s in sources], dim=1)
    per = budget // count
    fan_out = min(len(rows), max(1, (per - 1) // 3))
    fan_in = min(len(columns), per - 1 - fan_out)
    if fan_in < 1:
        return (), 0.0, 0.0
    present = _present_features(findings, consumers)
    A = _centred_gram(findings, sources, consumers[0], H)
    gates = random_gates(H, 16, rng)
    wanted = targets(G, f, POOL, rng, gates)
    nonlinearity = findings.network.nonlinearity
    odd = bool(torch.allclose(nonlinearity(-torch.ones(1)), -nonlinearity(torch.ones(1))))
    allowed = A.diagonal() > 1e-4 * A.diagonal().mean()
    pool = make_pool(H, A, wanted, fan_in, nonlinearity, odd, allowed, RANDOM_UNITS, rng)
    picked = pick_units(pool, present, G, f, 1, count, fan_out)
    noise = (math.sqrt(fan_out) + math.sqrt(2 * math.log(len(pool.bias)))) ** 2 / (2 * findings.evidence.samples)
    units = tuple(
        Unit(
            tuple(
                Spoke(*columns[int(j)], float(w))
                for j, w in zip(pool.columns[u.unit].tolist(), pool.weights[u.unit].tolist(), strict=True)
            ),
            tuple(Spoke(*rows[k], v) for k, v in zip(u.rows, u.values, strict=True)),
            float(pool.bias[u.unit]),
        )
        for u in picked
    )
    raw = sum(sum(u.gains) for u in picked)
    return units, sum(max(sum(u.gains) - noise, 0.0) for u in picked), raw


def _present_features(findings: Findings, consumers: list[str]) -> torch.Tensor:
    """(r, s): every feature that some consumer has, and the constant."""
    parts = [torch.ones(findings.evidence.samples, 1, device=findings.evidence.x.device)]
    for source in dict.fromkeys(s for t in consumers for s in findings.sources(t)):
        used = torch.stack([findings.mask(source, t).any(dim=0) for t in consumers if findings.linked(source, t)])
        parts.append(findings.features(source, consumers[0])[:, used.any(dim=0)])
    return torch.cat(parts, dim=1)


def _centred_gram(findings: Findings, sources: list[str], target: str, H: torch.Tensor) -> torch.Tensor:
    """(p, p) covariance of the sources' features, from the Gram matrix of a place that all of them may feed."""
    stats = findings.statistics(target)
    at = torch.cat([torch.arange(*stats.columns[s], device=H.device) for s in sources])
    mean = stats.A[-1, at]
    return stats.A[at][:, at] - mean[:, None] * mean[None, :]


def _counts(findings: Findings, layer: str) -> list[int]:
    """How many units the budget buys at the network's own fan-in and fan-out, and half as many of twice the size."""
    hidden = max(sum(size for name, size in findings.network.axis_sizes().items() if name not in ("input", "output")), 1)
    typical = min(max(findings.network.count() / (hidden + 1), 4.0), 64.0)
    count = max(1, round(findings.grow / typical))
    return sorted({count, max(1, count // 2)}, reverse=True)


def _free_name(findings: Findings) -> str:
    taken = set(findings.network.axis_sizes())
    return next(f"hidden{i}" for i in range(1, len(taken) + 2) if f"hidden{i}" not in taken)


PROPOSERS: Mapping[str, Proposer] = {
    "connect": connect,
    "skip": skip,
    "widen": widen,
    "insert": insert,
    "clone": clone,
    "drawn": drawn,
    "narrow": narrow,
    "disconnect": disconnect,
    "rewire": rewire,
}
