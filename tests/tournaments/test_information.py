"""Estimators of information against values that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from search_spaces.randomness import keyed
from tournaments.information import contingency, discrete, entropy, gaussian, information, probe


def gaussian_pair(rng, n, correlations, p, q):
    """X (n, p), Y (n, q) whose first coordinates are correlated so, the rest independent."""
    x, y = rng.standard_normal((n, p)), rng.standard_normal((n, q))
    for i, rho in enumerate(correlations):
        y[:, i] = rho * x[:, i] + math.sqrt(1 - rho**2) * y[:, i]
    return x, y


def invertible(rng, size):
    return rng.standard_normal((size, size)) + 3 * np.eye(size)


# entropy and the project's measure


def test_entropy_of_labels():
    assert entropy([1, 1, 2, 2, 3, 3, 3, 3]) == pytest.approx(1.5 * math.log(2))
    assert entropy(["a", "a"]) == 0.0
    assert entropy(np.arange(7)) == pytest.approx(math.log(7))


def test_information_is_entropy_less_the_mean_loss():
    found = information([0.5, 1.5, 1.0], math.log(10))
    assert found.nats == pytest.approx(math.log(10) - 1)
    assert found.se == pytest.approx(0.5 / math.sqrt(3))


def test_information_of_a_channel_is_its_capacity():
    # a binary symmetric channel read by the network that knows it: ln 2 − H(error)
    rng, error = keyed("channel"), 0.1
    wrong = rng.random(20_000) < error
    found = information(np.where(wrong, -math.log(error), -math.log(1 - error)), math.log(2))
    true = math.log(2) - float(special.entr(error) + special.entr(1 - error))
    assert abs(found.nats - true) < 3 * found.se


# discrete tables


@pytest.mark.parametrize(
    ("table", "nats"),
    [
        ([[0.25, 0.25], [0.25, 0.25]], 0.0),
        ([[0.5, 0.0], [0.0, 0.5]], math.log(2)),
        ([[0.0, 0.5], [0.5, 0.0]], math.log(2)),  # a permuted copy
        ([[0.45, 0.05], [0.05, 0.45]], math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)),
        ([[0.3, 0.2], [0.3, 0.2]], 0.0),
        ([[0.5, 0.25, 0.0], [0.0, 0.0, 0.25]], 2 * math.log(2) - 0.75 * math.log(3)),  # y tells x
        ([[6, 0], [0, 2]], 2 * math.log(2) - 0.75 * math.log(3)),
        ([[3, 3], [1, 1]], 0.0),
    ],
)
def test_discrete_tables_exactly(table, nats):
    assert discrete(table).nats == pytest.approx(nats, abs=1e-15)


def test_xor_is_seen_jointly_and_not_singly():
    a, b = np.repeat([0, 1], 2), np.tile([0, 1], 2)
    assert discrete(contingency(a, a ^ b)).nats == pytest.approx(0.0)
    assert discrete(contingency(2 * a + b, a ^ b)).nats == pytest.approx(math.log(2))


@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=5), st.randoms())
@settings(max_examples=60, deadline=None)
def test_discrete_information_keeps_its_laws(rows, random):
    table = np.array(rows) + np.eye(len(rows), 3, dtype=int)
    found = discrete(table)
    assert 0 <= found.nats <= math.log(3) + 1e-12
    assert found.nats == pytest.approx(discrete(table.T).nats)
    order = random.sample(range(len(table)), len(table))
    assert found.nats == pytest.approx(discrete(table[order][:, ::-1]).nats)  # relabelling
    shares = table / table.sum()
    assert found.nats == pytest.approx(discrete(shares).nats)
    parts = special.entr(shares.sum(1)).sum() + special.entr(shares.sum(0)).sum() - special.entr(shares).sum()
    assert found.nats == pytest.approx(float(parts), abs=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 4), (5, 5)])
def test_the_small_sample_bias_is_the_stated_one(rows, columns):
    rng, n, repeats = keyed("bias", rows, columns), 40 * rows * columns, 800
    tables = rng.multinomial(n, np.full(rows * columns, 1 / (rows * columns)), repeats).reshape(-1, rows, columns)
    plain = np.array([discrete(table).nats for table in tables])
    corrected = np.array([discrete(table, correct=True).nats for table in tables])
    error = plain.std() / math.sqrt(repeats)
    assert abs(plain.mean() - (rows - 1) * (columns - 1) / (2 * n)) < 4 * error
    assert abs(corrected.mean()) < 4 * error
    assert discrete(tables[0], correct=True).bias == (rows - 1) * (columns - 1) / (2 * n)


def test_the_bias_of_dependent_labels_is_the_stated_one():
    rng, n, repeats = keyed("dependent bias"), 150, 1500
    joint = np.array([[0.4, 0.1], [0.2, 0.3]])
    found = [discrete(t.reshape(2, 2), correct=True) for t in rng.multinomial(n, joint.ravel(), repeats)]
    nats = np.array([f.nats for f in found])
    assert abs(nats.mean() - discrete(joint).nats) < 3.5 * nats.std() / math.sqrt(repeats)
    assert np.mean([f.se for f in found]) == pytest.approx(nats.std(), rel=0.08)


def test_labels_of_any_kind_make_a_table():
    table = contingency(["b", "a", "b"], [1.5, 0.5, 0.5])
    assert table.tolist() == [[1, 0], [1, 1]]


# Gaussian


@pytest.mark.parametrize("rho", [-0.95, -0.3, 0.0, 0.1, 0.6, 0.99])
def test_gaussian_pairs(rho):
    true = -0.5 * math.log1p(-(rho**2))
    found = [gaussian(*gaussian_pair(keyed("pair", repeat), 4000, [rho], 1, 1)) for repeat in range(300)]
    assert np.mean([abs(f.nats - true) < 3 * f.se for f in found]) > 0.98
    assert abs(np.mean([f.nats for f in found]) - true) < 3 * np.mean([f.se for f in found]) / math.sqrt(300)


@pytest.mark.parametrize(("n", "p", "q"), [(300, 3, 2), (40, 6, 5), (2000, 12, 9)])
def test_gaussian_blocks_without_bias_and_with_an_honest_error(n, p, q):
    correlations = [0.8, 0.4][: min(p, q)]
    true = -0.5 * sum(math.log1p(-(rho**2)) for rho in correlations)
    found = [gaussian(*gaussian_pair(keyed("block", n, i), n, correlations, p, q)) for i in range(200)]
    nats = np.array([f.nats for f in found])
    assert abs(nats.mean() - true) < 3.5 * nats.std() / math.sqrt(len(nats))
    assert np.mean([f.se for f in found]) == pytest.approx(nats.std(), rel=0.25)
    assert np.mean([abs(f.nats - true) < 3 * f.se for f in found]) > 0.97


def test_independent_gaussians_share_nothing_and_the_bias_is_the_stated_one():
    n, p, q = 30, 4, 3
    pairs = [gaussian_pair(keyed("independent", i), n, [], p, q) for i in range(400)]
    plain = np.array([gaussian(x, y, correct=False).nats for x, y in pairs])
    corrected = np.array([gaussian(x, y).nats for x, y in pairs])
    bias = gaussian(*pairs[0]).bias
    assert abs(plain.mean() - bias) < 3.5 * plain.std() / math.sqrt(400)
    assert abs(corrected.mean()) < 3.5 * plain.std() / math.sqrt(400)
    assert p * q / (2 * n) < bias < 1.5 * p * q / (2 * n)


def test_a_permuted_copy_is_a_copy():
    rng = keyed("copy")
    x = rng.standard_normal((500, 4))
    noisy = x + 0.5 * rng.standard_normal((500, 4))
    order = [2, 3, 1, 0]
    assert gaussian(x, x[:, order]).nats == math.inf
    assert gaussian(x, noisy[:, order]).nats == pytest.approx(gaussian(x, noisy).nats)
    assert gaussian(x, noisy[:, order]).nats > 2
    # what the index-paired average of coordinates makes of the same permuted copy
    paired = [np.corrcoef(x[:, i], noisy[:, order][:, i])[0, 1] for i in range(4)]
    assert sum(-0.5 * math.log1p(-(r**2)) for r in paired) < 0.05


def test_gaussian_information_is_invariant_under_invertible_maps():
    rng = keyed("maps")
    x, y = gaussian_pair(rng, 400, [0.7, 0.2], 4, 3)
    found = gaussian(x, y)
    moved = gaussian(x @ invertible(rng, 4) * 1e3 + 7, y @ invertible(rng, 3) - 100)
    assert moved.nats == pytest.approx(found.nats, rel=1e-9)
    assert moved.se == pytest.approx(found.se, rel=1e-9)
    assert gaussian(y, x).nats == pytest.approx(found.nats)
    doubled = gaussian(np.column_stack([x, x @ rng.standard_normal((4, 2)), np.full(400, 0.1)]), y)
    assert doubled.nats == pytest.approx(found.nats)  # linear copies and constants add nothing


def test_a_constant_shares_nothing():
    assert gaussian(np.full((50, 2), 0.1), keyed("constant").standard_normal((50, 1))).nats == 0.0


# the probe


def test_the_probe_of_a_gaussian_target_is_close_under_the_truth():
    x, y = gaussian_pair(keyed("probe"), 4000, [0.8, 0.5], 3, 2)
    true = -0.5 * (math.log1p(-(0.8**2)) + math.log1p(-(0.5**2)))
    found = probe(x, y)
    assert abs(found.nats - true) < 3 * found.se + 8 / 4000
    assert found.se < 0.05 * true


def test_the_probe_of_two_gaussian_classes_is_close_under_the_truth():
    rng, n, shift = keyed("classes"), 6000, 1.0
    labels = rng.integers(0, 2, n)
    features = rng.standard_normal((n, 2)) + shift * (2 * labels[:, None] - 1) * [1.0, 0.0]

    def missing(t):  # H(Y|T) weighted by the density of t in class 1
        return math.exp(-((t - shift) ** 2) / 2) / math.sqrt(2 * math.pi) * math.log1p(math.exp(-2 * shift * t))

    true = math.log(2) - integrate.quad(missing, -12, 12)[0]
    found = probe(features, labels)
    assert abs(found.nats - true) < 3 * found.se
    assert found.nats == pytest.approx(probe(features, labels + 3).nats)


@pytest.mark.parametrize("labels", [True, False])
def test_the_probe_finds_nothing_in_noise(labels):
    rng = keyed("noise")
    y = rng.integers(0, 3, 3000) if labels else rng.standard_normal((3000, 2))
    found = probe(rng.standard_normal((3000, 5)), y)
    assert found.nats < 3 * found.se
    assert found.nats > -5 * 3 / 3000  # no worse than the price of its coefficients


@pytest.mark.parametrize("labels", [True, False])
def test_the_probe_is_invariant_under_invertible_maps_and_copies(labels):
    rng = keyed("probe maps")
    x, y = gaussian_pair(rng, 500, [0.9], 3, 2)
    target = (y[:, 0] > 0).astype(int) if labels else y
    found = probe(x, target)
    assert found.nats > 0.2
    assert probe(x @ invertible(rng, 3) + 5, target).nats == pytest.approx(found.nats, rel=1e-6)
    assert probe(np.column_stack([x, x[:, ::-1]]), target).nats == pytest.approx(found.nats, rel=1e-6)


def test_the_probe_is_honest_about_a_separable_task_and_a_rare_class():
    rng = keyed("rare")
    labels = np.r_[np.arange(300) % 2, [2]]
    features = np.column_stack([labels == 1, rng.standard_normal(301)]).astype(float)
    found = probe(features, labels)
    assert 0.5 < found.nats < entropy(labels)
    assert math.isfinite(found.se)


def test_the_probe_of_a_constant_feature_is_nothing():
    found = probe(np.full((60, 2), 0.1), np.arange(60) % 3)
    assert abs(found.nats) < 0.02


# bad input


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: entropy([]), "labels"),
        (lambda: information([], 1.0), "losses"),
        (lambda: contingency([1, 2], [1]), "labels"),
        (lambda: discrete([1, 2]), "table"),
        (lambda: discrete([[0.5, 0.2], [0.5, 0.2]]), "divide"),
        (lambda: discrete([[2, -1], [1, 1]]), "table"),
        (lambda: discrete([[0.5, 0.5]], correct=True), "correct=False"),
        (lambda: gaussian(np.ones((5, 1)), np.ones((4, 1))), "Y"),
        (
            lambda: gaussian(np.random.default_rng(0).random((5, 3)), np.random.default_rng(1).random((5, 2))),
            "7 samples",
        ),
        (lambda: gaussian([[math.nan], [1.0]], [[1.0], [2.0]]), "finite"),
        (lambda: probe(np.ones((6, 1)), np.arange(5)), "y"),
        (lambda: probe(np.ones((3, 1)), np.arange(3)), "folds"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
