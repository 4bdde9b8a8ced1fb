from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from some_networks import alone, convnet, filled, mlp, rows
from torch import nn

from evo.plain import prune, to_plain
from search_spaces import surgery
from search_spaces.actions import Spoke, Unit, Widen
from search_spaces.families import Mlp
from search_spaces.network import Network


@torch.no_grad()
def gap(plain: nn.Module, network: Network, dtype: torch.dtype = torch.float32) -> float:
    x = rows(64, network, dtype)
    wanted = network.eval()(x)
    return float((plain(x) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "sigmoid"])
@pytest.mark.parametrize("family", [mlp, convnet])
def test_plain_module_computes_the_same(family: Any, activation: str, density: float) -> None:
    for seed in range(3):
        network = family(activation, density, seed)
        assert gap(to_plain(network), network) <= 1e-6
        assert gap(to_plain(network.double()), network, torch.float64) <= 1e-12


def test_plain_module_is_made_of_torch_alone(tmp_path: Path) -> None:
    plain = to_plain(mlp())
    assert not plain.training
    assert not any(p.requires_grad for p in plain.parameters())
    homes = {type(m).__module__.partition(".")[0] for m in plain.modules()}
    assert homes == {"torch"}
    torch.save(plain, tmp_path / "plain.pt")
    output = alone(
        f"plain = torch.load({str(tmp_path / 'plain.pt')!r}, weights_only=False)\n"
        "print(plain(torch.ones(1, 12)).sum().item())"
    )
    assert float(output) == pytest.approx(float(plain(torch.ones(1, 12)).sum()), rel=1e-6)


def test_the_original_stays_as_it_was() -> None:
    network = mlp().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    plain = to_plain(network)
    with torch.no_grad():
        for p in plain.parameters():
            p.add_(1.0)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_weights_under_a_mask_are_folded_to_zero() -> None:
    network = filled(Mlp([("input", 4), ("output", 3)], [("input", "output")]), 0.5)
    mask = dict(network.named_buffers())["mask.input>output"]
    with torch.no_grad():
        dict(network.named_parameters())["links.input>output"].add_(1.0 - mask)
    plain = to_plain(network)
    weight = next(p for p in plain.parameters() if p.dim() == 2)
    assert torch.equal(weight != 0, mask.bool())


def chain(edges: dict[str, list[tuple[int, int]]], activation: str = "sigmoid") -> Network:
    """input(2) > hidden1(3) > hidden2(3) > output(1), connected by these (row, column) edges of weight 1, biases 1."""
    layers = [("input", 2), ("hidden1", 3), ("hidden2", 3), ("output", 1)]
    network = Mlp(layers, [("input", "hidden1"), ("hidden1", "hidden2"), ("hidden2", "output")], activation)
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
    with torch.no_grad():
        for name in ("hidden1", "hidden2", "output"):
            parameters[f"biases.{name}"].fill_(1.0)
        for link, pairs in edges.items():
            for row, column in pairs:
                parameters[f"links.{link}"][row, column] = 1.0
                buffers[f"mask.{link}"][row, column] = 1.0
    return network


def test_constants_move_into_biases_through_every_layer() -> None:
    # hidden1's unit 2 is fed by nothing, so hidden2's unit 2, which it alone feeds, is a constant too.
    network = chain({
        "input>hidden1": [(0, 0), (1, 1)], "hidden1>hidden2": [(0, 0), (1, 1), (2, 2)],
        "hidden2>output": [(0, 0), (0, 1), (0, 2)],
    })  # fmt: skip
    pruned = prune(network)
    assert pruned.axis_sizes() == {"input": 2, "hidden1": 2, "hidden2": 2, "output": 1}
    constant = torch.sigmoid(1 + torch.sigmoid(torch.tensor(1.0, dtype=torch.float64)))
    assert dict(pruned.named_parameters())["biases.output"].item() == pytest.approx(1 + float(constant), rel=1e-7)
    assert gap(to_plain(network), network) <= 1e-6


def test_units_without_a_path_to_the_output_go() -> None:
    # hidden2's unit 2 is read by nobody, so hidden1's unit 2, which feeds it alone, goes with it.
    network = chain({
        "input>hidden1": [(0, 0), (1, 1), (2, 1)], "hidden1>hidden2": [(0, 0), (1, 1), (2, 2)],
        "hidden2>output": [(0, 0), (0, 1)],
    })  # fmt: skip
    assert prune(network).axis_sizes() == {"input": 2, "hidden1": 2, "hidden2": 2, "output": 1}


def test_a_weight_of_zero_is_no_path() -> None:
    network = mlp(density=1.0)
    unit = Unit((Spoke("input", 0, 1.0),), (Spoke("hidden2", 0, 0.0),))
    widened, _ = surgery.apply(network, [Widen("hidden1", (unit,))])
    assert prune(widened).axis_sizes() == network.axis_sizes()


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_layers_that_are_dead_as_a_whole_go(activation: str) -> None:
    network = chain({"hidden1>hidden2": [(0, 0)], "hidden2>output": [(0, 0)]}, activation)
    pruned = prune(network)
    assert pruned.axis_sizes() == {"input": 2, "output": 1}
    assert pruned.count() == 1
    assert gap(to_plain(network), network) <= 1e-6


def test_a_constant_channel_before_a_padded_convolution_is_left_in() -> None:
    network = convnet(density=1.0)
    parameters, buffers = dict(network.named_parameters()), dict(network.named_buffers())
    with torch.no_grad():
        for tensor in (parameters["links.input>channel1"], buffers["mask.input>channel1"]):
            tensor[:2] = 0.0
        parameters["norms.channel1.bias"][:2] = torch.tensor([1.0, -1.0])
        parameters["norms.channel1.weight"][:2] = 0.0
    # ReLU gives 1 for the first channel, which no bias can stand for at the border, and 0 for the second.
    assert prune(network).axis_sizes()["channel1"] == 5
    assert gap(to_plain(network), network) <= 1e-6
