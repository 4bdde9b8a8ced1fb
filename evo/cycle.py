"""One cycle of a network's life: train, look, hold a tournament, adopt. A pure function from life to life, with rows.

The books, in nats on the deciding half of the growth data: information after a cycle = before it + gain of training +
gain of the control + own gain of the adopted fork.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo import events
from evo.config import Config, TrainingConfig
from evo.data import Split, Task
from evo.life import Life, Plan
from evo.training import Session, Trained, batch_orders, cosine_rates, held_out_losses, predict
from evo.trials import Body, TrialRequest, TrialResult, TrialRunner, pack, unpack
from search_spaces import actions
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from tournaments import economy, screening, triggers
from tournaments.candidate import Candidate
from tournaments.economy import Ledger
from tournaments.evidence import Evidence, collect
from tournaments.extrema import extrema
from tournaments.findings import Findings
from tournaments.objective import score
from tournaments.place import GramCache
from tournaments.proposals import PROPOSERS
from tournaments.tournament import ArmLosses, Decision, Verdict, hold

WINDOW = 960
PATIENCE_WITH_DIVERGENCE = 5


@dataclass(frozen=True)
class Surroundings:
    """What a life reads and never changes. evidence: the training samples that screening looks at."""

    config: Config
    task: Task
    network: str
    plan: Plan
    evidence: Split
    cache: GramCache
    runner: TrialRunner

    @staticmethod
    def of(config: Config, task: Task, network: str, runner: TrialRunner) -> Surroundings:
        train = task.splits["train"]
        rng = keyed(config.seed, network, "evidence")
        count = min(config.tournament.evidence_samples, len(train.x))
        index = np.sort(rng.choice(len(train.x), count, replace=False))
        config = config.model_copy(update={"training": resolved(config.training, len(train.x))})
        return Surroundings(
            config,
            task,
            network,
            Plan.of(config, len(train.x)),
            Split(train.x[index], train.y[index]),
            GramCache(),
            runner,
        )

    def price(self, life: Life) -> float:
        """Nats a parameter, at this point of the life."""
        e = self.config.economy
        samples = len(self.task.splits["train"].x)
        return economy.price(life.step / self.plan.total, samples, e.price, e.final_price)


def resolved(training: TrainingConfig, samples: int) -> TrainingConfig:
    """With the weight decay that `decay_epochs` stands for. What a weight forgets over is a number of *epochs*, of
    whatever size the data are (Wang & Aitchison 2024): rate · decay · steps an epoch = 1 / decay_epochs.
    """
    if training.weight_decay is not None:
        return training
    steps = max(samples / min(training.batch_size, samples), 1.0)
    return training.model_copy(update={"weight_decay": 1 / (training.learning_rate * steps * training.decay_epochs)})


def information(task: Task, losses: NDArray[np.float64]) -> float:
    """Nats: H(Y) less the mean held-out loss."""
    return task.entropy - float(losses.mean())


def born(around: Surroundings, network: Network) -> Life:
    """The life of a network that has not been trained here yet."""
    task = around.task
    now = information(task, held_out_losses(network, task.splits["growth"], task.kind))
    ledger = Ledger(around.config.economy.endowment, max(now, 0.0))
    return Life(0, 0, ledger, now, now, network.count(), best=now)


def run_cycle(
    around: Surroundings, life: Life, network: Network, state: OptimizerState
) -> tuple[Life, Network, OptimizerState, list[dict[str, Any]]]:
    """The next cycle, or the last stretch of training once all cycles are over."""
    last = life.cycle >= around.plan.cycles
    # Steps of tournaments that were not held are left to the last stretch, so that the cosine comes to its end.
    steps = max(around.plan.total - life.step, 0) if last else around.plan.segment
    life, network, state, rows = _train(around, life, network, state, steps)
    if last or life.done:
        life = dataclasses.replace(life, cycle=life.cycle + 1, done=True, reason=life.reason or "lived its whole life")
        return life, network, state, rows
    life = dataclasses.replace(life, ledger=economy.tick(economy.earn(life.ledger, life.information)))
    life, network, state, decided = _decide(around, life, network, state)
    life = dataclasses.replace(life, cycle=life.cycle + 1, peak=max(life.peak, network.count()))
    return _patience(around, life), network, state, rows + decided


def figures(task: Task, network: Network) -> dict[str, float]:
    """Validation figures of a snapshot: information in nats, and accuracy or R²."""
    held = task.splits["validation"]
    found = score(task.kind, predict(network, held.x), held.y)
    name = "validation_accuracy" if task.kind == "classification" else "validation_r2"
    return {"validation_information_nats": information(task, held_out_losses(network, held, task.kind)), name: found}


def _patience(around: Surroundings, life: Life) -> Life:
    """Counts cycles without a better information, and stops where the config says that it was long enough."""
    better = life.information > life.best
    life = dataclasses.replace(life, best=max(life.best, life.information), stale=0 if better else life.stale + 1)
    limit = around.config.training.patience
    if limit is not None and life.stale >= limit:
        return dataclasses.replace(life, done=True, reason=f"no better information for {life.stale} cycles")
    return life


def _train(
    around: Surroundings, life: Life, network: Network, state: OptimizerState, steps: int
) -> tuple[Life, Network, OptimizerState, list[dict[str, Any]]]:
    """A segment of plain training. Where it diverges it is run again at half the rate; what was lost is said."""
    began = time.perf_counter()
    task, config = around.task, around.config
    train = task.splits["train"]
    rows: list[dict[str, Any]] = []
    keep = pack(network, state)
    for attempt in range(PATIENCE_WITH_DIVERGENCE + 1):
        rng = keyed(config.seed, around.network, life.cycle, "batches", attempt)
        orders = batch_orders(len(train.x), steps, config.training.batch_size, rng)
        network, state = unpack(keep)
        rates = life.rate * cosine_rates(config.training, life.step, steps, around.plan.total)
        session = Session(network, state, train, task.kind, config.training)
        trained = session.run(orders, rates)
        state = session.close()
        held = held_out_losses(network, task.splits["growth"], task.kind)
        if not trained.diverged and bool(np.isfinite(held).all()):
            break
        life = dataclasses.replace(life, rate=life.rate / 2)
        said = "training diverged"
        if attempt < PATIENCE_WITH_DIVERGENCE:
            said += f"; once more from the last decision at {life.rate:g} of the learning rate"
        rows.append(events.row("choice", cycle=life.cycle, step=life.step, epoch=_epoch(around, life), reason=said))
    else:
        network, state = unpack(keep)
        return dataclasses.replace(life, done=True, reason="training diverged at every rate"), network, state, rows
    now = information(task, held)
    gain = now - life.information
    life = _after_steps(life, trained, steps)
    life = dataclasses.replace(life, information=now, gain_training=life.gain_training + gain)
    rows.append(
        events.row(
            "segment",
            cycle=life.cycle,
            step=life.step,
            epoch=_epoch(around, life),
            active_parameters=network.count(),
            information_nats=now,
            gain_training_nats=gain,
            train_loss=float(trained.losses[-min(50, steps) :].mean()) if steps else None,
            gradient_norm=float(trained.norms.mean()) if steps else None,
            learning_rate=float(rates[-1]) if steps else None,
            seconds=time.perf_counter() - began,
        )
    )
    return life, network, state, rows


def _after_steps(life: Life, trained: Trained, steps: int) -> Life:
    losses = (*life.losses, *trained.losses.tolist())[-WINDOW:]
    norms = (*life.norms, *trained.norms.tolist())[-WINDOW:]
    return dataclasses.replace(life, step=life.step + steps, losses=losses, norms=norms)


def _decide(
    around: Surroundings, life: Life, network: Network, state: OptimizerState
) -> tuple[Life, Network, OptimizerState, list[dict[str, Any]]]:
    """Triggers, proposals, screening, trials, selection, adoption."""
    began = time.perf_counter()
    config, task = around.config, around.task
    price = around.price(life)
    fisher = keyed(config.seed, around.network, life.cycle, "fisher")
    evidence = collect(network, around.evidence.x, around.evidence.y, task.kind, fisher)
    fired, why = _triggered(around, life, network, evidence)
    candidates: list[Candidate] = []
    proposed = 0
    if fired:
        candidates, proposed = _candidates(around, life, network, evidence, price)
        if not candidates:
            why = f"{why}; none of {proposed} candidates promised more than its price"
    if not candidates:
        row = _decision_row(around, life, network, price, "NoChange", why, 0, time.perf_counter() - began)
        return life, network, state, [row]
    placebo = config.tournament.placebo_every > 0 and life.tournaments % config.tournament.placebo_every == 0
    trials = _Trials(around, life, pack(network, state), candidates)
    decision = hold(
        candidates,
        trials.rung,
        len(config.tournament.rungs),
        price,
        config.tournament.confidence,
        config.tournament.floor,
        placebo,
        task.enumerated,
    )
    life = dataclasses.replace(life, tournaments=life.tournaments + 1)
    rows = [_verdict_row(around, life, v, decision.arm, trials) for v in decision.verdicts]
    life, network, state, adopted = _adopt(around, life, network, state, decision, trials, candidates, price)
    reason = f"{why}; {decision.reason} ({len(candidates)} of {proposed} candidates were trialled)"
    name = candidates[decision.arm - 1].name if decision.arm else "NoChange"
    row = _decision_row(around, life, network, price, name, reason, decision.arm, time.perf_counter() - began)
    return life, network, state, [*rows, {**row, **adopted}]


def _triggered(around: Surroundings, life: Life, network: Network, evidence: Evidence) -> tuple[bool, str]:
    """Whether and why to hold a tournament now."""
    activation = str(network.blueprint().get("activation", "relu"))
    looks = [extrema(k, activation, a.flatten(1)) for k, a in evidence.activations.items() if k != "input"]
    history = triggers.History(
        np.array(life.losses),
        np.array(life.norms),
        sum(look.extreme for look in looks),
        sum(look.units for look in looks),
    )
    settings = triggers.Settings(false_alarm=around.config.growth.false_alarm)
    firing = triggers.judge(around.config.growth.triggers, history, settings)
    return firing.fired, firing.reason


def _candidates(
    around: Surroundings, life: Life, network: Network, evidence: Evidence, price: float
) -> tuple[list[Candidate], int]:
    """The survivors of the screening, their first steps searched, and how many were proposed."""
    config = around.config
    count = network.count()
    phase = economy.phase(life.step / around.plan.total)
    grow = min(
        round(config.growth.stake * count),
        economy.limit(phase, count, config.economy.limits),
        economy.purse(life.ledger, price),
        config.growth.max_parameters - count,
    )
    findings = Findings(
        network,
        evidence,
        max(grow, 0),
        max(1, round(config.growth.trim * count)),
        lambda purpose: keyed(config.seed, around.network, life.cycle, "propose", purpose),
        around.cache,
    )
    proposed = [c for propose in PROPOSERS.values() for c in propose(findings)]
    open_ = [c for c in proposed if c.cost <= max(grow, 0) and _promising(c, price)]
    rng = keyed(config.seed, around.network, life.cycle, "shortlist")
    chosen = screening.shortlist(open_, config.tournament.candidates, price, config.tournament.random_share, rng)
    return [screening.line_search(network, c, evidence) for c in chosen], len(proposed)


def _promising(candidate: Candidate, price: float) -> bool:
    """Whether a trial might pay. Predictions rank but are not calibrated (measured/predicted .3 to .8), so the margin
    is wide; random and cloned units, which promise nothing, are left to chance.
    """
    if candidate.cost < 0:
        return -candidate.raw < -5 * price * candidate.cost
    return candidate.raw == 0 or candidate.raw > price * candidate.cost


class _Trials:
    """The forks of one tournament: makes requests, keeps what came back, so that the winner can be adopted."""

    def __init__(self, around: Surroundings, life: Life, parent: Body, candidates: Sequence[Candidate]) -> None:
        self.around, self.life, self.parent = around, life, parent
        self.actions = {i: actions.to_json(c.actions) for i, c in enumerate(candidates, start=1)}
        self.results: dict[tuple[int, int], TrialResult] = {}
        self.steps: dict[int, int] = {}

    def rung(self, arms: Sequence[int], rung: int) -> Mapping[int, ArmLosses]:
        """Trains every arm's forks through the rung, on the parent's runner."""
        config = self.around.config
        lengths = config.tournament.rungs
        before = sum(lengths[:rung])
        requests = [
            TrialRequest(
                key=(config.seed, self.around.network, self.life.cycle),
                arm=arm,
                seed=seed,
                rung=rung,
                actions=self.actions.get(arm, "") if rung == 0 else "",
                start=self.results[arm, seed].body if rung else None,
                step=self.life.step + before,
                steps=lengths[rung],
                total=self.around.plan.total,
                rate=self.life.rate,
                jitter=config.tournament.jitter,
                training=config.training,
            )
            for arm in arms
            for seed in range(config.tournament.seeds)
        ]
        for result in self.around.runner(self.parent, requests):
            self.results[result.arm, result.seed] = result
        measured = {}
        for arm in arms:
            forks = [self.results[arm, seed] for seed in range(config.tournament.seeds)]
            self.steps[arm] = self.steps.get(arm, 0) + lengths[rung] * len(forks)
            measured[arm] = ArmLosses(
                np.stack([f.growth for f in forks]),
                np.stack([f.audit for f in forks]),
                any(f.diverged for f in forks),
            )
        return measured


def _adopt(
    around: Surroundings,
    life: Life,
    network: Network,
    state: OptimizerState,
    decision: Decision,
    trials: _Trials,
    candidates: Sequence[Candidate],
    price: float,
) -> tuple[Life, Network, OptimizerState, dict[str, Any]]:
    """The first seed's fork of the winner takes over, with its training; the ledger is settled."""
    lengths = sum(around.config.tournament.rungs)
    control = trials.results[0, 0]
    spent = sum(trials.steps.values())
    if control.diverged:
        return dataclasses.replace(life, spent=life.spent + spent), network, state, {"trial_steps": spent}
    before = network.count()
    winner = trials.results[decision.arm, 0]
    network, state = unpack(winner.body)
    delta = network.count() - before
    expected = candidates[decision.arm - 1].cost if decision.arm else 0
    assert delta == expected, f"{decision.reason}: cost was told as {expected}, but {delta} parameters came"
    by_control = information(around.task, control.growth) - life.information
    now = information(around.task, winner.growth)
    by_fork = now - (life.information + by_control)
    grown = decision.arm != 0
    ledger = economy.pay(life.ledger, delta, price, around.config.economy.cooldown) if grown else life.ledger
    life = dataclasses.replace(
        life,
        step=life.step + lengths,
        information=now,
        gain_control=life.gain_control + by_control,
        gain_fork=life.gain_fork + by_fork,
        ledger=economy.earn(ledger, now),
        losses=() if grown else life.losses,
        norms=() if grown else life.norms,
        spent=life.spent + spent - lengths,
    )
    return life, network, state, {
        "delta_parameters": delta,
        "gain_control_nats": by_control,
        "gain_fork_nats": by_fork,
        "trial_steps": spent - lengths,
    }


def _decision_row(
    around: Surroundings, life: Life, network: Network, price: float, action: str, reason: str, arm: int, seconds: float
) -> dict[str, Any]:
    row = events.row(
        "decision",
        cycle=life.cycle,
        step=life.step,
        epoch=_epoch(around, life),
        action=action,
        candidate=arm,
        reason=reason,
        active_parameters=network.count(),
        delta_parameters=0,
        information_nats=life.information,
        gain_control_nats=0.0,
        gain_fork_nats=0.0,
        trial_steps=0,
        credits_nats=life.ledger.balance,
        price_nats=price,
        seconds=seconds,
    )
    # Adoption may have changed these since they were read.
    return row


def _verdict_row(around: Surroundings, life: Life, v: Verdict, adopted: int, trials: _Trials) -> dict[str, Any]:
    c, g, a = v.candidate, v.gain, v.audit
    return events.row(
        "candidate",
        cycle=life.cycle,
        step=life.step,
        candidate=v.arm,
        placebo=v.placebo,
        selected=v.arm == adopted,
        diverged=v.diverged,
        action=c.name if c else "NoChange",
        site=c.site if c else "",
        action_json=actions.to_json(c.actions) if c else "[]",
        proposer=c.proposer if c else "placebo",
        reason=f"{c.reason}; {v.reason}" if c else v.reason,
        delta_parameters=c.cost if c else 0,
        predicted_nats=c.predicted if c else None,
        measured_nats=g.nats if g else None,
        se_nats=g.se if g else None,
        se_samples_nats=g.se_samples if g else None,
        se_seeds_nats=g.se_seeds if g else None,
        dof=g.dof if g else None,
        bound_nats=g.bound if g else None,
        audit_nats=a.nats if a else None,
        audit_se_nats=a.se if a else None,
        own_nats=v.own if g else None,
        rungs=v.rungs,
        seeds=around.config.tournament.seeds,
        trial_steps=trials.steps.get(v.arm, 0),
    )


def _epoch(around: Surroundings, life: Life) -> float:
    samples = len(around.task.splits["train"].x)
    return life.step * min(around.config.training.batch_size, samples) / samples


def settings_json(config: Config) -> str:
    """What a life follows from, as one line for the record: not who computes it, where it is kept and who looks on."""
    settings = config.model_dump(mode="json", exclude={"workers", "out", "name", "budget", "record"})
    return json.dumps(settings, separators=(",", ":"))
