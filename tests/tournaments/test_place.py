"""Statistics of a place and its spectrum: against exact refits, known gains and autograd, and on pure noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linear_gaussian import Problem, arrays, by_hand, network_with, one_layer, output_statistics, refitted

from search_spaces.families import Convnet, Mlp
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.evidence import collect
from tournaments.objective import losses
from tournaments.place import GramCache, agreement, residual, spectrum, statistics


@pytest.fixture(scope="module")
def problem():
    return Problem()


# --- predictions equal closed-form gains


@pytest.mark.parametrize("had", [[], [0, 3, 7], list(range(10))])
def test_the_spectrum_predicts_the_gain_of_all_missing_features_within_2_percent(problem, had):
    present = torch.zeros(3, 12)
    present[:, had] = 1.0
    stats = output_statistics(one_layer(present), problem)
    missing = [j for j in range(12) if j not in had]
    found = spectrum(stats, torch.tensor(missing), torch.tensor([*had, 12]))
    known = problem.gain(had, missing)
    fitted = sum(refitted(problem.x[:, had], y) - refitted(problem.x, y) for y in problem.y.t())
    assert float(found.sigma.square().sum()) / 2 == pytest.approx(known, rel=0.02)
    assert float(found.sigma.square().sum()) / 2 == pytest.approx(fitted, rel=0.02)
    assert float(found.predicted.sum()) == pytest.approx(known, rel=0.02)


@pytest.mark.parametrize("had", [[1, 2], [0, 5, 6, 9]])
def test_the_first_modes_predict_the_gain_of_as_many_new_linear_units(problem, had):
    present = torch.zeros(3, 12)
    present[:, had] = 1.0
    stats = output_statistics(one_layer(present), problem)
    missing = torch.tensor([j for j in range(12) if j not in had])
    found = spectrum(stats, missing, torch.tensor([*had, 12]))
    for k in (1, 2):
        units = problem.x[:, missing].double() @ found.U[:, :k]
        features = torch.cat([problem.x[:, had].double(), units], dim=1)
        fitted = sum(refitted(problem.x[:, had], y) - refitted(features, y) for y in problem.y.t())
        assert float(found.predicted[:k].sum()) == pytest.approx(fitted, rel=0.02)


def test_a_skip_over_a_hidden_layer_predicts_the_gain_of_the_refit(problem):
    network = network_with(
        {"input>hidden1": torch.ones(4, 12), "hidden1>output": torch.ones(3, 4)},
        [("input", 12), ("hidden1", 4), ("output", 3)],
    )
    stats = output_statistics(network, problem)
    assert stats.columns == {"input": (0, 12), "hidden1": (12, 16)}
    found = spectrum(stats, torch.arange(12), torch.tensor([12, 13, 14, 15, 16]))
    evidence = collect(network, problem.x, problem.y, "regression", keyed("fisher"))
    hidden = evidence.activations["hidden1"]
    fitted = sum(refitted(hidden, y) - refitted(torch.cat([hidden, problem.x], dim=1), y) for y in problem.y.t())
    assert float(found.predicted.sum()) == pytest.approx(fitted, rel=0.02)


# --- the algebra, without ridges


def test_residual_is_a_regression_row_by_row():
    H, G, present = arrays("residual")
    left = residual(by_hand(H, G, present))
    for k in range(4):
        X = torch.cat([H[:, present[k]], torch.ones(len(H), 1)], dim=1)
        rest_h = H - X @ torch.linalg.lstsq(X, H).solution
        rest_g = G[:, k] - X @ torch.linalg.lstsq(X, G[:, k : k + 1]).solution[:, 0]
        assert torch.allclose(left.covariance[k, :8], rest_h.t() @ rest_g / len(H), atol=1e-10)
        assert torch.allclose(left.variance[k, :8], rest_h.square().mean(0), atol=1e-10)
        assert torch.allclose(left.covariance[k, 8], torch.tensor(0.0, dtype=torch.float64), atol=1e-10)
        explained = by_hand(H, G, present).A[:8, :8] - rest_h.t() @ rest_h / len(H)
        assert torch.allclose(left.basis[k, :8] @ left.basis[k, :8].t(), explained, atol=1e-10)


def test_fan_in_whitens_the_features_and_fan_out_the_gradients():
    H, G, _ = arrays("whitened")
    rng = keyed("metric")
    root = torch.from_numpy(np.eye(4) + 0.15 * rng.standard_normal((4, 4)))
    stats = by_hand(H, G, torch.zeros(4, 8, dtype=torch.bool), F=root.t() @ root)
    found = spectrum(stats, torch.arange(8), torch.tensor([8]))
    centred = H - H.mean(0)
    A = centred.t() @ centred / len(H)
    assert torch.allclose(found.U.t() @ A @ found.U, torch.eye(4, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(found.V.t() @ stats.F @ found.V, torch.eye(4, dtype=torch.float64), atol=5e-3)
    cov = centred.t() @ G / len(H)
    assert torch.allclose(found.U.t() @ cov @ found.V, torch.diag(found.sigma), atol=1e-3)
    # The whole of ½‖A^-½ C F^-½‖², whatever root is taken.
    known = 0.5 * torch.trace(cov.t() @ torch.linalg.solve(A, cov) @ torch.linalg.inv(stats.F))
    assert float(found.sigma.square().sum() / 2) == pytest.approx(float(known), rel=5e-3)


# --- pure noise


def test_on_pure_noise_at_least_95_percent_of_the_modes_are_zero():
    scores = []
    for draw in range(150):
        rng = keyed("noise modes", draw)
        H, G = torch.from_numpy(rng.standard_normal((500, 20))), torch.from_numpy(rng.standard_normal((500, 8)))
        stats = by_hand(H, G, torch.zeros(8, 20, dtype=torch.bool))
        scores += spectrum(stats, torch.arange(20), torch.tensor([20])).predicted.tolist()
    assert len(scores) == 1200
    assert np.mean(np.array(scores) == 0.0) >= 0.95


# --- where statistics come from


@pytest.mark.parametrize("family", ["mlp", "convnet"])
def test_covariances_are_the_slopes_of_the_mean_loss(family):
    if family == "mlp":
        masks = {"input>hidden1": torch.ones(5, 36), "hidden1>output": torch.ones(3, 5)}
        network = network_with(masks, [("input", 36), ("hidden1", 5), ("output", 3)], "relu")
    else:
        network = Convnet((1, 6, 6), [("input", 1), ("channel1", 4), ("channel2", 2), ("output", 3)])
        connect(network, 1.0, keyed("conv"))
    rng = keyed("slopes")
    x = torch.from_numpy(rng.standard_normal((30, 36))).float()
    y = torch.from_numpy(rng.integers(0, 3, 30))
    evidence = collect(network, x, y, "classification", rng)
    network.eval()
    loss = losses("classification", network(x), y).mean()
    loss.backward()
    for place in network.places():
        stats = statistics(network, place, evidence)
        source = place.sources[-1]
        slope = network.get_parameter(f"links.{source}>{place.layer}").grad
        first, last = stats.columns[source]
        found = -place.positions * stats.C[first:last].t()
        assert torch.allclose(found, slope.reshape(len(slope), -1), atol=1e-5)
        assert stats.positions == place.positions
        assert bool(stats.present[:, -1].all())


def test_the_cache_never_takes_one_input_for_another():
    cache = GramCache()
    x = torch.ones(4, 2)
    first = cache.gram("output", x, x)
    assert cache.gram("output", x, x) is first
    for scale in range(2, 30):
        # Freed tensors give their place in memory to the next.
        other = torch.full((4, 2), float(scale))
        assert torch.equal(cache.gram("output", other, other), other.t() @ other / 4)
        del other
    assert torch.equal(cache.gram("hidden1", x, 3 * x), 9 * first)


def test_positions_that_agree_curve_the_loss_more():
    rng = keyed("agreement")
    H, G = torch.from_numpy(rng.standard_normal((3000, 4, 5))), torch.from_numpy(rng.standard_normal((3000, 4, 2)))
    apart = agreement(H.flatten(0, 1), G.flatten(0, 1), 3000)
    assert apart.tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    # All four positions alike: the square of a sum of four equal terms is four times the sum of their squares.
    same = agreement(H[:, :1].expand(-1, 4, -1).flatten(0, 1), G[:, :1].expand(-1, 4, -1).flatten(0, 1), 3000)
    assert same.tolist() == pytest.approx([4.0, 4.0], abs=0.2)


def test_features_that_are_zero_throughout_promise_nothing_and_break_nothing():
    network = Mlp([("input", 3), ("hidden1", 4), ("output", 2)], [("input", "hidden1"), ("hidden1", "output")])
    connect(network, 0.5, keyed("zeros"))
    x, y = torch.zeros(200, 3), torch.from_numpy(keyed("zeros").integers(0, 2, 200))
    for place in network.places():
        found = residual(statistics(network, place, collect(network, x, y, "classification", keyed("labels"))))
        assert bool(found.covariance.isfinite().all() and found.variance.isfinite().all())
        assert float(found.covariance[:, :3].abs().max()) < 1e-6


def test_a_unit_that_puts_out_a_large_constant_breaks_no_factorisation():
    network = Mlp([("input", 784), ("hidden1", 8), ("output", 10)], [("input", "hidden1"), ("hidden1", "output")])
    connect(network, 0.02, keyed("constant"))
    with torch.no_grad():
        network.links["input>hidden1"][0] = 0.0
        network.biases["hidden1"][0] = 1e3
        network.links["hidden1>output"][:, 0] *= 1e-3
    rng = keyed("pictures")
    x = torch.from_numpy(rng.random((2048, 784)) * (rng.random((2048, 784)) < 0.2)).float()
    y = torch.from_numpy(rng.integers(0, 10, 2048))
    place = statistics(network, network.places()[1], collect(network, x, y, "classification", keyed("labels")))
    found = residual(place)
    assert bool(found.covariance.isfinite().all() and found.variance.isfinite().all())
