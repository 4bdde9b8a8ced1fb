"""Proposals of edges: masked ones of the links that there are, and links that jump over layers.

Growth proposals spend about the same budget, or the ratio of gain to parameters would favour crumbs; each keeps the
values that its closed form gives, which `screening` then scales by a line search.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search_spaces.actions import Connect, Edge, Skip
from tournaments.candidate import Candidate
from tournaments.edges import ChosenEdge, choose_edges, edge_noise
from tournaments.findings import Findings

Ranked = Sequence[tuple[str, ChosenEdge]]
"""Edges with the layers that they lead into."""


def connect(findings: Findings) -> list[Candidate]:
    """The most gainful masked edges of the links that there are: of every place, and of all places together."""
    ranked, choices = masked_edges(findings)
    candidates = [
        _connect(findings, layer, [item for item in ranked if item[0] == layer][: findings.grow], count)
        for layer, count in choices.items()
        if findings.grow and any(item[0] == layer for item in ranked)
    ]
    best = most_gainful(ranked, findings.grow)
    if len({layer for layer, _ in best}) > 1:
        candidates.append(_connect(findings, "*", best, sum(choices.values())))
    return candidates


def masked_edges(findings: Findings) -> tuple[Ranked, dict[str, int]]:
    """The best masked edges of each place, as many as may be added or exchanged, and among how many each chose."""
    return findings.once("masked edges", lambda: _find_masked_edges(findings, max(findings.grow, findings.trim // 2)))


def _find_masked_edges(findings: Findings, budget: int) -> tuple[Ranked, dict[str, int]]:
    ranked: list[tuple[str, ChosenEdge]] = []
    choices: dict[str, int] = {}
    for layer in findings.places:
        stats = findings.statistics(layer)
        allowed = findings.column_mask(layer, findings.sources(layer)) & ~stats.present
        if bool(allowed.any()):
            choices[layer] = int(allowed.sum())
            ranked += [(layer, edge) for edge in choose_edges(stats, findings.residual(layer), allowed, budget)]
    return ranked, choices


def most_gainful(ranked: Ranked, count: int) -> Ranked:
    """The `count` edges that gain most, best first."""
    return sorted(ranked, key=lambda item: -item[1].gain)[:count]


def _connect(findings: Findings, site: str, edges: Ranked, choices: int) -> Candidate:
    """choices: how many edges there were to choose from."""
    action = Connect(site, tuple(edge_of(findings, layer, e) for layer, e in edges))
    chosen = [e for _, e in edges]
    where = "all places" if site == "*" else site
    reason = f"best {len(edges)} masked edges of {where}"
    predicted = beyond_noise(findings, chosen, choices)
    return Candidate((action,), "connect", reason, len(edges), predicted, sum(e.gain for e in chosen))


def beyond_noise(findings: Findings, chosen: Sequence[ChosenEdge], choices: int) -> float:
    """Nats that these edges gain beyond what the best of `choices` edges does on pure noise."""
    noise = edge_noise(choices, findings.evidence.samples)
    return sum(max(e.gain - noise, 0.0) for e in chosen)


def edge_of(findings: Findings, layer: str, chosen: ChosenEdge) -> Edge:
    """The chosen edge into `layer` as an action names it."""
    for source, (first, last) in findings.statistics(layer).columns.items():
        if first <= chosen.column < last:
            return Edge(f"{source}>{layer}", chosen.row, chosen.column - first, chosen.value)
    raise AssertionError("the constant's column is always present")


def connected(findings: Findings, edges: Sequence[Edge]) -> tuple[Connect | Skip, ...]:
    """Actions that switch these edges on: one Connect for the links that there are, a Skip for each of the others."""
    by_link: dict[str, list[Edge]] = {}
    for edge in edges:
        by_link.setdefault(edge.link, []).append(edge)
    there = [e for link, es in by_link.items() if findings.linked(*link.split(">")) for e in es]
    sites = {e.link.split(">")[1] for e in there}
    actions: list[Connect | Skip] = []
    if there:
        actions.append(Connect(next(iter(sites)) if len(sites) == 1 else "*", tuple(there)))
    actions += [Skip(link, tuple(es)) for link, es in by_link.items() if not findings.linked(*link.split(">"))]
    return tuple(actions)


def skip(findings: Findings) -> list[Candidate]:
    """A link that jumps over layers, with its most gainful edges."""
    candidates = []
    for layer, source in absent_links(findings):
        allowed = findings.column_mask(layer, [source])
        chosen = choose_edges(findings.statistics(layer), findings.residual(layer), allowed, findings.grow)
        if chosen:
            candidates.append(
                Candidate(
                    (Skip(f"{source}>{layer}", tuple(edge_of(findings, layer, e) for e in chosen)),),
                    "skip",
                    f"{source} says more about {layer} than what lies between passes on",
                    len(chosen),
                    beyond_noise(findings, chosen, int(allowed.sum())),
                    sum(e.gain for e in chosen),
                )
            )
    return candidates


def absent_links(findings: Findings) -> list[tuple[str, str]]:
    """(layer, source) of every link that a Skip could add."""
    return [
        (layer, source)
        for layer, place in findings.places.items()
        if "Skip" in place.grows
        for source in place.sources
        if not findings.linked(source, layer)
    ]


def random_edges(findings: Findings) -> list[Candidate]:
    """Masked edges drawn at random, for the whole budget, of value zero: what choosing by evidence is compared with."""
    open_: list[tuple[str, int, int]] = []
    for layer in findings.places:
        for source in findings.sources(layer):
            at = torch.nonzero(~findings.mask(source, layer)).tolist()
            open_ += [(f"{source}>{layer}", int(row), int(column)) for row, column in at]
    count = min(findings.grow, len(open_))
    if count < 1:
        return []
    picked = sorted(findings.draw("random edges").choice(len(open_), count, replace=False).tolist())
    edges = tuple(Edge(*open_[i]) for i in picked)
    return [Candidate((Connect("*", edges),), "random_edges", f"{count} masked edges, drawn at random", count, 0.0)]
