"""The course of training: false-alarm rates of plateau, spike and stagnation on noise, and their power."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rates import near, rate
from scipy import signal, stats

from search_spaces.randomness import keyed
from tournaments.history import BLOCKS, RECENT, SHORTEST, Evaluation, History, Settings
from tournaments.series import _pairs as pairs
from tournaments.series import plateau, spike, spikes, stagnation
from tournaments.trajectory import Shape, shape

SETTINGS = Settings()
NOISE = keyed("noise").random(480)


# spike


def autoregressive(rng, n, phi):
    return signal.lfilter([1], [1, -phi], rng.standard_normal(n + 300))[300:]


DISTRIBUTIONS = {
    "gaussian": lambda rng, n: 5 + rng.standard_normal(n),
    "chi-squared": lambda rng, n: rng.chisquare(3, n),
    "log-normal": lambda rng, n: rng.lognormal(0, 1, n),
    "infinite variance": lambda rng, n: np.abs(rng.standard_t(1.5, n)),
    "correlated": lambda rng, n: 5 + autoregressive(rng, n, 0.7),
    "correlated log-normal": lambda rng, n: np.exp(0.5 * autoregressive(rng, n, 0.5)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("stated", [0.01, 0.05])
def test_the_spike_fires_on_noise_at_the_stated_rate(name, stated):
    rng, n = keyed("spike", name), 4000
    settings = Settings(false_alarm=stated)
    found = rate(spike(History(NOISE, DISTRIBUTIONS[name](rng, 480)), settings).fired for _ in range(n))
    # correlation leaks a little from block to block
    assert near(found, stated, n) or (name.startswith("correlated") and found < 1.6 * stated)


@pytest.mark.parametrize("steps", [BLOCKS * SHORTEST, 200])
def test_the_rate_holds_for_short_histories(steps):
    rng, n = keyed("short", steps), 4000
    found = rate(spike(History(NOISE, rng.lognormal(0, 0.5, steps)), SETTINGS).fired for _ in range(n))
    assert near(found, 0.01, n)


def test_a_fixed_ratio_of_batches_would_fire_on_much_of_the_noise():
    rng = keyed("original")
    variances = rng.lognormal(0, 1, (500, 2, 20)).var(2)
    assert rate(variances[:, 1] > 1.5 * variances[:, 0]) > 0.3


def test_the_spike_sees_a_variance_that_doubled():
    rng = keyed("power")
    scale = np.r_[np.ones(360), np.full(120, math.sqrt(2))]
    assert rate(spike(History(NOISE, 5 + scale * rng.standard_normal(480)), SETTINGS).fired for _ in range(300)) > 0.8


def test_the_spike_ignores_a_variance_that_fell_and_a_mean_that_moved():
    rng = keyed("fell")
    fell = np.r_[np.ones(360), np.full(120, 0.3)]
    moved = np.r_[np.zeros(360), np.full(120, 50.0)]
    noise = rng.standard_normal((200, 480))
    assert rate(spike(History(NOISE, fell * row), SETTINGS).fired for row in noise) == 0
    assert rate(spike(History(NOISE, moved + row), SETTINGS).fired for row in noise) < 0.05


def test_the_rank_distribution_is_exact():
    assert pairs().sum() == pytest.approx(1)
    rng = keyed("ranks")
    for _ in range(20):
        values = rng.permutation(BLOCKS).astype(float)
        recent, before = values[:RECENT], values[RECENT:]
        count = int((before[:, None] < recent).sum())
        expected = stats.mannwhitneyu(recent, before, alternative="greater", method="exact").pvalue
        assert pairs()[count:].sum() == pytest.approx(expected)


@pytest.mark.parametrize("stated", [0.001, 0.01, 0.05, 0.1])
def test_the_test_comes_near_any_rate(stated):
    tail = pairs()[::-1].cumsum()
    assert 0.88 * stated < tail[tail <= stated].max() <= stated


@pytest.mark.parametrize("ratio", [1.5, 2.0])
def test_the_null_of_a_variance_ratio_by_formula_and_by_simulation(ratio):
    """Variances of two batches of n norms have the ratio F(n−1, n−1); a rule on it alone alarms all the time."""
    rng, n, draws = keyed("F", int(10 * ratio)), 20, 20_000
    norms = 5 + rng.standard_normal((draws, 2, n))
    variances = norms.var(2, ddof=1)
    found = rate(variances[:, 1] > ratio * variances[:, 0])
    expected = stats.f.sf(ratio, n - 1, n - 1)
    assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)
    assert expected > 0.05


@pytest.mark.parametrize("stated", [0.01, 0.05])
def test_the_null_of_the_rank_sum_by_formula_and_by_simulation(stated):
    rng, draws = keyed("rank sum"), 40_000
    order = rng.random((draws, BLOCKS)).argsort(1).argsort(1)
    counts = (order[:, None, : BLOCKS - RECENT] < order[:, BLOCKS - RECENT :, None]).sum((1, 2))
    tail = pairs()[::-1].cumsum()[::-1]
    critical = int(np.argmax(tail <= stated))
    found = rate(counts >= critical)
    assert abs(found - tail[critical]) < 4 * math.sqrt(stated / draws)


def test_spikes_of_a_long_life_are_counted_once_and_seldom_on_noise():
    rng, lives, stride = keyed("lives"), 200, SETTINGS.window * RECENT // BLOCKS
    found, looks = 0, 0
    for _ in range(lives):
        norms, kept, step = 5 + rng.standard_normal(3000), np.empty(0), 0
        for part in np.split(norms, [700, 1300, 1390, 2900]):
            kept = np.r_[kept, part][-max(960, len(part)) - 960 :]
            found += spikes(kept, len(part), step, SETTINGS)
            step += len(part)
        looks += 3000 // stride
    assert near(found / looks, 0.01, looks)
    norms = np.r_[np.ones(960), 1 + 3 * rng.standard_normal(stride)] + 0.1 * rng.standard_normal(960 + stride)
    assert spikes(norms, stride, 960, SETTINGS) == 1
    assert spikes(norms, stride - 1, 960, SETTINGS) == 0, "the life has not yet come to the next look"


# plateau


@pytest.mark.parametrize("stated", [0.01, 0.1])
@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_the_plateau_fires_at_the_stated_rate_while_the_loss_falls_by_its_tolerance(stated, phi):
    rng, n = keyed("plateau"), 3000
    settings = Settings(false_alarm=stated)
    falling = 1 - SETTINGS.tolerance * (np.arange(480) / 480 - 0.5)
    found = rate(
        plateau(History(falling + 0.2 * autoregressive(rng, 480, phi), NOISE), settings).fired for _ in range(n)
    )
    assert near(found, stated, n) or (phi > 0 and found < 1.6 * stated)


def test_the_plateau_sees_a_loss_that_stands_still_and_leaves_a_falling_one_alone():
    rng = keyed("still")
    noise = 0.2 * rng.standard_normal((300, 480))
    assert rate(plateau(History(1 + row, NOISE), SETTINGS).fired for row in noise) > 0.5
    assert rate(plateau(History(np.linspace(1.15, 0.85, 480) + row, NOISE), SETTINGS).fired for row in noise) == 0
    assert rate(plateau(History(np.linspace(0.85, 1.15, 480) + row, NOISE), SETTINGS).fired for row in noise) == 1


# stagnation


def walk(rng, dimension, fall):
    v = rng.standard_normal((10, dimension)) * np.linspace(1, fall, 10)[:, None]
    return shape(v @ v.T)


@pytest.mark.parametrize(("dimension", "fall", "patience"), [(5, 1.0, 3), (40, 1.0, 1), (40, 0.2, 3)])
def test_stagnation_fires_at_the_stated_rate_where_the_loss_stands_still_and_weights_walk(dimension, fall, patience):
    """Patience is in the rate: so many looks are compared, and looks overlap."""
    rng, n = keyed("stagnation", dimension, patience), 4000
    settings = Settings(false_alarm=0.05, patience=patience)
    found = [Evaluation(0.0, walk(rng, dimension, fall)) for _ in range(n + patience)]
    histories = (History(NOISE, NOISE, evaluations=tuple(found[i : i + patience])) for i in range(n))
    fired = rate(stagnation(history, settings).fired for history in histories)
    # Looks that share evaluations are not independent, so the rate is known less well.
    assert abs(fired - 0.05) < 3.5 * math.sqrt(0.05 * 0.95 * patience / n)


def test_stagnation_sees_weights_that_circle_and_leaves_improvement_and_progress_alone():
    rng = keyed("circles")
    circling, going = [], []
    for _ in range(3):
        v = np.diff(rng.standard_normal((15, 60)), axis=0)
        circling.append(shape(v @ v.T))
        v = rng.standard_normal((14, 60)) + 2
        going.append(shape(v @ v.T))
    fired = {
        name: stagnation(History(NOISE, NOISE, evaluations=tuple(Evaluation(i, s) for i in gains)), SETTINGS).fired
        for name, s, gains in (
            ("circling", circling[0], (0.0, 0.1, -0.1)),
            ("improving", circling[1], (0.0, 0.16, 0.0)),
            ("going", going[0], (0.0, 0.0, 0.0)),
        )
    }
    assert fired == {"circling": True, "improving": False, "going": False}


def test_stagnation_needs_every_look():
    near_chance = [Evaluation(0.0, Shape(4.0, 4.0, 50.0, 14, chance)) for chance in (0.001, 0.3, 0.001)]
    assert not stagnation(History(NOISE, NOISE, evaluations=tuple(near_chance)), SETTINGS).fired
    assert stagnation(History(NOISE, NOISE, evaluations=tuple(near_chance)), Settings(false_alarm=0.03)).fired
    assert stagnation(History(NOISE, NOISE, evaluations=tuple(near_chance[:2])), SETTINGS).reason.startswith(
        "not known"
    )
