"""Removal proposals: a whole hidden layer out, what it said passed on by edges that jump over it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from search_spaces import surgery
from search_spaces.actions import Edge, Narrow, Remove
from tournaments.candidate import Candidate
from tournaments.connecting import connected, edge_of
from tournaments.edges import choose_edges
from tournaments.findings import Findings
from tournaments.place import residual


def remove(findings: Findings) -> list[Candidate]:
    """A hidden layer out; from its sources to its consumers come the edges that do most of what it did.

    The edges are a regression of what each consumer's row got from the layer, as many as keep what is taken away within
    `trim`; means are folded into the consumers' biases. Predicted is what the rest of the regression loses, in nats.
    """
    return [
        candidate
        for layer, place in findings.places.items()
        if "Remove" in place.grows and findings.trim
        for candidate in _without(findings, layer)
    ]


def _without(findings: Findings, layer: str) -> list[Candidate]:
    """At most one candidate."""
    freed = int(findings.held(layer).sum())
    budget = max(freed - findings.trim, 0)
    found = [item for t in findings.consumers(layer) for item in _instead(findings, layer, t, budget)]
    edges = [edge for _, edge in sorted(found, key=lambda item: -item[0])[:budget]]
    edges += _missing(findings, layer, edges)
    if not budget <= len(edges) <= freed:
        return []
    narrow, loss = _folded(findings, layer, edges)
    actions = [*connected(findings, edges), *narrow, Remove(layer)]
    cost = surgery.apply(findings.network, actions)[0].count() - findings.network.count()
    reason = f"{layer} passes on {loss:.2g} nats more than {len(edges)} edges that jump over it do"
    return [Candidate(tuple(actions), "remove", reason, cost, -loss, -loss, exact=True)]


def _sent(findings: Findings, layer: str, target: str) -> Tensor:
    """(n, q): what the rows of `target` get from `layer`."""
    return findings.features(layer, target) @ findings.weight(layer, target).t()


def _instead(findings: Findings, layer: str, target: str, budget: int) -> list[tuple[float, Edge]]:
    """Up to `budget` absent edges from the layer's sources into `target`, with the nats that each saves."""
    if budget < 1:
        return []
    stats = findings.statistics(target)
    allowed = findings.column_mask(target, findings.sources(layer)) & ~stats.present
    sent = _sent(findings, layer, target)
    H = torch.cat([findings.features(s, target) for s in stats.columns], dim=1)
    H = torch.cat([H, torch.ones(len(H), 1, dtype=H.dtype, device=H.device)], dim=1)
    # A gradient of f·sent is one whose closed form gives `sent` back. Nothing else moves when the layer goes.
    alone = torch.zeros_like(stats.present)
    alone[:, -1] = True
    wanted = dataclasses.replace(stats, C=H.t() @ (sent * stats.f) / len(H), present=alone)
    chosen = choose_edges(wanted, residual(wanted), allowed, budget)
    return [(e.gain, edge_of(findings, target, e)) for e in chosen]


def _missing(findings: Findings, layer: str, edges: list[Edge]) -> list[Edge]:
    """One edge, of value zero, into each consumer that would be left without any link."""
    fed = {edge.link.partition(">")[2] for edge in edges}
    source = findings.sources(layer)[0]
    bare = [t for t in findings.consumers(layer) if findings.sources(t) == [layer] and t not in fed]
    return [Edge(f"{source}>{t}", 0, 0, 0.0) for t in bare]


def _folded(findings: Findings, layer: str, edges: list[Edge]) -> tuple[list[Narrow], float]:
    """A Narrow to one unit whose folds leave the consumers' rows their means, and the nats lost without the layer.

    Loss: half the second moment of what each row misses, in the metric of its place.
    """
    consumers = findings.consumers(layer)
    misses, weights, spans = [], [], []
    for target in consumers:
        missing = _sent(findings, layer, target).double()
        for edge in edges:
            source, _, into = edge.link.partition(">")
            if into == target:
                missing[:, edge.row] -= edge.value * findings.features(source, target)[:, edge.column].double()
        misses.append(missing)
        weights.append(findings.weight(layer, target).double() * findings.mask(layer, target))
        spans.append(findings.statistics(target).f.double())
    if not misses:
        return [], 0.0
    missing, weight, f = torch.cat(misses, dim=1), torch.cat(weights), torch.cat(spans)
    narrow: list[Narrow] = []
    units = weight.shape[1]
    if units > 1:
        # A layer keeps one unit until it is removed: the one that its consumers hear least of.
        last = int(weight.square().sum(dim=0).argmin())
        slots = tuple(slot for slot in range(units) if slot != last)
        folds = np.linalg.lstsq(weight[:, slots].cpu().numpy(), missing.mean(dim=0).cpu().numpy(), rcond=1e-6)[0]
        narrow = [Narrow(layer, slots, tuple(float(v) for v in folds))]
        missing = missing - (weight[:, slots] @ torch.from_numpy(folds).to(weight))
    return narrow, 0.5 * float((missing.square().mean(dim=0) * f).sum())
