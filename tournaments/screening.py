"""Screening: from many candidates to the few that are trialled, and how far along its closed form each should start."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from search_spaces import surgery
from search_spaces.actions import Action, Connect, Insert, Skip, Widen
from search_spaces.network import Network
from tournaments.candidate import Candidate
from tournaments.evidence import Evidence

STEPS = (1.0, 0.4, 0.15)


def shortlist(
    candidates: Sequence[Candidate], keep: int, price: float, random_share: float, rng: np.random.Generator
) -> list[Candidate]:
    """The `keep` candidates worth a trial: best net promise, best promise per parameter, and a share at random.

    price: nats a parameter. Growing and shrinking are ranked apart, as a pruning's promise is a loss avoided; where
    both kinds are to be had, each gets one of two places or more. Parameter-neutral candidates count among the growing.
    """
    # Two proposers may have the same idea: it is the first one's.
    candidates = list({c.actions: c for c in reversed(candidates)}.values())[::-1]
    growing = [c for c in candidates if c.cost >= 0]
    shrinking = [c for c in candidates if c.cost < 0]
    earned = 2 if growing and shrinking else 1
    lucky = max(min(int(np.floor(keep * random_share + rng.random())), keep - earned), 0)
    by_net = sorted(growing, key=lambda c: (-(c.predicted - price * c.cost), -c.raw))
    by_ratio = sorted(growing, key=lambda c: (-c.predicted / max(c.cost, 1), -c.raw / max(c.cost, 1)))
    by_loss = sorted(shrinking, key=lambda c: -(c.predicted - price * c.cost))
    order: list[Candidate] = []
    turns = [iter(by_net), iter(by_loss), iter(by_ratio)]
    while len(order) < len(candidates):
        for turn in turns:
            pick = next((c for c in turn if c not in order), None)
            if pick is not None:
                order.append(pick)
    chosen = order[: max(keep - lucky, 0)]
    rest = order[len(chosen) :]
    if lucky and rest:
        chosen += [rest[int(i)] for i in rng.choice(len(rest), min(lucky, len(rest)), replace=False)]
    return chosen


@torch.no_grad()
def line_search(network: Network, candidate: Candidate, evidence: Evidence) -> Candidate:
    """The candidate with its closed-form values scaled by the step that lowers the evidence's loss most, or by zero.

    Only fan-out and single edges are scaled; at zero a candidate that only adds keeps the function. One that is exact
    is left as it is.
    """
    if candidate.exact or not any(_values(a) for a in candidate.actions):
        return candidate
    best, least = 0.0, _loss(network, scaled(candidate.actions, 0.0), evidence)
    for step in STEPS:
        loss = _loss(network, scaled(candidate.actions, step), evidence)
        if loss < least:
            best, least = step, loss
    return dataclasses.replace(candidate, actions=scaled(candidate.actions, best))


def scaled(actions: Sequence[Action], step: float) -> tuple[Action, ...]:
    """The actions with the values that they send on times `step`; clones, whose splits must fit, as they are."""
    return tuple(_scale(a, step) for a in actions)


def _scale(action: Action, step: float) -> Action:
    match action:
        case Connect() | Skip():
            edges = tuple(dataclasses.replace(e, value=e.value * step) for e in action.edges)
            return dataclasses.replace(action, edges=edges)
        case Widen(splits=()) | Insert():
            units = tuple(
                dataclasses.replace(u, fan_out=tuple(dataclasses.replace(s, value=s.value * step) for s in u.fan_out))
                for u in action.units
            )
            return dataclasses.replace(action, units=units)
        case _:
            return action


def _values(action: Action) -> bool:
    match action:
        case Connect() | Skip():
            return any(e.value != 0 for e in action.edges)
        case Widen(splits=()) | Insert():
            return any(s.value != 0 for u in action.units for s in u.fan_out)
        case _:
            return False


def _loss(network: Network, actions: Sequence[Action], evidence: Evidence) -> float:
    trial, _ = surgery.apply(network, actions)
    value = float(evidence.losses(trial).mean())
    return value if np.isfinite(value) else float("inf")
