"""Random edges, with which a choice by evidence is compared; what the chosen ones promise is in test_proposals."""

from __future__ import annotations

import pytest
from proposing import NETWORKS, findings

from search_spaces.actions import Connect
from tournaments.connecting import absent_links, random_edges


@pytest.mark.parametrize("name", NETWORKS)
def test_random_edges_spend_the_budget_on_masked_edges_of_value_zero(name):
    (candidate,) = random_edges(findings(name, grow=10))
    (action,) = candidate.actions
    assert isinstance(action, Connect)
    assert candidate.cost == len(set(action.edges)) == 10
    assert (candidate.predicted, candidate.raw) == (0.0, 0.0)
    assert all(e.value == 0.0 for e in action.edges)


def test_every_masked_edge_may_be_drawn_and_no_place_is_favoured():
    seen = findings("two hidden layers", grow=8)
    open_ = {
        (f"{s}>{t}", row, column)
        for t in seen.places
        for s in seen.sources(t)
        for row, column in (~seen.mask(s, t)).nonzero().tolist()
    }
    counts = dict.fromkeys(open_, 0)
    for draw in range(400):
        (candidate,) = random_edges(findings("two hidden layers", grow=8, key=f"draw {draw}"))
        for e in candidate.actions[0].edges:
            counts[e.link, e.row, e.column] += 1
    expected = 400 * 8 / len(open_)
    assert min(counts.values()) > 0.4 * expected
    assert max(counts.values()) < 1.8 * expected


def test_links_that_a_skip_could_add_are_those_that_are_missing():
    assert absent_links(findings("two hidden layers")) == [
        ("hidden2", "input"),
        ("output", "input"),
        ("output", "hidden1"),
    ]
    assert absent_links(findings("two channel layers")) == []
