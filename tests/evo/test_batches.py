"""Which samples a step sees, and at which rate: drawn whole, epoch by epoch, however a life is cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.batches import batch_orders, cosine_rates, jittered
from evo.config import TrainingConfig
from search_spaces.randomness import keyed

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


@quick
@given(n=st.integers(1, 50), steps=st.integers(0, 30), batch=st.integers(1, 60), key=st.integers(0, 9))
def test_batches_are_whole_shuffled_epochs(n: int, steps: int, batch: int, key: int) -> None:
    orders = batch_orders(n, steps, batch, keyed("b", key))
    assert orders.shape == (steps, min(batch, n))
    flat = orders.reshape(-1)
    for begin in range(0, len(flat), n):
        epoch = flat[begin : begin + n]
        assert len(set(epoch.tolist())) == len(epoch)
        assert set(epoch.tolist()) <= set(range(n))
    assert np.array_equal(orders, batch_orders(n, steps, batch, keyed("b", key)))


@quick
@given(share=st.floats(0, 1), key=st.integers(0, 9))
def test_jitter_draws_its_share_of_places_anew(share: float, key: int) -> None:
    orders = batch_orders(500, 40, 50, keyed("b", key))
    changed = jittered(orders, 500, share, keyed("j", key))
    assert changed.shape == orders.shape
    assert changed.min() >= 0
    assert changed.max() < 500
    assert abs((changed != orders).mean() - share * 499 / 500) < 5 * np.sqrt(0.25 / orders.size)


def test_no_jitter_changes_nothing() -> None:
    orders = batch_orders(50, 10, 8, keyed("b"))
    assert np.array_equal(jittered(orders, 50, 0.0, keyed("j")), orders)


@quick
@given(
    total=st.integers(1, 400),
    cut=st.lists(st.integers(0, 400), min_size=0, max_size=4),
    final=st.floats(0, 1),
    rate=st.floats(1e-5, 1.0),
)
def test_rates_fall_from_first_to_final_however_a_life_is_cut(
    total: int, cut: list[int], final: float, rate: float
) -> None:
    config = TrainingConfig(learning_rate=rate, final_rate=final)
    whole = cosine_rates(config, 0, total + 1, total)
    assert whole[0] == pytest.approx(rate)
    assert whole[-1] == pytest.approx(rate * final, abs=1e-12)
    assert (np.diff(whole) <= 1e-12).all()
    bounds = [0, *sorted(min(c, total + 1) for c in cut), total + 1]
    parts = [cosine_rates(config, a, b - a, total) for a, b in itertools.pairwise(bounds)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert cosine_rates(config, total + 5, 3, total) == pytest.approx(rate * final, abs=1e-12)
