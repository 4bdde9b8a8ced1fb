"""Triggers: whether and why a network should grow now. Pure functions of its recent history, combined by and/or.

Each tests one thing, at the false-alarm rate that it is given, per look; its module says what its null is. An
expression of names with `and` and `or` (`and` binds first) says which together make a network grow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tournaments import outside
from tournaments.activity import active, extrema, variance
from tournaments.history import Firing, History, Settings
from tournaments.pacing import credits, schedule
from tournaments.series import plateau, spike, stagnation

Trigger = Callable[[History, Settings], Firing]

ALWAYS = "always"

TRIGGERS: dict[str, Trigger] = {
    "plateau": plateau,
    "spike": spike,
    "extrema": extrema,
    "active": active,
    "variance": variance,
    "stagnation": stagnation,
    "schedule": schedule,
    "credits": credits,
}

NEEDS: dict[str, frozenset[str]] = {
    "plateau": frozenset(),
    "spike": frozenset(),
    "extrema": frozenset({"extreme_units"}),
    "active": frozenset({"activity"}),
    "variance": frozenset({"spreads"}),
    "stagnation": frozenset({"evaluations"}),
    "schedule": frozenset({"cycles"}),
    "credits": frozenset({"credit"}),
}
"""Fields of the history that have to be collected for a trigger. One that is not listed gets them all."""

EVERYTHING = frozenset[str]().union(*NEEDS.values())


def parse(expression: str) -> tuple[tuple[str, ...], ...]:
    """ "a or b and c" -> (("a",), ("b", "c")): any of these, each all of its names. "always" -> (("always",),)."""
    words = expression.split()
    if words == [ALWAYS]:
        return ((ALWAYS,),)
    cure = f"write {ALWAYS!r}, or names of {', '.join(TRIGGERS)} joined by 'or' and 'and'"
    names, joints = words[::2], words[1::2]
    unknown = [name for name in names if name not in TRIGGERS] + [joint for joint in joints if joint not in _JOINTS]
    if unknown or len(names) != len(joints) + 1:
        raise ValueError(f"growth.triggers: cannot read {expression!r}" + (f" at {unknown[0]!r}" if unknown else "")
                         + f"; {cure}")  # fmt: skip
    either: list[list[str]] = [[names[0]]]
    for joint, name in zip(joints, names[1:], strict=True):
        if joint == "or":
            either.append([])
        either[-1].append(name)
    return tuple(tuple(group) for group in either)


def needed(expression: str) -> frozenset[str]:
    """Fields of the history that the expression's triggers read, beyond losses and gradient norms."""
    names = {name for group in parse(expression) for name in group} - {ALWAYS}
    return frozenset().union(*(NEEDS.get(name, EVERYTHING) for name in names))


def judge(expression: str, history: History, settings: Settings) -> Firing:
    """The expression's verdict, with the reasons of every trigger that it names.

    Raises ValueError where a trigger from outside of the package fails, or answers what is no verdict.
    """
    groups = parse(expression)
    if groups == ((ALWAYS,),):
        return Firing(ALWAYS, True, None, None, "growth is considered at every cycle")
    looks = {name: _look(name, history, settings) for group in groups for name in group}
    fired = any(all(looks[name].fired for name in group) for group in groups)
    if len(looks) == 1:
        return next(iter(looks.values()))
    reason = "; ".join(
        f"{name} {'fired' if look.fired else 'did not fire'}: {look.reason}" for name, look in looks.items()
    )
    return Firing(" or ".join(" and ".join(group) for group in groups), fired, None, None, reason)


def _look(name: str, history: History, settings: Settings) -> Firing:
    """One trigger's verdict. One from outside may be wrong, and is told so by name."""
    trigger = TRIGGERS[name]
    if outside.ours(trigger):
        return trigger(history, settings)
    said = f"growth.triggers: {name}"
    look = outside.asked(said, trigger, history, settings)
    if not isinstance(look, Firing):
        raise ValueError(
            f"{said}: expected a tournaments.history.Firing, got {outside.shown(look)}; "
            "return Firing(name, fired, statistic, threshold, reason)"
        )
    if not isinstance(look.fired, bool | np.bool_) or not isinstance(look.reason, str):
        raise ValueError(
            f"{said}: expected fired to be True or False and a reason in words, got {outside.shown(look.fired)} and "
            f"{outside.shown(look.reason)}; return Firing(name, bool(fired), statistic, threshold, reason)"
        )
    figures = (look.statistic, look.threshold)
    if any(f is not None and (not outside.number(f) or math.isnan(f)) for f in figures):
        raise ValueError(
            f"{said}: expected statistic and threshold to be numbers or None, got {outside.shown(figures)}; where it "
            "cannot tell, return tournaments.history.unknown(name, why)"
        )
    return dataclasses.replace(look, fired=bool(look.fired))


_JOINTS = ("or", "and")
