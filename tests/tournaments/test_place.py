"""Screening in closed form: against exact refits and known gains, and on pure noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from linear_gaussian import Problem, by_hand, network_with, refitted

from search_spaces.families import Convnet
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.evidence import collect
from tournaments.objective import losses
from tournaments.place import GramCache, choose_edges, edge_gains, edge_noise, residual, spectrum, statistics


@pytest.fixture(scope="module")
def problem():
    return Problem()


def output_statistics(network, problem):
    evidence = collect(network, problem.x, problem.y, "regression", keyed("fisher"))
    place = next(p for p in network.places() if p.layer == "output")
    return statistics(network, place, evidence)


def one_layer(present):
    return network_with({"input>output": present}, [("input", present.shape[1]), ("output", present.shape[0])])


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


def test_sparse_rows_predict_the_gain_of_each_edge_and_of_all_within_2_percent(problem):
    present = (torch.from_numpy(keyed("sparse").random((3, 12))) < torch.tensor([[0.2], [0.4], [0.7]])).float()
    stats = output_statistics(one_layer(present), problem)
    left = residual(stats)
    allowed = torch.ones(3, 13, dtype=torch.bool)
    allowed[:, -1] = False
    gains = edge_gains(stats, left, allowed & ~stats.present)
    for k in range(3):
        had = present[k].nonzero().view(-1).tolist()
        for j in (j for j in range(12) if j not in had):
            y = problem.y[:, k]
            fitted = refitted(problem.x[:, had], y) - refitted(problem.x[:, [*had, j]], y)
            assert float(gains[k, j]) == pytest.approx(fitted, rel=0.02, abs=5e-4)

    chosen = choose_edges(stats, left, allowed, 36)
    assert len(chosen) == int((~stats.present).sum())
    for k in range(3):
        had = present[k].nonzero().view(-1).tolist()
        found = sum(e.gain for e in chosen if e.row == k)
        known = problem.gain(had, [e.column for e in chosen if e.row == k], [k])
        fitted = refitted(problem.x[:, had], problem.y[:, k]) - refitted(problem.x, problem.y[:, k])
        assert found == pytest.approx(known, rel=0.02, abs=1e-3)
        assert found == pytest.approx(fitted, rel=0.02, abs=1e-3)


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


def arrays(key, n=400, p=8, q=4):
    rng = keyed("arrays", key)
    H = rng.standard_normal((n, p)) @ (np.eye(p) + 0.4 * rng.standard_normal((p, p))) + 1.0
    G = rng.standard_normal((n, q)) + 0.3 * H @ rng.standard_normal((p, q))
    present = torch.from_numpy(rng.random((q, p)) < 0.4)
    present[0], present[1:2] = False, True
    return torch.from_numpy(H), torch.from_numpy(G), present


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


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_edges_of_one_row_are_chosen_as_forward_selection_does(scale):
    H, G, present = arrays("greedy", q=1)
    present = torch.zeros_like(present)
    present[0, 2] = True
    stats = by_hand(H, G, present, F=torch.tensor([[scale]], dtype=torch.float64))
    chosen = choose_edges(stats, residual(stats), torch.tensor([[True] * 8 + [False]]), 5)
    f = float(stats.f)
    had = [2]
    for edge in chosen:
        before = refitted(H[:, had], G[:, 0])
        best = min((j for j in range(8) if j not in had), key=lambda j: refitted(H[:, [*had, j]], G[:, 0]))
        assert edge.column == best
        assert edge.gain == pytest.approx((before - refitted(H[:, [*had, best]], G[:, 0])) / f, rel=1e-6)
        had.append(best)
    X = torch.cat([H[:, had], torch.ones(len(H), 1)], dim=1)
    exact = torch.linalg.lstsq(X, G).solution[1 : len(had), 0] / f
    assert [e.value for e in chosen] == pytest.approx(exact.tolist(), rel=1e-6)


def test_an_edge_that_gains_only_after_another_never_comes_without_it():
    rng = keyed("suppressor")
    shared, signal = rng.standard_normal((2, 2000))
    # Column 1 says nothing of the signal by itself, but takes the noise out of column 0.
    H = torch.from_numpy(np.stack([shared * 3 + signal, shared, rng.standard_normal(2000)], axis=1))
    G = torch.from_numpy(np.stack([signal, 0.5 * H[:, 2].numpy() + rng.standard_normal(2000)], axis=1))
    stats = by_hand(H, G, torch.zeros(2, 3, dtype=torch.bool))
    allowed = torch.tensor([[True, True, True, False]] * 2)
    both = [e for e in choose_edges(stats, residual(stats), allowed, 6) if e.row == 0]
    assert [e.column for e in both][:2] == [0, 1]
    assert both[1].gain > 5 * both[0].gain
    assert [(e.row, e.column) for e in choose_edges(stats, residual(stats), allowed, 2)] == [(1, 2), (0, 0)]


def test_edges_respect_what_is_allowed_the_budget_and_the_rows_cap():
    H, G, present = arrays("limits")
    stats = by_hand(H, G, present)
    left = residual(stats)
    allowed = torch.ones(4, 9, dtype=torch.bool)
    allowed[:, -1] = False
    allowed[2] = False
    chosen = choose_edges(stats, left, allowed, 100)
    assert len(chosen) == int((allowed & ~stats.present).sum())
    assert all(allowed[e.row, e.column] and not stats.present[e.row, e.column] for e in chosen)
    assert len({(e.row, e.column) for e in chosen}) == len(chosen)
    few = choose_edges(stats, left, allowed, 3)
    assert [(e.row, e.column, e.gain) for e in few] == [(e.row, e.column, e.gain) for e in chosen[:3]]
    assert choose_edges(stats, left, allowed, 0) == []
    capped = choose_edges(stats, left, allowed, 100, row_cap=2)
    assert max(sum(e.row == k for e in capped) for k in range(4)) == 2


def test_a_feature_that_the_row_can_already_compute_gains_nothing():
    H, G, present = arrays("copies")
    H = torch.cat([H, H[:, :1] * 2 - 3], dim=1)
    present = torch.zeros(4, 9, dtype=torch.bool)
    present[:, 0] = True
    stats = by_hand(H, G, present)
    allowed = torch.zeros(4, 10, dtype=torch.bool)
    allowed[:, 8] = True
    assert float(edge_gains(stats, residual(stats), allowed).sum()) == 0.0
    assert choose_edges(stats, residual(stats), allowed, 4) == []


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


@pytest.mark.parametrize(("n", "p", "q"), [(300, 20, 6), (1000, 60, 10)])
def test_on_pure_noise_the_best_edge_of_95_percent_of_places_promises_nothing(n, p, q):
    exceeded, scores = [], []
    for draw in range(300):
        rng = keyed("noise edges", n, draw)
        H, G = torch.from_numpy(rng.standard_normal((n, p))), torch.from_numpy(rng.standard_normal((n, q)))
        stats = by_hand(H, G, torch.from_numpy(rng.random((q, p)) < 0.2))
        allowed = ~stats.present
        gains = edge_gains(stats, residual(stats), allowed)[allowed]
        noise = edge_noise(len(gains), n)
        exceeded.append(float(gains.max()) > noise)
        scores.append(float((gains > noise).double().mean()))
    assert np.mean(exceeded) <= 0.05
    assert np.mean(scores) <= 0.001


def test_the_noise_of_edges_grows_with_the_choice_and_falls_with_the_samples():
    assert edge_noise(1000, 500) > edge_noise(10, 500) > edge_noise(10, 5000) > 0
    assert edge_noise(100, 1000) == pytest.approx(math.log(100) / 1000, rel=0.6)


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
