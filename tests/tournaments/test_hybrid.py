"""Hybrids: two ideas in one candidate, within one budget."""

from __future__ import annotations

import pytest
from proposing import NETWORKS, findings

from search_spaces import surgery
from search_spaces.actions import Connect, Edge, Widen
from tournaments import hybrid
from tournaments.candidate import Candidate
from tournaments.connecting import connect
from tournaments.growing import widen


@pytest.mark.parametrize("name", NETWORKS)
def test_two_kinds_of_growth_share_the_budget_and_their_promises_add_up(name):
    seen = findings(name, grow=60)
    found = hybrid.hybrid(seen)
    assert found
    half = seen.within(30, 4)
    parts = [c for propose in hybrid.PARTS.values() for c in propose(half)]
    for candidate in found:
        assert len({type(a) for a in candidate.actions}) == 2
        after, _ = surgery.apply(seen.network, candidate.actions)
        assert after.count() - seen.network.count() == candidate.cost <= 60
        pairs = [(a, b) for a in parts for b in parts if (*a.actions, *b.actions) == candidate.actions]
        assert any(
            candidate.predicted == a.predicted + b.predicted and candidate.raw == a.raw + b.raw for a, b in pairs
        )


def test_of_each_kind_the_best_is_taken():
    seen = findings("two hidden layers", grow=60)
    half = seen.within(30, 4)
    first = next(c for c in hybrid.hybrid(seen) if {type(a) for a in c.actions} == {Connect, Widen})
    expected = [max(p(half), key=lambda c: (c.predicted, c.raw)) for p in (connect, widen)]
    assert first.actions == (*expected[0].actions, *expected[1].actions)


def test_what_cannot_be_done_together_is_not_proposed(monkeypatch):
    seen = findings("one hidden layer", grow=60)
    row, column = (~seen.mask("input", "hidden1")).nonzero()[0].tolist()
    same = Candidate((Connect("*", (Edge("input>hidden1", row, column),)),), "x", "the same edge", 1, 0.1, 0.1)
    monkeypatch.setattr(hybrid, "PARTS", {"connect": lambda f: [same], "skip": lambda f: [same]})
    monkeypatch.setattr(hybrid, "PAIRS", (("connect", "skip"),))
    assert hybrid.hybrid(seen) == []


def test_a_budget_that_cannot_be_halved_is_left_to_others():
    assert hybrid.hybrid(findings("one hidden layer", grow=1)) == []


def test_another_budget_shares_the_statistics_but_nothing_that_hangs_on_it():
    seen = findings("two hidden layers", grow=60)
    whole = connect(seen)
    half = seen.within(30, 4)
    assert half.statistics("output") is seen.statistics("output")
    assert (half.grow, half.trim, seen.grow, seen.trim) == (30, 4, 60, 8)
    assert max(c.cost for c in connect(half)) == 30
    assert connect(seen) == whole
    alone = findings("two hidden layers", grow=30, trim=4)
    assert connect(half) == connect(alone)
