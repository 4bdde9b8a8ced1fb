"""The shape of a path: known paths, and the null of τ and κ by formula, by simulation and by randomisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rates import rate

from search_spaces.randomness import keyed
from tournaments.trajectory import deviations, dimension, expected, shape, shapes


def gram(velocities):
    return velocities @ velocities.T


def covariance(kind):
    return {"even": np.ones(200), "uneven": 1 / np.arange(1, 801), "few": np.ones(6), "one": 9.0 ** -np.arange(6)}[kind]


def walks(name, n, draws, kind):
    spread = np.sqrt(covariance(kind))
    v = keyed("walk", name, n, kind).standard_normal((draws, n, len(spread))) * spread
    return v @ v.transpose(0, 2, 1)


def many(grams):
    return shapes(np.einsum("mii->mi", grams), grams.sum(2))


def test_known_paths():
    straight = shape(gram(np.outer(np.linspace(1, 3, 14), [1.0, 2.0])))
    assert straight.stretch == pytest.approx(1)
    assert straight.curvature == pytest.approx(0, abs=1e-6)
    corner = shape(gram(np.array([[3.0, 0], [0, 4.0], [1e-9, 0]])))
    assert corner.stretch == pytest.approx(7 / 5)
    assert corner.curvature == pytest.approx((3 * 0.8 + 4 * 0.6) / (3 * 0.6 + 4 * 0.8))
    orthogonal = shape(np.eye(14))
    assert (orthogonal.stretch, orthogonal.curvature) == pytest.approx(expected(14))
    assert expected(14) == pytest.approx((14**0.5, 13**0.5))
    back = shape(gram(np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])))
    assert back.curvature == 0
    assert math.isfinite(back.stretch)


def test_what_has_no_shape():
    assert shape(np.zeros((14, 14))) is None
    assert shape(np.eye(2)) is None
    assert shape(np.full((4, 4), np.nan)) is None


def test_units_do_not_matter():
    some = gram(keyed("units").standard_normal((14, 30)))
    one, other = shape(some), shape(1e-9 * some)
    assert one.chance == other.chance
    assert one.stretch == pytest.approx(other.stretch)
    assert one.dimension == pytest.approx(other.dimension)


@pytest.mark.parametrize("n", [4, 14])
@pytest.mark.parametrize("kind", ["even", "uneven"])
def test_the_null_of_stretch_and_curvature_by_formula_and_by_simulation(n, kind):
    spectrum = covariance(kind)
    d = spectrum.sum() ** 2 / (spectrum**2).sum()
    stretch, curvature = many(walks("null", n, 3000, kind))
    for values, middle, spread in zip((stretch, curvature), expected(n), deviations(n, d), strict=True):
        assert np.log(values).mean() == pytest.approx(math.log(middle), abs=1.5 / d + 4 * spread / math.sqrt(3000))
        assert np.log(values).std() == pytest.approx(spread, rel=0.08 if kind == "even" else 0.2)
    together = np.corrcoef(np.log(stretch), np.log(curvature))[0, 1]
    assert together > 0.9, "to first order both say the same"


def test_critical_values_that_ignore_the_window_are_the_noise_itself():
    """τ_crit = 2 with 5 snapshots, as in the original, calls half of all random walks stagnant."""
    stretch, _ = many(walks("original", 4, 2000, "even"))
    assert 0.4 < rate(stretch > 2.0) < 0.6


@pytest.mark.parametrize("kind", ["even", "uneven"])
def test_the_effective_dimension_is_found(kind):
    spectrum = covariance(kind)
    found = np.median([dimension(g) for g in walks("dimension", 14, 300, kind)])
    assert found == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum(), rel=0.25)


@pytest.mark.parametrize("kind", ["even", "uneven", "few", "one"])
def test_the_chance_is_exact_for_walks_of_any_covariance(kind):
    """Uniform: so often below any level as it says, one draw in 8192 at the least."""
    found = np.array([shape(g).chance for g in walks("chance", 14, 400, kind)])
    for level in (0.05, 0.215, 0.5):
        assert abs(rate(found <= level) - level) < 3.5 * math.sqrt(level * (1 - level) / 400)
    assert found.min() >= 1 / 8192


def test_the_chance_is_exact_where_steps_shrink_and_have_heavy_tails():
    rng = keyed("shrink")
    v = rng.standard_t(2, (400, 14, 20)) * np.linspace(1, 0.1, 14)[:, None]
    found = [shape(gram(one)).chance for one in v]
    assert abs(rate(p <= 0.1 for p in found) - 0.1) < 3.5 * math.sqrt(0.09 / 400)


def test_longer_paths_are_ranked_among_drawn_patterns():
    rng = keyed("long")
    found = [shape(gram(rng.standard_normal((20, 30)))).chance for _ in range(200)]
    assert abs(rate(p <= 0.2 for p in found) - 0.2) < 3.5 * math.sqrt(0.16 / 200)
    assert shape(gram(np.diff(rng.standard_normal((21, 60)), axis=0))).chance < 0.01


def test_circling_is_seen_and_going_is_not():
    rng = keyed("power")
    circling = [shape(gram(np.diff(rng.standard_normal((15, 60)), axis=0))).chance for _ in range(50)]
    going = [shape(gram(rng.standard_normal((14, 60)) + 1)).chance for _ in range(50)]
    assert rate(p < 0.01 for p in circling) > 0.9
    assert rate(p < 0.5 for p in going) == 0
