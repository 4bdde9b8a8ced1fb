"""A pool of possible new units, scored exactly as features: what would φ(w·h + b) add to the places it feeds?

Directions w come from the closed form (SVD of the whitened covariance of features and gradients), from random mixtures
of the gradients, from mixtures seen only on a random half of the samples (a linear screening is blind to features that
help jointly, as in XOR), and at random. Each is made sparse by orthogonal matching pursuit.

r rows (samples x positions), p source columns, m pool units, c fan-in, q rows of the consumers together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

QUANTILES = (0.25, 0.5, 0.7)


@dataclass(frozen=True)
class Pool:
    """columns: (m, c) int64 source columns, weights: (m, c), bias: (m,), outputs: (r, m) float32 after φ."""

    columns: Tensor
    weights: Tensor
    bias: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class PooledUnit:
    """A unit that was picked: which of the pool, the consumers' rows it feeds and with what, nats gained by each."""

    unit: int
    rows: tuple[int, ...]
    values: tuple[float, ...]
    gains: tuple[float, ...]


def targets(G: Tensor, f: Tensor, count: int, rng: np.random.Generator, gates: Tensor) -> Tensor:
    """(r, m): mixtures of the whitened gradients that a unit might explain; odd ones are seen on a gate's half only.

    G: (r, q), f: (q,), gates: (r, g) float 0/1. The first are the gradients' own principal mixtures.
    """
    white = G / f.sqrt()
    _, _, vh = torch.linalg.svd(white.t() @ white / len(G))
    mix = torch.from_numpy(rng.standard_normal((count, G.shape[1]))).to(G)
    lead = min(len(vh), count // 4)
    mix[:lead] = vh[:lead]
    mix = mix / mix.norm(dim=1, keepdim=True)
    wanted = white @ mix.t()
    half = torch.arange(count, device=G.device) % 2 == 1
    chosen = torch.from_numpy(rng.integers(0, gates.shape[1], count)).to(G.device)
    gated = torch.where(half[None, :], gates[:, chosen] * wanted, wanted)
    return gated - gated.mean(dim=0)


def random_gates(H: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """(r, count) float 0/1: on which side of a random feature's mean each row lies."""
    spread = H.std(dim=0)
    useful = torch.nonzero(spread > 1e-6).view(-1)
    if not len(useful):
        # Constant features have no sides: the gates let everything pass.
        return torch.ones(len(H), count, dtype=H.dtype, device=H.device)
    picked = useful[torch.from_numpy(rng.integers(0, len(useful), count)).to(H.device)]
    return (H[:, picked] > H[:, picked].mean(dim=0)).to(H.dtype)


def pursue(A: Tensor, cov: Tensor, fan_in: int, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit of m targets at once: columns (m, c) and least-squares weights (m, c).

    A: (p, p) centred Gram of the features, cov: (m, p) their covariance with each target, allowed: (p,) bool.
    """
    m, p = cov.shape
    fan_in = min(fan_in, int(allowed.sum()))
    variance = A.diagonal().expand(m, p).clone()
    typical = A.diagonal()[allowed].mean()
    left = cov.clone()
    basis = torch.zeros(m, fan_in, p, dtype=A.dtype, device=A.device)
    columns = torch.zeros(m, fan_in, dtype=torch.int64, device=A.device)
    open_ = allowed.expand(m, p).clone()
    rows = torch.arange(m, device=A.device)
    for i in range(fan_in):
        usable = open_ & (variance > 0.01 * typical)
        # A column that is all but explained comes after every usable one, and one that was taken never again.
        gain = torch.where(usable, left.square() / variance.clamp(min=1e-12), open_.to(A.dtype) - 2.0)
        j = gain.argmax(dim=1)
        columns[:, i] = j
        open_[rows, j] = False
        along = A[j] - (basis[:, :i] * basis[rows, :i, j][:, :, None]).sum(dim=1)
        root = along[rows, j].clamp(min=1e-6 * float(typical)).sqrt()
        unit = along / root[:, None]
        basis[:, i] = unit
        left = left - unit * (left[rows, j] / root)[:, None]
        variance = (variance - unit.square()).clamp(min=0)
    inner = A[columns[:, :, None], columns[:, None, :]]
    inner = inner + 1e-3 * typical * torch.eye(fan_in, dtype=A.dtype, device=A.device)
    weights = torch.linalg.solve(inner, torch.gather(cov, 1, columns)[:, :, None])[:, :, 0]
    return columns, weights


def make_pool(
    H: Tensor,
    A: Tensor,
    wanted: Tensor,
    fan_in: int,
    activation: Callable[[Tensor], Tensor],
    signed: bool,
    allowed: Tensor,
    random: int,
    rng: np.random.Generator,
    fitted: Tensor | None = None,
) -> Pool:
    """Units towards each target in `wanted` (r₀, m₀), both signs and several thresholds, and `random` random ones.

    H: (r, p) source features that outputs are made of, A: (p, p) their centred Gram. fitted: (r₀, p) those on the rows
    of `wanted`, H itself where none are given. signed: the activation is even enough that one sign does.
    """
    fitted = H if fitted is None else fitted
    columns, weights = pursue(A, wanted.t() @ fitted / len(fitted), fan_in, allowed)
    if random:
        usable = torch.nonzero(allowed).view(-1).cpu().numpy()
        drawn = np.stack([rng.choice(usable, columns.shape[1], replace=False) for _ in range(random)])
        columns = torch.cat([columns, torch.from_numpy(drawn).to(columns.device)])
        weights = torch.cat([weights, torch.from_numpy(rng.standard_normal(drawn.shape)).to(weights)])
    dense = torch.zeros(len(columns), H.shape[1], dtype=H.dtype, device=H.device)
    dense.scatter_(1, columns, weights.to(H.dtype))
    z = H @ dense.t()
    spread = z.std(dim=0).clamp(min=1e-9)
    z, weights = z / spread, weights.to(H.dtype) / spread[:, None]
    sample = z[:: max(1, len(z) // 128)]
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for sign in (1.0,) if signed else (1.0, -1.0):
        for threshold in torch.quantile(sign * sample, torch.tensor(QUANTILES, dtype=z.dtype, device=z.device), dim=0):
            parts.append((columns, sign * weights, -threshold))
    outputs = torch.cat([activation(sign * z + b) for sign, b in _signs(parts, signed)], dim=1)
    return Pool(
        torch.cat([c for c, _, _ in parts]),
        torch.cat([w for _, w, _ in parts]),
        torch.cat([b for _, _, b in parts]),
        outputs,
    )


def _signs(parts: Sequence[tuple[Tensor, Tensor, Tensor]], signed: bool) -> list[tuple[float, Tensor]]:
    per = len(QUANTILES)
    return [(1.0 if signed or i < per else -1.0, b) for i, (_, _, b) in enumerate(parts)]


def orthonormal(present: Tensor) -> Tensor:
    """(r, s): features in `present`'s span with mean product 1 of each with itself and 0 with the others."""
    # In double precision: the Gram matrix of many alike features is not positive in single.
    wide = present.double()
    inner = wide.t() @ wide / len(wide)
    inner.diagonal().add_(1e-5 * float(inner.diagonal().mean().clamp(min=1.0)))
    whiten: Tensor = torch.linalg.inv(torch.linalg.cholesky(inner)).t()
    spanned: Tensor = present @ whiten.to(present.dtype)
    return spanned


def pick_units(
    pool: Pool, basis: Tensor, G: Tensor, f: Tensor, positions: int, count: int, fan_out: int
) -> list[PooledUnit]:
    """Greedily the units that gain most, each with those before it regressed out.

    basis: (r, s) orthonormal features that the consumers have, the constant included; G: (r, q), f: (q,). Gain of unit
    u for row k: ½ t c²/(v f_k); a unit counts its `fan_out` best rows.
    """
    r = len(G)
    inside = basis.t() @ pool.outputs / r
    rest = G - basis @ (basis.t() @ G / r)
    raw = pool.outputs.square().mean(dim=0).clamp(min=1e-12)
    variance = raw - inside.square().sum(dim=0)
    cov = pool.outputs.t() @ rest / r
    done: list[tuple[Tensor, Tensor]] = []
    picked: list[PooledUnit] = []
    fan_out = min(fan_out, G.shape[1])
    for _ in range(count):
        gains = 0.5 * positions * cov.square() / (variance[:, None].clamp(min=1e-12) * f[None, :])
        gains = torch.where((variance > 0.02 * raw)[:, None], gains, torch.zeros_like(gains))
        top, rows = gains.topk(fan_out, dim=1)
        best = int(top.sum(dim=1).argmax())
        if float(top[best].sum()) <= 0:
            break
        values = cov[best, rows[best]] / (variance[best] * f[rows[best]])
        picked.append(PooledUnit(best, tuple(rows[best].tolist()), tuple(values.tolist()), tuple(top[best].tolist())))
        h = pool.outputs[:, best] - basis @ inside[:, best]
        for before, along in done:
            h = h - before * along[best]
        h = h / h.square().mean().sqrt()
        along = pool.outputs.t() @ h / r
        done.append((h, along))
        variance = (variance - along.square()).clamp(min=0)
        cov = cov - along[:, None] * (rest.t() @ h / r)[None, :]
    return picked


def promising(pool: Pool, basis: Tensor, G: Tensor, f: Tensor, fan_out: int, keep: int) -> Tensor:
    """(keep,) the pool's units that gain most each by itself, best first: what is worth a look on all samples."""
    r = len(G)
    variance = pool.outputs.square().mean(dim=0)
    raw = variance.clamp(min=1e-12)
    variance = variance - (basis.t() @ pool.outputs / r).square().sum(dim=0)
    cov = pool.outputs.t() @ (G - basis @ (basis.t() @ G / r)) / r
    gains = cov.square() / (variance[:, None].clamp(min=1e-12) * f[None, :])
    gains = torch.where((variance > 0.02 * raw)[:, None], gains, torch.zeros_like(gains))
    total = gains.topk(min(fan_out, G.shape[1]), dim=1).values.sum(dim=1)
    return total.topk(min(keep, len(total))).indices


def seen_on(pool: Pool, chosen: Tensor, H: Tensor, named: Tensor, activation: Callable[[Tensor], Tensor]) -> Pool:
    """The chosen units of a pool with their outputs on the rows of H: (r, p). named: (c,) H's columns by the pool's."""
    columns, weights, bias = named[pool.columns[chosen]], pool.weights[chosen], pool.bias[chosen]
    dense = torch.zeros(len(columns), H.shape[1], dtype=H.dtype, device=H.device)
    dense.scatter_(1, columns, weights)
    return Pool(columns, weights, bias, activation(H @ dense.t() + bias))
