"""Seeds: the size that was asked for, no unit without its edges, weights scaled to the fan-in that is there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.families import Mlp
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import connect, density_for, seed

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def mlp(
    inputs: int, hidden: list[int], outputs: int, density: float, key: int = 0, activation: str = "relu"
) -> Network:
    chosen = {"family": "mlp", "hidden": hidden, "density": density, "activation": activation}
    return seed(chosen, (inputs,), None, outputs, keyed("test", key))


def pairs(network: Network) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(link, weight, mask) with rows = units of the later layer."""
    return [
        (name, network.get_parameter(name).detach().flatten(1).numpy(), network.get_buffer(mask).flatten(1).numpy() > 0)
        for name, mask in network.masks().items()
    ]


@quick
@given(
    inputs=st.integers(1, 40),
    hidden=st.lists(st.integers(1, 20), max_size=3),
    outputs=st.integers(1, 12),
    density=st.floats(0.0001, 1.0),
    key=st.integers(0, 5),
)
def test_every_unit_has_what_it_needs_and_no_edge_is_to_spare(
    inputs: int, hidden: list[int], outputs: int, density: float, key: int
) -> None:
    network = mlp(inputs, hidden, outputs, density, key)
    for name, weight, mask in pairs(network):
        q, p = mask.shape
        assert mask.any(axis=1).all(), "every unit has an input"
        from_hidden = not name.startswith("links.input>")
        if from_hidden:
            assert mask.any(axis=0).all(), "every hidden unit has an output"
        needed = max(p, q) if from_hidden else q
        assert mask.sum() == max(needed, round(density * p * q), 1)
        assert ((weight != 0) == mask).all(), "masked weights are zero, the others drawn"
    assert all(not bias.any() for name, bias in network.named_parameters() if name.startswith("biases."))


@quick
@given(
    inputs=st.integers(2, 100), hidden=st.integers(1, 20), outputs=st.integers(1, 12), parameters=st.integers(1, 2000)
)
def test_density_for_gives_the_parameters_that_were_asked_for(
    inputs: int, hidden: int, outputs: int, parameters: int
) -> None:
    density = density_for(inputs, [hidden], outputs, parameters)
    count = mlp(inputs, [hidden], outputs, density).count()
    least = 2 * hidden + max(hidden, outputs) + outputs
    most = (inputs + 1) * hidden + (hidden + 1) * outputs
    edges = {"into": density * inputs * hidden, "out of": density * hidden * outputs}
    if parameters <= 0.5 * least:
        assert count == least
    elif edges["into"] >= hidden and edges["out of"] >= max(hidden, outputs):
        assert abs(count - min(parameters, most)) <= 1
    else:
        assert min(parameters, most) - 1 <= count <= max(parameters, 0) + least


def test_weights_are_scaled_to_the_fan_in_that_is_there() -> None:
    network = mlp(784, [100], 10, 0.02)
    for name, weight, mask in pairs(network):
        gain = 1.0 if name.endswith(">output") else 2.0
        fan_in = mask.sum(axis=1, keepdims=True)
        standard = (weight * np.sqrt(fan_in / gain))[mask]
        assert abs(standard.std() - 1) < 5 / math.sqrt(2 * len(standard)), name
        assert abs(standard.mean()) < 5 / math.sqrt(len(standard)), name


def test_edges_spread_over_the_inputs() -> None:
    [_, weight, mask] = pairs(mlp(64, [32], 10, 0.02))[0]
    assert mask.sum() == 41
    assert mask.any(axis=0).sum() >= 32, "the first edge of each unit leads to an input of its own"
    assert weight.shape == (32, 64)


def test_the_same_key_draws_the_same_seed_and_no_global_numbers_are_used() -> None:
    before = torch.get_rng_state()
    one, two, other = mlp(20, [8], 3, 0.3), mlp(20, [8], 3, 0.3), mlp(20, [8], 3, 0.3, key=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "sigmoid"])
def test_the_settings_reach_the_network(activation: str) -> None:
    network = mlp(7, [5, 4], 3, 1.0, activation=activation)
    assert network.blueprint()["activation"] == activation
    assert dict(network.axis_sizes()) == {"input": 7, "hidden1": 5, "hidden2": 4, "output": 3}
    assert network.count() == 7 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3
    assert network(torch.zeros(2, 7)).shape == (2, 3)


def test_a_seed_may_have_no_hidden_layer() -> None:
    network = mlp(7, [], 3, 1.0)
    assert network.count() == 24


def test_a_picture_is_flat_to_an_mlp_and_channels_to_a_convnet() -> None:
    chosen: dict[str, Any] = {"family": "mlp", "hidden": (4,), "density": 0.5, "activation": "relu"}
    flat = seed(chosen, (64,), (1, 8, 8), 10, keyed("test"))
    assert flat.input_shape() == (64,)
    network = seed({**chosen, "family": "convnet", "hidden": (4, 6)}, (64,), (1, 8, 8), 10, keyed("test"))
    assert network.input_shape() == (1, 8, 8)
    assert dict(network.axis_sizes())["channel2"] == 6
    for name, weight, mask in pairs(network):
        assert mask.any(axis=1).all(), name
        assert ((weight != 0) == mask).all(), name
    x = torch.from_numpy(keyed("x").normal(size=(3, 64)).astype(np.float32))
    assert network(x).shape == (3, 10)
    assert bool(network(x).isfinite().all())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"family": "transformer"}, r"^network\.family: expected one of mlp, convnet, got 'transformer'"),
        ({"family": "convnet"}, r"^network\.family: a convnet needs pictures, but this task has none; write mlp"),
        ({"density": 0.0}, r"^network\.density: expected more than 0 and at most 1, got 0\.0"),
        ({"density": 1.5}, r"^network\.density: "),
        ({"activation": "swish"}, r"^activation: expected one of relu, .*got 'swish'"),
        ({"hidden": (0,)}, r"every layer needs at least one unit"),
    ],
)
def test_what_cannot_be_is_told(change: dict[str, Any], told: str) -> None:
    chosen = {"family": "mlp", "hidden": (4,), "density": 0.5, "activation": "relu", **change}
    with pytest.raises(ValueError, match=told):
        seed(chosen, (9,), None, 2, keyed("test"))


def test_a_convnet_has_channels() -> None:
    chosen = {"family": "convnet", "hidden": (), "density": 0.5, "activation": "relu"}
    with pytest.raises(ValueError, match=r"^network\.hidden: a convnet needs a layer of channels, got \[\]; write"):
        seed(chosen, (9,), (1, 3, 3), 2, keyed("test"))


def test_connect_draws_anew_on_any_network() -> None:
    network = Mlp([("input", 5), ("hidden1", 3), ("output", 2)], [("input", "hidden1"), ("hidden1", "output")], "tanh")
    assert network.count() == 5
    connect(network, 1.0, keyed("test"))
    assert network.count() == 5 + 15 + 6
    connect(network, 0.01, keyed("test"))
    assert network.count() == 5 + 3 + 3
