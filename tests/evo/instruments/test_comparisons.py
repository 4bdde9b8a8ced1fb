"""Intervals, paired differences and Holm's correction against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evo.instruments.comparisons import estimate, holm, paired


def test_an_estimate_is_students() -> None:
    values = [1.0, 1.2, 0.7, 1.4, 1.1]
    theirs = stats.ttest_1samp(values, 0.0)
    interval = theirs.confidence_interval(0.95)
    ours = estimate(values)
    assert (ours.mean, ours.low, ours.high, ours.p) == pytest.approx(
        (np.mean(values), interval.low, interval.high, theirs.pvalue)
    )


def test_a_paired_difference_is_the_paired_t_test() -> None:
    one, other = [1.0, 1.3, 0.9, 1.8], [0.8, 1.2, 0.9, 1.4]
    assert paired(one, other).p == pytest.approx(stats.ttest_rel(one, other).pvalue)


def test_one_seed_has_no_interval() -> None:
    found = estimate([1.0])
    assert found.to_json() == {"mean": 1.0, "low": None, "high": None, "p": None, "n": 1}


def test_no_difference_at_all_is_no_evidence() -> None:
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1.0


def test_holm_on_the_textbooks_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_what_could_not_be_compared() -> None:
    corrected = holm([0.02, math.nan, 0.9])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])


def test_holm_keeps_the_family_wise_error() -> None:
    """20 true null hypotheses: a false claim in about 5% of 2,000 families, 4 standard errors allowed."""
    rng = np.random.default_rng(0)
    false = sum(min(holm(rng.uniform(size=20).tolist())) < 0.05 for _ in range(2000))
    assert abs(false / 2000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)
