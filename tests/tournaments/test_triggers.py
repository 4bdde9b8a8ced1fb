"""Triggers: a contract for all, and for each its false-alarm rate and its power."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import signal, stats

from search_spaces.randomness import keyed
from tournaments.triggers import (
    BLOCKS,
    RECENT,
    SHORTEST,
    TRIGGERS,
    History,
    Settings,
    extrema,
    judge,
    parse,
    plateau,
    spike,
)
from tournaments.triggers import _pairs as pairs

SETTINGS = Settings()
FLAT = 1 + 0.05 * keyed("flat").standard_normal(480)
NOISE = keyed("noise").random(480)
BURST = np.r_[NOISE[:360], 3 * NOISE[360:]]
FIRES = {
    "plateau": History(FLAT, NOISE),
    "spike": History(FLAT, BURST),
    "extrema": History(FLAT, NOISE, 9, 12),
}
QUIET = {
    "plateau": History(FLAT * np.linspace(2, 1, 480), NOISE),
    "spike": History(FLAT, NOISE),
    "extrema": History(FLAT, NOISE, 1, 12),
}


def rate(fired):
    return np.mean(list(fired))


def near(found, stated, n):
    return abs(found - stated) < 3.5 * math.sqrt(stated * (1 - stated) / n) + 0.1 * stated


# the contract


@pytest.mark.parametrize("name", TRIGGERS)
class TestContract:
    def test_it_fires_when_it_should_and_says_why(self, name):
        firing = TRIGGERS[name](FIRES[name], SETTINGS)
        assert firing.fired is True
        assert firing.name == name
        assert "; beyond" in firing.reason

    def test_it_is_quiet_when_it_should_be_and_says_why(self, name):
        firing = TRIGGERS[name](QUIET[name], SETTINGS)
        assert firing.fired is False
        assert "; not beyond" in firing.reason

    def test_it_is_deterministic_and_leaves_the_history_alone(self, name):
        history = FIRES[name]
        before = [np.array(value, copy=True) for value in dataclasses.astuple(history)]
        assert TRIGGERS[name](history, SETTINGS) == TRIGGERS[name](history, SETTINGS)
        for value, old in zip(dataclasses.astuple(history), before, strict=True):
            np.testing.assert_array_equal(value, old)

    def test_it_is_json(self, name):
        for history in (FIRES[name], QUIET[name], History(np.empty(0), np.empty(0))):
            firing = TRIGGERS[name](history, SETTINGS)
            assert json.loads(json.dumps(dataclasses.asdict(firing), allow_nan=False))["name"] == name

    @pytest.mark.parametrize("steps", [0, 1, BLOCKS * SHORTEST - 1])
    def test_a_short_history_never_fires(self, name, steps):
        firing = TRIGGERS[name](History(np.zeros(steps), np.arange(steps, dtype=float)), SETTINGS)
        assert firing.fired is False
        assert firing.reason.startswith("not known")

    def test_a_diverged_history_never_fires(self, name):
        broken = np.full(480, math.nan)
        assert TRIGGERS[name](History(broken, broken), SETTINGS).fired is False

    def test_a_constant_history_does_not_break_it(self, name):
        firing = TRIGGERS[name](History(np.zeros(480), np.zeros(480)), SETTINGS)
        assert firing.fired is (name == "plateau")

    def test_only_the_window_counts(self, name):
        history = FIRES[name]
        longer = History(
            np.r_[1e3 * np.arange(700)[::-1], history.losses], np.r_[1e3 * NOISE[:300], history.gradient_norms],
            history.extreme_units, history.units,
        )  # fmt: skip
        narrow = Settings(window=480)
        assert TRIGGERS[name](longer, narrow) == TRIGGERS[name](history, narrow)


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


# extrema


@pytest.mark.parametrize("units", [20, 100, 400])
def test_extrema_fire_no_oftener_than_stated_where_units_are_extreme_by_chance(units):
    rng, n = keyed("extrema", units), 4000
    counts = rng.binomial(units, SETTINGS.share, n)
    found = rate(extrema(History(NOISE, NOISE, int(count), units), SETTINGS).fired for count in counts)
    assert found < 0.01 + 3.5 * math.sqrt(0.01 / n)
    if units == 400:
        assert found > 0.003  # counts are whole, so small layers stay below the rate


@pytest.mark.parametrize(("count", "units", "fired"), [(3, 8, False), (4, 8, True), (0, 8, False), (30, 100, True)])
def test_extrema_need_more_units_than_chance_makes(count, units, fired):
    assert extrema(History(NOISE, NOISE, count, units), SETTINGS).fired is fired


# expressions


@pytest.mark.parametrize(
    ("expression", "groups"),
    [
        ("always", (("always",),)),
        ("plateau", (("plateau",),)),
        ("plateau or spike", (("plateau",), ("spike",))),
        ("plateau and spike", (("plateau", "spike"),)),
        ("extrema or plateau and spike", (("extrema",), ("plateau", "spike"))),
        ("plateau and spike or extrema", (("plateau", "spike"), ("extrema",))),
    ],
)
def test_expressions(expression, groups):
    assert parse(expression) == groups


@pytest.mark.parametrize(
    "expression",
    ["", "never", "plateau spike", "or spike", "spike or", "plateau or or spike", "spike xor plateau",
     "always or spike", "plateau (spike)", "Plateau"],
)  # fmt: skip
def test_what_cannot_be_read_is_named(expression):
    with pytest.raises(ValueError, match=r"growth\.triggers: .*write 'always'.*plateau, spike, extrema"):
        parse(expression)


def test_and_binds_before_or():
    history = History(FLAT, NOISE, 9, 12)  # plateau and extrema fire, spike does not
    verdicts = {
        "plateau": True, "spike": False, "plateau and spike": False, "spike or plateau": True,
        "spike and plateau or extrema": True, "extrema and spike or spike": False, "always": True,
    }  # fmt: skip
    for expression, fired in verdicts.items():
        firing = judge(expression, history, SETTINGS)
        assert firing.fired is fired, expression
        assert firing.name == expression
        assert firing.reason


def test_a_combined_reason_tells_of_every_trigger_named():
    reason = judge("spike or plateau", History(FLAT, NOISE), SETTINGS).reason
    assert "spike did not fire: " in reason
    assert "plateau fired: " in reason


@pytest.mark.parametrize(("settings", "word"), [({"false_alarm": 0.0}, "false_alarm"), ({"window": 50}, "window")])
def test_bad_settings_are_named(settings, word):
    with pytest.raises(ValueError, match=word):
        Settings(**settings)
