"""Triggers that pace growth: so many cycles have passed, or enough credit is saved.

- schedule: `every` cycles have passed since the last growth. No test: it does not look at anything that is noisy.
- credits: the balance buys the most that one event may add. Credits are earned by new highs of a measured figure, and
  noise alone has highs too: what was earned since the last growth counts only when these highs are beyond those of
  noise, at the given rate.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import numpy as np

from search_spaces.randomness import keyed
from tournaments.history import Array, Firing, History, Settings, unknown, verdict

DRAWS = 10_000


def schedule(history: History, settings: Settings) -> Firing:
    """Counts cycles."""
    if history.cycles is None:
        return unknown("schedule", "cycles are not counted")
    told = f"{history.cycles} {'cycle' if history.cycles == 1 else 'cycles'} since the last growth"
    few = settings.every - 1
    return verdict("schedule", history.cycles > few, float(history.cycles), float(few), told, f"{few} without growth")


def credits(history: History, settings: Settings) -> Firing:
    """Compares what can be bought with what may be added."""
    credit = history.credit
    if credit is None or credit.wanted <= 0:
        return unknown("credits", "nothing may be added")
    buys, told = credit.purse, f"the balance buys {credit.purse:,} parameters, one event may add {credit.wanted:,}"
    if credit.highs and credit.doubtful < credit.wanted <= credit.purse:
        p = chance_of_highs(credit.highs)
        if p > settings.false_alarm:
            buys = credit.doubtful
            told += f", but only {buys:,} without what noise may have earned since the last growth (p {p:.2g})"
    few = credit.wanted - 1
    return verdict("credits", buys > few, float(buys), float(few), told, f"{few:,}")


def chance_of_highs(figures: Sequence[float]) -> float:
    """Probability that independent noise, seen as often, rises as far above its first figure.

    The rise is measured in the noise's standard deviation by successive differences (von Neumann), which slow change
    does not inflate; one rise alone proves nothing, as it is measured by itself.
    """
    values = np.asarray(figures, dtype=np.float64)
    if len(values) < 3 or not np.isfinite(values).all():
        return 1.0
    null = _null(len(values))
    beyond = len(null) - np.searchsorted(null, _rise(values[None])[0], side="left")
    return float((1 + beyond) / (len(null) + 1))


def _rise(values: Array) -> Array:
    """(m,): highest less first, in standard deviations. values: (m, k)."""
    size = np.sqrt((np.diff(values, axis=1) ** 2).mean(1) / 2)
    risen = values.max(1) - values[:, 0]
    return np.asarray(np.where(risen > 0, risen / np.maximum(size, sys.float_info.min), 0.0))


@functools.lru_cache(maxsize=64)
def _null(count: int) -> Array:
    return np.sort(_rise(keyed("highs of noise", count).standard_normal((DRAWS, count))))
