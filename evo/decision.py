"""One decision: triggers, proposals, screening, trials, selection, adoption.

The books, in nats on the deciding half of the growth data: what a decision adds is the gain of the control, trained as
long as all others, and the adopted fork's own gain over it.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evo import memory, proposing, resolution, traces
from evo.life import Life
from evo.memory import Parts
from evo.rows import Bill, Day, analysis_rows, arm_row, decision_row, memory_row
from evo.surroundings import Surroundings, correct, information
from evo.trials import Body, TrialRequest, TrialResult, pack, unpack
from search_spaces import actions
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from tournaments import economy, outside, triggers
from tournaments.analysis import Analysis, checked
from tournaments.analyzers import ANALYZERS
from tournaments.candidate import Candidate
from tournaments.evidence import Evidence, collect
from tournaments.findings import Findings
from tournaments.policies import Seen
from tournaments.tournament import ArmLosses, Decision, hold


def decide(
    around: Surroundings, life: Life, network: Network, state: OptimizerState, seen: Seen
) -> tuple[Life, Network, OptimizerState, list[dict[str, Any]]]:
    """A tournament if there is reason and credit for one, and what it adopts. seen: what has just earned credits."""
    began = time.perf_counter()
    config, task = around.config, around.task
    price = around.price(life)
    day = Day(price, around.phase(life))
    wanted = room(around, life, network)

    looked = life.parts

    @functools.cache
    def look() -> Evidence:
        nonlocal looked
        key = (config.seed, around.network, life.cycle, "fisher")

        def seen(parts: Parts) -> Evidence:
            with memory.needed("looking"):
                return collect(network, around.evidence.x, around.evidence.y, task.kind, keyed(*key), parts.rows)

        found, looked = memory.fitted(looked, 1, seen)
        return found

    @functools.cache
    def findings() -> Findings:
        key = (config.seed, around.network, life.cycle, "propose")
        return findings_of(around, life, network, state, look(), min(wanted, _purse(around, life)), key)

    rows = _analysed(around, life, look, findings)
    life = traces.looked(config, life, network, look, around.policy.highs(seen))
    fired, why = _triggered(around, life, network, look, wanted)
    if config.growth.until == "no_extrema" and look().finite and not traces.extremes(network, look)[0]:
        fired, why = False, "no unit is dead or saturated"
        life = dataclasses.replace(life, done=True, reason=f"{why}, which growth.until waits for")
    candidates: list[Candidate] = []
    proposed = 0
    if fired and not look().finite:
        fired, why = False, f"{why}; but activations or gradients overflow, so nothing can be screened"
    if fired:
        try:
            candidates, proposed = proposing.candidates(around, life, findings(), price)
        except (MemoryError, RuntimeError) as error:
            if not memory.ran_out(error):
                raise
            why = f"{why}; memory did not suffice for the screening"
        else:
            if not candidates:
                why = f"{why}; none of {proposed} candidates promised more than its price"
    if looked != life.parts:
        life = dataclasses.replace(life, parts=life.parts.with_all(looked))
        rows.append(memory_row(around, life, "the evidence", life.parts))
    if not candidates:
        row = decision_row(around, life, network, day, "NoChange", why, 0, time.perf_counter() - began)
        return life, network, state, [*rows, row]
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
    rows += [arm_row(around, life, v, decision.arm, trials.bill(v.arm)) for v in decision.verdicts]
    rows += [memory_row(around, life, f"arm {arm}'s forks", parts) for arm, parts in trials.smaller()]
    life, network, state, adopted = _adopt(around, life, network, state, decision, trials, candidates)
    reason = f"{why}; {decision.reason} ({len(candidates)} of {proposed} candidates were trialled)"
    name = candidates[decision.arm - 1].name if decision.arm else "NoChange"
    row = decision_row(around, life, network, day, name, reason, decision.arm, time.perf_counter() - began)
    return life, network, state, [*rows, {**row, **adopted}]


def _triggered(around: Surroundings, life: Life, network: Network, look: traces.Look, wanted: int) -> tuple[bool, str]:
    """Whether and why to hold a tournament now."""
    if life.ledger.resting:
        return False, f"rests after growth, for {life.ledger.cooldown} cycles with this one"
    config = around.config
    purse = functools.partial(_purse, around)
    history = traces.history(config, life, network, look, wanted, purse)
    firing = triggers.judge(config.growth.triggers, history, traces.settings(config))
    return firing.fired, firing.reason


def room(around: Surroundings, life: Life, network: Network) -> int:
    """The most parameters that one event may add, were there credit for it."""
    config, count = around.config, network.count()
    allowed = economy.limit(around.phase(life), count, config.economy.limits, config.economy.caps)
    return max(min(round(config.growth.stake * count), allowed, config.growth.max_parameters - count), 0)


def _purse(around: Surroundings, life: Life) -> int:
    """The most that there is credit for."""
    return around.policy.purse(life.ledger, around.terms(life))


def findings_of(
    around: Surroundings,
    life: Life,
    network: Network,
    state: OptimizerState,
    evidence: Evidence,
    grow: int,
    key: tuple[int | str, ...],
) -> Findings:
    """What proposers read. grow: the most parameters that they may add. key: of all that they draw."""
    config, count = around.config, network.count()
    return Findings(
        network,
        evidence,
        grow,
        max(1, round(config.growth.trim * count)) if config.growth.trim > 0 else 0,
        lambda purpose: keyed(*key, purpose),
        around.cache,
        state,
        life.step,
        around.task.picture,
        resolution.blocks(config.training.scales, life.cycle, around.plan.cycles),
        proposing.connections(around, life),
        config.growth.incoming,
    )


def _analysed(
    around: Surroundings, life: Life, look: traces.Look, findings: Callable[[], Findings]
) -> list[dict[str, Any]]:
    """What the analyzers that the config lists find out, as rows, also where nothing is going to grow."""
    listed = around.config.growth.analyzers
    if not listed or not look().finite:
        return []
    found = findings()
    analyses = [_asked(name, found) for name in ANALYZERS if name in listed]
    return [row for analysis in analyses for row in analysis_rows(around, life, analysis)]


def _asked(name: str, findings: Findings) -> Analysis:
    """What an analyzer finds. One from outside may be wrong, and is told so by name before it is recorded."""
    analyzer = ANALYZERS[name]
    if outside.ours(analyzer):
        return findings.analysis(analyzer)
    said = f"growth.analyzers: {name}"
    return checked(said, outside.asked(said, findings.analysis, analyzer))


class _Trials:
    """The forks of one tournament: makes requests, keeps what came back, so that the winner can be adopted."""

    def __init__(self, around: Surroundings, life: Life, parent: Body, candidates: Sequence[Candidate]) -> None:
        self.around, self.life, self.parent = around, life, parent
        self.actions = {i: actions.to_json(c.actions) for i, c in enumerate(candidates, start=1)}
        self.results: dict[tuple[int, int], TrialResult] = {}
        self.steps: dict[int, int] = {}
        self.seconds: dict[int, float] = {}

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
                plateaus=self.life.plateaus,
                parts=self.life.parts,
                average=config.tournament.average,
                scale=resolution.next_scale(config.training.scales, self.life.cycle, self.around.plan.cycles),
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
            self.seconds[arm] = self.seconds.get(arm, 0.0) + sum(f.seconds for f in forks)
            measured[arm] = ArmLosses(
                np.stack([f.growth for f in forks]),
                np.stack([f.audit for f in forks]),
                any(f.diverged for f in forks),
            )
        return measured

    @property
    def lived(self) -> int:
        """Steps of each fork that went all the way: fewer than the rungs have where a control diverged on it."""
        return self.steps[0] // self.around.config.tournament.seeds

    def smaller(self) -> list[tuple[int, Parts]]:
        """The arms of which a fork had to be worked on in smaller parts than the parent, and in which."""
        found: dict[int, Parts] = {}
        for (arm, _), result in sorted(self.results.items()):
            found[arm] = found.get(arm, self.life.parts).with_all(result.parts)
        return [(arm, parts) for arm, parts in found.items() if parts != self.life.parts]

    def bill(self, arm: int) -> Bill:
        """What an arm has cost."""
        first = self.results[arm, 0]
        return Bill(self.steps[arm], self.seconds[arm], None if first.diverged else unpack(first.body)[0])


def _adopt(
    around: Surroundings,
    life: Life,
    network: Network,
    state: OptimizerState,
    decision: Decision,
    trials: _Trials,
    candidates: Sequence[Candidate],
) -> tuple[Life, Network, OptimizerState, dict[str, Any]]:
    """The first seed's fork of the winner takes over, with its training; the ledger is settled."""
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
    by_control = information(around.task, control.as_is) - life.information
    now = information(around.task, winner.as_is)
    by_fork = now - (life.information + by_control)
    grown = decision.arm != 0
    ledger, policy = life.ledger, around.policy
    if grown:
        ledger = policy.pay(ledger, delta, around.terms(life), around.config.economy.cooldown)
    seen = Seen(now, correct(around, network))
    life = dataclasses.replace(
        life,
        step=life.step + trials.lived,
        information=now,
        gain_control=life.gain_control + by_control,
        gain_fork=life.gain_fork + by_fork,
        ledger=policy.earn(ledger, seen),
        losses=() if grown else life.losses,
        norms=() if grown else life.norms,
        spent=life.spent + spent - trials.lived,
        parts=life.parts.with_all(winner.parts),
    )
    return (
        traces.grown(around.config, life, around.policy.highs(seen)) if grown else life,
        network,
        state,
        {
            "delta_parameters": delta,
            "gain_control_nats": by_control,
            "gain_fork_nats": by_fork,
            "trial_steps": spent - trials.lived,
        },
    )
