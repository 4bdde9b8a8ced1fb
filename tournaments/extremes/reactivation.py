"""Reactivation: units that do nothing give their slots to units that the closed form has use for.

A unit does nothing when it is dead, or has lost its last input or its last output. No single edge brings it back: a
gradient does not pass a unit without slope, and one that lacks both sides has none. So it goes, the constant that it
puts out folded into its consumers' biases, and a unit with fresh fan-in and fan-out comes, for what the old one held
and, in a second candidate, for the growth budget beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search_spaces.actions import Narrow, Widen
from tournaments.candidate import Candidate
from tournaments.channels import channels
from tournaments.extremes.found import extremes, missed
from tournaments.findings import Findings
from tournaments.growing import cost_of, counts, new_units
from tournaments.orphans import foldable

LEAST = 4
"""Parameters of a new unit, at least: two inputs, an output, a bias."""


def reactivate(findings: Findings) -> list[Candidate]:
    """Units that do nothing revived with fresh edges: at the count of parameters that they have, and beyond it."""
    candidates = []
    for layer, place in findings.places.items():
        if not {"Widen", "Narrow"} <= place.grows or not findings.consumers(layer):
            continue
        slots = lifeless(findings, layer)
        # Those that hold most come first: fewer of them never cost more than all of them.
        held = findings.held(layer).tolist()
        slots.sort(key=lambda slot: (-held[slot], slot))
        for grow in sorted({0, findings.grow}):
            candidates += _revived(findings, layer, slots, grow)
    return candidates


def lifeless(findings: Findings, layer: str) -> list[int]:
    """Slots of a hidden layer that are dead, read nothing or feed nothing."""
    idle = torch.nonzero(~(findings.fed(layer) & findings.heard(layer))).view(-1).tolist()
    return sorted({*extremes(findings)[layer].dead, *idle})


def _revived(findings: Findings, layer: str, slots: Sequence[int], grow: int) -> list[Candidate]:
    """At most one candidate: as many of the slots as the budget revives, for what they hold and `grow` more."""
    held, count = findings.held(layer).tolist(), len(slots)
    while count:
        gone = slots[:count]
        budget = grow + sum(held[slot] for slot in gone)
        if findings.connections is not None:
            budget = min(budget, findings.connections)  # what is freed may be made anew only so far
        spending = findings.within(budget, findings.trim)
        fit = min(count, budget // LEAST, counts(spending)[0])
        if fit == count:
            action, predicted, raw = _units(spending, layer, count)
            if action is not None and len(action.units) == count:
                break
            fit = 0 if action is None else len(action.units)
        count = fit
    else:
        return []
    cost = cost_of(findings, layer, action.units) - sum(held[slot] for slot in gone)
    folds = _folds(findings, layer, gone)
    if folds is None or not -findings.trim <= cost <= grow:
        return []
    loss = missed(findings, layer, gone)
    reason = f"units {list(gone)} of {layer} do nothing" + (f"; {grow} parameters beside theirs" if grow else "")
    actions = (action, Narrow(layer, tuple(gone), folds))
    return [Candidate(actions, "reactivate", reason, cost, predicted - loss, raw - loss)]


def _units(spending: Findings, layer: str, count: int) -> tuple[Widen | None, float, float]:
    """New units for a layer, at most `count`, with predicted and raw nats."""
    if spending.places[layer].positions != 1:
        found = [(c, a) for c in channels(spending) for a in c.actions if c.site == layer and isinstance(a, Widen)]
        found = [(c, a) for c, a in found if len(a.units) <= count]
        if not found:
            return None, 0.0, 0.0
        best, action = max(found, key=lambda pair: pair[0].raw)
        return action, best.predicted, best.raw
    sources, consumers = spending.sources(layer), spending.consumers(layer)
    units, predicted, raw = new_units(spending, layer, sources, consumers, count, f"reactivate {layer} {count}")
    return (Widen(layer, units) if units else None), predicted, raw


def _folds(findings: Findings, layer: str, slots: Sequence[int]) -> tuple[float, ...] | None:
    """The means that the slots put out; None where they matter and no bias can take them over."""
    mean = extremes(findings)[layer].mean
    if findings.places[layer].positions == 1 and foldable(findings, layer):
        return tuple(float(mean[s]) for s in slots)
    return tuple(0.0 for _ in slots) if all(abs(float(mean[s])) < 1e-6 for s in slots) else None
