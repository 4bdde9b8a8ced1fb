"""Rows: what a cycle tells about itself, as events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from evo import events
from evo.config import Config
from evo.life import Life
from evo.memory import Parts
from evo.surroundings import Surroundings
from evo.training import Trained
from search_spaces import actions
from search_spaces.network import Network
from tournaments.analysis import Analysis
from tournaments.economy import Phase
from tournaments.tournament import Verdict


def choice_row(around: Surroundings, life: Life, said: str, lost: int) -> dict[str, Any]:
    """Something that was settled by trying it. lost: steps of the trying that the network has not kept."""
    return events.row(
        "choice", cycle=life.cycle, step=life.step, epoch=around.epoch(life), trial_steps=lost, reason=said
    )


def memory_row(around: Surroundings, life: Life, what: str, parts: Parts) -> dict[str, Any]:
    """That memory did not suffice, and for what; in which parts the work was done instead."""
    return events.row(
        "choice",
        cycle=life.cycle,
        step=life.step,
        epoch=around.epoch(life),
        reason=f"memory did not suffice for {what}: {parts.told()}",
        measure="parts of a batch",
        value=float(parts.training),
        unit=f"{parts.rows} samples looked at together",
    )


def segment_row(
    around: Surroundings,
    life: Life,
    network: Network,
    trained: Trained,
    gain: float,
    rate: float | None,
    seconds: float,
) -> dict[str, Any]:
    """A stretch of training. life: after it. gain: nats. rate: the last learning rate, None where there was no step."""
    steps = len(trained.losses)
    return events.row(
        "segment",
        cycle=life.cycle,
        step=life.step,
        epoch=around.epoch(life),
        active_parameters=network.count(),
        information_nats=life.information,
        gain_training_nats=gain,
        train_loss=float(trained.losses[-min(50, steps) :].mean()) if steps else None,
        gradient_norm=float(trained.norms.mean()) if steps else None,
        learning_rate=rate,
        seconds=seconds,
    )


@dataclass(frozen=True)
class Bill:
    """What an arm of a tournament cost: steps and seconds of all its forks. grown: its network, None if lost."""

    steps: int
    seconds: float
    grown: Network | None


def arm_row(around: Surroundings, life: Life, v: Verdict, adopted: int, bill: Bill) -> dict[str, Any]:
    """One arm of a tournament. life: before adoption. flops, bytes: of the network that it would be."""
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
        flops=bill.grown.multiply_adds() if bill.grown else None,
        bytes=4 * bill.grown.count() if bill.grown else None,
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
        trial_steps=bill.steps,
        seconds=bill.seconds,
    )


def analysis_rows(around: Surroundings, life: Life, analysis: Analysis) -> list[dict[str, Any]]:
    """What an analyzer found out, one row a measure, each with the cost of all."""
    return [
        events.row(
            "analysis",
            cycle=life.cycle,
            step=life.step,
            epoch=around.epoch(life),
            analyzer=analysis.analyzer,
            site=found.site,
            measure=found.name,
            value=found.value,
            value_se=found.se,
            unit=found.unit,
            operations=analysis.cost.operations,
        )
        for found in analysis.measures
    ]


@dataclass(frozen=True)
class Day:
    """What held when a decision was taken. price: nats a parameter."""

    price: float
    phase: Phase


def decision_row(
    around: Surroundings, life: Life, network: Network, day: Day, action: str, reason: str, arm: int, seconds: float
) -> dict[str, Any]:
    """What was decided, and the books of it. life, network: after adoption."""
    return events.row(
        "decision",
        cycle=life.cycle,
        step=life.step,
        epoch=around.epoch(life),
        action=action,
        candidate=arm,
        reason=reason,
        active_parameters=network.count(),
        delta_parameters=0,
        information_nats=life.information,
        gain_control_nats=0.0,
        gain_fork_nats=0.0,
        trial_steps=0,
        phase=day.phase,
        credits_nats=life.ledger.balance,
        credits_unit=around.policy.unit,
        price_nats=day.price,
        seconds=seconds,
    )


def settings_json(config: Config) -> str:
    """What a life follows from, as one line for the record: not who computes it, where it is kept and who looks on.

    Nor how many live beside it, nor the folder that `network.parent` was copied from: the event's own column names the
    copy.
    """
    aside = dict.fromkeys(("workers", "out", "name", "job", "budget", "wait", "record", "address", "search"), True)
    settings = config.model_dump(mode="json", exclude={**aside, "network": {"parent"}})
    return json.dumps(settings, separators=(",", ":"))
