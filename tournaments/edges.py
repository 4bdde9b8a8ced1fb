"""Single edges: which of a place's masked weights gain most, with what is there and each other regressed out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from tournaments.place import PlaceStatistics, Residual

FALSE_PROMISES = 0.02
"""Share of the candidates that may promise anything on pure noise."""

ROUNDS = 8
"""Where it would be much work to take edges one by one, they are taken in so many rounds."""

MUCH = 1_000_000
"""Elements that are updated in all, from which it is much work."""

COLUMNS = 256
"""So many columns of a place are looked at, or a few times as many as a row may take."""

DEPTH = 3
"""A row may take so many times its even share of the budget."""


@dataclass(frozen=True)
class ChosenEdge:
    """column: of A. value: the closed-form weight. gain: nats before the noise threshold, added after the others."""

    row: int
    column: int
    value: float
    gain: float


def edge_gains(place: PlaceStatistics, left: Residual, allowed: Tensor) -> Tensor:
    """(q, p+1) nats: ½ t c²/(v f) where allowed, else 0. A feature that is all but explained gains nothing."""
    typical = place.A.diagonal()[:-1].double().mean()
    usable = allowed & (left.variance > 0.01 * typical)
    gains = 0.5 * place.positions * left.covariance.square() / (left.variance * place.f.double()[:, None])
    return torch.where(usable, gains, torch.zeros_like(gains))


def choose_edges(
    place: PlaceStatistics, left: Residual, allowed: Tensor, budget: int, row_cap: int | None = None
) -> list[ChosenEdge]:
    """The `budget` most gainful edges, chosen greedily: each is scored with those of its row before it regressed out.

    allowed: (q, p+1) bool. row_cap: at most so many for a row. Rows do not touch each other, so all of them advance at
    once, and the budget then takes the best of all. In a large place a row takes several at a time, which are regressed
    out of each other but chosen together.
    """
    rows = torch.nonzero((allowed & ~place.present).any(dim=1)).view(-1)
    if budget < 1 or not len(rows):
        return []
    most = min(budget, row_cap or budget, max(2 * ROUNDS, DEPTH * math.ceil(budget / len(rows))))
    most = min(most, int((allowed & ~place.present).sum(dim=1).max()))
    taken = _pursue_rows(place, left, rows, allowed, most)
    least: dict[int, float] = {}
    ranked: list[tuple[float, int, tuple[int, int, float, int]]] = []
    for edge in taken:
        # An edge may gain more than the one that it comes after: it is never taken without that one.
        least[edge[0]] = min(least.get(edge[0], math.inf), edge[2])
        ranked.append((-least[edge[0]], edge[3], edge))
    order = [edge for _, _, edge in sorted(ranked)[:budget]]
    picked: dict[int, list[int]] = {}
    for k, j, _, _ in order:
        picked.setdefault(k, []).append(j)
    values: dict[tuple[int, int], float] = {}
    f = place.f.double()
    for k, js in picked.items():
        at = torch.tensor(js, device=place.A.device)
        inner = place.A[at][:, at].double() - left.basis[k, at] @ left.basis[k, at].t()
        solved = torch.linalg.solve(inner + 1e-9 * torch.eye(len(js), device=inner.device), left.covariance[k, at])
        for j, value in zip(js, (solved / f[k]).tolist(), strict=True):
            values[k, j] = value
    return [ChosenEdge(k, j, values[k, j], gain) for k, j, gain, _ in order]


def _pursue_rows(
    place: PlaceStatistics, left: Residual, rows: Tensor, allowed: Tensor, most: int
) -> list[tuple[int, int, float, int]]:
    """(row, column, gain, rank within the row) of up to `most` edges of each row, by batched pursuit."""
    floor = 0.01 * place.A.diagonal()[:-1].double().mean()
    open_ = (allowed & ~place.present)[rows] & (left.variance[rows] > floor)
    columns = torch.nonzero(open_.any(dim=0)).view(-1)
    if len(columns) > max(COLUMNS, DEPTH * most):
        # Of a large place, only the columns that promise most to some row by themselves.
        alone = edge_gains(place, left, allowed & ~place.present)[rows].amax(dim=0)[columns]
        columns = columns[alone.topk(max(COLUMNS, DEPTH * most)).indices.sort().values]
    open_ = open_[:, columns]
    if not len(columns):
        return []
    at_once = math.ceil(most / ROUNDS) if open_.numel() * most > MUCH else 1
    A, f = place.A[columns][:, columns].double(), place.f.double()[rows, None]
    covariance, variance = left.covariance[rows][:, columns], left.variance[rows][:, columns]
    before = left.basis.shape[2]
    known = torch.empty(len(rows), len(columns), before + most, dtype=A.dtype, device=A.device)
    known[:, :, :before] = left.basis[rows][:, columns]
    rounds: list[tuple[Tensor, Tensor]] = []
    rank = 0
    while rank < most:
        gains = 0.5 * place.positions * covariance.square() / (variance * f).clamp(min=1e-30)
        gains = torch.where(open_ & (variance > floor), gains, torch.zeros_like(gains))
        count = min(at_once, most - rank, len(columns))
        best, js = gains.topk(count, dim=1)
        if float(best.max()) <= 0:
            break
        open_ = open_.scatter(1, js, False)
        seen = known[:, :, : before + rank]
        along = A[js] - torch.gather(seen, 1, js[:, :, None].expand(-1, -1, seen.shape[2])) @ seen.mT
        inner = torch.gather(along, 2, js[:, None, :].expand(-1, count, -1))
        # Two features that are all but one have a singular block; the second of them gains nothing.
        inner = inner + floor * 1e-6 * torch.eye(count, dtype=inner.dtype, device=inner.device)
        factor = torch.linalg.cholesky_ex(inner)[0]
        unit = torch.linalg.solve_triangular(factor, along, upper=False)
        share = torch.linalg.solve_triangular(factor, torch.gather(covariance, 1, js)[:, :, None], upper=False)
        marginal = 0.5 * place.positions * share[:, :, 0].square() / f
        rounds.append((columns[js], torch.where(best > 0, marginal, torch.zeros_like(marginal))))
        covariance = covariance - (unit * share).sum(dim=1)
        variance = (variance - unit.square().sum(dim=1)).clamp(min=0)
        known[:, :, before + rank : before + rank + count] = unit.mT
        rank += count
    if not rounds:
        return []
    chosen, gained = (torch.cat(parts, dim=1) for parts in zip(*rounds, strict=True))
    at, ranks = torch.nonzero(gained > 0, as_tuple=True)
    return list(
        zip(rows[at].tolist(), chosen[at, ranks].tolist(), gained[at, ranks].tolist(), ranks.tolist(), strict=True)
    )


def edge_noise(choices: int, samples: int) -> float:
    """Nats that the best of so many edges gains on pure noise, but for FALSE_PROMISES: the maximum of χ²₁, over 2n.

    Each gain is half the square of a normal of variance 1/n.
    """
    alone = -math.expm1(math.log1p(-FALSE_PROMISES) / max(choices, 1))
    return float(special.ndtri(alone / 2)) ** 2 / (2 * samples)
