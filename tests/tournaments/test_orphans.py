"""What goes with edges that are taken out: units without an input or an output, and those that they leave alone."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import network_with

from search_spaces import surgery
from search_spaces.actions import Disconnect, Edge, Narrow
from search_spaces.families import Convnet
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.orphans import orphans


def findings(network: Network) -> Findings:
    rng = keyed("orphans")
    features = int(torch.tensor(network.input_shape()).prod())
    x = torch.from_numpy(rng.standard_normal((200, features))).float()
    labels = torch.from_numpy(rng.integers(0, network.axis_sizes()["output"], 200))
    evidence = collect(network, x, labels, "classification", rng)
    return Findings(network, evidence, 10, 10, lambda purpose: keyed("draw", purpose))


def sparse() -> Network:
    """hidden1 has four units; unit 3 hangs on one edge from the input, unit 2 on one to the output."""
    into = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 0, 1], [1, 0, 1, 1, 1], [0, 0, 1, 0, 0]]).float()
    out = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]]).float()
    return network_with(
        {"input>hidden1": into, "hidden1>output": out}, [("input", 5), ("hidden1", 4), ("output", 2)], "tanh"
    )


def chain() -> Network:
    """input > hidden1 > hidden2 > output, three units each: one edge a unit, but for one more from hidden1's last."""
    one, more = torch.eye(3), torch.eye(3)
    more[0, 2] = 1
    layers = [("input", 3), ("hidden1", 3), ("hidden2", 3), ("output", 3)]
    network = network_with({"input>hidden1": one, "hidden1>hidden2": one, "hidden2>output": more}, layers, "tanh")
    with torch.no_grad():
        for layer in ("hidden1", "hidden2"):
            network.get_parameter(f"biases.{layer}").copy_(torch.tensor([0.5, -0.8, 0.3]))
    return network


def without(network: Network, edges: tuple[Edge, ...], narrows: list[Narrow]) -> Network:
    after, _ = surgery.apply(network, (Disconnect("*", edges), *narrows))
    return after.eval()


@pytest.mark.parametrize(("link", "row", "column", "slot"), [("input>hidden1", 3, 2, 3), ("hidden1>output", 1, 2, 2)])
def test_a_unit_that_loses_its_last_edge_goes_as_well_and_its_constant_stays(link, row, column, slot):
    network = sparse()
    with torch.no_grad():
        network.get_parameter(f"links.{link}")[row, column] = 0.0
        network.get_parameter("biases.hidden1").copy_(torch.tensor([0.1, -0.2, 0.3, 0.8]))
    seen, edges = findings(network), (Edge(link, row, column),)
    narrows, cost = orphans(seen, edges)
    assert [(n.site, n.slots) for n in narrows] == [("hidden1", (slot,))]
    after = without(network, edges, narrows)
    assert network.count() - after.count() == 1 + cost
    assert torch.allclose(after(seen.evidence.x), network(seen.evidence.x), atol=1e-6)


def test_a_unit_that_only_fed_one_that_goes_goes_as_well():
    network = chain()
    edges = (Edge("hidden2>output", 1, 1),)
    narrows, cost = orphans(findings(network), edges)
    # hidden2's unit lacks an output; that leaves hidden1's without one.
    assert [(n.site, n.slots) for n in narrows] == [("hidden2", (1,)), ("hidden1", (1,))]
    after = without(network, edges, narrows)
    assert after.axis_sizes()["hidden1"] == after.axis_sizes()["hidden2"] == 2
    assert network.count() - after.count() == 1 + cost == 1 + 2 + 2


def test_a_constant_is_carried_through_every_unit_that_hung_on_it():
    network = chain()
    with torch.no_grad():
        network.get_parameter("links.input>hidden1")[0, 0] = 0.0
    seen, edges = findings(network), (Edge("input>hidden1", 0, 0),)
    narrows, cost = orphans(seen, edges)
    assert [(n.site, n.slots) for n in narrows] == [("hidden1", (0,)), ("hidden2", (0,))]
    after = without(network, edges, narrows)
    assert network.count() - after.count() == 1 + cost
    assert torch.allclose(after(seen.evidence.x), network(seen.evidence.x), atol=1e-6)


def test_a_layer_never_loses_all_of_its_units():
    network = chain()
    edges = tuple(Edge("input>hidden1", i, i) for i in range(3))
    narrows, cost = orphans(findings(network), edges)
    after = without(network, edges, narrows)
    assert min(after.axis_sizes().values()) >= 1
    assert network.count() - after.count() == 3 + cost


def channels() -> Network:
    network = Convnet((1, 8, 8), [("input", 1), ("channel1", 3), ("channel2", 3), ("output", 2)])
    connect(network, 0.8, keyed("channels"))
    masks = dict(network.named_buffers())
    with torch.no_grad():
        for name in ("links.channel1>channel2", "links.input>channel1"):
            network.get_parameter(name).add_(0.1)
        masks["mask.input>channel1"][1] = 0
        masks["mask.input>channel1"][1, 0, 0, 0] = 1
        network.get_parameter("links.input>channel1")[1, 0, 0, 0] = 1e-9
    return network.eval()


def test_a_silent_channel_goes_with_its_last_edge_and_a_constant_one_stays_where_nothing_can_take_it_over():
    network, edges = channels(), (Edge("input>channel1", 1, 0),)
    with torch.no_grad():
        network.get_parameter("norms.channel1.bias")[1] = 0.5
    assert orphans(findings(network), edges) == ([], 0)
    with torch.no_grad():
        network.get_parameter("norms.channel1.bias")[1] = -0.5
    seen = findings(network)
    narrows, cost = orphans(seen, edges)
    assert narrows == [Narrow("channel1", (1,), (0.0,))]
    after = without(network, edges, narrows)
    assert network.count() - after.count() == 1 + cost
    assert torch.allclose(after(seen.evidence.x), network(seen.evidence.x), atol=1e-6)
