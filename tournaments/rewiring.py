"""Rewiring proposals: edges out, as many in; the count of parameters stays."""

from __future__ import annotations

from search_spaces.actions import Connect
from tournaments.candidate import Candidate
from tournaments.connecting import Ranked, beyond_noise, connected, edge_of, masked_edges, most_gainful
from tournaments.edges import ChosenEdge, choose_edges
from tournaments.findings import Findings
from tournaments.pruning import lightest_edges, weakest_edges

FORWARD = 2.0
"""An edge that jumps over a layer is taken where it gains half as much as one that does not."""


def rewire(findings: Findings) -> list[Candidate]:
    """The weakest edges out, as many of the most gainful in: the count stays."""
    removed = weakest_edges(findings, max(1, findings.trim // 2))
    if removed is None:
        return []
    count = len(removed.edges)
    ranked, choices = masked_edges(findings)
    best = most_gainful(ranked, count)
    if len(best) < count:
        return []
    added = Connect("*", tuple(edge_of(findings, layer, e) for layer, e in best))
    chosen = [e for _, e in best]
    predicted = beyond_noise(findings, chosen, sum(choices.values())) - removed.loss
    reason = f"{count} weakest edges for as many better ones"
    raw = sum(e.gain for e in chosen) - removed.loss
    return [Candidate((removed.action, added), "rewire", reason, 0, predicted, raw)]


def rewire_forward(findings: Findings) -> list[Candidate]:
    """As many edges as the network's size allows, forward skips preferred, for as many of least magnitude: the count
    stays.

    The number exchanged is `trim`, a share of the network's parameters. Edges that are some unit's last stay. A link
    that jumps over layers is added where there is none yet.
    """
    removed = lightest_edges(findings, findings.trim)
    if removed is None:
        return []
    depth = {layer: i for i, layer in enumerate(("input", *findings.places))}
    ranked, choices = _forward_edges(findings)

    def preferred(layer: str, source: str) -> float:
        return FORWARD if depth[layer] - depth[source] > 1 else 1.0

    named = [(edge_of(findings, layer, chosen), chosen) for layer, chosen in ranked]
    ends = [(edge.link.partition(">")[2], edge.link.partition(">")[0]) for edge, _ in named]
    order = sorted(range(len(named)), key=lambda i: -named[i][1].gain * preferred(*ends[i]))
    best = sorted(order[: len(removed.edges)])
    count = len(removed.edges)
    if len(best) < count:
        return []
    added = connected(findings, [named[i][0] for i in best])
    chosen = [named[i][1] for i in best]
    predicted = beyond_noise(findings, chosen, choices) - removed.loss
    jumps = sum(preferred(*ends[i]) > 1 for i in best)
    reason = f"{count} edges of least magnitude for as many new ones, {jumps} of them forward skips"
    raw = sum(e.gain for e in chosen) - removed.loss
    return [Candidate((removed.action, *added), "rewire_forward", reason, 0, predicted, raw)]


def _forward_edges(findings: Findings) -> tuple[Ranked, int]:
    """The best absent edges of each place from every layer that may feed it, and among how many they were chosen."""
    ranked: list[tuple[str, ChosenEdge]] = []
    choices = 0
    for layer, place in findings.places.items():
        stats = findings.statistics(layer)
        sources = [s for s in place.sources if findings.linked(s, layer) or "Skip" in place.grows]
        allowed = findings.column_mask(layer, sources) & ~stats.present
        choices += int(allowed.sum())
        ranked += [(layer, e) for e in choose_edges(stats, findings.residual(layer), allowed, findings.trim)]
    return ranked, choices
