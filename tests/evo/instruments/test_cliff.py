"""The cliff is found where it was put, and its interval holds what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize

from evo.instruments.cliff import _fitted, _misfit, locate

DENSITIES = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]


def curve(middle: float, width: float = 0.2) -> NDArray[np.float64]:
    """2 nats at the top, none at the bottom; half of it exactly at log10 density `middle`."""
    return 2 / (1 + np.exp(-(np.log10(DENSITIES) - middle) / width))


def noisy(middle: float, rng: np.random.Generator, seeds: int = 3, spread: float = 0.1) -> list[list[float]]:
    return [list(value + spread * rng.standard_normal(seeds)) for value in curve(middle)]


def test_without_noise_it_is_found_between_its_rungs() -> None:
    found = locate(DENSITIES, [[v, v] for v in curve(-1.85)], np.random.default_rng(0), draws=20)
    assert found.half.density is not None
    assert np.log10(found.half.density) == pytest.approx(-1.85, abs=0.03)
    assert found.steepest.density is not None
    assert np.log10(found.steepest.density) == pytest.approx(-1.85, abs=0.01)
    assert found.bracket == pytest.approx((0.01, 0.02))
    assert found.half_value == pytest.approx(1.0, abs=0.01)


def test_all_curves_at_once_are_fitted_as_well_as_one_by_one() -> None:
    rng, x = np.random.default_rng(3), np.log10(DENSITIES)[::-1]
    y = np.stack([np.mean(noisy(-1.7, rng, spread=0.2), axis=1)[::-1] for _ in range(40)])
    least, most = np.array([-3.0, 0.0, x[0], 0.03]), np.array([3.0, 6.0, x[-1], 9.0])
    start = np.array([0.0, 2.0, -1.5, 0.3])
    found = _fitted(x, y, np.tile(start, (40, 1)), np.tile(least, (40, 1)), np.tile(most, (40, 1)))
    assert bool(((found >= least) & (found <= most)).all())
    for curve_of, mine in zip(y, found, strict=True):
        one = optimize.least_squares(lambda p, y: _misfit(x, y[None], p[None])[0][0], start, bounds=(least, most),
                                     args=(curve_of,))  # fmt: skip
        cost = 0.5 * float((_misfit(x, curve_of[None], mine[None])[0] ** 2).sum())
        assert cost <= one.cost * (1 + 1e-3) + 1e-9


def test_the_order_of_the_rungs_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    values = noisy(-1.5, rng)
    one = locate(DENSITIES, values, np.random.default_rng(2), draws=10)
    other = locate(DENSITIES[::-1], values[::-1], np.random.default_rng(2), draws=10)
    assert one == other


@pytest.mark.parametrize("mark", ["half", "steepest"])
def test_the_interval_covers_the_true_place_about_as_often_as_it_says(mark: str) -> None:
    """80 ladders of 3 seeds. Straight lines between rungs cut `half` a little short, which is in the count."""
    truth = float(np.log10(getattr(locate(DENSITIES, [[v, v] for v in curve(-1.7)], np.random.default_rng(0), draws=2),
                                   mark).density))  # fmt: skip
    hits = 0
    for i in range(80):
        rng = np.random.default_rng(i)
        found = getattr(locate(DENSITIES, noisy(-1.7, rng), rng, draws=100), mark)
        hits += found.low is not None and np.log10(found.low) <= truth <= np.log10(found.high)
    assert hits >= 71, "95% of 80 less 2.5 standard errors"


def test_a_middle_at_the_end_of_the_ladder_is_none() -> None:
    """All rungs lie on the flank: where its middle would be, nothing was measured."""
    values = [[v, v + 0.001] for v in curve(0.5)]
    assert locate(DENSITIES, values, np.random.default_rng(0), draws=20).steepest.density is None


def test_one_seed_a_rung_has_no_interval() -> None:
    found = locate(DENSITIES, [[v] for v in curve(-1.5)], np.random.default_rng(0))
    assert found.half.density is not None
    assert (found.half.low, found.half.high) == (None, None)


def test_where_all_densities_learn_there_is_no_cliff() -> None:
    found = locate(DENSITIES, [[2.0, 2.1]] * len(DENSITIES), np.random.default_rng(0), draws=5)
    assert found.half.density is None
    assert found.bracket is None


def test_where_nothing_learns_there_is_no_cliff() -> None:
    assert locate(DENSITIES, [[0.0, -0.1]] * 10, np.random.default_rng(0), draws=5).half.density is None


def test_two_rungs_are_no_ladder() -> None:
    with pytest.raises(ValueError, match="densities: expected 3 rungs or more"):
        locate([1.0, 0.1], [[1.0], [0.0]], np.random.default_rng(0))
