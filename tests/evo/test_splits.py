"""Splits: disjoint, whole, stratified, keyed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo.config import DataConfig
from evo.splits import deal, shares
from evo.task import SPLITS

PARTS = shares(DataConfig(), held=False)


@given(
    counts=st.lists(st.integers(5, 60), min_size=1, max_size=8),
    sizes=st.tuples(*[st.floats(0.01, 0.29)] * 3),
    seed=st.integers(0, 2**40),
)
def test_every_sample_in_one_split_and_every_class_in_every_split(
    counts: list[int], sizes: tuple[float, float, float], seed: int
) -> None:
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    config = DataConfig(test=sizes[0], validation=sizes[1], growth=sizes[2])
    dealt = deal(classes, np.arange(len(classes)), shares(config, held=False), seed)
    assert tuple(dealt) == SPLITS
    assert np.array_equal(np.sort(np.concatenate(list(dealt.values()))), np.arange(len(classes)))
    for rows in dealt.values():
        assert set(classes[rows]) == set(range(len(counts)))


def test_shares_are_kept_over_all_and_within_each_class() -> None:
    classes = np.repeat(np.arange(10), 178)
    dealt = deal(classes, np.arange(1780), PARTS, 3)
    for name, rows in dealt.items():
        assert abs(len(rows) - PARTS[name] * 1780) <= 2
        assert np.ptp(np.bincount(classes[rows])) <= (4 if name == "train" else 1)
    assert abs(len(dealt["growth"]) - len(dealt["audit"])) <= 1


def test_order_within_a_split_is_shuffled_and_keyed_by_the_seed() -> None:
    classes = np.repeat(np.arange(2), 100)
    one, again, other = (deal(classes, np.arange(200), PARTS, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in SPLITS)
    assert not np.array_equal(one["train"], other["train"])
    assert not np.array_equal(one["train"], np.sort(one["train"]))


def test_only_the_pool_is_dealt_and_a_held_test_is_left_out() -> None:
    pool = np.arange(40, 90)
    dealt = deal(np.zeros(100, dtype=np.int64), pool, shares(DataConfig(), held=True), 0)
    assert set(dealt) == {"train", "growth", "audit", "validation"}
    assert np.array_equal(np.sort(np.concatenate(list(dealt.values()))), pool)


def test_a_held_test_needs_no_share() -> None:
    assert shares(DataConfig(), held=True)["train"] == pytest.approx(shares(DataConfig(), held=False)["train"] + 0.2)
