"""Rewiring: the count stays, skips are preferred, nobody is left without an edge."""

from __future__ import annotations

import dataclasses

import pytest
from proposing import NETWORKS, ODD, findings

from search_spaces import surgery
from search_spaces.actions import Connect, Disconnect, Skip
from tournaments import rewiring
from tournaments.pruning import lightest_edges
from tournaments.rewiring import rewire_forward


def exchanged(candidate):
    (out, *into) = candidate.actions
    assert isinstance(out, Disconnect)
    assert all(isinstance(a, Skip | Connect) for a in into)
    return list(out.edges), [e for a in into for e in a.edges]


@pytest.mark.parametrize("network", [*NETWORKS, *ODD])
def test_as_many_come_as_go_and_the_count_stays(network):
    seen = findings(network, trim=6)
    for candidate in rewire_forward(seen):
        gone, new = exchanged(candidate)
        assert 0 < len(gone) == len(new) <= 6
        assert not {(e.link, e.row, e.column) for e in gone} & {(e.link, e.row, e.column) for e in new}
        after, _ = surgery.apply(seen.network, candidate.actions)
        assert after.count() == seen.network.count()


def test_the_number_exchanged_follows_the_share_of_the_network_that_may_go():
    numbers = [len(exchanged(rewire_forward(findings("skips", trim=trim))[0])[0]) for trim in (2, 5, 10)]
    assert numbers == [2, 5, 10]
    assert rewire_forward(findings("skips", trim=0)) == []


def test_those_of_least_magnitude_go_but_nobody_s_last():
    seen = findings("two hidden layers", trim=4)
    gone, _ = exchanged(rewire_forward(seen)[0])
    weights = {
        (f"{s}>{t}", row, column): abs(float(seen.weight(s, t)[row, column]))
        for t in seen.places
        for s in seen.sources(t)
        for row, column in seen.mask(s, t).nonzero().tolist()
    }
    taken = {(e.link, e.row, e.column) for e in gone}
    heaviest = max(weights[key] for key in taken)
    for (link, row, column), weight in weights.items():
        if weight < heaviest and (link, row, column) not in taken:
            source, target = link.split(">")
            last_in = sum(int(seen.mask(s, target)[row].sum()) for s in seen.sources(target))
            last_out = sum(int(seen.mask(source, t)[:, column].sum()) for t in seen.consumers(source))
            removed_in = sum(e.link.endswith(f">{target}") and e.row == row for e in gone)
            removed_out = sum(e.link.startswith(f"{source}>") and e.column == column for e in gone)
            assert last_in - removed_in == 1 or (source != "input" and last_out - removed_out == 1)


def test_edges_that_jump_are_preferred_to_others_that_gain_a_little_more(monkeypatch):
    def jumps(preference):
        monkeypatch.setattr(rewiring, "FORWARD", preference)
        seen = findings("two hidden layers", trim=12)
        depth = {layer: i for i, layer in enumerate(("input", *seen.places))}
        _, new = exchanged(rewire_forward(seen)[0])
        ends = [e.link.split(">") for e in new]
        return sum(depth[t] - depth[s] > 1 for s, t in ends)

    without, with_it, above_all = jumps(1.0), jumps(2.0), jumps(1e9)
    assert without <= with_it <= above_all == 12
    assert without < above_all


def test_a_link_that_is_missing_is_made():
    seen = findings("two hidden layers", trim=8)
    (candidate,) = rewire_forward(seen)
    made = [a for a in candidate.actions if isinstance(a, Skip)]
    assert made
    after, _ = surgery.apply(seen.network, candidate.actions)
    for action in made:
        assert f"links.{action.site}" not in seen.network.masks()
        assert f"links.{action.site}" in after.masks()


def test_what_is_promised_is_what_comes_less_what_goes():
    seen = findings("skips", trim=6)
    (candidate,) = rewire_forward(seen)
    losing = dataclasses.replace(candidate, actions=candidate.actions[:1])
    gone, _ = exchanged(losing)
    light = lightest_edges(seen, 6)
    assert light is not None
    assert set(light.edges) == set(gone)
    assert candidate.predicted <= candidate.raw
    assert candidate.raw + light.loss > 0
