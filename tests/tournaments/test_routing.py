"""Routing from high to low units: each limit by itself, and what the proposer makes of them."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from proposing import findings

from search_spaces.actions import Connect, Skip
from search_spaces.randomness import keyed
from tournaments.extremes.found import extremes
from tournaments.extremes.routing import FAN_IN, FAN_OUT, RADIUS, RECIPROCITY, Route, route, routes


def crowd(layers=6, units=12):
    """Every pair of a high unit (even slots) and a low one (odd) in a later layer, and the other way round."""
    rng = keyed("routes")
    forward, reverse = [], []
    for a, b in itertools.combinations(range(layers), 2):
        for i, j in itertools.product(range(0, units, 2), range(1, units, 2)):
            forward.append(Route((a, i), (b, j), float(rng.random())))
            reverse.append(Route((a, j), (b, i), float(rng.random())))
    return forward, reverse


def chosen(budget=10_000, **limits):
    forward, reverse = crowd()
    return routes(forward, reverse, budget, **limits)


def test_no_route_leads_further_than_the_radius():
    assert max(r.target[0] - r.source[0] for r in chosen()) == RADIUS == 3
    assert {r.target[0] - r.source[0] for r in chosen(radius=1)} == {1}


def test_no_unit_sends_more_than_the_fan_out():
    assert max(Counter(r.source for r in chosen()).values()) == FAN_OUT == 4
    assert max(Counter(r.source for r in chosen(fan_out=2)).values()) == 2


def test_no_unit_receives_more_than_the_fan_in():
    assert max(Counter(r.target for r in chosen(fan_out=100)).values()) == FAN_IN == 5
    assert max(Counter(r.target for r in chosen(fan_out=100, fan_in=1)).values()) == 1


@pytest.mark.parametrize("budget", [1, 4, 5, 9, 10, 50])
def test_a_fifth_leads_the_other_way_round(budget):
    found = chosen(budget)
    assert len(found) == budget
    backward = [r for r in found if r.source[1] % 2]
    assert len(backward) == int(RECIPROCITY * budget)


def test_reciprocity_is_an_argument():
    assert not [r for r in chosen(40, reciprocity=0.0) if r.source[1] % 2]
    assert len([r for r in chosen(40, reciprocity=0.5) if r.source[1] % 2]) == 20


def test_the_other_way_round_leaves_only_units_that_a_route_leads_to():
    led_to = set()
    for r in chosen():
        if r.source[1] % 2:
            assert r.source in led_to
        led_to.add(r.target)


def test_the_most_gainful_routes_come_first():
    forward, _ = crowd()
    best = max((r for r in forward if r.target[0] - r.source[0] <= RADIUS), key=lambda r: r.gain)
    assert chosen(1) == [best]
    assert routes(forward[::-1], [], 30) == routes(forward, [], 30)


def test_no_pairs_no_routes():
    assert routes([], [Route((1, 1), (2, 0), 1.0)], 5) == []
    assert chosen(0) == []


@pytest.mark.parametrize("grow", [5, 30])
def test_the_proposer_joins_high_units_to_low_ones_within_the_limits(grow):
    seen = findings("extremes", grow=grow)
    (candidate,) = route(seen)
    names, found = ["input", *seen.places], extremes(seen)
    sent, received, backward = Counter(), Counter(), 0
    edges = [e for a in candidate.actions for e in a.edges]
    assert all(isinstance(a, Connect | Skip) for a in candidate.actions)
    for edge in edges:
        source, target = edge.link.split(">")
        assert names.index(target) - names.index(source) <= RADIUS
        sent[source, edge.column] += 1
        received[target, edge.row] += 1
        if edge.column in found[source].high:
            assert edge.row in found[target].low
        else:
            assert edge.column in found[source].low
            assert edge.row in found[target].high
            backward += 1
    assert max(sent.values()) <= FAN_OUT
    assert max(received.values()) <= FAN_IN
    assert backward <= RECIPROCITY * len(edges)
    assert len(edges) == candidate.cost <= grow
    assert candidate.raw > 0
    assert all(torch.isfinite(torch.tensor(e.value)) for e in edges)


def test_where_nothing_is_high_or_low_nothing_is_routed():
    for network in ("one hidden layer", "two hidden layers", "one channel layer", "channels and hidden"):
        assert route(findings(network)) == []
    assert route(findings("extremes", grow=0)) == []
