"""The pool of possible units: pursuit against brute force, gains against exact regressions, and what gates are for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from linear_gaussian import refitted

from search_spaces.randomness import keyed
from tournaments.units import (
    QUANTILES,
    Pool,
    make_pool,
    orthonormal,
    pick_units,
    promising,
    pursue,
    random_gates,
    seen_on,
    targets,
)


def features(key, n=600, p=9):
    rng = keyed("features", key)
    H = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3 * rng.standard_normal((p, p)))
    return torch.from_numpy(H - H.mean(0)), rng


def brute_force_pursuit(H, target, fan_in, allowed):
    """Columns in the order in which forward selection takes them."""
    taken: list[int] = []
    for _ in range(fan_in):
        open_ = [j for j in range(H.shape[1]) if allowed[j] and j not in taken]
        taken.append(min(open_, key=lambda j: refitted(H[:, [*taken, j]], target)))
    return taken


@pytest.mark.parametrize("barred", [(), (2, 5)])
def test_pursuit_takes_the_columns_that_brute_force_takes(barred):
    H, rng = features("pursuit")
    T = torch.from_numpy(rng.standard_normal((600, 6)) + H.numpy() @ rng.standard_normal((9, 6)))
    allowed = torch.ones(9, dtype=torch.bool)
    allowed[list(barred)] = False
    A = H.t() @ H / len(H)
    columns, weights = pursue(A, T.t() @ H / len(H), 4, allowed)
    for i in range(6):
        taken = brute_force_pursuit(H, T[:, i], 4, allowed)
        assert columns[i].tolist() == taken
        exact = torch.linalg.lstsq(H[:, taken], T[:, i : i + 1]).solution[:, 0]
        assert weights[i].tolist() == pytest.approx(exact.tolist(), rel=0.03, abs=0.02)


def test_pursuit_takes_no_column_twice_and_copies_last():
    H, rng = features("copies", p=4)
    H = torch.cat([H, H[:, :2]], dim=1)
    T = torch.from_numpy(rng.standard_normal((600, 3))) + 3 * H[:, :1]
    columns, weights = pursue(H.t() @ H / len(H), T.t() @ H / len(H), 6, torch.ones(6, dtype=torch.bool))
    assert all(sorted(row) == list(range(6)) for row in columns.tolist())
    for row in columns.tolist():
        assert {frozenset(row[4:])} <= {frozenset(pair) for pair in itertools.product((0, 4), (1, 5))}
    assert bool(torch.isfinite(weights).all())


def test_fan_in_is_at_most_what_is_allowed():
    H, rng = features("few", p=5)
    allowed = torch.tensor([True, False, True, False, False])
    columns, weights = pursue(H.t() @ H / len(H), torch.from_numpy(rng.standard_normal((2, 5))), 4, allowed)
    assert columns.shape == weights.shape == (2, 2)
    assert all(sorted(row) == [0, 2] for row in columns.tolist())


# --- gains


def a_pool(outputs):
    m = outputs.shape[1]
    return Pool(torch.zeros(m, 1, dtype=torch.int64), torch.zeros(m, 1), torch.zeros(m), outputs)


@pytest.mark.parametrize("positions", [1, 4])
def test_gains_of_picked_units_are_those_of_exact_regressions(positions):
    H, rng = features("gains", p=4)
    q, f = 3, torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    present = torch.cat([torch.ones(600, 1, dtype=torch.float64), H + 1], dim=1)
    outputs = torch.relu(H @ torch.from_numpy(rng.standard_normal((4, 30))) + 0.2)
    G = torch.from_numpy(rng.standard_normal((600, q))) + outputs[:, :5] @ torch.from_numpy(rng.standard_normal((5, q)))

    def left(columns):
        return sum(refitted(columns, G[:, k]) / float(f[k]) for k in range(q)) * positions

    picked = pick_units(a_pool(outputs), orthonormal(present), G, f, positions, 5, q)
    had = H
    for unit in picked:
        best = max(range(30), key=lambda u: left(had) - left(torch.cat([had, outputs[:, [u]]], dim=1)))
        assert unit.unit == best
        after = torch.cat([had, outputs[:, [best]]], dim=1)
        assert sum(unit.gains) == pytest.approx(left(had) - left(after), rel=2e-3)
        had = after
    assert len(picked) == 5


def test_a_unit_feeds_the_rows_that_it_helps_most_with_their_regression_weights():
    H, rng = features("rows", p=3)
    present = torch.ones(600, 1, dtype=torch.float64)
    outputs = torch.relu(H @ torch.from_numpy(rng.standard_normal((3, 8))))
    G = torch.from_numpy(0.1 * rng.standard_normal((600, 5)))
    G[:, 1] += outputs[:, 6]
    G[:, 4] -= 2 * outputs[:, 6]
    f = torch.full((5,), 4.0, dtype=torch.float64)
    (picked,) = pick_units(a_pool(outputs), orthonormal(present), G, f, 1, 1, 2)
    assert (picked.unit, picked.rows) == (6, (4, 1))
    assert picked.values == pytest.approx((-0.5, 0.25), rel=0.05)
    h = outputs[:, 6] - outputs[:, 6].mean()
    exact = [float((h @ G[:, k]) ** 2 / (h @ h)) / (2 * 600 * 4) for k in (4, 1)]
    assert picked.gains == pytest.approx(exact, rel=1e-3)


def test_units_that_the_consumers_can_compute_are_left_out():
    H, rng = features("known", p=3)
    present = torch.cat([torch.ones(600, 1, dtype=torch.float64), H], dim=1)
    outputs = H @ torch.from_numpy(rng.standard_normal((3, 6)))
    G = torch.from_numpy(rng.standard_normal((600, 2)))
    assert pick_units(a_pool(outputs), orthonormal(present), G, torch.ones(2, dtype=torch.float64), 1, 3, 2) == []


def test_many_features_on_a_large_scale_do_not_break_the_factorisation():
    rng = keyed("large")
    base = rng.random((700, 40))
    present = torch.from_numpy(np.hstack([np.ones((700, 1)), np.tile(base, (1, 8)) * 200])).float()
    outputs = torch.from_numpy(rng.standard_normal((700, 6))).float()
    G = torch.from_numpy(rng.standard_normal((700, 3))).float()
    picked = pick_units(a_pool(outputs), orthonormal(present), G, torch.ones(3), 1, 2, 3)
    assert len(picked) == 2
    assert all(np.isfinite(u.values).all() for u in picked)


def test_orthonormal_features_span_the_same_space():
    H, _ = features("span", p=5)
    basis = orthonormal(H + 2)
    assert torch.allclose(basis.t() @ basis / 600, torch.eye(5, dtype=torch.float64), atol=2e-3)
    seen = torch.linalg.lstsq(basis, H + 2).solution
    assert torch.allclose(basis @ seen, H + 2, atol=1e-6)


def test_the_promising_are_those_that_gain_most_alone_and_are_then_seen_on_all_samples():
    H, rng = features("promising", p=4)
    H = H.float()
    wanted = torch.from_numpy(rng.standard_normal((600, 4))).float()
    G = torch.relu(H[:, :2] - H[:, 2:]) + 0.5 * wanted[:, :2]
    pool = make_pool(H, H.t() @ H / 600, wanted, 2, torch.relu, False, torch.ones(4, dtype=torch.bool), 8, keyed("p"))
    basis, f = orthonormal(torch.ones(600, 1)), torch.ones(2)
    found = promising(pool, basis, G, f, 2, 5)
    alone = {}
    for unit in range(len(pool.bias)):
        only = Pool(pool.columns[[unit]], pool.weights[[unit]], pool.bias[[unit]], pool.outputs[:, [unit]])
        picked = pick_units(only, basis, G, f, 1, 1, 2)
        alone[unit] = sum(picked[0].gains) if picked else 0.0
    assert [alone[u] for u in found.tolist()] == pytest.approx(sorted(alone.values(), reverse=True)[:5], rel=1e-4)
    again = seen_on(pool, found, torch.cat([H, H]), torch.arange(4), torch.relu)
    assert torch.allclose(again.outputs[600:], pool.outputs[:, found], atol=1e-5)


# --- where the pool comes from


def test_the_pool_is_what_its_columns_weights_and_biases_put_out():
    H, rng = features("pool")
    H = H.float()
    wanted = torch.from_numpy(rng.standard_normal((600, 5))).float()
    A = H.t() @ H / len(H)
    allowed = torch.ones(9, dtype=torch.bool)
    allowed[3] = False
    for signed in (False, True):
        pool = make_pool(H, A, wanted, 3, torch.tanh, signed, allowed, 2, keyed("pool"))
        units = (5 + 2) * len(QUANTILES) * (1 if signed else 2)
        assert pool.outputs.shape == (600, units)
        assert pool.columns.shape == pool.weights.shape == (units, 3)
        assert 3 not in pool.columns
        z = (H[:, pool.columns] * pool.weights).sum(2) + pool.bias
        assert torch.allclose(pool.outputs, torch.tanh(z), atol=1e-5)
        # Each threshold leaves about the stated share below it.
        below = (z < 0).float().mean(0).view(-1, 7).mean(1)
        assert below.tolist() == pytest.approx([*QUANTILES] * (1 if signed else 2), abs=0.1)


def test_a_unit_of_the_pool_finds_the_feature_that_the_gradients_ask_for():
    H, rng = features("asked")
    H = H.float()
    asked = torch.relu(H[:, 1] - H[:, 4])
    G = torch.stack([asked, -asked], dim=1) + 0.05 * torch.from_numpy(rng.standard_normal((600, 2))).float()
    wanted = targets(G, torch.ones(2), 16, keyed("t"), random_gates(H, 16, keyed("g")))
    pool = make_pool(
        H, H.t() @ H / len(H), wanted, 2, torch.relu, False, torch.ones(9, dtype=torch.bool), 0, keyed("p")
    )
    (best,) = pick_units(pool, orthonormal(torch.ones(600, 1)), G, torch.ones(2), 1, 1, 2)
    assert sorted(pool.columns[best.unit].tolist()) == [1, 4]
    assert sum(best.gains) > 0.9 * 2 * 0.5 * float(asked.var())


def test_targets_lead_with_the_principal_mixture_and_gate_every_other_one():
    H, rng = features("targets")
    H = H.float()
    G = torch.from_numpy(rng.standard_normal((600, 3)) * [3.0, 1.0, 0.5]).float()
    gates = random_gates(H, 4, keyed("gates"))
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    wanted = targets(G, torch.ones(3), 8, keyed("targets"), gates)
    assert wanted.shape == (600, 8)
    assert wanted.mean(0).tolist() == pytest.approx([0.0] * 8, abs=1e-5)
    first = torch.corrcoef(torch.stack([wanted[:, 0], G[:, 0]]))[0, 1]
    assert abs(float(first)) > 0.98
    flat = (wanted - wanted.mode(0).values).abs() < 1e-6
    assert flat[:, 1::2].float().mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.1)
    assert float(flat[:, 0::2].float().mean()) < 0.01


def test_features_without_spread_have_gates_that_let_everything_pass():
    assert torch.equal(random_gates(torch.ones(5, 2), 3, keyed("flat")), torch.ones(5, 3))
