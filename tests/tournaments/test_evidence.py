"""The probe pass against plain autograd, and that it leaves the network as it found it."""

from __future__ import annotations

import math

import pytest
import torch

from search_spaces.families import Convnet, Mlp
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.evidence import collect
from tournaments.objective import losses


def mlp(outputs: int = 3) -> Mlp:
    layers = [("input", 6), ("hidden1", 5), ("hidden2", 4), ("output", outputs)]
    links = [("input", "hidden1"), ("hidden1", "hidden2"), ("input", "output"), ("hidden2", "output")]
    network = Mlp(layers, links, "tanh")
    connect(network, 0.6, keyed("mlp"))
    return network


def convnet() -> Convnet:
    network = Convnet((1, 6, 6), [("input", 1), ("channel1", 3), ("hidden1", 4), ("output", 3)])
    connect(network, 0.5, keyed("convnet"))
    return network


def samples(network: Network, n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    rng = keyed("samples")
    x = torch.from_numpy(rng.standard_normal((n, math.prod(network.input_shape())))).float()
    return x, torch.from_numpy(rng.integers(0, network.axis_sizes()["output"], n))


@pytest.mark.parametrize("make", [mlp, convnet])
def test_gradients_are_the_negative_slopes_of_the_samples_own_losses(make):
    network = make()
    x, y = samples(network)
    found = collect(network, x, y, "classification", keyed("f"))
    network.eval()
    for layer in ("hidden1", "output"):
        # A shift added to a layer's pre-activations, one for every sample and unit.
        shift = torch.zeros_like(found.gradients[layer], requires_grad=True)

        def push(name: str, value: torch.Tensor, layer: str = layer, shift: torch.Tensor = shift) -> torch.Tensor:
            return value + shift if name == f"pre:{layer}" else value

        loss = losses("classification", network(x, push), y).sum()
        (slope,) = torch.autograd.grad(loss, shift)
        assert torch.allclose(found.gradients[layer], -slope, atol=1e-6)
    assert found.loss == pytest.approx(float(losses("classification", network(x), y).detach().mean()))
    assert found.samples == 40


def test_activations_are_what_layers_feed_onwards_and_the_input_is_one():
    network = mlp()
    x, y = samples(network)
    found = collect(network, x, y, "classification", keyed("f"))
    assert set(found.activations) == {"input", "hidden1", "hidden2"}
    assert set(found.gradients) == set(found.fisher) == {"hidden1", "hidden2", "output"}
    assert found.activations["input"] is x
    weight = network.get_parameter("links.input>hidden1").detach()
    assert torch.allclose(found.activations["hidden1"], torch.tanh(x @ weight.t()), atol=1e-6)
    assert not any(
        a.requires_grad for part in (found.activations, found.gradients, found.fisher) for a in part.values()
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_was(training):
    network = convnet().train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x, y = samples(network)
    collect(network, x, y, "classification", keyed("f"))
    assert network.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_the_fisher_matrix_of_outputs_is_the_known_one():
    network = mlp()
    x, _ = samples(network, 30_000)
    found = collect(network, x, torch.zeros(len(x), dtype=torch.int64), "classification", keyed("f"))
    p = network(x).detach().softmax(1)
    known = torch.diag(p.mean(0)) - p.t() @ p / len(p)
    assert torch.allclose(found.fisher["output"].t() @ found.fisher["output"] / len(p), known, atol=0.01)

    found = collect(network, x, torch.zeros(len(x), 3), "regression", keyed("f"))
    second = found.fisher["output"].t() @ found.fisher["output"] / len(x)
    assert torch.allclose(second, torch.eye(3), atol=0.03)
    assert torch.allclose(found.gradients["output"], -network(x).detach(), atol=1e-6)


def test_the_same_stream_gives_the_same_evidence():
    network = mlp()
    x, y = samples(network)
    one, same, other = (collect(network, x, y, "classification", keyed(k)) for k in ("a", "a", "b"))
    assert torch.equal(one.fisher["hidden1"], same.fisher["hidden1"])
    assert not torch.equal(one.fisher["hidden1"], other.fisher["hidden1"])
    assert torch.equal(one.gradients["hidden1"], other.gradients["hidden1"])


def test_a_layer_that_feeds_nothing_has_gradients_of_zero():
    network = Mlp([("input", 3), ("hidden1", 2), ("output", 2)], [("input", "hidden1"), ("input", "output")])
    connect(network, 1.0, keyed("idle"))
    x, y = samples(network)
    found = collect(network, x, y, "classification", keyed("f"))
    assert torch.equal(found.gradients["hidden1"], torch.zeros(40, 2))
    assert float(found.gradients["output"].abs().sum()) > 0
