"""One cycle of a network's life: train, then decide. A pure function from life to life, with rows.

The books, in nats on the deciding half of the growth data: information after a cycle = before it + gain of training +
gain of the control + own gain of the adopted fork.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo import memory, resolution, traces
from evo.batches import cosine_rates
from evo.data import Task
from evo.decision import decide
from evo.life import Life
from evo.memory import Parts
from evo.rows import choice_row, memory_row, segment_row
from evo.segments import Segment, Segmented
from evo.surroundings import Surroundings, correct, information
from evo.training import Moment, Trained, held_out_losses, predict
from evo.trials import pack, unpack
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from tournaments import economy, series
from tournaments.economy import Ledger
from tournaments.objective import score
from tournaments.policies import Seen

WINDOW = 960
PATIENCE_WITH_DIVERGENCE = 5


def born(around: Surroundings, network: Network) -> Life:
    """The life of a network that has not been trained here yet. Its first figures are at its first cycle's resolution,
    as those that they will be held against.
    """
    life = Life(0, 0, Ledger(0.0, 0.0), 0.0, 0.0, network.count())
    around = around.seen(life)
    task = around.task
    held, parts = memory.fitted(
        life.parts, 1, lambda parts: held_out_losses(network, task.splits["growth"], task.kind, parts.rows)
    )
    life = dataclasses.replace(life, parts=parts)
    now = information(task, held)
    seen, policy = Seen(now, correct(around, network)), around.policy
    life = dataclasses.replace(life, information=now, born=now, best=now)
    ledger = policy.open(around.config.economy.endowment, seen, around.terms(life))
    return dataclasses.replace(life, ledger=ledger, traces=traces.born(around.config, policy.highs(seen)))


def run_cycle(
    around: Surroundings, life: Life, network: Network, state: OptimizerState
) -> tuple[Life, Network, OptimizerState, list[dict[str, Any]]]:
    """The next cycle, or the last stretch of training once all cycles are over.

    A life ends where memory does not suffice for a single sample.
    """
    try:
        return _cycle(around, life, network, state)
    except memory.ShortOfMemoryError as short:
        life = dataclasses.replace(life, cycle=life.cycle + 1, done=True, reason=f"{short}, one sample at a time")
        return life, network, state, [choice_row(around, life, life.reason, lost=0)]


def _cycle(
    around: Surroundings, life: Life, network: Network, state: OptimizerState
) -> tuple[Life, Network, OptimizerState, list[dict[str, Any]]]:
    around = around.seen(life)
    last = life.cycle >= around.plan.cycles
    # Steps of tournaments that were not held are left to the last stretch, so that the cosine comes to its end.
    steps = max(around.plan.total - life.step, 0) if last else around.plan.segment
    before = life
    life, network, state, rows, trained = _train(around, life, network, state, steps)
    if last or life.done:
        life = dataclasses.replace(life, cycle=life.cycle + 1, done=True, reason=life.reason or "lived its whole life")
        return life, network, state, rows
    assert trained is not None
    life = traces.trained(around.config, life, trained.losses, trained.velocities)
    seen = Seen(life.information, correct(around, network), _spikes(around, before, trained), network.count())
    life = dataclasses.replace(life, ledger=economy.tick(around.policy.earn(life.ledger, seen)))
    life, network, state, decided = decide(around, life, network, state, seen)
    life = dataclasses.replace(life, cycle=life.cycle + 1, peak=max(life.peak, network.count()))
    return _patience(around, life), network, state, rows + decided


def figures(task: Task, network: Network, rows: int = memory.ROWS) -> dict[str, float]:
    """Validation figures of a snapshot: information in nats, and accuracy or R². rows: looked at together."""
    held = task.splits["validation"]
    found = score(task.kind, predict(network, held.x, rows), held.y)
    name = "validation_accuracy" if task.kind == "classification" else "validation_r2"
    losses = held_out_losses(network, held, task.kind, rows)
    return {"validation_information_nats": information(task, losses), name: found}


def _patience(around: Surroundings, life: Life) -> Life:
    """Counts cycles without a better information, and stops where the config says that it was long enough."""
    better = life.information > life.best
    life = dataclasses.replace(life, best=max(life.best, life.information), stale=0 if better else life.stale + 1)
    limit = around.config.training.patience
    if limit is not None and life.stale >= limit:
        return dataclasses.replace(life, done=True, reason=f"no better information for {life.stale} cycles")
    return life


def _spikes(around: Surroundings, before: Life, trained: Trained) -> int:
    """New spikes of the gradient variance, where they are worth something."""
    if around.config.economy.policy != "spike":
        return 0
    norms = np.concatenate([before.norms, trained.norms])
    return series.spikes(norms, len(trained.norms), before.step, traces.settings(around.config))


def _train(
    around: Surroundings, life: Life, network: Network, state: OptimizerState, steps: int
) -> tuple[Life, Network, OptimizerState, list[dict[str, Any]], Trained | None]:
    """A segment of plain training. Where it diverges it is run again at half the rate; what was lost is said, and its
    steps are part of what the life has spent.
    """
    began = time.perf_counter()
    task, config = around.task, around.config
    rows: list[dict[str, Any]] = []
    keep = pack(network, state)
    for attempt in range(PATIENCE_WITH_DIVERGENCE + 1):
        rates = life.rate * cosine_rates(config.training, life.step, steps, around.plan.total)
        segment = Segment(
            (config.seed, around.network, life.cycle, "batches", attempt),
            rates,
            Moment(life.step, around.plan.total, life.plateaus),
            config.training,
            traces.snapshots(config),
            resolution.scale(config.training.scales, life.cycle, around.plan.cycles),
        )

        def tried(parts: Parts, segment: Segment = segment) -> tuple[Segmented, NDArray[np.float64]]:
            done = around.train(keep, dataclasses.replace(segment, parts=parts.training))
            return done, held_out_losses(done.network, task.splits["growth"], task.kind, parts.rows)

        (done, held), parts = memory.fitted(life.parts, config.training.batch_size // config.training.ranks, tried)
        trained, network, state = done.trained, done.network, done.state
        if parts != life.parts:
            life = dataclasses.replace(life, parts=parts)
            rows.append(memory_row(around, life, "training", parts))
        if not trained.diverged and bool(np.isfinite(held).all()):
            break
        life = dataclasses.replace(life, rate=life.rate / 2, spent=life.spent + steps)
        said = "training diverged"
        if attempt < PATIENCE_WITH_DIVERGENCE:
            said += f"; once more from the last decision at {life.rate:g} of the learning rate"
        rows.append(choice_row(around, life, said, lost=steps))
    else:
        network, state = unpack(keep)
        return (
            dataclasses.replace(life, done=True, reason="training diverged at every rate"),
            network,
            state,
            rows,
            None,
        )
    now = information(task, held)
    gain = now - life.information
    life = _after_steps(life, trained, steps)
    life = dataclasses.replace(life, information=now, gain_training=life.gain_training + gain)
    rate = float(rates[-1]) if steps else None
    rows.append(segment_row(around, life, network, trained, gain, rate, time.perf_counter() - began))
    return life, network, state, rows, trained


def _after_steps(life: Life, trained: Trained, steps: int) -> Life:
    losses = (*life.losses, *trained.losses.tolist())[-WINDOW:]
    norms = (*life.norms, *trained.norms.tolist())[-WINDOW:]
    return dataclasses.replace(life, step=life.step + steps, losses=losses, norms=norms)
