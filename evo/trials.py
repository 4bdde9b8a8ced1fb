"""One trial: a fork of the parent, edited, trained for a rung, measured on held-out data.

A trial is a pure function of the data, the parent and the request, so a lost worker's trial simply runs again,
anywhere, and gives the same answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo import averaging, memory
from evo.batches import batch_orders, cosine_rates, jittered
from evo.config import TrainingConfig
from evo.data import Task
from evo.memory import WHOLE, Parts
from evo.resolution import at_scale
from evo.training import Moment, Session, held_out_losses
from search_spaces import actions, surgery
from search_spaces.families import FAMILIES
from search_spaces.network import Network
from search_spaces.optimizer_state import PARTS, OptimizerState
from search_spaces.randomness import keyed


@dataclass(frozen=True)
class Body:
    """A network and its optimiser state as a blueprint (JSON) and named tensors: what travels between processes.

    weights: parameters and buffers. optimizer: "part/NAME". Never written to: `unpack` copies.
    """

    blueprint: str
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


@dataclass(frozen=True)
class TrialRequest:
    """key: (seed, network, cycle), the randomness shared by all arms of a tournament. arm: 0 is the control.

    actions: JSON, applied before training; empty for a fork that goes on from `start`. start: where an earlier rung of
    this fork stopped, None for the parent. step, steps, total: position in the life, for the learning rate, times
    `rate`. plateaus: that the life has seen, for the update scales that follow them. scale: pixels along a side of the
    blocks that pictures are seen in. average: share of the rung, its end, over which the weights are averaged before
    they are measured. parts: in which memory holds the work.
    """

    key: tuple[int | str, ...]
    arm: int
    seed: int
    rung: int
    actions: str
    start: Body | None
    step: int
    steps: int
    total: int
    rate: float
    jitter: float
    training: TrainingConfig
    plateaus: int = 0
    scale: int = 1
    average: float = 0.0
    parts: Parts = WHOLE


@dataclass(frozen=True)
class TrialResult:
    """growth, audit: (n,) float64 held-out losses in nats, of the fork's averaged weights where these were asked for.

    body: the fork after training. as_is: (n,) its losses on the growth data as it stands, which the books follow.
    parts: in which the work was done.
    """

    arm: int
    seed: int
    growth: NDArray[np.float64]
    audit: NDArray[np.float64]
    as_is: NDArray[np.float64]
    body: Body
    train_loss: float
    norm: float
    diverged: bool
    seconds: float
    parts: Parts = WHOLE


class TrialRunner(Protocol):
    """Runs trials of one parent, each independent of the others; results come in the order of the requests."""

    def __call__(self, parent: Body, requests: Sequence[TrialRequest]) -> list[TrialResult]: ...


def pack(network: Network, state: OptimizerState) -> Body:
    """Shares the tensors' memory: pack what will not be trained on."""
    optimizer = {f"{part}/{k}": t for part, (values, _) in state.parts().items() for k, t in values.items()}
    weights = {k: t.detach() for k, t in surgery.tensors(network).items()}
    return Body(json.dumps(network.blueprint()), weights, optimizer)


def unpack(body: Body) -> tuple[Network, OptimizerState]:
    """A network and state of their own, on the device of the body's tensors."""
    blueprint: dict[str, Any] = json.loads(body.blueprint)
    with torch.device("meta"):
        network = FAMILIES[blueprint["family"]].from_blueprint(blueprint)
    network.load_state_dict({k: t.clone() for k, t in body.weights.items()}, assign=True)
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
    for key, tensor in body.optimizer.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor.clone()
    return network, OptimizerState(**parts)


def run_trial(task: Task, parent: Body, request: TrialRequest) -> TrialResult:
    """Edit, train, measure. A fork that turns non-finite is reported as diverged; it never raises for that.

    Raises memory.ShortOfMemoryError where the request's parts are too large.
    """
    began = time.perf_counter()
    task = at_scale(task, request.scale)
    network, state = unpack(request.start if request.start is not None else parent)
    if request.actions:
        network, edited = surgery.apply(network, actions.from_json(request.actions), state)
        assert edited is not None
        state = edited
    data = task.splits["train"]
    n = len(data.x)
    orders = batch_orders(
        n, request.steps, request.training.batch_size, keyed(*request.key, "batches", request.seed, request.rung)
    )
    if request.jitter > 0:
        orders = jittered(
            orders, n, request.jitter, keyed(*request.key, "jitter", request.seed, request.rung, request.arm)
        )
    moment = Moment(request.step, request.total, request.plateaus)
    session = Session(network, state, data, task.kind, request.training, at=moment, parts=request.parts.training)
    rates = request.rate * cosine_rates(request.training, request.step, request.steps, request.total)
    with memory.needed("training"):
        trained = session.run(orders, rates, average=request.average)
    state = session.close()
    rows = request.parts.rows
    body, as_is = pack(network, state), held_out_losses(network, task.splits["growth"], task.kind, rows)
    growth = as_is
    if trained.average is not None:
        network, _ = unpack(body)
        averaging.put(network, trained.average)
        growth = held_out_losses(network, task.splits["growth"], task.kind, rows)
    audit = held_out_losses(network, task.splits["audit"], task.kind, rows)
    finite = all(bool(np.isfinite(losses).all()) for losses in (growth, audit, as_is))
    diverged = trained.diverged or not finite
    return TrialResult(
        arm=request.arm,
        seed=request.seed,
        growth=growth,
        audit=audit,
        as_is=as_is,
        body=body,
        train_loss=float(trained.losses.mean()),
        norm=float(trained.norms.mean()),
        diverged=diverged,
        seconds=time.perf_counter() - began,
        parts=request.parts,
    )
