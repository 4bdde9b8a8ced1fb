"""Dead-unit highways: a unit that passes nothing on becomes a relay on a path that jumps over layers.

The dead unit gives up its slot. In its place a relay stands, which reads one feature of an earlier layer and passes it
on, nearly linearly, to a later one; on at least one of the two ways it jumps over a layer. Which feature, and to which
rows, is the closed form's: what the far layer gains by it, with all that it has regressed out. Links that a path lacks
are made with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.actions import Narrow, Spoke, Unit, Widen
from tournaments.candidate import Candidate
from tournaments.edges import edge_noise
from tournaments.extremes.found import alive, dense, extremes, may_link, missed, opened
from tournaments.findings import Findings
from tournaments.units import Pool, PooledUnit, orthonormal, pick_units

FULL = 0.1
"""An unbounded relay cuts off the feature's lowest tenth, so that it is neither dead nor always on."""

GENTLE = 0.7
"""Standard deviation of a bounded relay's pre-activation: where its function is nearly straight."""

LEAST = 4
"""Parameters of a relay and its edges, at least."""


@dataclass(frozen=True, eq=False)
class Path:
    """From layer to far layer, over a pool of relays, one for each live feature; those that were picked."""

    source: str
    target: str
    pool: Pool
    picked: list[PooledUnit]
    choices: int

    @property
    def gain(self) -> float:
        return sum(sum(u.gains) for u in self.picked)


def highway(findings: Findings) -> list[Candidate]:
    """Dead units of a layer replaced by relays of strong features to a far layer."""
    candidates = []
    for layer, units in extremes(findings).items():
        if not units.dead or not dense(findings, layer) or "Widen" not in findings.places[layer].grows:
            continue
        own = findings.own_parameters(layer)
        # Those that free most come first: fewer of them never cost more than all of them.
        held = findings.held(layer).tolist()
        dead = sorted(units.dead, key=lambda slot: (-held[slot], slot))
        while dead and findings.grow + sum(held[slot] for slot in dead) < LEAST * len(dead):
            dead.pop()
        if not dead:
            continue
        fan_out = (findings.grow + sum(held[slot] for slot in dead)) // len(dead) - 1 - own
        paths = [
            _path(findings, layer, s, t, len(dead), fan_out) for s, t in _long_ways(findings, layer) if fan_out > 0
        ]
        best = max(paths, key=lambda p: p.gain, default=None)
        if best is None or best.gain <= 0:
            continue
        best = dataclasses.replace(best, picked=_limited(best.picked, findings.connections, findings.incoming))
        if not best.picked:
            continue
        candidate = _candidate(findings, layer, dead[: len(best.picked)], best, sum(p.choices for p in paths))
        if -candidate.cost <= findings.trim:
            candidates.append(candidate)
    return candidates


def _limited(picked: Sequence[PooledUnit], connections: int | None, incoming: int | None) -> list[PooledUnit]:
    """The relays, best first, with as many of their edges as may be made in all, and enter one unit."""
    kept: list[PooledUnit] = []
    entering: Counter[int] = Counter()
    made = 0
    for relay in picked:
        rows = [i for i, row in enumerate(relay.rows) if incoming is None or entering[row] < incoming]
        if connections is not None:
            rows = rows[: max(connections - made - 1, 0)]
        if rows:
            values, gains = tuple(relay.values[i] for i in rows), tuple(relay.gains[i] for i in rows)
            kept.append(PooledUnit(relay.unit, tuple(relay.rows[i] for i in rows), values, gains))
            entering.update(relay.rows[i] for i in rows)
            made += 1 + len(rows)
    return kept


def _candidate(findings: Findings, layer: str, dead: Sequence[int], path: Path, choices: int) -> Candidate:
    relays = [
        Unit(
            (Spoke(path.source, int(path.pool.columns[u.unit, 0]), float(path.pool.weights[u.unit, 0])),),
            tuple(Spoke(path.target, k, v) for k, v in zip(u.rows, u.values, strict=True)),
            float(path.pool.bias[u.unit]),
        )
        for u in path.picked
    ]
    skips, closings = opened(findings, [(path.source, layer), (layer, path.target)])
    mean = extremes(findings)[layer].mean
    narrow = Narrow(layer, tuple(dead), tuple(float(mean[slot]) for slot in dead))
    cost = sum(1 + len(r.fan_out) + findings.own_parameters(layer) for r in relays)
    cost -= int(findings.held(layer)[list(dead)].sum())
    noise = edge_noise(choices, findings.evidence.samples)
    loss = missed(findings, layer, dead)
    return Candidate(
        (*skips, Widen(layer, tuple(relays)), *closings, narrow),
        "highway",
        f"dead units {list(dead)} of {layer} become relays from {path.source} to {path.target}",
        cost,
        sum(max(gain - noise, 0.0) for u in path.picked for gain in u.gains) - loss,
        path.gain - loss,
    )


def _long_ways(findings: Findings, layer: str) -> list[tuple[str, str]]:
    """(source, target) on either side of a layer, a layer being jumped over on at least one of the two ways."""
    names = ["input", *findings.places]
    at = names.index(layer)
    return [
        (names[i], names[k])
        for i in range(at)
        for k in range(at + 1, len(names))
        if (at - i > 1 or k - at > 1) and may_link(findings, names[i], layer) and may_link(findings, layer, names[k])
    ]


def _path(findings: Findings, layer: str, source: str, target: str, count: int, fan_out: int) -> Path:
    pool = findings.once(f"relays of {source}", lambda: relays_of(findings, layer, findings.features(source, layer)))
    stats = findings.statistics(target)
    parts = [torch.ones(len(stats.G), 1, dtype=stats.G.dtype, device=stats.G.device)]
    parts += [findings.features(s, target)[:, findings.mask(s, target).any(dim=0)] for s in findings.sources(target)]
    basis = findings.once(f"orthonormal {target}", lambda: orthonormal(torch.cat(parts, dim=1)))
    picked = pick_units(pool, basis, stats.G, stats.f, 1, count, fan_out) if len(pool.bias) else []
    return Path(source, target, pool, picked, max(len(pool.bias), 1) * stats.G.shape[1])


def relays_of(findings: Findings, layer: str, features: Tensor) -> Pool:
    """A relay of each feature (r, p) that it would pass on alive, as units of `layer`, or of any other dense one."""
    phi = findings.network.nonlinearity
    bounded = float(phi(torch.tensor(100.0))) < 2
    spread = features.std(dim=0)
    at = torch.nonzero(spread > 1e-6).view(-1)
    weight = (GENTLE if bounded else 1.0) / spread[at]
    z = features[:, at] * weight
    rank = 1 + math.floor(FULL * len(z))
    bias = -z.mean(dim=0) if bounded else -z.kthvalue(min(rank, len(z)), dim=0).values
    outputs = phi(z + bias)
    good = alive(findings, layer, outputs)
    return Pool(at[good, None], weight[good, None], bias[good], outputs[:, good])
