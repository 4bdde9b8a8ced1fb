"""Networks of every family to propose for, with their evidence."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping

import torch

from search_spaces import surgery
from search_spaces.actions import Connect, Edge
from search_spaces.families import Convnet, Mlp
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.evidence import Evidence, collect
from tournaments.findings import Findings


def mlp(*hidden: int, activation: str = "relu", density: float = 0.4, skips: tuple[tuple[str, str], ...] = ()) -> Mlp:
    names = ["input", *(f"hidden{i}" for i in range(1, len(hidden) + 1)), "output"]
    layers = list(zip(names, [10, *hidden, 3], strict=True))
    network = Mlp(layers, [*itertools.pairwise(names), *skips], activation)
    connect(network, density, keyed("mlp", *hidden, activation))
    return network


def convnet(*channels: int, hidden: tuple[int, ...] = ()) -> Convnet:
    names = [
        "input",
        *(f"channel{i + 1}" for i in range(len(channels))),
        *(f"hidden{i + 1}" for i in range(len(hidden))),
    ]
    network = Convnet((1, 8, 8), list(zip([*names, "output"], [1, *channels, *hidden, 3], strict=True)))
    connect(network, 0.4, keyed("convnet", *channels, *hidden))
    return network


@torch.no_grad()
def dead() -> Network:
    network = mlp(5, 4)
    network.get_parameter("biases.hidden1").fill_(-100.0)
    return network


def idle() -> Network:
    network = Mlp([("input", 10), ("hidden1", 3), ("output", 3)], [("input", "hidden1"), ("input", "output")])
    connect(network, 0.5, keyed("idle"))
    return network


@torch.no_grad()
def bare() -> Network:
    """A row of the output, and a hidden unit, without any edges."""
    network = mlp(5)
    network.get_buffer("mask.hidden1>output")[1] = 0
    network.get_buffer("mask.input>hidden1")[2] = 0
    for link in ("hidden1>output", "input>hidden1"):
        network.get_parameter(f"links.{link}").mul_(network.get_buffer(f"mask.{link}"))
    return network


@torch.no_grad()
def extreme(activation: str) -> Network:
    """Two dead units a hidden layer, and two that are always on; a unit without inputs, and one without outputs."""
    network = mlp(8, 7, 6, activation=activation)
    for layer in ("hidden1", "hidden2", "hidden3"):
        network.get_parameter(f"biases.{layer}")[:4] = torch.tensor([-9.0, -12.0, 9.0, 7.0])
    network.get_parameter("links.hidden3>output").mul_(0.1)
    for name, at in (("input>hidden1", (4,)), ("hidden2>hidden3", (slice(None), 4))):
        network.get_buffer(f"mask.{name}")[at] = 0
        network.get_parameter(f"links.{name}")[at] = 0
    return network


def patched() -> tuple[Network, OptimizerState]:
    """Five edges of two links, grown later than all else."""
    network = mlp(6, 5)
    masked = [
        (name, torch.nonzero(network.get_buffer(f"mask.{name}") == 0)) for name in ("input>hidden1", "hidden1>hidden2")
    ]
    edges = tuple(Edge(name, *at, 0.1) for name, where in masked for at in where[:3].tolist())[:5]
    seed = OptimizerState.fresh(network)
    for age in seed.age.values():
        age += 9
    grown, state = surgery.apply(network, (Connect("*", edges),), seed)
    assert state is not None
    for age in state.age.values():
        age += 3
    return grown, state


NETWORKS: Mapping[str, Callable[[], Network]] = {
    "one hidden layer": lambda: mlp(6),
    "two hidden layers": lambda: mlp(6, 5, activation="tanh"),
    "skips": lambda: mlp(6, 5, skips=(("input", "output"), ("hidden1", "output"))),
    "gelu": lambda: mlp(7, activation="gelu"),
    "one channel layer": lambda: convnet(3),
    "two channel layers": lambda: convnet(3, 4),
    "channels and hidden": lambda: convnet(2, hidden=(5,)),
    "extremes": lambda: extreme("relu"),
    "switches": lambda: extreme("tanh"),
    "patched": lambda: patched()[0],
    "a picture": lambda: mlp(7),
}
ODD: Mapping[str, Callable[[], Network]] = {
    "no hidden layer": lambda: mlp(),
    "one hidden unit": lambda: mlp(1),
    "dense": lambda: mlp(4, density=1.0),
    "dead layer": dead,
    "layer that feeds nothing": idle,
    "unit and row without edges": bare,
}


PICTURES: Mapping[str, tuple[int, int, int]] = {"a picture": (1, 2, 5)}
STATES: Mapping[str, Callable[[], OptimizerState]] = {"patched": lambda: patched()[1]}


@functools.cache
def evidence(name: str) -> tuple[Network, Evidence]:
    network = {**NETWORKS, **ODD}[name]().eval()
    rng = keyed("evidence", name)
    x = torch.from_numpy(rng.standard_normal((300, math.prod(network.input_shape())))).float()
    y = torch.from_numpy(rng.integers(0, 3, 300)) * (x[:, 0] > 0)
    return network, collect(network, x, y, "classification", rng)


def findings(name: str, grow: int = 30, trim: int = 8, key: str = "draw") -> Findings:
    network, seen = evidence(name)
    state = STATES[name]() if name in STATES else None
    draw = functools.partial(keyed, key)
    return Findings(network, seen, grow, trim, draw, state=state, picture=PICTURES.get(name))
