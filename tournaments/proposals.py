"""Proposals: from findings to candidates. A proposer is one function, listed in PROPOSERS; here are those of edges.

Growth proposals spend about the same budget, or the ratio of gain to parameters would favour crumbs; each keeps the
values that its closed form gives, which `screening` then scales by a line search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from search_spaces.actions import Connect, Edge, Skip
from tournaments.candidate import Candidate
from tournaments.channels import channels
from tournaments.edges import ChosenEdge, choose_edges, edge_noise
from tournaments.findings import Findings
from tournaments.growing import clone, drawn, insert, widen
from tournaments.pruning import disconnect, narrow, weakest_edges

Proposer = Callable[[Findings], list[Candidate]]


def connect(findings: Findings) -> list[Candidate]:
    """The most gainful masked edges of the links that there are: of every place, and of all places together."""
    ranked, choices = _masked_edges(findings)
    candidates = [
        _connect(findings, layer, [item for item in ranked if item[0] == layer][: findings.grow], count)
        for layer, count in choices.items()
        if findings.grow and any(item[0] == layer for item in ranked)
    ]
    best = _most_gainful(ranked, findings.grow)
    if len({layer for layer, _ in best}) > 1:
        candidates.append(_connect(findings, "*", best, sum(choices.values())))
    return candidates


def _masked_edges(findings: Findings) -> tuple[list[tuple[str, ChosenEdge]], dict[str, int]]:
    """The best masked edges of each place, as many as may be added or exchanged, and among how many each chose."""
    return findings.once("masked edges", lambda: _find_masked_edges(findings, max(findings.grow, findings.trim // 2)))


def _find_masked_edges(findings: Findings, budget: int) -> tuple[list[tuple[str, ChosenEdge]], dict[str, int]]:
    ranked: list[tuple[str, ChosenEdge]] = []
    choices: dict[str, int] = {}
    for layer in findings.places:
        stats = findings.statistics(layer)
        allowed = findings.column_mask(layer, findings.sources(layer)) & ~stats.present
        if bool(allowed.any()):
            choices[layer] = int(allowed.sum())
            ranked += [(layer, edge) for edge in choose_edges(stats, findings.residual(layer), allowed, budget)]
    return ranked, choices


def _most_gainful(ranked: Sequence[tuple[str, ChosenEdge]], count: int) -> list[tuple[str, ChosenEdge]]:
    return sorted(ranked, key=lambda item: -item[1].gain)[:count]


def _connect(findings: Findings, site: str, edges: Sequence[tuple[str, ChosenEdge]], choices: int) -> Candidate:
    """choices: how many edges there were to choose from."""
    action = Connect(site, tuple(_edge(findings, layer, e) for layer, e in edges))
    chosen = [e for _, e in edges]
    where = "all places" if site == "*" else site
    reason = f"best {len(edges)} masked edges of {where}"
    predicted = _beyond_noise(findings, chosen, choices)
    return Candidate((action,), "connect", reason, len(edges), predicted, sum(e.gain for e in chosen))


def _beyond_noise(findings: Findings, chosen: Sequence[ChosenEdge], choices: int) -> float:
    """Nats that these edges gain beyond what the best of `choices` edges does on pure noise."""
    noise = edge_noise(choices, findings.evidence.samples)
    return sum(max(e.gain - noise, 0.0) for e in chosen)


def _edge(findings: Findings, layer: str, chosen: ChosenEdge) -> Edge:
    for source, (first, last) in findings.statistics(layer).columns.items():
        if first <= chosen.column < last:
            return Edge(f"{source}>{layer}", chosen.row, chosen.column - first, chosen.value)
    raise AssertionError("the constant's column is always present")


def skip(findings: Findings) -> list[Candidate]:
    """A link that jumps over layers, with its most gainful edges."""
    candidates = []
    for layer, place in findings.places.items():
        if "Skip" not in place.grows:
            continue
        for source in place.sources:
            if findings.linked(source, layer):
                continue
            allowed = findings.column_mask(layer, [source])
            chosen = choose_edges(findings.statistics(layer), findings.residual(layer), allowed, findings.grow)
            if chosen:
                candidates.append(
                    Candidate(
                        (Skip(f"{source}>{layer}", tuple(_edge(findings, layer, e) for e in chosen)),),
                        "skip",
                        f"{source} says more about {layer} than what lies between passes on",
                        len(chosen),
                        _beyond_noise(findings, chosen, int(allowed.sum())),
                        sum(e.gain for e in chosen),
                    )
                )
    return candidates


def rewire(findings: Findings) -> list[Candidate]:
    """The weakest edges out, as many of the most gainful in: the count stays."""
    removed = weakest_edges(findings, max(1, findings.trim // 2))
    if removed is None:
        return []
    count = len(removed.edges)
    ranked, choices = _masked_edges(findings)
    best = _most_gainful(ranked, count)
    if len(best) < count:
        return []
    added = Connect("*", tuple(_edge(findings, layer, e) for layer, e in best))
    chosen = [e for _, e in best]
    predicted = _beyond_noise(findings, chosen, sum(choices.values())) - removed.loss
    reason = f"{count} weakest edges for as many better ones"
    raw = sum(e.gain for e in chosen) - removed.loss
    return [Candidate((removed.action, added), "rewire", reason, 0, predicted, raw)]


PROPOSERS: Mapping[str, Proposer] = {
    "connect": connect,
    "skip": skip,
    "widen": widen,
    "channels": channels,
    "insert": insert,
    "clone": clone,
    "drawn": drawn,
    "narrow": narrow,
    "disconnect": disconnect,
    "rewire": rewire,
}
