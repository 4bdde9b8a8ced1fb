"""Hybrids: the best ideas of two proposers, each at half the budget, trialled as one candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from search_spaces import surgery
from tournaments.candidate import Candidate
from tournaments.channels import channels
from tournaments.connecting import connect, skip
from tournaments.findings import Findings
from tournaments.growing import insert, widen

PARTS: Mapping[str, Callable[[Findings], list[Candidate]]] = {
    "connect": connect,
    "skip": skip,
    "widen": widen,
    "channels": channels,
    "insert": insert,
}

PAIRS = (("connect", "widen"), ("widen", "skip"), ("connect", "channels"), ("connect", "insert"))


def hybrid(findings: Findings) -> list[Candidate]:
    """Two kinds of growth at once, as edges and units: the best candidates of two proposers at half the budget each.

    What they promise is added up, though each was scored as if it came alone.
    """
    half = findings.within(findings.grow // 2, findings.trim // 2)
    best = {name: _best(propose(half)) for name, propose in PARTS.items()} if half.grow else {}
    candidates = []
    for pair in PAIRS:
        parts = [found for found in map(best.get, pair) if found is not None]
        if len(parts) == len(pair):
            candidates += _together(findings, parts)
    return candidates


def _best(candidates: list[Candidate]) -> Candidate | None:
    return max(candidates, key=lambda c: (c.predicted, c.raw), default=None)


def _together(findings: Findings, parts: list[Candidate]) -> list[Candidate]:
    """At most one candidate: the parts one after the other, where that is legal and within the budget."""
    actions = tuple(action for part in parts for action in part.actions)
    try:
        after, _ = surgery.apply(findings.network, actions)
    except ValueError:
        return []
    cost = after.count() - findings.network.count()
    if cost > findings.grow:
        return []
    reason = "; ".join(part.reason for part in parts)
    return [Candidate(actions, "hybrid", reason, cost, sum(p.predicted for p in parts), sum(p.raw for p in parts))]
