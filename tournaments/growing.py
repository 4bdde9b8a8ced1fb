"""Growing proposals: new units, whole, with their fan-in and fan-out.

Where a layer's weights are shared by the positions of a picture its units are channels: their spokes count kernel taps,
as the network's `lift` does, and only proposals that need no closed form are made for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from search_spaces.actions import Insert, Spoke, Unit, Widen
from tournaments.candidate import Candidate
from tournaments.findings import Findings
from tournaments.units import Pool, PooledUnit, make_pool, pick_units, random_gates, targets

POOL = 96
RANDOM_UNITS = 32
NOISE_POOL = 32
NOISE_DRAWS = 3
NOISE_MARGIN = 1.2
"""On pure noise √(2n·gain) of the best unit varies by about ½ from draw to draw, whatever its size: so much above the
largest of three draws leaves some 3% of searches beyond it."""


def widen(findings: Findings) -> list[Candidate]:
    """New units in a hidden layer, whole: fan-in by pursuit of the gradients of the layer's consumers."""
    candidates = []
    for layer, place in findings.places.items():
        if "Widen" not in place.grows or place.positions != 1:
            continue
        sources, consumers = findings.sources(layer), findings.consumers(layer)
        for count in _counts(findings):
            units, predicted, raw = new_units(findings, layer, sources, consumers, count, f"widen {layer} {count}")
            if units:
                reason = f"{len(units)} features of {'+'.join(sources)} that {layer} lacks"
                cost = _cost(findings, layer, units)
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
            count = _counts(findings)[0]
            units, predicted, raw = new_units(findings, layer, [source], [layer], count, f"insert {source}>{layer}")
            if units:
                name = _free_name(findings)
                reason = f"{len(units)} features of {source} for {layer}, one layer deeper"
                cost = sum(len(u.fan_in) + len(u.fan_out) + 1 for u in units)
                candidates.append(Candidate((Insert(name, layer, units),), "insert", reason, cost, predicted, raw))
    return candidates


def drawn(findings: Findings) -> list[Candidate]:
    """Random units and random edges, for what a linear screening cannot see. Fan-out zero: the function is kept."""
    rng = findings.draw("drawn")
    candidates = []
    for layer, place in findings.places.items():
        sources, consumers = findings.sources(layer), findings.consumers(layer)
        count = _counts(findings)[0]
        own = findings.own_parameters(layer)
        if "Widen" not in place.grows or not consumers or findings.grow < count * (own + 2):
            continue
        columns = [(s, j) for s in sources for j in range(findings.mask(s, layer).shape[1])]
        rows = [(t, i) for t in consumers for i in range(len(findings.mask(layer, t)) * findings.reach(layer, t))]
        per = findings.grow // count
        fan_out = min(len(rows), max(1, (per - own) // 3))
        fan_in = min(len(columns), max(1, per - own - fan_out))
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
        cost = _cost(findings, layer, units)
        candidates.append(Candidate((Widen(layer, tuple(units)),), "drawn", f"{count} random units", cost, 0.0))
    return candidates


def clone(findings: Findings) -> list[Candidate]:
    """The unit that matters most, twice: fan-in copied with a little noise, fan-out shared half and half."""
    rng = findings.draw("clone")
    candidates = []
    for layer, place in findings.places.items():
        consumers = findings.consumers(layer)
        if "Widen" not in place.grows or not consumers:
            continue
        spread = findings.features(layer, consumers[0]).var(dim=0)
        stake = torch.stack(
            [(findings.weight(layer, t).square() * findings.statistics(t).f[:, None]).sum(dim=0) for t in consumers]
        ).sum(dim=0)
        slot = int(findings.by_unit(layer, spread * stake).argmax())
        twin = findings.network.unit(layer, slot)
        fan_in = tuple(Spoke(s.layer, s.slot, s.value * (1 + 0.1 * float(rng.standard_normal()))) for s in twin.fan_in)
        fan_out = tuple(Spoke(s.layer, s.slot, 0.5 * s.value) for s in twin.fan_out)
        if not fan_in or not fan_out:
            continue
        action = Widen(layer, (Unit(fan_in, fan_out, twin.bias),), ((slot, 0.5),))
        cost = _cost(findings, layer, action.units)
        if cost <= findings.grow:
            candidates.append(Candidate((action,), "clone", f"unit {slot} carries the most", cost, 0.0))
    return candidates


def new_units(
    findings: Findings, layer: str, sources: list[str], consumers: list[str], count: int, purpose: str
) -> tuple[tuple[Unit, ...], float, float]:
    """`count` units from `sources` to `consumers` for the whole budget; predicted and raw nats of them together.

    layer: one that all the sources may feed. purpose: names the draws.
    """
    stats = [findings.statistics(t) for t in consumers]
    if any(s.positions != 1 for s in stats) or not sources or not consumers:
        return (), 0.0, 0.0
    G, f = torch.cat([s.G for s in stats], dim=1), torch.cat([s.f for s in stats])
    rows = [(t, i) for t, s in zip(consumers, stats, strict=True) for i in range(s.G.shape[1])]
    columns = [(s, j) for s in sources for j in range(findings.features(s, consumers[0]).shape[1])]
    H = torch.cat([findings.features(s, consumers[0]) for s in sources], dim=1)
    per = findings.grow // count
    fan_out = min(len(rows), max(1, (per - 1) // 3))
    fan_in = min(len(columns), per - 1 - fan_out)
    if fan_in < 1:
        return (), 0.0, 0.0
    if not bool((H.std(dim=0) > 1e-6).any()):
        return (), 0.0, 0.0
    present = _present_features(findings, consumers)
    A = _centred_gram(findings, sources, [*consumers, layer])
    nonlinearity = findings.network.nonlinearity
    odd = bool(torch.allclose(nonlinearity(-torch.ones(1)), -nonlinearity(torch.ones(1))))
    allowed = A.diagonal() > 1e-4 * A.diagonal().mean()

    def search(
        gradients: Tensor, wanted: int, random: int, picks: int, rng: np.random.Generator
    ) -> tuple[Pool, list[PooledUnit]]:
        gates = random_gates(H, 16, rng)
        mixed = targets(gradients, f, wanted, rng, gates)
        pool = make_pool(H, A, mixed, fan_in, nonlinearity, odd, allowed, random, rng)
        return pool, pick_units(pool, present, gradients, f, 1, picks, fan_out)

    pool, picked = search(G, POOL, RANDOM_UNITS, count, findings.draw(purpose))
    if not picked:
        return (), 0.0, 0.0
    noise = _noise(G, lambda null, rng: search(null, NOISE_POOL, 0, 1, rng)[1], findings.draw(f"{purpose} noise"))
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
    gains = [sum(u.gains) for u in picked]
    return units, sum(max(gain - noise, 0.0) for gain in gains), sum(gains)


def _noise(
    G: Tensor, search: Callable[[Tensor, np.random.Generator], list[PooledUnit]], rng: np.random.Generator
) -> float:
    """Nats that the best unit of a search gains on pure noise: on gradients whose signs are drawn, sample by sample.

    A unit is fitted to the gradients that it is scored on, so no formula for given features holds.
    """
    most = 0.0
    for _ in range(NOISE_DRAWS):
        signs = torch.from_numpy(rng.choice((-1.0, 1.0), (len(G), 1))).to(G)
        most = max([most, *(sum(u.gains) for u in search(G * signs, rng))])
    return (math.sqrt(most) + NOISE_MARGIN / math.sqrt(2 * len(G))) ** 2


def _present_features(findings: Findings, consumers: list[str]) -> Tensor:
    """(r, s): every feature that some consumer has, and the constant."""
    parts = [torch.ones(findings.evidence.samples, 1, device=findings.evidence.x.device)]
    for source in dict.fromkeys(s for t in consumers for s in findings.sources(t)):
        used = torch.stack([findings.mask(source, t).any(dim=0) for t in consumers if findings.linked(source, t)])
        parts.append(findings.features(source, consumers[0])[:, used.any(dim=0)])
    return torch.cat(parts, dim=1)


def _centred_gram(findings: Findings, sources: list[str], layers: list[str]) -> Tensor:
    """(p, p) covariance of the sources' features, from the first of these places that all of them may feed."""
    stats = next(s for s in map(findings.statistics, layers) if set(sources) <= set(s.columns))
    at = torch.cat([torch.arange(*stats.columns[s], device=stats.A.device) for s in sources])
    mean = stats.A[-1, at]
    return stats.A[at][:, at] - mean[:, None] * mean[None, :]


def _cost(findings: Findings, layer: str, units: Sequence[Unit]) -> int:
    own = findings.own_parameters(layer)
    return sum(len(u.fan_in) + len(u.fan_out) + own for u in units)


def _counts(findings: Findings) -> list[int]:
    """How many units the budget buys at the network's own fan-in and fan-out, and half as many of twice the size."""
    sizes = findings.network.axis_sizes()
    hidden = max(sum(sizes[layer] for layer in findings.places if layer != "output"), 1)
    typical = min(max(findings.network.count() / (hidden + 1), 4.0), 64.0)
    count = max(1, round(findings.grow / typical))
    return sorted({count, max(1, count // 2)}, reverse=True)


def _free_name(findings: Findings) -> str:
    taken = set(findings.network.axis_sizes())
    return next(f"hidden{i}" for i in range(1, len(taken) + 2) if f"hidden{i}" not in taken)
