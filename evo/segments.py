"""A segment: the training between two decisions, in this process or as one rank of several.

As a trial, it is a pure function of the data, the network and the request: where ranks die it simply runs again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from evo import memory
from evo.batches import batch_orders
from evo.config import TrainingConfig
from evo.ranks import Ranks
from evo.task import Split
from evo.training import Moment, Session, Trained
from evo.trials import Body, pack, unpack
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from tournaments.objective import Kind


@dataclass(frozen=True)
class Segment:
    """key: of the randomness of its batches. rates: (k,), of its steps. trajectory: snapshots of the weights whose
    velocities are told. scale: pixels along a side of the blocks that pictures are seen in. parts: of a batch.
    """

    key: tuple[int | str, ...]
    rates: NDArray[np.float64]
    moment: Moment
    training: TrainingConfig
    trajectory: int = 0
    scale: int = 1
    parts: int = 1


@dataclass(frozen=True)
class Segmented:
    """What a segment comes to: its figures, and a network and a state of their own."""

    trained: Trained
    network: Network
    state: OptimizerState


@runtime_checkable
class Together(Protocol):
    """A runner of trials whose processes can also train one network together, as so many ranks."""

    ranks: int

    def train(self, parent: Body, segment: Segment) -> Segmented: ...


def train(data: Split, kind: Kind, parent: Body, segment: Segment, ranks: Ranks | None = None) -> Segmented:
    """A copy of the parent, trained. ranks: all of them call this with the same, and get the same.

    Raises RanksDifferError where what they hold is not the same to the bit, before the first step or after the last.
    """
    network, state = unpack(parent)
    if ranks is not None:
        ranks.agree(digests(parent), f"before step {segment.moment.step}")
    steps = len(segment.rates)
    orders = batch_orders(len(data), steps, segment.training.batch_size, keyed(*segment.key))
    session = Session(network, state, data, kind, segment.training, at=segment.moment, ranks=ranks, parts=segment.parts)
    with memory.needed("training"):
        trained = session.run(orders, segment.rates, segment.trajectory)
    state = session.close()
    if ranks is not None:
        untouched(network, state)
        ranks.agree(digests(pack(network, state)), f"after step {segment.moment.step + steps}")
    return Segmented(trained, network, state)


def digests(body: Body) -> dict[str, str]:
    """Of every tensor by name, the optimiser's included, and of the blueprint."""
    found = {"blueprint": hashlib.blake2b(body.blueprint.encode(), digest_size=16).hexdigest()}
    for name, tensor in {**body.weights, **body.optimizer}.items():
        held = tensor.detach().cpu().contiguous()
        digest = hashlib.blake2b(f"{held.dtype} {tuple(held.shape)} ".encode(), digest_size=16)
        digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
        found[name] = digest.hexdigest()
    return found


def untouched(network: Network, state: OptimizerState) -> None:
    """Asserts that what is masked has no weight, no moments and no age: no gradient of any rank has reached it."""
    parameters = dict(network.named_parameters())
    for name, on in active(network).items():
        for values in (parameters[name], state.first[name], state.second[name], state.age[name]):
            assert not bool(values[~on].any()), f"{name}: a masked element was trained"
