"""New channels: kernels drawn at random and tried out, where the positions of a picture share a layer's weights.

What a channel feeds onwards has passed normalisation and pooling, so no closed form gives its kernel. Instead the
network is widened by many drawn kernels that send nothing on, one pass shows what each would feed to its consumer, and
the same regression that scores edges scores them.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from search_spaces import surgery
from search_spaces.actions import Spoke, Unit, Widen
from tournaments.candidate import Candidate
from tournaments.edges import ChosenEdge, choose_edges
from tournaments.findings import Findings
from tournaments.growing import cost_of, counts
from tournaments.place import RIDGE, PlaceStatistics, residual

DRAWN = 32
NOISE_DRAWS = 3
ROWS = 2**16
"""Samples times positions that scoring looks at: a large picture needs fewer samples."""

BIASES = (-0.5, 0.0, 0.5)
NOISE_MARGIN = 0.6
"""As in `growing`, for given features: what the best of many edges gains on noise varies less."""


def channels(findings: Findings) -> list[Candidate]:
    """The drawn kernels whose channels gain most, with the edges that carry it."""
    layers = [p.layer for p in findings.places.values() if "Widen" in p.grows and p.positions != 1]
    return [candidate for layer in layers for candidate in channels_at(findings, layer)]


def channels_at(findings: Findings, layer: str) -> list[Candidate]:
    """The same for one layer: many small channels, and few large ones."""
    consumers = findings.consumers(layer)

    def make() -> list[Candidate]:
        return [c for count in counts(findings) for c in _channels(findings, layer, consumers[0], count)]

    return findings.once(f"channels {layer}", make) if len(consumers) == 1 else []


def _channels(findings: Findings, layer: str, consumer: str, count: int) -> list[Candidate]:
    """At most one candidate: up to `count` channels for the whole budget."""
    own = findings.own_parameters(layer)
    per = findings.grow // count - own
    if per < 2:
        return []
    columns = [(s, j) for s in findings.sources(layer) for j in range(findings.mask(s, layer).shape[1])]
    fan_in = min(len(columns), max(1, per // 3))
    kernels = _kernels(findings, layer, columns, fan_in, findings.draw(f"channels {layer} {count}"))
    stats, noise = _consumed(findings, layer, consumer, kernels)
    left = residual(stats)
    reach = findings.reach(layer, consumer)
    fan_out = min(per - fan_in, reach * len(stats.C[0]))

    def best(units: list[int], budget: int) -> list[ChosenEdge]:
        allowed = torch.zeros_like(stats.present)
        for unit in units:
            allowed[:, unit * reach : (unit + 1) * reach] = True
        return choose_edges(stats, left, allowed, budget)

    alone = [sum(e.gain for e in best([unit], fan_out)) for unit in range(len(kernels))]
    chosen = sorted(range(len(kernels)), key=lambda unit: (-alone[unit], unit))[:count]
    edges = best(chosen, fan_out * count)
    units = []
    for number in chosen:
        sent = [e for e in edges if e.column // reach == number]
        spokes = tuple(Spoke(consumer, e.row * reach + e.column % reach, e.value) for e in sent)
        if spokes:
            units.append(dataclasses.replace(kernels[number], fan_out=spokes))
    if not units:
        return []
    cost = cost_of(findings, layer, units)
    reason = f"the best {len(units)} of {len(kernels)} drawn channels for {consumer}"
    gains = [e.gain for e in edges]
    action = Widen(layer, tuple(units))
    return [Candidate((action,), "channels", reason, cost, sum(max(g - noise, 0.0) for g in gains), sum(gains))]


def _kernels(
    findings: Findings, layer: str, columns: list[tuple[str, int]], fan_in: int, rng: np.random.Generator
) -> list[Unit]:
    """Sparse kernels whose pre-activations have mean 0 and variance 1, so that a normalisation finds nothing to do."""
    stats = findings.statistics(layer)
    offsets = {source: first for source, (first, _) in stats.columns.items()}
    A, units = stats.A.double().cpu(), []
    for _ in range(DRAWN):
        picked = [columns[int(i)] for i in rng.choice(len(columns), fan_in, replace=False)]
        at = torch.tensor([offsets[s] + j for s, j in picked])
        weights = torch.from_numpy(rng.standard_normal(fan_in))
        mean = A[-1, at]
        if fan_in > 1:
            weights = weights - mean * (weights @ mean) / (mean @ mean).clamp(min=1e-12)
        spread = (weights @ A[at][:, at] @ weights - (weights @ mean) ** 2).clamp(min=1e-12).sqrt()
        bias = BIASES[int(rng.integers(len(BIASES)))]
        spokes = tuple(Spoke(s, j, w) for (s, j), w in zip(picked, (weights / spread).tolist(), strict=True))
        units.append(Unit(spokes, (), bias))
    return units


@torch.no_grad()
def _consumed(findings: Findings, layer: str, consumer: str, kernels: list[Unit]) -> tuple[PlaceStatistics, float]:
    """Statistics of the consumer's place over what the kernels would feed it, its present features regressed out, and
    the nats that the best of their edges gains on pure noise.
    """
    network, positions = findings.network, findings.places[consumer].positions
    samples = min(findings.evidence.samples, max(ROWS // positions, 64))
    silent = tuple(dataclasses.replace(unit, fan_out=(Spoke(consumer, 0, 0.0),)) for unit in kernels)
    probe, _ = surgery.apply(network, (Widen(layer, silent),))
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return value

    probe.eval()(findings.evidence.x[:samples], tap)
    fresh = seen[f"act:{layer}"][:, network.axis_sizes()[layer] :]
    H = network.lift(layer, consumer, fresh).flatten(0, 1)
    rows = len(H)
    G = findings.statistics(consumer).G[:rows]
    used = [
        findings.features(s, consumer)[:rows][:, findings.mask(s, consumer).any(dim=0)]
        for s in findings.sources(consumer)
    ]
    known = torch.cat([*used, torch.ones(rows, 1, dtype=H.dtype, device=H.device)], dim=1).double()
    inner = known.t() @ known
    inner.diagonal().add_(1e-5 * float(inner.diagonal().mean()))
    free = (H.double() - known @ torch.linalg.solve(inner, known.t() @ H.double())).to(H.dtype)
    width = free.shape[1]
    A = torch.zeros(width + 1, width + 1, dtype=H.dtype, device=H.device)
    A[:-1, :-1] = free.t() @ free / rows
    A.diagonal()[:-1].add_(RIDGE * H.var(dim=0).mean())
    A[-1, -1] = 1.0
    C = torch.cat([free.t() @ G / rows, torch.zeros(1, G.shape[1], dtype=G.dtype, device=G.device)])
    present = torch.zeros(G.shape[1], width + 1, dtype=torch.bool, device=H.device)
    present[:, -1] = True
    F = findings.statistics(consumer).F
    stats = PlaceStatistics(consumer, {layer: (0, width)}, A, C, F, G, present, samples, positions)
    return stats, _noise(stats, free, findings.draw(f"noise of channels {layer}"))


def _noise(stats: PlaceStatistics, free: Tensor, rng: np.random.Generator) -> float:
    """What the best edge gains on gradients whose signs are drawn, sample by sample.

    A rectified channel may respond to few samples, so that its gains have longer tails than χ².
    """
    most = 0.0
    for _ in range(NOISE_DRAWS):
        signs = torch.from_numpy(rng.choice((-1.0, 1.0), (stats.samples, 1))).to(free)
        C = free.t() @ (stats.G * signs.repeat_interleave(stats.positions, dim=0)) / len(free)
        gains = 0.5 * stats.positions * C.t().square() / (stats.A.diagonal()[:-1] * stats.f[:, None])
        most = max(most, float(gains.max()))
    return (math.sqrt(most) + NOISE_MARGIN / math.sqrt(2 * stats.samples)) ** 2
