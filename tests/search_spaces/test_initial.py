"""Initial weights: unit variance where LSUV says so, XOR exactly, and errors that name the cure."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import seed


def samples(n: int, features: int) -> torch.Tensor:
    """Inputs of very different scales, as tables have them."""
    rng = keyed("samples", features)
    return torch.from_numpy(rng.normal(0.3, 2.0, (n, features)) * rng.uniform(0.1, 3, features)).float()


def born(x: torch.Tensor | None, shape: int = 20, picture: Any = None, key: int = 0, **chosen: Any) -> Network:
    settings_ = {"family": "mlp", "hidden": (12, 7), "density": 0.4, "activation": "relu", **chosen}
    return seed(settings_, (shape,), picture, 3, keyed("initial", key), x)


def variances(network: Network, x: torch.Tensor) -> dict[str, float]:
    seen: dict[str, float] = {}

    def tap(name: str, values: torch.Tensor) -> torch.Tensor:
        if name.startswith("pre:"):
            fed = torch.zeros(values.shape[1], dtype=torch.bool)
            for link, mask in network.masks().items():
                if link.endswith(">" + name[4:]):
                    fed |= network.get_buffer(mask).flatten(1).any(dim=1)
            seen[name[4:]] = float(values[:, fed].detach().var(correction=0)) if bool(fed.any()) else 0.0
        return values

    network.eval()(x, tap)
    return seen


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "sigmoid"])
@pytest.mark.parametrize("wiring", ["even", "uniform"])
def test_lsuv_makes_every_layers_variance_one(activation: str, wiring: str) -> None:
    x = samples(500, 20)
    before = variances(born(None, activation=activation, wiring=wiring), x)
    network = born(x, activation=activation, wiring=wiring, initial="lsuv")
    after = variances(network, x)
    assert any(abs(v - 1) > 0.2 for v in before.values())
    assert all(abs(v - 1) < 0.05 for v in after.values()), after
    assert set(after) == {"hidden1", "hidden2", "output"}
    for name, mask in network.masks().items():
        assert bool((network.get_parameter(name)[network.get_buffer(mask) == 0] == 0).all())


def test_lsuv_of_a_convnet_leaves_its_running_statistics_alone() -> None:
    x = samples(200, 64)
    network = born(x, 64, (1, 8, 8), family="convnet", hidden=(4, 5), density=0.8, initial="lsuv")
    buffers = dict(network.named_buffers())
    assert bool((buffers["norms.channel1.running_mean"] == 0).all())
    assert int(buffers["norms.channel1.num_batches_tracked"]) == 0
    assert all(abs(v - 1) < 0.05 for v in variances(network, x).values())


def test_lsuv_leaves_layers_alone_that_nothing_reaches() -> None:
    x = samples(100, 20)
    network = born(x, density=0.001, wiring="uniform", initial="lsuv")
    assert network.count() == 1 + 12 + 7 + 3
    assert all(bool(p.isfinite().all()) for p in network.parameters())
    flat = born(torch.zeros(50, 20), initial="lsuv")
    assert all(bool(p.isfinite().all()) for p in flat.parameters())


def test_the_same_key_draws_the_same_whatever_the_rest() -> None:
    x = samples(100, 20)
    one, two, other = born(x, initial="lsuv"), born(x, initial="lsuv"), born(x, initial="lsuv", key=1)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    plain = born(None)
    assert all(torch.equal(one.get_buffer(m), plain.get_buffer(m)) for m in plain.masks().values())


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize(("bits", "units"), [(2, 2), (4, 4), (5, 6), (8, 8), (6, 31), (3, 40)])
def test_pairs_of_units_are_the_xor_of_pairs_of_bits_exactly(bits: int, units: int, low: float, high: float) -> None:
    table = torch.tensor(list(itertools.product([low, high], repeat=bits)))
    network = born(table, bits, hidden=(units, 4), initial="xor", density=0.3)
    seen: list[torch.Tensor] = []

    def tap(name: str, values: torch.Tensor) -> torch.Tensor:
        if name == "act:hidden1":
            seen.append(values)
        return values

    network(table, tap)
    weight = network.get_parameter("links.input>hidden1").detach()
    mask = network.get_buffer("mask.input>hidden1")
    found: set[tuple[int, int]] = set()
    for i in range(units // 2):
        rows = weight[2 * i : 2 * i + 2]
        if not torch.equal(rows[0], -rows[1]) or int((rows[0] != 0).sum()) != 2:
            assert len(found) == bits * (bits - 1) // 2, "only once all pairs are taken, units are left as drawn"
            break
        a, b = (int(k) for k in rows[0].nonzero().flatten())
        assert mask[2 * i].nonzero().flatten().tolist() == [a, b]
        assert abs(float(rows[0, a])) == 1 / (high - low)
        assert torch.equal(seen[0][:, 2 * i] + seen[0][:, 2 * i + 1], (table[:, a] != table[:, b]).float())
        assert (a, b) not in found
        found.add((a, b))
    assert {bit for pair in found for bit in pair} == set(range(bits)), "every bit is in a pair"


def test_xor_of_neighbours_solves_parity_of_two_bits() -> None:
    table = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)))
    network = born(table, 2, hidden=(2,), initial="xor", density=1.0)
    with torch.no_grad():
        network.get_parameter("links.hidden1>output").copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    assert network(table)[:, 1].tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("chosen", "x", "told"),
    [
        ({}, samples(9, 4), r"xor needs inputs that are bits, of two values, .* this task's have 36 values"),
        ({"activation": "tanh"}, torch.eye(4), r"xor needs network\.activation relu"),
        (
            {"hidden": (3,)},
            torch.eye(4),
            r"xor of 4 bits needs 4 units in hidden1, two a pair, got 3; write network\.hid",
        ),
        ({"hidden": ()}, torch.eye(4), r"xor needs an mlp with a hidden layer; write network\.hidden"),
        ({}, None, r"xor looks at training samples, got none"),
        ({"initial": "lsuv"}, None, r"lsuv looks at training samples, got none"),
        ({"initial": "lsuv"}, torch.zeros(1, 4), r"lsuv needs 2 training samples at least, got 1"),
        ({"initial": "glorot"}, None, r"expected one of he, lsuv, xor, got 'glorot'"),
    ],
)
def test_what_cannot_be_is_told(chosen: dict[str, Any], x: torch.Tensor | None, told: str) -> None:
    with pytest.raises(ValueError, match=rf"^network\.initial: {told}"):
        born(x, 4, **{"initial": "xor", **chosen})


# --- uniform wiring


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    hidden=st.lists(st.integers(1, 20), max_size=3), density=st.floats(0.0001, 1.0), inputs=st.integers(1, 40),
    key=st.integers(0, 5),
)  # fmt: skip
def test_uniform_wiring_has_the_edges_that_density_says(
    hidden: list[int], density: float, inputs: int, key: int
) -> None:
    network = born(None, inputs, key=key, hidden=tuple(hidden), density=density, wiring="uniform")
    counts = {name: int(network.get_buffer(mask).sum()) for name, mask in network.masks().items()}
    wanted = {name: round(density * network.get_parameter(name).numel()) for name in counts}
    assert counts == wanted if any(wanted.values()) else sum(counts.values()) == 1
    for name, mask in network.masks().items():
        assert bool(((network.get_parameter(name) != 0) == (network.get_buffer(mask) != 0)).all())
    assert all(not p.any() for name, p in network.named_parameters() if name.startswith("biases."))


def test_uniform_wiring_prefers_no_edge() -> None:
    total = np.zeros((6, 5))
    for key in range(600):
        network = born(None, 5, key=key, hidden=(6,), density=0.2, wiring="uniform")
        total += network.get_buffer("mask.input>hidden1").numpy()
    # Each cell has its edge in 600 · 0.2 draws, with a standard deviation of 9.8.
    assert abs(total - 120).max() < 4 * 9.8


def test_uniform_weights_are_scaled_to_the_fan_in_that_is_there() -> None:
    network = born(None, 784, hidden=(300, 100), density=0.02, wiring="uniform")
    for name, mask in network.masks().items():
        on = network.get_buffer(mask) > 0
        gain = 1.0 if name.endswith(">output") else 2.0
        standard = (network.get_parameter(name).detach() * (on.sum(1, keepdim=True) / gain).sqrt())[on]
        assert abs(float(standard.std()) - 1) < 5 / (2 * len(standard)) ** 0.5, name


def test_a_wiring_that_is_none_is_told() -> None:
    with pytest.raises(ValueError, match=r"^network\.wiring: expected one of even, uniform, got 'ring'"):
        born(None, wiring="ring")
