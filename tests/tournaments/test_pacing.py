"""Schedule and credits: what they count, and that credits which noise has earned do not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rates import rate

from search_spaces.randomness import keyed
from tournaments.history import Credit, History, Settings
from tournaments.pacing import chance_of_highs, credits, schedule

EMPTY = np.empty(0)


def lived(cycles):
    return History(EMPTY, EMPTY, cycles=cycles)


def saved(*credit, highs=()):
    return History(EMPTY, EMPTY, credit=Credit(*credit, highs=tuple(highs)))


@pytest.mark.parametrize("every", [1, 3, 10])
def test_the_schedule_fires_every_so_many_cycles(every):
    settings, grown, since = Settings(every=every), [], 0
    for cycle in range(30):
        since += 1
        if schedule(lived(since), settings).fired:
            grown.append(cycle)
            since = 0
    assert grown == list(range(every - 1, 30, every))


def test_the_schedule_looks_at_nothing_that_is_noisy():
    rng, settings = keyed("schedule"), Settings(every=4)
    for _ in range(1000):
        history = History(rng.random(200), rng.random(200), cycles=3, credit=Credit(9, 9, 3))
        assert not schedule(history, settings).fired


@pytest.mark.parametrize(
    ("purse", "doubtful", "wanted", "fired"),
    [(10, 10, 10, True), (9, 9, 10, False), (50, 0, 0, False), (0, 0, 1, False)],
)
def test_credits_buy_a_whole_event(purse, doubtful, wanted, fired):
    assert credits(saved(purse, doubtful, wanted), Settings()).fired is fired


@pytest.mark.parametrize("count", [3, 5, 12])
@pytest.mark.parametrize("stated", [0.01, 0.05])
def test_credits_that_noise_has_earned_fire_at_the_stated_rate(count, stated):
    """Held-out figures that only scatter; every new high has earned more than enough."""
    rng, n = keyed("credits", count), 4000
    settings = Settings(false_alarm=stated)
    found = rate(credits(saved(50, 0, 10, highs=rng.standard_normal(count)), settings).fired for _ in range(n))
    assert abs(found - stated) < 3.5 * math.sqrt(stated * (1 - stated) / n) + 0.1 * stated


def test_credits_would_fire_on_most_noise_without_that():
    rng = keyed("bare")
    figures = rng.standard_normal((1000, 8))
    assert rate(figures.max(1) > figures[:, 0] + 1e-9) > 0.8
    assert rate(credits(saved(50, 0, 10, highs=row), Settings()).fired for row in figures) < 0.03


def test_real_gains_and_older_savings_count():
    rng = keyed("gains")
    rising = np.linspace(0, 1, 8) + 0.05 * rng.standard_normal((200, 8))
    assert rate(credits(saved(50, 0, 10, highs=row), Settings()).fired for row in rising) > 0.95
    assert credits(saved(50, 20, 10, highs=(0.0, 1.0)), Settings()).fired
    told = credits(saved(50, 4, 10, highs=(0.0, 1.0)), Settings())
    assert not told.fired
    assert "only 4 without what noise may have earned" in told.reason


@pytest.mark.parametrize("figures", [(), (1.0,), (0.0, 1.0), (0.0, 1.0, math.nan), (1.0, 1.0, 1.0), (3.0, 2.0, 1.0)])
def test_what_proves_nothing(figures):
    assert chance_of_highs(figures) == 1.0
