"""Losses against their formulas, labels drawn from the model against its probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from search_spaces.randomness import keyed
from tournaments.objective import losses, sampled, score


def test_classification_is_cross_entropy_in_nats():
    outputs = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    found = losses("classification", outputs, torch.tensor([1, 1]))
    assert found.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(2))])


def test_regression_is_half_the_squares_summed_over_outputs():
    outputs, y = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert losses("regression", outputs, y).tolist() == [2.5, 12.5]


def test_labels_come_with_the_probabilities_of_the_model():
    logits = torch.tensor([0.3, -1.0, 1.2, -30.0])
    drawn = sampled("classification", logits.expand(40_000, 4), keyed("labels"))
    share = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = logits.softmax(0)
    assert drawn.dtype == torch.int64
    assert bool(((share - expected).abs() <= 4 * (expected * (1 - expected) / len(drawn)).sqrt() + 1e-12).all())


def test_sharp_outputs_never_draw_a_label_that_does_not_exist():
    drawn = sampled("classification", torch.tensor([[0.0, 0.0, 60.0]]).expand(5_000, 3), keyed("sharp"))
    assert drawn.unique().tolist() == [2]


def test_values_come_with_unit_variance_around_the_prediction():
    outputs = torch.tensor([[2.0, -1.0]]).expand(40_000, 2)
    drawn = sampled("regression", outputs, keyed("values"))
    assert drawn.dtype == outputs.dtype
    assert drawn.mean(0).tolist() == pytest.approx([2.0, -1.0], abs=0.02)
    assert np.cov(drawn.numpy().T) == pytest.approx(np.eye(2), abs=0.03)


def test_the_same_stream_draws_the_same_labels():
    outputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for kind in ("classification", "regression"):
        assert torch.equal(sampled(kind, outputs, keyed("one")), sampled(kind, outputs, keyed("one")))
        assert not torch.equal(sampled(kind, outputs, keyed("one")), sampled(kind, outputs, keyed("two")))


def test_score_is_accuracy_or_the_mean_r2():
    assert score("classification", torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75
    y = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    assert score("regression", y, y) == 1.0
    assert score("regression", torch.tensor([[1.0, 0.0], [1.0, 4.0]]), y) == pytest.approx(0.5)
