"""A whole layer out: what its going costs, and the edges that stand in for it."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import network_with
from proposing import NETWORKS, ODD, dead, findings, mlp

from search_spaces import surgery
from search_spaces.actions import Connect, Narrow, Remove, Skip
from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.objective import losses
from tournaments.removal import remove


def of(network: Network, trim: int, n: int = 800) -> Findings:
    rng = keyed("removal")
    x = torch.from_numpy(rng.standard_normal((n, network.axis_sizes()["input"]))).float()
    y = torch.from_numpy(rng.integers(0, network.axis_sizes()["output"], n))
    evidence = collect(network.eval(), x, y, "classification", rng)
    return Findings(network, evidence, 10, trim, lambda purpose: keyed("removal", purpose))


def linear() -> Network:
    """hidden1 hands four inputs on as they are, about: small weights under tanh. It feeds the output alone."""
    layers = [("input", 6), ("hidden1", 4), ("output", 3)]
    network = network_with({"input>hidden1": torch.eye(4, 6), "hidden1>output": torch.ones(3, 4)}, layers, "tanh")
    with torch.no_grad():
        network.get_parameter("links.input>hidden1").copy_(0.02 * torch.eye(4, 6))
        network.get_parameter("links.hidden1>output").copy_(20 * torch.eye(3, 4) + 5)
        network.get_parameter("biases.hidden1").copy_(torch.tensor([0.1, -0.1, 0.05, 0.0]))
    return network


@pytest.mark.parametrize("name", [*NETWORKS, *ODD])
def test_the_layer_is_gone_and_all_that_it_fed_is_still_fed(name):
    seen = findings(name, trim=20)
    for candidate in remove(seen):
        layer = candidate.actions[-1].site
        assert isinstance(candidate.actions[-1], Remove)
        assert all(isinstance(a, Skip | Connect | Narrow | Remove) for a in candidate.actions)
        after, _ = surgery.apply(seen.network, candidate.actions)
        assert layer not in after.axis_sizes()
        assert -20 <= after.count() - seen.network.count() == candidate.cost <= 0


def test_where_the_layer_did_what_edges_can_the_function_is_kept():
    network = linear()
    seen = of(network, trim=8)
    (candidate,) = remove(seen)
    after, _ = surgery.apply(network, candidate.actions)
    before, now = network(seen.evidence.x).detach(), after.eval()(seen.evidence.x).detach()
    assert float((now - before).abs().max()) < 0.02 * float(before.std())
    assert 0 <= -candidate.predicted < 1e-4
    (skip,) = [a for a in candidate.actions if isinstance(a, Skip)]
    # Three rows of four inputs, each at the product of the two weights on its way.
    assert {(e.row, e.column) for e in skip.edges} == {(row, column) for row in range(3) for column in range(4)}
    exact = (network.get_parameter("links.hidden1>output") @ network.get_parameter("links.input>hidden1")).detach()
    for edge in skip.edges:
        assert edge.value == pytest.approx(float(exact[edge.row, edge.column]), rel=0.03)


def test_the_loss_that_is_predicted_is_the_loss_that_comes():
    network = mlp(6, 5, activation="tanh")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.7)
    seen = of(network, trim=1000, n=3000)
    # Outputs drawn from the network itself: what it loses is what its outputs change, to second order.
    p = network(seen.evidence.x).detach().double().softmax(1)
    for candidate in remove(seen):
        after, _ = surgery.apply(network, candidate.actions)
        q = after.eval()(seen.evidence.x).detach().double().softmax(1)
        exact = float((p * (p.log() - q.log())).sum(1).mean())
        if candidate.site.endswith("hidden2"):
            assert -candidate.predicted == pytest.approx(exact, rel=0.35)
        assert -candidate.predicted > 0


def test_more_may_go_the_fewer_edges_stand_in_and_the_more_is_lost():
    network = mlp(6, 5, activation="tanh")
    found = [{c.actions[-1].site: c for c in remove(of(network, trim))} for trim in (12, 20, 30)]
    for layer in found[0]:
        few = [f[layer] for f in found if layer in f]
        assert [c.cost for c in few] == sorted([c.cost for c in few], reverse=True)
        assert [c.predicted for c in few] == sorted([c.predicted for c in few], reverse=True)


def test_a_layer_whose_consumers_have_a_skip_goes_alone_where_that_is_all_that_may_go():
    network = mlp(3, density=1.0, skips=(("input", "output"),))
    with torch.no_grad():
        network.get_parameter("links.hidden1>output").zero_()
    freed = 10 * 3 + 3 + 3 * 3
    seen = of(network, trim=freed)
    (candidate,) = remove(seen)
    assert not [a for a in candidate.actions if isinstance(a, Skip | Connect)]
    assert (candidate.cost, candidate.predicted) == (-freed, 0.0)
    after, _ = surgery.apply(network, candidate.actions)
    assert torch.allclose(after.eval()(seen.evidence.x), network(seen.evidence.x), atol=1e-6)


def test_a_dead_layer_goes_for_nothing_and_its_consumers_keep_a_link():
    network = dead()
    seen = of(network, trim=1000)
    (first,) = [c for c in remove(seen) if c.actions[-1].site == "hidden1"]
    assert first.predicted == pytest.approx(0.0, abs=1e-9)
    after, _ = surgery.apply(network, first.actions)
    with torch.no_grad():
        kept, now = (
            float(losses("classification", net.eval()(seen.evidence.x), seen.evidence.y).mean())
            for net in (network, after)
        )
    assert now == pytest.approx(kept, abs=1e-6)


def test_nothing_goes_where_nothing_may():
    assert remove(of(mlp(6, 5), trim=0)) == []
