"""Findings: what a network has, and that nothing is computed twice or drawn from one stream."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import network_with

from search_spaces.families import Convnet
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.place import GramCache


def findings(network: Network, cache: GramCache | None = None) -> Findings:
    rng = keyed("findings")
    x = torch.from_numpy(rng.standard_normal((50, int(torch.tensor(network.input_shape()).prod())))).float()
    y = torch.from_numpy(rng.integers(0, 2, 50))
    return Findings(network, collect(network, x, y, "classification", rng), 5, 2, lambda p: keyed("draw", p), cache)


def mlp() -> Network:
    into = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]]).float()
    masks = {"input>hidden1": into, "hidden1>hidden2": torch.ones(2, 4), "hidden1>output": torch.ones(2, 4)}
    masks["hidden2>output"] = torch.tensor([[1, 0], [0, 1]]).float()
    return network_with(masks, [("input", 3), ("hidden1", 4), ("hidden2", 2), ("output", 2)])


def convnet() -> Network:
    network = Convnet((2, 8, 8), [("input", 2), ("channel1", 3), ("channel2", 4), ("output", 2)])
    connect(network, 0.5, keyed("convnet"))
    return network


def test_links_are_those_of_the_network():
    seen = findings(mlp())
    assert seen.sources("output") == ["hidden1", "hidden2"]
    assert seen.consumers("hidden1") == ["hidden2", "output"]
    assert seen.consumers("input") == ["hidden1"]
    assert seen.linked("hidden2", "output")
    assert not seen.linked("input", "output")
    assert seen.mask("input", "hidden1").sum(1).tolist() == [2, 1, 3, 1]
    assert torch.equal(seen.weight("hidden2", "output") != 0, seen.mask("hidden2", "output"))


def test_statistics_are_computed_once_a_place_and_know_every_earlier_layer():
    seen = findings(mlp())
    assert seen.statistics("output") is seen.statistics("output")
    assert seen.residual("output") is seen.residual("output")
    assert seen.statistics("output").columns == {"input": (0, 3), "hidden1": (3, 7), "hidden2": (7, 9)}
    present = seen.statistics("output").present
    assert present[:, :3].sum() == 0
    assert present[:, 3:7].all()
    assert present[:, 7:9].tolist() == [[True, False], [False, True]]
    allowed = seen.column_mask("output", ["input", "hidden2"])
    assert allowed[0].tolist() == [True] * 3 + [False] * 4 + [True] * 2 + [False]


def test_a_cache_is_shared_by_the_decisions_of_one_life():
    cache, network = GramCache(), mlp()
    rng = keyed("cache")
    x, y = torch.from_numpy(rng.standard_normal((50, 3))).float(), torch.from_numpy(rng.integers(0, 2, 50))
    one, two, apart = (
        Findings(network, collect(network, x, y, "classification", keyed("f")), 5, 2, lambda p: keyed(p), c)
        for c in (cache, cache, None)
    )
    assert torch.equal(one.statistics("hidden2").A, apart.statistics("hidden2").A)
    assert torch.equal(two.statistics("hidden2").A, apart.statistics("hidden2").A)


@pytest.mark.parametrize(
    ("make", "link", "reach"),
    [
        (mlp, ("input", "hidden1"), 1),
        (convnet, ("input", "channel1"), 9),
        (convnet, ("channel1", "channel2"), 9),
        (convnet, ("channel2", "output"), 4),
    ],
)
def test_reach_is_how_many_weights_join_two_units(make, link, reach):
    seen = findings(make())
    assert seen.reach(*link) == reach
    assert seen.features(*link).shape == (50 * seen.places[link[1]].positions, seen.mask(*link).shape[1])


def test_columns_are_summed_unit_by_unit():
    seen = findings(convnet())
    assert seen.by_unit("channel1", torch.arange(27.0)).tolist() == [36.0, 117.0, 198.0]


@pytest.mark.parametrize(
    ("make", "layer", "own"), [(mlp, "hidden1", 1), (convnet, "channel2", 2), (convnet, "output", 1)]
)
def test_a_unit_owns_its_bias_or_its_scale_and_shift(make, layer, own):
    assert findings(make()).own_parameters(layer) == own
