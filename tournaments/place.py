"""A place: the statistics of a layer's pre-activations and of every feature that might feed it, and what they predict.

Notation: H (r, p) features of all earlier layers, G (r, q) negative gradients, r = samples x positions; A = HᵀH/r,
C = HᵀG/r, f = diagonal of the Fisher matrix F. A second-order expansion with curvature A ⊗ F says that giving row k the
feature j gains ½·c²/(v·f_k) nats, where c and v are covariance and variance after row k's present features are
regressed out (DESIGN, "Screening"; after Verbockhaven 2024, whose score lacks the metric F).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.network import Network, Place
from tournaments.evidence import Evidence

RIDGE = 1e-3


class GramCache:
    """A of features that do not change while the evidence samples do not: the input's."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def gram(self, key: str, x: Tensor, h: Tensor) -> Tensor:
        """hᵀh/r for h (r, p), which is made of x alone; computed once for each x that stands under `key`.

        x is held, so that no other tensor can take its place in memory, and be taken for it.
        """
        found = self._kept.get(key)
        if found is None or found[0] is not x or found[1].shape[0] != h.shape[1]:
            found = (x, h.t() @ h / len(h))
            self._kept[key] = found
        return found[1]


@dataclass(frozen=True)
class PlaceStatistics:
    """layer: the place. columns: source layer -> (first, past last) column of A, whose last one is the constant 1.

    A: (p+1, p+1), C: (p+1, q), F: (q, q), G: (r, q). present: (q, p+1) bool, the edges that row k has (the constant:
    its bias). samples: n; positions: t, which multiplies every gain, as a picture's positions share one weight.
    """

    layer: str
    columns: dict[str, tuple[int, int]]
    A: Tensor
    C: Tensor
    F: Tensor
    G: Tensor
    present: Tensor
    samples: int
    positions: int

    @property
    def f(self) -> Tensor:
        """(q,) Fisher diagonal, kept off zero: a row without gradient would promise anything."""
        diagonal = self.F.diagonal()
        return diagonal + RIDGE * diagonal.mean() + 1e-12


def statistics(network: Network, place: Place, evidence: Evidence, cache: GramCache | None = None) -> PlaceStatistics:
    """Gram matrices of a place: one a place serves every candidate there."""
    cache = cache or GramCache()
    lifted: list[Tensor] = []
    columns: dict[str, tuple[int, int]] = {}
    at = 0
    for source in place.sources:
        h = network.lift(source, place.layer, evidence.activations[source]).flatten(0, 1)
        lifted.append(h)
        columns[source] = (at, at + h.shape[1])
        at += h.shape[1]
    G = network.lower(place.layer, evidence.gradients[place.layer]).flatten(0, 1)
    Gs = network.lower(place.layer, evidence.fisher[place.layer]).flatten(0, 1)
    rows = len(G)
    ones = torch.ones(rows, 1, dtype=G.dtype, device=G.device)
    lifted.append(ones)
    A = torch.empty(at + 1, at + 1, dtype=G.dtype, device=G.device)
    spans = [*columns.items(), ("1", (at, at + 1))]
    for i, (name, (a0, a1)) in enumerate(spans):
        for j in range(i + 1):
            _, (b0, b1) = spans[j]
            if i == j:
                if name == "input":
                    A[a0:a1, a0:a1] = cache.gram(place.layer, evidence.x, lifted[i])
                else:
                    A[a0:a1, a0:a1] = lifted[i].t() @ lifted[i] / rows
            else:
                block = lifted[i].t() @ lifted[j] / rows
                A[a0:a1, b0:b1] = block
                A[b0:b1, a0:a1] = block.t()
    C = torch.cat([h.t() @ G for h in lifted]) / rows
    present = torch.zeros(G.shape[1], at + 1, dtype=torch.bool, device=G.device)
    present[:, at] = True
    masks, buffers = network.masks(), dict(network.named_buffers())
    for source, (a0, a1) in columns.items():
        mask = masks.get(f"links.{source}>{place.layer}")
        if mask is not None:
            present[:, a0:a1] = buffers[mask].reshape(G.shape[1], -1).bool()
    typical = A.diagonal()[:-1].mean()
    # Features that are 0 throughout, such as those of dead units, say nothing, and must not break the factorisation.
    A.diagonal()[:-1].add_(RIDGE * torch.where(typical > 0, typical, torch.ones_like(typical)))
    positions = rows // evidence.samples
    F = Gs.t() @ Gs / rows
    if positions > 1:
        root = agreement(torch.cat(lifted[:-1], dim=1), Gs, evidence.samples).sqrt()
        F = root[:, None] * F * root[None, :]
    return PlaceStatistics(place.layer, columns, A, C, F, G, present, evidence.samples, positions)


def agreement(H: Tensor, G: Tensor, samples: int) -> Tensor:
    """(q,): by how much the curvature of a shared weight exceeds that of positions that know nothing of each other.

    H: (r, p), G: (r, q). The slope of a sample's loss is a sum over its positions; where their features and gradients
    are alike its square is larger than the sum of squares, which A ⊗ F stands for.
    """
    positions = len(H) // samples
    centred = (H - H.mean(dim=0)).view(samples, positions, -1)
    g = G.view(samples, positions, -1)
    together = torch.zeros(H.shape[1], G.shape[1], dtype=H.dtype, device=H.device)
    for first in range(0, samples, 256):
        part = slice(first, first + 256)
        together += (centred[part].mT @ g[part]).square().sum(dim=0)
    apart = centred.square().sum() * G.square().mean(dim=0)
    return together.sum(dim=0) / apart.clamp(min=1e-30)


@dataclass(frozen=True)
class Residual:
    """What is left of every feature and gradient once each row's present features are regressed out.

    covariance, variance: (q, p+1). basis: (q, p+1, s), with basis·basisᵀ = the part of A that is explained.
    """

    covariance: Tensor
    variance: Tensor
    basis: Tensor


def residual(place: PlaceStatistics) -> Residual:
    """One batched factorisation over the rows, padded to the largest number of present features."""
    q, width = place.present.shape
    counts = place.present.sum(dim=1)
    most = int(counts.max())
    # Sorted by presence, each row's present columns come first; those past its count are padding.
    chosen = torch.argsort(place.present.int(), dim=1, descending=True, stable=True)[:, :most]
    real = torch.arange(most, device=counts.device)[None, :] < counts[:, None]
    inner = place.A[chosen[:, :, None], chosen[:, None, :]]
    both = real[:, :, None] & real[:, None, :]
    inner = torch.where(both, inner, torch.eye(most, dtype=inner.dtype, device=inner.device))
    cross = place.A[:, chosen].permute(1, 0, 2) * real[:, None, :]
    factor = cholesky(inner.double())
    basis = torch.linalg.solve_triangular(factor.transpose(1, 2), cross.double(), upper=True, left=False)
    cov_present = (torch.gather(place.C.t(), 1, chosen) * real).double()
    explained = torch.linalg.solve_triangular(factor, cov_present[:, :, None], upper=False)
    covariance = place.C.t().double() - (basis @ explained)[:, :, 0]
    variance = place.A.diagonal().double()[None, :] - basis.square().sum(dim=2)
    assert covariance.shape == (q, width)
    return Residual(covariance, variance.clamp(min=0), basis)


def cholesky(inner: Tensor) -> Tensor:
    """Cholesky factors of (b, s, s). Single precision may leave a Gram matrix short of positive, as where a unit puts
    out a large constant: its diagonal then grows until it is not, for that matrix alone.
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(inner)
    more = 1e-6
    while bool(failed.any()):
        assert more < 1, "no Gram matrix has entries that are not finite"
        inner = inner + torch.diag_embed(more * (failed > 0)[:, None] * inner.diagonal(dim1=1, dim2=2))
        factor, failed = torch.linalg.cholesky_ex(inner)
        more *= 10
    return factor


@dataclass(frozen=True)
class Spectrum:
    """U: (p, k), V: (q, k) whitened directions, sigma: (k,). edge: the noise's largest σ². predicted: (k,) nats."""

    U: Tensor
    V: Tensor
    sigma: Tensor
    edge: float
    predicted: Tensor


def spectrum(place: PlaceStatistics, candidates: Tensor, regress: Tensor) -> Spectrum:
    """SVD of P = A^-½ (H⊥ᵀG⊥/n) F^-½ over the columns `candidates`, with the columns `regress` taken out.

    candidates, regress: (c,), (s,) int64 column indices. Predicted ΔMI of mode i: ½ max(σᵢ² − (√p+√q)²/n, 0), with the
    effective dimensions tr(A₀(A₀+λI)⁻¹). U holds A^-½ u: fan-in rows; V holds F^-½ v: fan-out.
    """
    A, C = place.A.double(), place.C.double()
    inner = torch.linalg.cholesky(A[regress][:, regress])
    cross = torch.linalg.solve_triangular(inner, A[regress][:, candidates], upper=False)
    cov = C[candidates] - cross.t() @ torch.linalg.solve_triangular(inner, C[regress], upper=False)
    left = A[candidates][:, candidates] - cross.t() @ cross
    ridge = RIDGE * float(place.A.diagonal()[:-1].mean())
    # A already holds the ridge once; regressing out may have used it up, so it is kept off zero here.
    left.diagonal().add_(1e-6 * ridge)
    F = place.F.double()
    f_ridge = RIDGE * F.diagonal().mean() + 1e-12
    F_reg = F + f_ridge * torch.eye(len(F), dtype=F.dtype, device=F.device)
    LA, LF = torch.linalg.cholesky(left), torch.linalg.cholesky(F_reg)
    P = torch.linalg.solve_triangular(LA, cov, upper=False)
    P = torch.linalg.solve_triangular(LF, P.t(), upper=False).t()
    u, s, vh = torch.linalg.svd(P, full_matrices=False)
    p_eff = len(left) - ridge * torch.linalg.inv(LA).square().sum()
    q_eff = len(F) - f_ridge * torch.linalg.inv(LF).square().sum()
    edge = float((p_eff.clamp(min=1).sqrt() + q_eff.clamp(min=1).sqrt()) ** 2 / place.samples)
    # The Cholesky factor whitens as the symmetric root does, up to a rotation: σ and the mapped directions agree.
    return Spectrum(
        U=torch.linalg.solve_triangular(LA.t(), u, upper=True),
        V=torch.linalg.solve_triangular(LF.t(), vh.t(), upper=True),
        sigma=s,
        edge=edge,
        predicted=0.5 * place.positions * (s.square() - edge).clamp(min=0),
    )
