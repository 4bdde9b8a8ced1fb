"""Residual blocks: beside a link that stays as the identity path, a branch of two new layers, z + Vφ(Wφ(Ux + c) + d).

U comes from a pool of units as `growing` makes them, aimed at the gradients where the branch comes back, and random
ones; W and V by pursuit over what the pool puts out. So the branch may see what no single layer does, such as products
of products. Only V carries anything at first: each unit of U has one edge to the far end as well, from value zero, by
which it is whole as soon as it is made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces.actions import Insert, Spoke, Unit
from tournaments.candidate import Candidate
from tournaments.findings import Findings
from tournaments.growing import (
    LIVELY,
    POOL,
    RANDOM_UNITS,
    ROWS,
    bases,
    centred_gram,
    counts,
    deepenable,
    free_names,
    noise_bound,
)
from tournaments.units import Pool, PooledUnit, make_pool, pick_units, promising, random_gates, seen_on, targets

BETWEEN = 4
"""A unit of the second layer reads at most so many of the first."""

FIRST = 64
"""So many units of the first layer's pool are offered to the second, half of them for what they gain alone."""


@dataclass(frozen=True)
class Shape:
    """first, second: units of the two layers. fan_in: of U's units, between: of W's, fan_out: of V's."""

    first: int
    second: int
    fan_in: int
    between: int
    fan_out: int

    @staticmethod
    def within(budget: int, units: int, columns: int, rows: int) -> Shape | None:
        """About `units` units in all for the budget; None where it is too small for any."""
        second = max(1, units // (1 + BETWEEN))
        between = max(2, min(BETWEEN, units // second - 1))
        first = second * between
        fan_out = min(rows, max(1, budget // (2 * (first + second))))
        # A unit of U has a bias and its edge to the far end beside its fan-in; one of W and V has a bias.
        fan_in = min(columns, (budget - second * (between + 1 + fan_out)) // first - 2)
        return Shape(first, second, fan_in, between, fan_out) if fan_in > 0 else None


def residual(findings: Findings) -> list[Candidate]:
    """A residual block beside a link that there is: two new layers in a row, the second fed by pursuit of the first."""
    return [candidate for layer, source in deepenable(findings) for candidate in _block(findings, source, layer)]


def _block(findings: Findings, source: str, layer: str) -> list[Candidate]:
    """At most one candidate."""
    stats, H = findings.statistics(layer), findings.features(source, layer)
    G, f = stats.G, stats.f
    A = centred_gram(findings, [source], [layer])
    lively = torch.nonzero(A.diagonal() > LIVELY * A.diagonal().mean()).view(-1)
    shape = Shape.within(findings.grow, max(counts(findings)), len(lively), G.shape[1])
    some = slice(None, None, max(1, len(H) // ROWS))
    if shape is None or float(H[some][:, lively].std(dim=0).max()) <= 1e-6:
        return []
    A, H_lively = A[lively][:, lively], H[:, lively]
    H_some = H_lively[some]
    basis, basis_of_some = bases(findings, [layer], some)
    phi = findings.network.nonlinearity
    odd = bool(torch.allclose(phi(-torch.ones(1)), -phi(torch.ones(1))))

    def search(
        gradients: Tensor, pool: int, random: int, count: int, rng: np.random.Generator
    ) -> tuple[Pool, Pool, list[PooledUnit]]:
        """Units of the first layer that the second may read, some of the second, and those that are picked of these.

        As in `growing`: fan-ins are fitted on all samples, pools looked at on some, and the best of them again on all.
        """
        aims = targets(gradients, f, pool, rng, random_gates(H_lively, 16, rng))
        every = torch.ones(len(lively), dtype=torch.bool, device=H.device)
        first = make_pool(H_some, A, aims, shape.fan_in, phi, odd, every, random, rng, H_lively)
        alone = promising(first, basis_of_some, gradients[some], f, shape.fan_out, FIRST // 2)
        lucky = torch.from_numpy(rng.permutation(first.outputs.shape[1])).to(H.device)
        lucky = lucky[~torch.isin(lucky, alone)][: FIRST - len(alone)]
        first = seen_on(first, torch.cat([alone, lucky]), H, lively, phi)
        outputs = first.outputs
        aims = targets(gradients, f, pool, rng, random_gates(outputs, 16, rng))
        named = torch.arange(outputs.shape[1], device=H.device)
        every = torch.ones_like(named, dtype=torch.bool)
        gram = _gram(outputs)
        second = make_pool(outputs[some], gram, aims, shape.between, phi, odd, every, random, rng, outputs)
        best = promising(second, basis_of_some, gradients[some], f, shape.fan_out, FIRST)
        second = seen_on(second, best, outputs, named, phi)
        return first, second, pick_units(second, basis, gradients, f, 1, count, shape.fan_out)

    purpose = f"residual {source}>{layer}"
    first, second, picked = search(G, POOL, RANDOM_UNITS, shape.second, findings.draw(purpose))
    if not picked:
        return []

    def best_of_noise(null: Tensor, rng: np.random.Generator) -> list[PooledUnit]:
        # Through two fitted layers noise promises what its whole pool offers: a smaller one would be no measure of it.
        return search(null, POOL, RANDOM_UNITS, 1, rng)[2]

    noise = noise_bound(G, best_of_noise, findings.draw(f"noise of {purpose}"))
    gains = [sum(u.gains) for u in picked]
    names = free_names(findings, 2)
    inner, outer = _units(source, layer, first, second, picked, names)
    cost = sum(len(u.fan_in) + len(u.fan_out) + 1 for u in (*inner, *outer))
    reason = f"{len(outer)} units of {len(inner)} features of {source} beside {source}>{layer}, two layers deeper"
    actions = (Insert(names[0], layer, inner), Insert(names[1], layer, outer))
    return [Candidate(actions, "residual", reason, cost, sum(max(g - noise, 0.0) for g in gains), sum(gains))]


def _gram(H: Tensor) -> Tensor:
    """(p, p) covariance of features (r, p), kept off singular."""
    centred = H - H.mean(dim=0)
    gram = centred.t() @ centred / len(H)
    gram.diagonal().add_(1e-3 * gram.diagonal().mean())
    return gram


def _units(
    source: str, layer: str, first: Pool, second: Pool, picked: list[PooledUnit], names: list[str]
) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    """Units of the two layers as data: those of the first pool that are read, and those of the second that were picked.

    names: of the two layers.
    """
    read = sorted({int(j) for u in picked for j in second.columns[u.unit].tolist()})
    slot = {number: i for i, number in enumerate(read)}
    # Each unit of the first layer has its edge to the far end in the row that its reader feeds most.
    row = {int(j): u.rows[0] for u in reversed(picked) for j in second.columns[u.unit].tolist()}
    inner = tuple(
        Unit(
            tuple(Spoke(source, int(j), float(w)) for j, w in zip(*_spokes(first, number), strict=True)),
            (Spoke(layer, row[number], 0.0),),
            float(first.bias[number]),
        )
        for number in read
    )
    outer = tuple(
        Unit(
            tuple(Spoke(names[0], slot[int(j)], float(w)) for j, w in zip(*_spokes(second, u.unit), strict=True)),
            tuple(Spoke(layer, r, v) for r, v in zip(u.rows, u.values, strict=True)),
            float(second.bias[u.unit]),
        )
        for u in picked
    )
    return inner, outer


def _spokes(pool: Pool, unit: int) -> tuple[list[int], list[float]]:
    """Columns and weights of a unit's fan-in."""
    return pool.columns[unit].tolist(), pool.weights[unit].tolist()
