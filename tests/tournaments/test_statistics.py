"""The two-level test: its formula, and that its false alarms come at the rate it states."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from search_spaces.randomness import keyed
from tournaments.statistics import audit, binomial_tail, paired_gains, quantile, sample_size


def draw(rng, repeats, arms, seeds, n, *, seed_sd=0.0, sample_sd=0.0, tails="normal", shared=1.0):
    """(repeats, 1 + arms, seeds, n) losses under one design: no arm is better than the control, on average.

    seed_sd: of each fork. sample_sd: of what an arm itself does to each sample (0 for a placebo).
    """
    if tails == "normal":
        noise = rng.standard_normal((repeats, arms + 1, seeds, n))
    else:
        noise = rng.lognormal(0, 1, (repeats, arms + 1, seeds, n)) * rng.choice((-1, 1), (repeats, arms + 1, seeds, n))
    losses = noise + shared * rng.gamma(0.5, 2, (repeats, 1, 1, n)) + rng.standard_normal((repeats, 1, seeds, 1))
    losses += seed_sd * rng.standard_normal((repeats, arms + 1, seeds, 1))
    losses[:, 1:] += sample_sd * rng.standard_normal((repeats, arms, 1, n))
    return losses


def false_alarms(losses, confidence):
    return np.mean([paired_gains(row[0], list(row[1:]), confidence)[0].bound > 0 for row in losses])


def within(rate, stated, repeats, *, spare=0.0):
    return abs(rate - stated) <= spare + 3.5 * math.sqrt(stated * (1 - stated) / repeats)


@pytest.mark.parametrize("seeds", [2, 3, 4])
@pytest.mark.parametrize("arms", [1, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.1, 1.0])
def test_a_placebo_exceeds_its_bound_at_the_stated_rate(seeds, arms, seed_sd):
    repeats = 1500
    losses = draw(keyed("placebo", seeds, arms), repeats, arms, seeds, 100, seed_sd=seed_sd)
    assert within(false_alarms(losses, 0.9), 0.1, repeats, spare=0.008)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95])
@pytest.mark.parametrize(("n", "tails"), [(10, "normal"), (12, "heavy"), (30, "heavy")])
def test_the_rate_holds_for_few_samples_and_heavy_tails(n, tails, confidence):
    repeats = 2500
    losses = draw(keyed("few", n), repeats, 4, 2, n, seed_sd=0.2, tails=tails)
    stated = 1 - confidence
    assert within(false_alarms(losses, confidence), stated, repeats, spare=0.2 * stated)


@pytest.mark.parametrize("sample_sd", [1.0, 4.0])
@pytest.mark.parametrize("seeds", [2, 4])
def test_the_rate_holds_for_an_arm_that_helps_some_samples_and_hurts_as_many(sample_sd, seeds):
    repeats = 2500
    losses = draw(keyed("mixed", seeds), repeats, 3, seeds, 60, seed_sd=0.1, sample_sd=sample_sd)
    assert within(false_alarms(losses, 0.9), 0.1, repeats, spare=0.01)


def test_a_test_on_samples_alone_would_call_placebos_significant():
    repeats = 1000
    losses = draw(keyed("samples alone"), repeats, 1, 2, 200, seed_sd=0.2)
    gain = (losses[:, 0] - losses[:, 1]).mean(1)
    naive = np.mean(gain.mean(1) / (gain.std(1, ddof=1) / math.sqrt(200)) > stats.norm.ppf(0.9))
    assert naive > 0.2
    assert false_alarms(losses, 0.9) < 0.13


def test_the_standard_error_is_the_spread_over_samples_and_seeds():
    repeats, seeds, n = 4000, 3, 50
    losses = draw(keyed("spread"), repeats, 2, seeds, n, seed_sd=0.3, sample_sd=1.5)
    gains = [paired_gains(row[0], list(row[1:]), 0.9)[0] for row in losses]
    spread = np.var([g.nats for g in gains])
    assert np.mean([g.se**2 for g in gains]) == pytest.approx(spread, rel=0.08)
    # each fork's mean has variance seed_sd² + 1/n; the arm's own effect on samples adds sample_sd²/n
    assert np.mean([g.se_seeds**2 for g in gains]) == pytest.approx(2 * (0.3**2 + 1 / n) / seeds, rel=0.08)
    assert np.mean([g.se_samples**2 for g in gains]) == pytest.approx(1.5**2 / n, rel=0.08)


def test_one_arm_is_the_paired_t_test_over_seeds_when_samples_are_all_there_are():
    rng = keyed("t test")
    control, arm = rng.standard_normal((2, 4, 9))
    (gain,) = paired_gains(control, [arm], 0.95, enumerated=True)
    per_seed = (control - arm).mean(1)
    assert gain.nats == pytest.approx(per_seed.mean())
    assert gain.se == gain.se_seeds == pytest.approx(stats.sem(per_seed))
    assert gain.dof == pytest.approx(3)
    assert gain.bound == pytest.approx(per_seed.mean() - stats.t.ppf(0.95, 3) * stats.sem(per_seed))


def test_arms_share_the_pooled_seed_variance_and_order_is_kept():
    rng = keyed("pool")
    losses = rng.standard_normal((4, 3, 20))
    first = paired_gains(losses[0], list(losses[1:]), 0.9)
    turned = paired_gains(losses[0], list(losses[:0:-1]), 0.9)
    assert len({round(g.se_seeds, 12) for g in first}) == 1
    assert [g.nats for g in turned] == pytest.approx([g.nats for g in first][::-1])
    assert [g.bound for g in turned] == pytest.approx([g.bound for g in first][::-1])
    for gain in first:
        assert gain.se**2 == pytest.approx(gain.se_samples**2 + gain.se_seeds**2)
        assert gain.bound == pytest.approx(gain.nats - stats.t.ppf(0.9, gain.dof) * gain.se)
        assert 3 * 2 * 0.999 <= gain.dof <= 3 * 2 + 19


def test_what_all_arms_share_cancels():
    rng = keyed("shared")
    control, arm = rng.standard_normal((2, 2, 30))
    common = 100 * rng.standard_normal((2, 30))
    plain, shifted = paired_gains(control, [arm], 0.9)[0], paired_gains(control + common, [arm + common], 0.9)[0]
    assert shifted.nats == pytest.approx(plain.nats)
    assert shifted.se == pytest.approx(plain.se)


def test_equal_losses_gain_nothing_with_certainty():
    losses = np.ones((2, 5))
    (gain,) = paired_gains(losses, [losses], 0.9)
    assert (gain.nats, gain.se, gain.bound) == (0.0, 0.0, 0.0)
    assert not gain.bound > 0


def test_no_arms_no_gains():
    assert paired_gains(np.ones((2, 5)), [], 0.9) == ()


def test_tiny_losses_keep_their_degrees_of_freedom():
    rng = keyed("tiny")
    control, arm = 1e-160 * rng.standard_normal((2, 2, 5))
    (gain,) = paired_gains(control, [arm], 0.9)
    assert math.isfinite(gain.bound)
    assert gain.dof >= 0.999


@pytest.mark.parametrize(
    ("control", "arms", "confidence", "word"),
    [
        (np.ones((2, 5)), [np.ones((2, 4))], 0.9, "shape"),
        (np.ones(5), [np.ones(5)], 0.9, "seeds, samples"),
        (np.ones((1, 5)), [np.ones((1, 5))], 0.9, "2 seeds"),
        (np.ones((2, 1)), [np.ones((2, 1))], 0.9, "2 samples"),
        (np.ones((2, 5)), [np.full((2, 5), np.nan)], 0.9, "diverged"),
        (np.ones((2, 5)), [np.ones((2, 5))], 1.0, "confidence"),
    ],
)
def test_bad_input_is_named(control, arms, confidence, word):
    with pytest.raises(ValueError, match=word):
        paired_gains(control, arms, confidence)


def test_audits_cover_at_their_confidence_given_the_forks():
    hits, repeats = 0, 1500
    rng = keyed("audit")
    for _ in range(repeats):
        effect = 0.1 * rng.standard_normal((2, 1))  # of each fork, the same on both halves
        control, arm = rng.standard_normal((2, 2, 160)) * rng.gamma(1, 1, (1, 1, 160))
        arm = arm + effect
        hits += audit(control[:, :60], arm[:, :60], control[:, 60:], arm[:, 60:]).covered(0.95)
    assert within(hits / repeats, 0.95, repeats, spare=0.005)


def test_an_audit_subtracts_the_second_half():
    control = np.zeros((2, 4))
    found = audit(control, control - [1.0, 2.0, 3.0, 4.0], control, control - [1.0, 1.0, 2.0, 2.0])
    assert (found.nats, found.difference) == (1.5, 1.0)
    assert found.se == pytest.approx(math.sqrt(np.var([1, 2, 3, 4], ddof=1) / 4 + np.var([1, 1, 2, 2], ddof=1) / 4))
    assert found.covered()
    assert not audit(control, control - [9.0, 9.1, 9.0, 9.1], control, control).covered()


def test_sample_size_follows_the_rule():
    z = stats.norm.ppf(0.9)
    assert sample_size(0.005, 0.9) == math.ceil(2 * z**2 / 0.005)
    assert sample_size(0.01, 0.9) < sample_size(0.005, 0.9) < sample_size(0.005, 0.95)
    with pytest.raises(ValueError, match="delta"):
        sample_size(0.0, 0.9)


def test_that_many_samples_resolve_a_gain_between_close_classifiers():
    # q moved halfway from p: the mean log ratio is the KL divergence, its variance about twice that
    rng = keyed("resolve")
    p, q = np.array([0.5, 0.5]), np.array([0.55, 0.45])
    delta = float((q * np.log(q / p)).sum())
    n = sample_size(delta, 0.9)
    gains = np.log(q / p)[(rng.random((2000, n)) > q[0]).astype(int)]
    assert gains.mean(1).std() * quantile(0.9, 1e9) == pytest.approx(delta, rel=0.1)


@pytest.mark.parametrize("dof", [1.0, 2.5, 40.0, 1e7])
def test_quantiles_are_those_of_t(dof):
    assert quantile(0.9, dof) == pytest.approx(stats.t.ppf(0.9, dof), rel=1e-9)


@pytest.mark.parametrize("tries", [1, 7, 300])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.9])
def test_the_binomial_tail_is_scipys(tries, share):
    for least in range(tries + 1):
        assert binomial_tail(least, tries, share) == stats.binom.sf(least - 1, tries, share)
