"""Networks that have grown, with the ages and origins that it left, and data that fit them."""

from __future__ import annotations

import numpy as np
import torch

from evo.config import TrainingConfig
from evo.learning_rate_setting import Setting
from evo.task import Split
from evo.training import Moment
from search_spaces import surgery
from search_spaces.actions import Action, Connect, Edge, Skip, Spoke, Unit, Widen
from search_spaces.families import Convnet, Mlp
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect

CONFIG = TrainingConfig(batch_size=16, learning_rate=0.02, weight_decay=0.1, warmup=3, rates_every=10)
KINDS = ("mlp", "convnet")


def seed_of(kind: str, density: float = 0.5) -> tuple[Network, OptimizerState]:
    """A seed that was never trained; one matrix of the mlp is dense."""
    network: Network
    if kind == "convnet":
        network = Convnet((1, 6, 6), [("input", 1), ("channel1", 3), ("hidden1", 4), ("output", 3)], "relu")
        connect(network, density, keyed("test", "convnet"))
    else:
        layers = [("input", 6), ("hidden1", 5), ("hidden2", 4), ("output", 3)]
        links = [("input", "hidden1"), ("hidden1", "hidden2"), ("hidden2", "output")]
        network = Mlp(layers, links, "tanh")
        connect(network, density, keyed("test", "mlp"))
        with torch.no_grad():
            network.get_buffer("mask.hidden2>output").fill_(1.0)
            weight = network.get_parameter("links.hidden2>output")
            weight.copy_(torch.from_numpy(keyed("test", "dense").normal(size=tuple(weight.shape))))
    return network, OptimizerState.fresh(network)


def lived(network: Network, state: OptimizerState, updates: int) -> None:
    """As if every active element had had so many updates more."""
    draw = keyed("test", "moments", updates)
    for name, on in active(network).items():
        state.age[name] += updates * on
        shape = tuple(on.shape)
        state.first[name].copy_(torch.from_numpy(draw.normal(size=shape) * 0.01) * on)
        state.second[name].copy_(torch.from_numpy(draw.uniform(1e-5, 1e-3, shape)) * on)


def masked_edge(network: Network, link: str) -> Edge:
    mask = network.get_buffer(f"mask.{link}").flatten(1)
    row, column = (mask == 0).nonzero()[0].tolist()
    return Edge(link, row, column, 0.1)


def grow(network: Network, state: OptimizerState, action: Action, updates: int = 0) -> tuple[Network, OptimizerState]:
    """The network after the action, and after so many updates."""
    grown, after = surgery.apply(network, [action], state)
    assert after is not None
    lived(grown, after, updates)
    return grown, after


def grown_of(kind: str, last: int = 30) -> tuple[Network, OptimizerState]:
    """A seed of 400 updates, then a unit in hidden1, 100 updates, then an edge (mlp: a skip before it).

    last: updates after that; ages are these and 500, 100 or 0.
    """
    network, state = seed_of(kind)
    lived(network, state, 400)
    first = "input" if kind == "mlp" else "channel1"
    out = "hidden2" if kind == "mlp" else "output"
    unit = Unit((Spoke(first, 0, 0.3), Spoke(first, 2, -0.2)), (Spoke(out, 1, 0.2),), 0.1)
    network, state = grow(network, state, Widen("hidden1", (unit,)), 100)
    if kind == "mlp":
        network, state = grow(network, state, Skip("input>output", (Edge("input>output", 1, 4, 0.2),)))
    return grow(network, state, Connect("hidden1", (masked_edge(network, f"{first}>hidden1"),)), last)


def setting_of(
    network: Network,
    state: OptimizerState,
    step: int = 0,
    total: int = 900,
    plateaus: int = 0,
    epoch: float = 10.0,
    every: int = 1,
) -> Setting:
    config = CONFIG.model_copy(update={"rates_every": every})
    return Setting(network, state, Moment(step, total, plateaus), config, epoch)


def split_of(kind: str, n: int = 80) -> Split:
    draw = keyed("test", "split", n)
    x = torch.from_numpy(draw.normal(size=(n, 6 if kind == "mlp" else 36)).astype(np.float32))
    return Split(x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0).long())
