"""Choosing edges: against exact refits and forward selection, and on pure noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from linear_gaussian import Problem, arrays, by_hand, one_layer, output_statistics, refitted

from search_spaces.randomness import keyed
from tournaments import edges
from tournaments.edges import choose_edges, edge_gains, edge_noise
from tournaments.place import residual


@pytest.fixture(scope="module")
def problem():
    return Problem()


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


@pytest.mark.parametrize("budget", [8, 40, 1000])
def test_in_rounds_of_several_edges_nearly_as_much_is_gained_as_one_by_one(monkeypatch, budget):
    H, G, present = arrays("rounds", n=800, p=40, q=5)
    stats = by_hand(H, G, present)
    left = residual(stats)
    allowed = torch.ones(5, 41, dtype=torch.bool)
    allowed[:, -1] = False
    exact = choose_edges(stats, left, allowed, budget)
    monkeypatch.setattr(edges, "MUCH", 0)
    found = choose_edges(stats, left, allowed, budget)
    # A few are left out in the end, as the others explain them.
    assert len(found) == pytest.approx(len(exact), abs=2)
    assert len(found) <= min(budget, int((~stats.present).sum()))
    assert all(not stats.present[e.row, e.column] for e in found)
    assert len({(e.row, e.column) for e in found}) == len(found)
    assert 0.9 * sum(e.gain for e in exact) <= sum(e.gain for e in found) <= sum(e.gain for e in exact) * 1.001
    # Whatever was chosen: its gains are those of the joint regression.
    for k in range(5):
        had = stats.present[k, :-1].nonzero().view(-1).tolist()
        added = [e.column for e in found if e.row == k]
        fitted = refitted(H[:, had], G[:, k]) - refitted(H[:, [*had, *added]], G[:, k])
        assert sum(e.gain for e in found if e.row == k) * float(stats.f[k]) == pytest.approx(fitted, rel=1e-5, abs=1e-9)


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
