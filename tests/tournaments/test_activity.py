"""What units say: false-alarm rates of extrema, active and variance on noise, their power, and what a look sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rates import near, rate
from scipy import stats

from search_spaces.randomness import keyed
from search_spaces.spaces import seed
from tournaments.activity import LOOKS, active, active_units, averaged, extrema, unit_spreads, variance
from tournaments.evidence import Evidence, collect
from tournaments.history import History, Settings, Spread

SETTINGS = Settings()
NOISE = keyed("noise").random(480)
EMPTY = np.empty(0)


def evidence(**activations):
    n = len(next(iter(activations.values())))
    layers = {name: torch.as_tensor(values) for name, values in activations.items()}
    x, y = torch.zeros(n, 1), torch.zeros(n, dtype=torch.int64)
    return Evidence("classification", x, y, {"input": x, **layers}, {}, {}, 0.0)


def looks(counts, units, patience=3):
    seen = tuple((int(count), units) for count in np.broadcast_to(counts, patience))
    return History(EMPTY, EMPTY, activity={"hidden1": seen})


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


# active


@pytest.mark.parametrize(("units", "stated"), [(8, 0.01), (5, 0.05), (10, 0.01), (30, 0.05)])
def test_active_fires_at_the_rate_of_its_binomial_where_units_are_active_by_chance(units, stated):
    """The worst case: all looks see the same, so patience does not help against chance."""
    rng, n = keyed("active", units), 20_000
    counts = (rng.random((n, units)) < 0.5).sum(1)
    found = rate(active(looks(count, units), Settings(false_alarm=stated)).fired for count in counts)
    needed = next(k for k in range(units + 2) if k > 0.9 * units and stats.binom.sf(k - 1, units, 0.5) <= stated)
    exact = float(stats.binom.sf(needed - 1, units, 0.5))
    assert exact <= stated
    assert abs(found - exact) < 3.5 * math.sqrt(exact * (1 - exact) / n) + 1e-9


def test_several_layers_do_not_add_up_to_more_false_alarms():
    rng, n, layers = keyed("layers"), 6000, 4
    settings, fired = Settings(false_alarm=0.05), []
    for _ in range(n):
        counts = (rng.random((layers, 8)) < 0.5).sum(1)
        activity = {f"hidden{i}": ((int(c), 8),) * 3 for i, c in enumerate(counts)}
        fired.append(active(History(EMPTY, EMPTY, activity=activity), settings).fired)
    exact = 1 - (1 - 2.0**-8) ** layers
    assert abs(rate(fired) - exact) < 3.5 * math.sqrt(exact / n)
    assert exact < 0.05


def test_looks_of_changing_units_alarm_less_often_still():
    rng = keyed("changing")
    counts = (rng.random((4000, 3, 8)) < 0.5).sum(2)
    assert rate(active(looks(c, 8), Settings(false_alarm=0.01)).fired for c in counts) < 0.001


@pytest.mark.parametrize(
    ("counts", "units", "fired"),
    [((16, 16, 15), 16, True), ((16, 16, 14), 16, False), ((14, 16, 16), 16, False), ((4, 4, 4), 4, False)],
)
def test_active_wants_nearly_all_units_of_a_layer_at_every_look(counts, units, fired):
    assert active(looks(counts, units), SETTINGS).fired is fired


def test_one_busy_layer_is_enough_and_only_the_latest_looks_count():
    history = History(EMPTY, EMPTY, activity={"hidden1": ((3, 20),) * 3, "hidden2": ((0, 20), *((20, 20),) * 3)})
    firing = active(history, SETTINGS)
    assert firing.fired
    assert "hidden2: 20 of 20 units" in firing.reason


def test_a_unit_is_active_that_leaves_its_low_end_on_more_than_half_of_the_samples():
    rng = keyed("units")
    config = {"family": "mlp", "hidden": (4,), "density": 1.0, "activation": "relu"}
    network = seed(config, (3,), None, 2, rng)
    with torch.no_grad():
        network.get_parameter("biases.hidden1").copy_(torch.tensor([50.0, -50.0, 50.0, 0.0]))
        network.get_parameter("links.input>hidden1")[3] = 0
    x = torch.as_tensor(rng.standard_normal((64, 3)), dtype=torch.float32)
    seen = collect(network, x, torch.zeros(64, dtype=torch.int64), "classification", rng)
    assert active_units(network, seen) == {"hidden1": (2, 4)}


# variance


def samples(rng, n, variances, tails):
    draw = rng.standard_t(tails, (n, len(variances))) / math.sqrt(tails / (tails - 2)) if tails else None
    noise = rng.standard_normal((n, len(variances))) if draw is None else draw
    return noise * np.sqrt(variances)


def look_at(values, looks=1):
    spreads: dict[str, Spread] = {}
    for _ in range(looks):
        spreads = averaged(spreads, unit_spreads(evidence(hidden1=values)), len(values))
    return History(EMPTY, EMPTY, spreads=spreads)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("stated", "windows"), [(0.01, 1100), (0.2, 500)])
def test_variance_fires_no_oftener_than_stated_in_as_many_looks_as_its_average_holds(same, stated, windows):
    """Half of the units at exactly twice the mean, the others at nothing: as many at the limit as there can be. The
    looks are at the same samples, as a life's, or at others, where each is a chance of its own.
    """
    rng, settings = keyed("variance", same), Settings(false_alarm=stated)
    each, some = [], []
    for _ in range(windows):
        spreads: dict[str, Spread] = {}
        fired: list[bool] = []
        for look in range(LOOKS):
            if look == 0 or not same:
                found = unit_spreads(evidence(hidden1=samples(rng, 1000, np.r_[np.ones(4), np.full(4, 1e-9)], 0)))
            spreads = averaged(spreads, found, 1000)
            fired.append(variance(History(EMPTY, EMPTY, spreads=spreads), settings).fired)
        each += fired
        some.append(any(fired))
    assert rate(some) < stated + 3.5 * math.sqrt(stated / windows)
    assert rate(each) <= rate(some)
    if stated == 0.2:
        assert rate(some) > stated / LOOKS / 8, "half of the tests are spent on units that vary little"


def test_variance_keeps_quiet_on_units_that_vary_alike_where_the_bare_ratio_alarms():
    rng, n = keyed("alike"), 1000
    settings, bare, calibrated = Settings(samples=60), [], []
    for _ in range(n):
        history = look_at(samples(rng, 60, np.ones(20), 3))
        calibrated.append(variance(history, settings).fired)
        bare.append(max(history.spreads["hidden1"].ratios) > 2)
    assert rate(bare) > 0.5
    assert rate(calibrated) < 0.01 + 3.5 * math.sqrt(0.01 / n)


def test_variance_sees_a_unit_that_varies_three_times_as_much_as_the_mean():
    rng = keyed("power")
    variances = np.r_[3.0, np.full(7, 5 / 7)]
    found = [variance(look_at(samples(rng, 1000, variances, 0)), SETTINGS) for _ in range(100)]
    assert rate(f.fired for f in found) > 0.95
    assert "unit 0 of hidden1" in found[0].reason


def test_variance_waits_for_a_thousand_samples():
    values = samples(keyed("wait"), 400, np.r_[9.0, np.full(7, 0.1)], 0)
    assert [variance(look_at(values, looks), SETTINGS).fired for looks in (1, 2, 3)] == [False, False, True]


def test_the_error_of_a_ratio_is_that_of_repeated_samples():
    rng, variances = keyed("errors"), np.array([2.0, 1.0, 0.5])
    found = [unit_spreads(evidence(hidden1=samples(rng, 500, variances, 0)))["hidden1"] for _ in range(400)]
    ratios, errors = (np.array(values) for values in zip(*found, strict=True))
    np.testing.assert_allclose(ratios.mean(0), variances / variances.mean(), rtol=0.02)
    np.testing.assert_allclose(errors.mean(0), ratios.std(0), rtol=0.15)


def test_positions_of_a_picture_are_no_samples_of_their_own():
    rng = keyed("pictures")
    flat = samples(rng, 300, np.array([2.0, 1.0]), 0)
    tiled = np.repeat(flat[:, :, None], 9, axis=2).reshape(300, 2, 3, 3)
    one, other = unit_spreads(evidence(hidden1=flat))["hidden1"], unit_spreads(evidence(hidden1=tiled))["hidden1"]
    np.testing.assert_allclose(one, other)


def test_a_layer_that_changed_its_width_begins_anew():
    before = averaged({}, {"hidden1": (np.array([1.0, 1.0]), np.array([0.1, 0.1]))}, 50)
    after = averaged(before, {"hidden1": (np.ones(3), np.ones(3))}, 50)
    assert after["hidden1"] == Spread((1.0,) * 3, (1.0,) * 3, 50)
    moved = averaged(before, {"hidden1": (np.array([2.0, 0.0]), np.array([0.1, 0.3]))}, 50)["hidden1"]
    np.testing.assert_allclose(moved.ratios, [1.3, 0.7])
    np.testing.assert_allclose(moved.errors, [0.1, 0.16])
    assert moved.samples == 100


def test_rates_are_near_where_every_test_is_at_its_limit():
    """Of one unit's bound alone: its rate is the one stated, ratio and error known from the look itself."""
    rng, n = keyed("one"), 3000
    fired = []
    for _ in range(n):
        ratio, error = unit_spreads(evidence(hidden1=samples(rng, 1000, np.array([2.0, 0.5, 0.5]), 0)))["hidden1"]
        history = History(EMPTY, EMPTY, spreads={"hidden1": Spread((ratio[0],), (error[0],), 1000)})
        fired.append(variance(history, Settings(false_alarm=0.05 * LOOKS)).fired)
    assert near(rate(fired), 0.05, n) or rate(fired) < 0.05
    assert rate(fired) > 0.02
