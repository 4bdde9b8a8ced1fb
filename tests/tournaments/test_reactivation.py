"""Reactivation: units that do nothing come back with fan-in and fan-out, and the rest stays as it was."""

from __future__ import annotations

import pytest
import torch
from proposing import NETWORKS, ODD, convnet, findings, mlp

from search_spaces import surgery
from search_spaces.actions import Narrow, Widen
from search_spaces.randomness import keyed
from tournaments.evidence import collect
from tournaments.extremes.found import extremes
from tournaments.extremes.reactivation import lifeless, reactivate
from tournaments.findings import Findings
from tournaments.screening import scaled

LIFELESS = ("extremes", "switches", "unit and row without edges")


def parts(candidate):
    (widen,) = [a for a in candidate.actions if isinstance(a, Widen)]
    (narrow,) = [a for a in candidate.actions if isinstance(a, Narrow)]
    return widen, narrow


def test_units_that_lost_all_inputs_or_outputs_count_as_lifeless():
    seen = findings("extremes")
    assert 4 in lifeless(seen, "hidden1")  # reads nothing
    assert 4 in lifeless(seen, "hidden2")  # feeds nothing
    assert set(extremes(seen)["hidden1"].dead) <= set(lifeless(seen, "hidden1"))
    assert 2 in lifeless(findings("unit and row without edges"), "hidden1")
    assert lifeless(findings("one hidden layer"), "hidden1") == []


@pytest.mark.parametrize("network", LIFELESS)
def test_revived_units_are_alive_and_no_more_come_than_go(network):
    seen = findings(network)
    found = reactivate(seen)
    assert found
    for candidate in found:
        widen, narrow = parts(candidate)
        assert set(narrow.slots) <= set(lifeless(seen, widen.site))
        assert len(widen.units) == len(narrow.slots)
        after, _ = surgery.apply(seen.network, candidate.actions)
        assert after.axis_sizes() == seen.network.axis_sizes()
        evidence = collect(after, seen.evidence.x, seen.evidence.y, "classification", keyed("after"))
        now = Findings(after, evidence, 30, 8, seen.draw)
        units = after.axis_sizes()[widen.site]
        assert not set(range(units - len(widen.units), units)) & set(lifeless(now, widen.site))


@pytest.mark.parametrize("network", LIFELESS)
def test_one_candidate_keeps_the_count_of_parameters_and_one_may_grow(network):
    seen = findings(network)
    for layer in seen.places:
        costs = [c.cost for c in reactivate(seen) if parts(c)[0].site == layer]
        assert all(c <= seen.grow for c in costs)
        assert len(costs) <= 2
        assert len(costs) < 2 or costs[0] <= 0
    for candidate in reactivate(findings(network, grow=0)):
        assert -seen.trim <= candidate.cost <= 0


@pytest.mark.parametrize("network", LIFELESS)
def test_until_the_new_units_send_the_function_stays(network):
    seen = findings(network)
    before = seen.network(seen.evidence.x).detach()
    for candidate in reactivate(seen):
        after, _ = surgery.apply(seen.network, scaled(candidate.actions, 0.0))
        off = (after.eval()(seen.evidence.x).detach() - before).abs().amax(dim=1)
        # A unit that feeds nothing changes nothing; a dead one is its mean but for 1% of the samples.
        assert float(off.median()) < 1e-2 * float(before.std())


def test_a_layer_that_is_dead_as_a_whole_passes_on_again():
    network = mlp(6, 4).eval()
    with torch.no_grad():
        network.get_parameter("biases.hidden2").fill_(-50.0)
    known = findings("two hidden layers").evidence
    seen = Findings(
        network, collect(network, known.x, known.y, "classification", keyed("f")), 60, 8, lambda p: keyed(p)
    )
    assert float(network(known.x).detach().std(dim=0).max()) == 0.0
    found = reactivate(seen)
    assert found
    for candidate in found:
        after, _ = surgery.apply(network, candidate.actions)
        assert float(after.eval()(known.x).detach().std(dim=0).max()) > 0.1


def test_a_dead_channel_comes_back():
    network = convnet(3, 4)
    with torch.no_grad():
        network.get_parameter("norms.channel1.bias")[1] = -50.0
    x = torch.from_numpy(keyed("x").standard_normal((200, 64))).float()
    y = torch.from_numpy(keyed("y").integers(0, 3, 200))
    evidence = collect(network.eval(), x, y, "classification", keyed("f"))
    seen = Findings(network, evidence, 60, 8, lambda p: keyed(p))
    assert lifeless(seen, "channel1") == [1]
    found = reactivate(seen)
    assert found
    for candidate in found:
        after, _ = surgery.apply(network, candidate.actions)
        assert after.count() - network.count() == candidate.cost <= 60


def test_where_all_units_live_nothing_is_revived():
    for network in (*NETWORKS, *ODD):
        seen = findings(network)
        hidden = [layer for layer in seen.places if layer != "output" and seen.consumers(layer)]
        if not any(lifeless(seen, layer) for layer in hidden):
            assert reactivate(seen) == []
