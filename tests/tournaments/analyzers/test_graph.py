"""Graph measures against networkx's, and against counts by hand."""

from __future__ import annotations

import importlib
import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch

from search_spaces.families import Convnet, Mlp
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.analyzers.graph import Wiring, betweenness, gini, graph, wiring
from tournaments.evidence import Evidence
from tournaments.findings import Findings

MODULE = importlib.import_module("tournaments.analyzers.graph")  # its name in the package is the function


def seen(network: Network, key: str = "draw") -> Findings:
    x = torch.zeros(1, 1)
    evidence = Evidence("classification", x, x.long()[:, 0], {"input": x}, {}, {}, 1.0)
    return Findings(network, evidence, 5, 2, lambda purpose: keyed(key, purpose))


def mlp(*sizes: int, density: float = 0.3, skips: tuple[tuple[str, str], ...] = ()) -> Mlp:
    names = ["input", *(f"hidden{i + 1}" for i in range(len(sizes) - 2)), "output"]
    network = Mlp(list(zip(names, sizes, strict=True)), [*itertools.pairwise(names), *skips])
    connect(network, density, keyed("graph", *sizes))
    return network


def by_hand(network: Mlp) -> nx.DiGraph:
    """The same graph, made from the masks edge by edge, its nodes numbered from input to output."""
    starts = dict(zip(network.sizes, np.cumsum([0, *network.sizes.values()]).tolist(), strict=False))
    made = nx.DiGraph()
    made.add_nodes_from(range(sum(network.sizes.values())))
    for name in network.masks().values():
        source, _, target = name.removeprefix("mask.").partition(">")
        for q, p in network.get_buffer(name).nonzero().tolist():
            made.add_edge(starts[source] + p, starts[target] + q)
    return made


SMALL = [
    mlp(6, 5, 3),
    mlp(8, 6, 5, 4, density=0.25),
    mlp(6, 5, 4, 3, density=0.4, skips=(("input", "output"), ("input", "hidden2"), ("hidden1", "output"))),
    mlp(4, 3),
]
EACH = pytest.mark.parametrize("network", SMALL, ids=["shallow", "deep", "skips", "no hidden layer"])


@EACH
def test_betweenness_is_the_librarys(network):
    findings = seen(network)
    truth = nx.betweenness_centrality(by_hand(network))
    found = betweenness(wiring(findings), keyed("pivots"))
    np.testing.assert_allclose(found.values, [truth[v] for v in sorted(truth)], atol=1e-12)
    assert (found.se == 0).all()
    told = graph(findings)
    assert told.value("", "betweenness_max") == pytest.approx(max(truth.values()))
    assert told.value("", "betweenness_mean") == pytest.approx(np.mean(list(truth.values())))


@EACH
def test_clustering_paths_and_degrees_are_the_librarys(network):
    whole, told = by_hand(network), graph(seen(network))
    sizes = list(network.sizes.values())
    inputs, outputs = range(sizes[0]), range(sum(sizes) - sizes[-1], sum(sizes))
    lengths = [nx.shortest_path_length(whole, i, o) for i in inputs for o in outputs if nx.has_path(whole, i, o)]
    assert told.value("", "path_length") == pytest.approx(np.mean(lengths))
    assert told.value("", "clustering") == pytest.approx(nx.average_clustering(whole.to_undirected()))
    assert told.value("", "edges") == whole.number_of_edges()
    leads = [any(nx.has_path(whole, i, o) for o in outputs) for i in inputs]
    led = [any(nx.has_path(whole, i, o) for i in inputs) for o in outputs]
    assert told.value("", "inputs_used") == pytest.approx(np.mean(leads))
    assert told.value("", "outputs_reached") == pytest.approx(np.mean(led))
    at = 0
    for layer, units in network.sizes.items():
        nodes = range(at, at + units)
        assert told.arrays[f"{layer}.in_degree"].tolist() == [whole.in_degree(v) for v in nodes]
        assert told.arrays[f"{layer}.out_degree"].tolist() == [whole.out_degree(v) for v in nodes]
        assert told.value(layer, "isolated_share") == np.mean([whole.degree(v) == 0 for v in nodes])
        at += units


def test_a_triangle_is_clustered():
    network = Mlp(
        [("input", 1), ("hidden1", 1), ("output", 1)],
        [("input", "hidden1"), ("hidden1", "output"), ("input", "output")],
    )
    connect(network, 1.0, keyed("triangle"))
    told = graph(seen(network))
    assert told.value("", "clustering") == 1.0
    assert told.value("", "path_length") == 1.0
    assert told.value("", "betweenness_max") == 0.0  # the skip is shorter
    with torch.no_grad():
        network.get_buffer("mask.input>output").zero_()
    told = graph(seen(network))
    assert told.value("", "clustering") == 0.0
    assert told.value("", "path_length") == 2.0
    assert told.value("", "betweenness_max") == 0.5  # one ordered pair of the two that there are besides it


@torch.no_grad()
def test_what_is_cut_off_is_told():
    network = mlp(4, 3, 2, density=1.0)
    network.get_buffer("mask.input>hidden1")[0] = 0  # a hidden unit without inputs
    network.get_buffer("mask.hidden1>output")[:, 1] = 0  # one without outputs
    network.get_buffer("mask.input>hidden1")[:, 3] = 0  # an input without edges
    network.get_buffer("mask.hidden1>output")[1] = 0  # an output without edges
    told = graph(seen(network))
    assert told.value("", "inputs_used") == 0.75
    assert told.value("", "outputs_reached") == 0.5
    assert told.value("", "working_share") == pytest.approx(1 / 3)
    assert told.value("input", "isolated_share") == 0.25
    assert told.value("output", "isolated_share") == 0.5
    network.get_buffer("mask.hidden1>output").zero_()
    told = graph(seen(network))
    assert told.value("", "path_length") == 0.0
    assert told.value("", "inputs_used") == told.value("", "outputs_reached") == 0.0


@torch.no_grad()
def test_no_edges_at_all():
    network = mlp(3, 2, 2, density=1.0)
    for name in network.masks().values():
        network.get_buffer(name).zero_()
    told = graph(seen(network))
    assert all(m.value in (0.0, 1.0) and m.se == 0 for m in told.measures)
    assert told.value("hidden1", "isolated_share") == 1.0


@torch.no_grad()
def test_a_channel_is_one_unit_and_a_kernel_one_edge():
    network = Convnet((1, 8, 8), [("input", 1), ("channel1", 2), ("channel2", 3), ("output", 4)])
    for name in network.masks().values():
        network.get_buffer(name).zero_()
    network.get_buffer("mask.input>channel1")[:, 0, 1, 1] = 1
    network.get_buffer("mask.channel1>channel2")[0, 1, :2] = 1  # six weights of one kernel
    network.get_buffer("mask.channel2>output")[3, 2] = 1  # the first channel's third position
    net = wiring(seen(network))
    assert net.slots == {"input": (0, 1), "channel1": (1, 3), "channel2": (3, 6), "output": (6, 10)}
    assert sorted(zip(*(side.tolist() for side in net.edges.nonzero()), strict=True)) == [
        (0, 1),
        (0, 2),
        (2, 3),
        (3, 9),
    ]
    assert graph(seen(network)).value("", "path_length") == 3.0


# estimated betweenness


@pytest.fixture
def few_pivots(monkeypatch):
    monkeypatch.setattr(MODULE, "VISITS", 0)
    monkeypatch.setattr(MODULE, "PIVOTS", 12)


def drawn(net: Wiring, key: int):
    return betweenness(net, keyed("repeat", key))


def test_estimates_are_unbiased_and_their_errors_honest(few_pivots):
    network = mlp(20, 12, 8, 4, density=0.2)
    truth = np.array([b for _, b in sorted(nx.betweenness_centrality(by_hand(network)).items())])
    net = wiring(seen(network))
    found = [drawn(net, key) for key in range(200)]
    values = np.array([each.values for each in found])
    assert (np.abs(values.mean(0) - truth) <= 4 * values.std(0) / math.sqrt(200) + 1e-12).all()
    means = np.array([each.mean for each in found])
    assert abs(means.mean() - truth.mean()) < 4 * means.std() / math.sqrt(200)
    assert math.sqrt(np.mean([each.mean_se**2 for each in found])) == pytest.approx(means.std(), rel=0.15)
    top = int(truth.argmax())
    assert math.sqrt(np.mean([each.se[top] ** 2 for each in found])) == pytest.approx(values[:, top].std(), rel=0.15)


def test_pivots_are_drawn_by_the_findings_key(few_pivots):
    network = mlp(20, 12, 8, 4, density=0.2)
    a, b, c = (graph(seen(network, key)) for key in ("one", "one", "two"))
    assert a.measures == b.measures
    assert a.value("", "betweenness_mean") != c.value("", "betweenness_mean")
    assert next(m.se for m in a.measures if m.name == "betweenness_mean") > 0


def test_ten_thousand_edges_stay_within_the_budget():
    network = mlp(784, 300, 100, 10, density=0.05)
    told = graph(seen(network))
    assert told.value("", "edges") > 10_000
    assert told.cost.operations < 2 * MODULE.VISITS
    [measure] = [m for m in told.measures if m.name == "betweenness_mean"]
    assert 0 < measure.se < 0.1 * measure.value


# inequality


@pytest.mark.parametrize(
    ("values", "expected"), [([1, 1, 1], 0.0), ([0, 0, 4], 2 / 3), ([0, 1], 0.5), ([0, 0], 0.0), ([1, 2, 3], 2 / 9)]
)
def test_the_gini_coefficient(values, expected):
    assert gini(np.array(values, dtype=float)) == pytest.approx(expected)
    every = np.abs(np.subtract.outer(values, values)).sum() / max(2 * len(values) * sum(values), 1)
    assert gini(np.array(values, dtype=float)) == pytest.approx(every)
