"""Networks that have grown, trained under a rule for their learning rates."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from grown_networks import CONFIG, split_of

from evo.batches import batch_orders, cosine_rates
from evo.config import TrainingConfig
from evo.learning_rate_setting import Factors, Setting
from evo.training import Moment, Session
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed

TOTAL = 90


def session_of(
    kind: str,
    network: Network,
    state: OptimizerState,
    rates: str,
    step: int = 0,
    plateaus: int = 0,
    config: TrainingConfig = CONFIG,
    capture: bool | None = None,
) -> Session:
    config = config.model_copy(update={"rates": rates})
    at = Moment(step, TOTAL, plateaus)
    return Session(network, state, split_of(kind), "classification", config, capture=capture, at=at)


def plan(steps: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    orders = batch_orders(80, TOTAL, CONFIG.batch_size, keyed("test", "batches"))
    return orders[start : start + steps], cosine_rates(CONFIG, start, steps, TOTAL)


def trained(
    kind: str,
    network: Network,
    state: OptimizerState,
    rates: str,
    cuts: tuple[int, ...] = (0, TOTAL),
    plateaus: int = 0,
) -> tuple[Network, OptimizerState]:
    """A copy, trained from step to step of a life, in a session each."""
    network = copy.deepcopy(network)
    for start, stop in itertools.pairwise(cuts):
        session = session_of(kind, network, state, rates, start, plateaus)
        assert not session.run(*plan(stop - start, start)).diverged
        state, network = session.close(), copy.deepcopy(network)
    return network, state


def same(one: tuple[Network, OptimizerState], other: tuple[Network, OptimizerState]) -> bool:
    tensors = [dict(network.state_dict()) for network, _ in (one, other)]
    parts = [{f"{p}/{k}": t for p, (v, _) in s.parts().items() for k, t in v.items()} for _, s in (one, other)]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in (tensors, parts))


def half_frozen(setting: Setting) -> Factors:
    """All of the first layer from step 20 on, and every other element of the rest from step 40 on."""
    step, found = setting.moment.step, {}
    for name, p in setting.parameters.items():
        every_other = (torch.arange(p.numel(), device=p.device) % 2).view(p.shape).float()
        first = setting.depths[setting.layers[name]] == 0
        found[name] = torch.ones_like(p) * (0.0 if first and step >= 20 else 1.0)
        if not first and step >= 40:
            found[name] = every_other
    return found
