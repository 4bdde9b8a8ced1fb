"""convnet: its arithmetic against PyTorch's own modules, how its weights are counted, and errors that give the cure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from random_actions import SEEDS, inputs, seed_network, weights
from torch import Tensor, nn

from search_spaces import surgery
from search_spaces.actions import Connect, Disconnect, Edge, Narrow, Remove, Spoke, Unit, Widen
from search_spaces.families.convnet import Convnet
from search_spaces.network import Network
from search_spaces.randomness import keyed


def convnet() -> Network:
    return seed_network("convnet", keyed("convnet"))


def plain(network: Network) -> nn.Sequential:
    """The same network of PyTorch's modules, dense."""
    tensors = surgery.tensors(network)

    def weight(link: str) -> Tensor:
        return tensors[f"links.{link}"].detach() * tensors[f"mask.{link}"]

    modules: list[nn.Module] = []
    for link in ("input>channel1", "channel1>channel2"):
        source, _, target = link.partition(">")
        sizes = network.axis_sizes()
        conv = nn.Conv2d(sizes[source], sizes[target], 3, padding=1, bias=False, dtype=torch.float64)
        norm = nn.BatchNorm2d(sizes[target], dtype=torch.float64)
        norm.load_state_dict({k.split(".")[2]: t for k, t in tensors.items() if k.startswith(f"norms.{target}.")})
        conv.weight.data = weight(link)
        modules += [conv, norm, nn.ReLU(), nn.MaxPool2d(2)]
    modules.append(nn.Flatten())
    for link in ("channel2>hidden1", "hidden1>output"):
        linear = nn.Linear(1, 1)
        linear.weight.data, linear.bias.data = weight(link), tensors[f"biases.{link.partition('>')[2]}"].detach()
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1]).eval()


def test_forward_is_that_of_plain_modules() -> None:
    network = convnet()
    twin = plain(network)
    x = inputs(network, keyed("x")).reshape(-1, 2, 9, 8)
    assert torch.allclose(network(x), twin(x), rtol=0, atol=1e-12)
    assert torch.allclose(network.train()(x), twin.train()(x), rtol=0, atol=1e-12)
    assert torch.allclose(network.eval()(x), twin.eval()(x), rtol=0, atol=1e-12)


def test_pictures_may_come_flat() -> None:
    network = convnet()
    x = inputs(network, keyed("x"))
    assert x.shape == (7, 2 * 9 * 8)
    assert torch.equal(network(x), network(x.reshape(7, 2, 9, 8)))
    with pytest.raises(RuntimeError):
        network(x[:, :-1])


def test_places_and_axes() -> None:
    network = convnet()
    assert [(p.layer, p.sources, p.positions) for p in network.places()] == [
        ("channel1", ("input",), 72),
        ("channel2", ("channel1",), 16),
        ("hidden1", ("channel2",), 1),
        ("output", ("hidden1",), 1),
    ]
    axes = network.axes()
    assert axes["links.channel1>channel2"] == axes["mask.channel1>channel2"] == "channel2 channel1 3 3"
    assert axes["links.channel2>hidden1"] == "hidden1 (channel2 h w)"
    assert axes["norms.channel1.running_var"] == "channel1"
    assert axes["norms.channel1.num_batches_tracked"] == ""
    assert set(axes) == set(surgery.tensors(network))


def test_count_leaves_masked_kernel_weights_out() -> None:
    network = convnet()
    dense = 3 * 2 * 9 + 2 * 3 * 9 + 3 * 2 * 4 + 3 * 3
    masked = sum(int((network.get_buffer(mask) == 0).sum()) for mask in network.masks().values())
    assert 0 < masked < dense
    assert network.count() == dense - masked + 2 * (3 + 2) + 3 + 3


def test_spokes_of_a_channel_count_its_taps_and_positions() -> None:
    """As families/links.py says: fan-in (source, tap), fan-out (row, position)."""
    network = convnet()
    tap, position = 3 * 1 + 2, 2 * 1 + 0
    into, out = Spoke("channel1", 2 * 9 + tap, 0.5), Spoke("hidden1", 1 * 4 + position, 0.25)
    grown, _ = surgery.apply(network, [Widen("channel2", (Unit((into,), (out,), 0.75),))])
    kernel = grown.get_parameter("links.channel1>channel2")[2]
    assert kernel.nonzero().tolist() == [[2, 1, 2]]
    assert kernel[2, 1, 2] == 0.5
    fan_out = grown.get_parameter("links.channel2>hidden1").reshape(3, 3, 2, 2)[:, 2]
    assert fan_out.nonzero().tolist() == [[1, 1, 0]]
    assert fan_out[1, 1, 0] == 0.25
    for part, value in (("weight", 1.0), ("bias", 0.75), ("running_mean", 0.0), ("running_var", 1.0)):
        assert surgery.tensors(grown)[f"norms.channel2.{part}"][2] == value

    into, out = Spoke("input", 9, 0.5), Spoke("channel2", 1 * 9 + tap, 0.25)
    grown, _ = surgery.apply(network, [Widen("channel1", (Unit((into,), (out,)),))])
    fan_out = grown.get_parameter("links.channel1>channel2")[:, 3]
    assert fan_out.nonzero().tolist() == [[1, 1, 2]]


def test_edges_of_a_kernel() -> None:
    network = convnet()
    edge = Edge("channel1>channel2", 1, 2 * 9 + 4, 3.0)
    was_on = bool(weights(network, edge.link)[1][1, 2, 4])
    steps = [Disconnect("channel2", (edge,))] if was_on else []
    grown, _ = surgery.apply(network, [*steps, Connect("channel2", (edge,))])
    assert grown.get_parameter("links.channel1>channel2")[1, 2, 1, 1] == 3.0
    with pytest.raises(ValueError, match="channel1: slot 27 does not exist; write 0 to 26"):
        surgery.apply(network, [Connect("channel2", (Edge("channel1>channel2", 0, 27),))])


def test_running_statistics_move_with_their_channels() -> None:
    network = convnet()
    grown, _ = surgery.apply(network, [Narrow("channel1", (1,))])
    for part in ("weight", "bias", "running_mean", "running_var"):
        name = f"norms.channel1.{part}"
        assert torch.equal(surgery.tensors(grown)[name], surgery.tensors(network)[name][[0, 2]])
    assert surgery.tensors(grown)["norms.channel1.num_batches_tracked"] == 3


def test_layers_are_fixed_and_that_is_said() -> None:
    with pytest.raises(ValueError, match=r"Remove channel1: .* write Widen, Narrow, Connect or Disconnect"):
        surgery.apply(convnet(), [Remove("channel1")])


def test_constants_cannot_pass_through_padding() -> None:
    surgery.apply(convnet(), [Narrow("channel1", (0,), (0.0,))])
    with pytest.raises(ValueError, match="a constant other than 0 reaches channel2 with zeros padded around it"):
        surgery.apply(convnet(), [Narrow("channel1", (0,), (0.5,))])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"activation": "swish"}, "activation: expected one of"),
        ({"picture": [2, 9]}, "picture: expected [channels, height, width]"),
        ({"picture": [3, 9, 8]}, "with input's 2 channels"),
        ({"picture": [2, 3, 8]}, "picture: 3x8 cannot be halved 2 times; write fewer channel layers"),
        ({"picture": None}, "blueprint of a convnet"),
        ({"layers": [["input", 2], ["output", 3]]}, "layers: expected input, channel1"),
        ({"layers": [["input", 2], ["hidden1", 3], ["channel1", 3], ["output", 3]]}, "in this order"),
        ({"layers": [["input", 2], ["channel1", 3], ["channel1", 3], ["output", 3]]}, "each once"),
        ({"layers": [["input", 2], ["channel1", 0], ["output", 3]]}, "every layer needs at least one unit"),
    ],
)
def test_bad_blueprints_name_the_field(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as caught:
        Convnet.from_blueprint({**SEEDS["convnet"], **changed})
    assert told in str(caught.value)
