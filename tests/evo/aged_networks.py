"""A small network whose elements have had different numbers of updates, and sessions of training it."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from evo.batches import batch_orders, cosine_rates
from evo.config import TrainingConfig
from evo.task import Split
from evo.training import Session
from search_spaces.families import Mlp
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.objective import Kind

CONFIG = TrainingConfig(batch_size=16, learning_rate=0.02, weight_decay=0.1, clip_norm=0.5, warmup=0)
MATURE = TrainingConfig(batch_size=16, learning_rate=0.02, weight_decay=0.1, warmup=20)


def network_of(density: float = 0.4) -> Network:
    layers = [("input", 6), ("hidden1", 5), ("hidden2", 4), ("output", 3)]
    links = [("input", "hidden1"), ("input", "hidden2"), ("hidden1", "hidden2"), ("hidden2", "output")]
    network = Mlp(layers, links, "gelu")
    connect(network, density, keyed("test", "weights"))
    # One matrix without a hole, so that both ways of holding a parameter are gone through.
    connect_fully(network, "links.hidden2>output")
    return network


def connect_fully(network: Network, name: str) -> None:
    with torch.no_grad():
        network.get_buffer(network.masks()[name]).fill_(1.0)
        weight = network.get_parameter(name)
        weight.copy_(torch.from_numpy(keyed("test", name).normal(size=tuple(weight.shape))))


def split_of(n: int = 60, kind: Kind = "classification") -> Split:
    draw = keyed("test", "split", n)
    x = torch.from_numpy(draw.normal(size=(n, 6)).astype(np.float32))
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0).long()
    return Split(x, y if kind == "classification" else torch.stack([x[:, 0], x[:, 1] ** 2, x[:, 2]], dim=1))


def aged(network: Network, ages: Tensor | int, scales: tuple[float, ...] = (1.0,)) -> OptimizerState:
    """Moments of a life that has gone on for a while, ages drawn from `ages`, update scales from `scales`."""
    state, draw = OptimizerState.fresh(network), keyed("test", "state")
    choice = torch.as_tensor(ages).reshape(-1).numpy()
    for name, mask in active(network).items():
        shape = tuple(mask.shape)
        state.age[name].copy_(torch.from_numpy(draw.choice(choice, shape)) * mask)
        had = (state.age[name] > 0) & mask
        state.first[name].copy_(torch.from_numpy(draw.normal(size=shape) * 0.01) * had)
        state.second[name].copy_(torch.from_numpy(draw.uniform(1e-5, 1e-3, shape)) * had)
        state.scale[name].copy_(torch.from_numpy(draw.choice(np.array(scales), shape)))
    return state


def plan(steps: int, config: TrainingConfig = CONFIG) -> tuple[np.ndarray, np.ndarray]:
    orders = batch_orders(60, steps, config.batch_size, keyed("test", "batches"))
    return orders, cosine_rates(config, 0, steps, 2 * steps)


def train(
    network: Network, state: OptimizerState, steps: int, config: TrainingConfig = CONFIG, correct_all: bool = False
) -> tuple[Network, OptimizerState, Session]:
    """A trained copy; the originals stay. correct_all: treat every element as one whose age is not the majority's."""
    network, orders_rates = copy.deepcopy(network), plan(steps, config)
    session = Session(network, state, split_of(), "classification", config)
    if correct_all:
        session.adam.others = torch.arange(len(session.adam.theta))
    assert not session.run(*orders_rates).diverged
    return network, session.close(), session


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def close(one: Network, other: Network, tolerance: float = 2e-6) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
