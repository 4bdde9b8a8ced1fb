"""mlp: its arithmetic against dense arithmetic written by hand, and errors that give the cure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from random_actions import SEEDS, inputs, seed_network
from torch.nn import functional

from search_spaces import surgery
from search_spaces.actions import (
    Action,
    Connect,
    Disconnect,
    Edge,
    Insert,
    Narrow,
    NoChange,
    Remove,
    Skip,
    Spoke,
    Unit,
    Widen,
)
from search_spaces.families.mlp import Mlp
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed

Array = NDArray[np.float64]

BY_HAND = {
    "relu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2,
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}


def chain(*, skip: bool = False) -> Mlp:
    """input 5 > hidden1 4 > hidden2 3 > output 2, all dense, and perhaps a skip that no unit uses yet."""
    layers = [("input", 5), ("hidden1", 4), ("hidden2", 3), ("output", 2)]
    links = [("input", "hidden1"), ("hidden1", "hidden2"), ("hidden2", "output")]
    network = Mlp(layers, [*links, ("input", "output")] if skip else links).double()
    rng = keyed("chain")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
            if name in network.masks():
                network.get_buffer(network.masks()[name]).fill_(1)
    return network


@pytest.mark.parametrize("activation", list(BY_HAND))
def test_forward_is_the_dense_computation(activation: str) -> None:
    blueprint = {**SEEDS["mlp"], "activation": activation}
    network = Mlp.from_blueprint(blueprint).double()
    network.load_state_dict(seed_network("mlp", keyed("forward")).state_dict())
    values = {k: t.detach().numpy() for k, t in surgery.tensors(network).items()}

    def weight(link: str) -> Array:
        product: Array = values[f"links.{link}"] * values[f"mask.{link}"]
        return product

    x = inputs(network, keyed("x"))
    act = BY_HAND[activation]
    first = act(x.numpy() @ weight("input>hidden1").T + values["biases.hidden1"])
    second = act(x.numpy() @ weight("input>hidden2").T + first @ weight("hidden1>hidden2").T + values["biases.hidden2"])
    wanted = first @ weight("hidden1>output").T + second @ weight("hidden2>output").T + values["biases.output"]
    np.testing.assert_allclose(network(x).detach().numpy(), wanted, rtol=0, atol=1e-12)


def test_a_weight_behind_the_mask_is_not_used() -> None:
    network = seed_network("mlp", keyed("mask"))
    x = inputs(network, keyed("x"))
    wanted = network(x)
    with torch.no_grad():
        for name, mask in network.masks().items():
            network.get_parameter(name)[~network.get_buffer(mask).bool()] = 7.0
    assert torch.equal(network(x), wanted)


def test_count_is_active_weights_and_biases() -> None:
    assert chain().count() == 5 * 4 + 4 * 3 + 3 * 2 + 4 + 3 + 2
    assert chain(skip=True).count() == chain().count() + 5 * 2
    fewer, _ = surgery.apply(
        chain(), [Disconnect("output", (Edge("hidden2>output", 0, 0), Edge("hidden2>output", 1, 2)))]
    )
    assert fewer.count() == chain().count() - 2
    assert fewer.blueprint()["active"] == {"input>hidden1": 20, "hidden1>hidden2": 12, "hidden2>output": 4}


def test_order_of_links_does_not_matter() -> None:
    layers = [("input", 2), ("hidden1", 2), ("output", 1)]
    links = [("input", "hidden1"), ("input", "output"), ("hidden1", "output")]
    assert Mlp(layers, links).blueprint() == Mlp(layers, links[::-1]).blueprint()


def test_a_split_scales_what_is_sent_on_and_nothing_else() -> None:
    network = chain()
    x = torch.from_numpy(keyed("x").standard_normal((3, 5)))
    unit = Unit((Spoke("input", 2, 1.5),), (Spoke("hidden2", 1, 0.0),), 0.25)
    grown, state = surgery.apply(network, [Widen("hidden1", (unit,), ((3, 0.0),))], OptimizerState.fresh(network))
    without, _ = surgery.apply(network, [Disconnect("hidden2", tuple(Edge("hidden1>hidden2", r, 3) for r in range(3)))])
    assert state is not None
    assert torch.allclose(grown(x), without(x), rtol=0, atol=1e-12)
    assert torch.equal(grown.get_parameter("links.input>hidden1")[:4], network.get_parameter("links.input>hidden1"))


def test_several_actions_in_a_row() -> None:
    unit = Unit((Spoke("input", 0, 1.0),), (Spoke("hidden2", 0, 1.0),))
    actions = [
        Widen("hidden1", (unit, unit)),
        Narrow("hidden1", (4,)),
        Skip("input>output", (Edge("input>output", 0, 0),)),
    ]
    grown, state = surgery.apply(chain(), actions)
    assert grown.axis_sizes()["hidden1"] == 5
    assert grown.blueprint()["active"]["input>output"] == 1
    assert state is None


def test_training_mode_and_number_type_are_kept() -> None:
    network = chain().float().train()
    grown, _ = surgery.apply(network, [Narrow("hidden1", (0,))])
    assert grown.training
    assert {t.dtype for t in surgery.tensors(grown).values()} == {torch.float32}
    assert not surgery.apply(network.eval(), [NoChange()])[0].training


def test_a_removed_layer_takes_its_links_along() -> None:
    grown, _ = surgery.apply(chain(skip=True), [Remove("hidden2")])
    assert grown.blueprint()["links"] == [["input", "hidden1"], ["input", "output"]]
    assert list(dict(grown.named_parameters())) == [
        "links.input>hidden1",
        "links.input>output",
        "biases.hidden1",
        "biases.output",
    ]
    x = torch.from_numpy(keyed("x").standard_normal((3, 5)))
    wanted = functional.linear(x, grown.get_parameter("links.input>output"), grown.get_parameter("biases.output"))
    assert torch.equal(grown(x), wanted)


IN, OUT = (Spoke("input", 0, 1.0),), (Spoke("hidden2", 0, 0.0),)
NEW = Unit(IN, OUT)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (Widen("input", (NEW,)), "Widen: 'input' is no hidden layer; write one of hidden1, hidden2"),
        (Widen("output", (NEW,)), "is no hidden layer"),
        (Widen("hidden9", (NEW,)), "'hidden9' is no hidden layer"),
        (Widen("hidden1", (Unit((), OUT),)), "needs fan-in and fan-out"),
        (Widen("hidden1", (Unit(IN, ()),)), "needs fan-in and fan-out"),
        (Widen("hidden1", (Unit((Spoke("input", 5, 1.0),), OUT),)), "input: slot 5 does not exist; write 0 to 4"),
        (Widen("hidden1", (Unit((Spoke("input", -1, 1.0),), OUT),)), "slot -1 does not exist; write 0 to 4"),
        (Widen("hidden1", (Unit(IN, (Spoke("hidden2", 3, 0.0),)),)), "hidden2: slot 3 does not exist; write 0 to 2"),
        (Widen("hidden1", (Unit(IN, (Spoke("output", 0, 0.0),)),)), "there is no link 'hidden1>output' for a new unit"),
        (Widen("hidden1", (Unit((Spoke("hidden2", 0, 0.0),), OUT),)), "there is no link 'hidden2>hidden1'"),
        (Widen("hidden1", (Unit(IN * 2, OUT),)), "given twice"),
        (Widen("hidden1", (NEW,), ((4, 0.5),)), "hidden1: slot 4 does not exist; write 0 to 3"),
        (Narrow("output", (0,)), "'output' is no hidden layer"),
        (Narrow("hidden1", (4,)), "hidden1: slot 4 does not exist; write 0 to 3"),
        (Narrow("hidden1", (1, 1)), "a slot is given twice; write each once"),
        (Narrow("hidden1", (0, 1, 2, 3)), "all 4 units would go; leave one, or write Remove"),
        (Narrow("hidden1", (0, 1), (1.0,)), "2 slots but 1 folds; write one a slot, or none"),
        (Insert("hidden1", "output", (NEW,)), "the new name must be free"),
        (Insert("new", "input", (NEW,)), "`before` one of hidden1, hidden2, output"),
        (Insert("new", "nowhere", (NEW,)), "`before` one of hidden1, hidden2, output"),
        (Insert("new", "hidden1", ()), "a layer needs at least one unit"),
        (Insert("new", "output", (Unit((Spoke("output", 0, 1.0),), (Spoke("output", 0, 0.0),)),)), "must lead from"),
        (Insert("new one", "hidden2", (NEW,)), "'new one' is no name; write letters, digits and _"),
        (Insert("3", "hidden2", (NEW,)), "'3' is no name"),
        (Insert("a.b", "hidden2", (NEW,)), "'a.b' is no name"),
        (Remove("output"), "'output' is no hidden layer; write one of hidden1, hidden2"),
        (Remove("hidden2"), "output would have no input; write a Skip to it first"),
        (Connect("output", ()), "no edges were given; write NoChange instead"),
        (
            Connect("output", (Edge("input>hidden2", 0, 0),)),
            "there is no link 'input>hidden2'; write one of input>hidden1",
        ),
        (Connect("output", (Edge("hidden2>output", 0, 0),)), "edge (0, 0) is already connected; leave it out"),
        (Connect("output", (Edge("hidden2>output", 2, 0),)), "output: slot 2 does not exist; write 0 to 1"),
        (Connect("output", (Edge("hidden2>output", 0, 3),)), "hidden2: slot 3 does not exist; write 0 to 2"),
        (Disconnect("output", (Edge("hidden2>output", 0, 0),) * 2), "an edge is given twice; write each once"),
        (Skip("hidden2>output", (Edge("hidden2>output", 0, 0),)), "the link exists; write Connect instead"),
        (Skip("output>input", (Edge("output>input", 0, 0),)), "must lead from a layer to a later one"),
        (Skip("input>nowhere", (Edge("input>nowhere", 0, 0),)), "must lead from a layer to a later one"),
        (Skip("input", (Edge("input", 0, 0),)), "must lead from a layer to a later one"),
        (Skip("input>output", ()), "needs edges, all of them of that link"),
        (Skip("input>output", (Edge("hidden1>output", 0, 0),)), "needs edges, all of them of that link"),
    ],
)
def test_what_is_not_legal_is_said_with_the_cure(action: Action, told: str) -> None:
    network = chain()
    with pytest.raises(ValueError) as caught:
        surgery.apply(network, [NoChange(), action], OptimizerState.fresh(network))
    assert told in str(caught.value)


def test_disconnecting_what_is_not_connected() -> None:
    edge = (Edge("input>hidden1", 1, 2),)
    bare, _ = surgery.apply(chain(), [Disconnect("hidden1", edge)])
    with pytest.raises(ValueError, match=r"Disconnect input>hidden1: edge \(1, 2\) is not connected; leave it out"):
        surgery.apply(bare, [Disconnect("hidden1", edge)])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"activation": "swish"}, "activation: expected one of relu, gelu, tanh, sigmoid, got 'swish'"),
        ({"layers": [["input", 5]]}, "layers: expected distinct names from 'input' to 'output'"),
        ({"layers": [["a", 5], ["output", 1]]}, "layers: expected distinct names"),
        ({"layers": [["input", 5], ["input", 5], ["output", 1]]}, "layers: expected distinct names"),
        ({"layers": [["input", 5], ["output", 0]]}, "every layer needs at least one unit"),
        ({"layers": [["input", 5], ["keys", 2], ["output", 1]]}, "blueprint of an mlp"),
        ({"links": []}, "has no input; link an earlier layer to it"),
        ({"links": [["output", "input"]]}, "must lead from a layer to a later one"),
        ({"links": [["input", "output"], ["input", "output"]]}, "each may be given once"),
        ({"links": [["input"]]}, "not enough values"),
        ({"links": None}, "blueprint of an mlp: expected layers, links and activation"),
    ],
)
def test_bad_blueprints_name_the_field(changed: dict[str, object], told: str) -> None:
    blueprint = {"activation": "relu", "layers": [["input", 5], ["output", 1]], "links": [["input", "output"]]}
    if "keys" in str(changed):
        blueprint["links"] = [["input", "keys"], ["keys", "output"]]
    with pytest.raises(ValueError) as caught:
        Mlp.from_blueprint({**blueprint, **changed})
    assert told in str(caught.value)
