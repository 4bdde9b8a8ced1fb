"""Growing proposals: new units, whole, with their fan-in and fan-out.

Where a layer's weights are shared by the positions of a picture its units are channels: their spokes count kernel taps,
as the network's `lift` does. They are drawn and cloned as others are; scored ones are made in `channels`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from search_spaces.actions import Insert, Spoke, Unit, Widen
from tournaments.candidate import Candidate
from tournaments.findings import Findings
from tournaments.units import (
    Pool,
    PooledUnit,
    make_pool,
    orthonormal,
    pick_units,
    promising,
    random_gates,
    seen_on,
    targets,
)

POOL = 96
RANDOM_UNITS = 32
NOISE_POOL = 24
ROWS = 512
KEPT = 16
LIVELY = 3e-3
"""Share of the mean variance below which a feature is left out. The ridge on A's diagonal is a thousandth."""

NOISE_MARGIN = 1.7
"""On pure noise √(2n·gain) of the best unit varies by about ½ from draw to draw, whatever its size, and the difference
of two draws by .7: so much above one draw leaves under 2% of searches beyond it."""


def widen(findings: Findings) -> list[Candidate]:
    """New units in a hidden layer, whole: fan-in by pursuit of the gradients of the layer's consumers."""
    layers = [p.layer for p in findings.places.values() if "Widen" in p.grows and p.positions == 1]
    return [candidate for layer in layers for candidate in widen_at(findings, layer)]


def widen_at(findings: Findings, layer: str) -> list[Candidate]:
    """The same in one layer: many small units, and few large ones."""
    sources, consumers = findings.sources(layer), findings.consumers(layer)

    def make() -> list[Candidate]:
        candidates = []
        for count in counts(findings):
            units, predicted, raw = new_units(findings, layer, sources, consumers, count, f"widen {layer} {count}")
            if units:
                reason = f"{len(units)} features of {'+'.join(sources)} that {layer} lacks"
                cost = cost_of(findings, layer, units)
                candidates.append(Candidate((Widen(layer, units),), "widen", reason, cost, predicted, raw))
        return candidates

    return findings.once(f"widen {layer}", make)


def insert(findings: Findings) -> list[Candidate]:
    """A new layer of depth between a hidden layer and one that it feeds; the link between them stays, as a skip."""
    return [
        candidate for layer, source in deepenable(findings) for candidate in insert_between(findings, source, layer)
    ]


def deepenable(findings: Findings) -> list[tuple[str, str]]:
    """(layer, source) of the links beside which depth may be added.

    Not the one from the input to the first layer, which widening serves, unless it is the only one; but the skips of
    the input, beside which a layer of its own may lie.
    """
    first = next(iter(findings.places))
    return [
        (layer, source)
        for layer, place in findings.places.items()
        if "Insert" in place.grows and place.positions == 1
        for source in findings.sources(layer)
        if source != "input" or layer != first or len(findings.places) == 1
    ]


def insert_between(findings: Findings, source: str, layer: str) -> list[Candidate]:
    """At most one candidate: a layer that reads `source` and feeds `layer`, whether or not a link joins them."""

    def make() -> list[Candidate]:
        purpose = f"insert {source}>{layer}"
        units, predicted, raw = new_units(findings, layer, [source], [layer], counts(findings)[0], purpose)
        if not units:
            return []
        reason = f"{len(units)} features of {source} for {layer}, one layer deeper"
        cost = sum(len(u.fan_in) + len(u.fan_out) + 1 for u in units)
        action = Insert(free_names(findings, 1)[0], layer, units)
        return [Candidate((action,), "insert", reason, cost, predicted, raw)]

    return findings.once(f"insert {source}>{layer}", make)


def drawn(findings: Findings) -> list[Candidate]:
    """Random units and random edges, for what a linear screening cannot see. Fan-out zero: the function is kept."""
    rng = findings.draw("drawn")
    candidates = []
    for layer, place in findings.places.items():
        sources, consumers = findings.sources(layer), findings.consumers(layer)
        count = counts(findings)[0]
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
        cost = cost_of(findings, layer, units)
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
        cost = cost_of(findings, layer, action.units)
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
    fan_in = min(len(columns), per - 1 - fan_out, findings.incoming or per)
    if fan_in < 1:
        return (), 0.0, 0.0
    A = centred_gram(findings, sources, [*consumers, layer])
    # Features that hardly vary, as the edge of a picture, are out before any product is formed.
    lively = torch.nonzero(A.diagonal() > LIVELY * A.diagonal().mean()).view(-1)
    some = slice(None, None, max(1, len(H) // ROWS))
    H_lively = H[:, lively]
    H_some = H_lively[some]
    if not len(lively) or float(H_some.std(dim=0).max()) <= 1e-6:
        return (), 0.0, 0.0
    A, fan_in = A[lively][:, lively], min(fan_in, len(lively))
    nonlinearity = findings.network.nonlinearity
    odd = bool(torch.allclose(nonlinearity(-torch.ones(1)), -nonlinearity(torch.ones(1))))
    allowed = torch.ones(len(lively), dtype=torch.bool, device=H.device)
    basis, basis_of_some = bases(findings, consumers, some)

    def search(
        gradients: Tensor, fan_in: int, wanted: int, random: int, count: int, rng: np.random.Generator
    ) -> tuple[Pool, list[PooledUnit]]:
        """Fan-in is fitted on all samples, as few of them would be fitted by their noise where inputs are many; the
        large pool that comes of it is looked at on some, and the best of it again on all.
        """
        mixed = targets(gradients, f, wanted, rng, random_gates(H_lively, 16, rng))
        pool = make_pool(H_some, A, mixed, fan_in, nonlinearity, odd, allowed, random, rng, H_lively)
        best = promising(pool, basis_of_some, gradients[some], f, fan_out, max(KEPT, 2 * count))
        pool = seen_on(pool, best, H, lively, nonlinearity)
        return pool, pick_units(pool, basis, gradients, f, 1, count, fan_out)

    pool, picked = search(G, fan_in, POOL, RANDOM_UNITS, count, findings.draw(purpose))
    if not picked:
        return (), 0.0, 0.0
    # Once a place: at the largest fan-in that is asked for, as more inputs fit more noise.
    widest = min(len(lively), max(findings.grow // min(counts(findings)) - 1 - fan_out, fan_in))
    place = f"{'+'.join(sources)} for {'+'.join(consumers)}"

    def best_of_noise() -> Tensor:
        rng = findings.draw(f"noise of {place}")

        def gained(null: Tensor, rng: np.random.Generator) -> list[PooledUnit]:
            return search(null, widest, NOISE_POOL, 0, 1, rng)[1]

        return torch.tensor(noise_bound(G, gained, rng))

    noise = float(findings.once(f"noise of {place}", best_of_noise))
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


def cost_of(findings: Findings, layer: str, units: Sequence[Unit]) -> int:
    """Parameters of new units in a layer that there is."""
    own = findings.own_parameters(layer)
    return sum(len(u.fan_in) + len(u.fan_out) + own for u in units)


def counts(findings: Findings) -> list[int]:
    """How many units the budget buys at the network's own fan-in and fan-out, and half as many of twice the size."""
    # A seed that is wired uniformly has many units that lack one side, and say nothing of a unit's size.
    hidden = [layer for layer in findings.places if layer != "output"]
    live = sum(int((findings.fed(layer) & findings.heard(layer)).sum()) for layer in hidden)
    typical = min(max(findings.network.count() / (live + 1), 4.0), 64.0)
    count = max(1, round(findings.grow / typical))
    return sorted({count, max(1, count // 2)}, reverse=True)


def noise_bound(
    G: Tensor, search: Callable[[Tensor, np.random.Generator], list[PooledUnit]], rng: np.random.Generator
) -> float:
    """Nats that the best unit of a search gains on pure noise: on gradients whose signs are drawn, sample by sample.

    A unit is fitted to the gradients that it is scored on, so no formula for given features holds.
    """
    signs = torch.from_numpy(rng.choice((-1.0, 1.0), (len(G), 1))).to(G)
    most = sum(sum(u.gains) for u in search(G * signs, rng))
    return (math.sqrt(most) + NOISE_MARGIN / math.sqrt(2 * len(G))) ** 2


def bases(findings: Findings, consumers: list[str], some: slice) -> tuple[Tensor, Tensor]:
    """Orthonormal features that span all that some consumer has, and the constant: on all rows, and on some."""
    parts = [torch.ones(findings.evidence.samples, 1, device=findings.evidence.x.device)]
    for source in dict.fromkeys(s for t in consumers for s in findings.sources(t)):
        used = torch.stack([findings.mask(source, t).any(dim=0) for t in consumers if findings.linked(source, t)])
        parts.append(findings.features(source, consumers[0])[:, used.any(dim=0)])
    present = torch.cat(parts, dim=1)
    key = "+".join(consumers)
    return findings.once(f"basis {key}", lambda: orthonormal(present)), findings.once(
        f"basis of some {key}", lambda: orthonormal(present[some])
    )


def centred_gram(findings: Findings, sources: list[str], layers: list[str]) -> Tensor:
    """(p, p) covariance of the sources' features, from the first of these places that all of them may feed."""
    stats = next(s for s in map(findings.statistics, layers) if set(sources) <= set(s.columns))
    at = torch.cat([torch.arange(*stats.columns[s], device=stats.A.device) for s in sources])
    mean = stats.A[-1, at]
    return stats.A[at][:, at] - mean[:, None] * mean[None, :]


def free_names(findings: Findings, count: int) -> list[str]:
    """Names of layers that the network does not have yet."""
    taken = set(findings.network.axis_sizes())
    free = (name for name in map("hidden{}".format, itertools.count(1)) if name not in taken)
    return list(itertools.islice(free, count))
