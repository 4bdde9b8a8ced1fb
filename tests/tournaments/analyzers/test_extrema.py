"""Dead and saturated units, for every activation function."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from tournaments.analyzers.extrema import ENDS, layer_extrema, share

FUNCTIONS = {
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def layer(activation, n=2000):
    """Units driven by: pre-activations around 0, far below, far above, and the same with noise of 1."""
    noise = torch.randn((n, 1), generator=torch.Generator().manual_seed(0))
    return FUNCTIONS[activation](torch.cat([noise, noise - 9, noise + 9], 1))


def test_every_function_is_covered():
    assert set(ENDS) == set(FUNCTIONS)


@pytest.mark.parametrize("activation", ENDS)
def test_units_at_an_end_are_found_and_a_healthy_one_is_not(activation):
    found = layer_extrema("hidden1", activation, layer(activation))
    assert found.dead.tolist() == [False, True, False]
    assert found.saturated.tolist() == [False, False, True]
    assert (found.units, found.extreme, found.samples, found.layer) == (3, 2, 2000, "hidden1")
    assert found.low[1] == found.high[2] == 1.0


def test_shares_are_counted_against_the_documented_ends():
    relu = layer_extrema("h", "relu", torch.tensor([[0.0, 1.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0]]))
    assert relu.low.tolist() == [0.75, 0.25]
    assert relu.high.tolist() == [0.25, 0.75]
    assert relu.mean.tolist() == [0.75, 1.0]
    tanh = layer_extrema("h", "tanh", torch.tensor([[-0.95], [-0.89], [0.89], [0.91]]))
    assert (tanh.low[0], tanh.high[0]) == (0.25, 0.25)
    sigmoid = layer_extrema("h", "sigmoid", torch.tensor([[0.04], [0.06], [0.94], [0.96]]))
    assert (sigmoid.low[0], sigmoid.high[0]) == (0.25, 0.25)
    gelu = layer_extrema("h", "gelu", torch.nn.functional.gelu(torch.tensor([[-5.0], [-0.75], [1.9], [2.1]])))
    assert (gelu.low[0], gelu.high[0]) == (0.25, 0.25)


@pytest.mark.parametrize(("active", "dead"), [(0, True), (9, True), (10, False), (50, False)])
def test_a_relu_is_dead_below_one_active_sample_in_a_hundred(active, dead):
    activations = torch.zeros(1000, 1)
    activations[:active] = 1.0
    assert layer_extrema("h", "relu", activations).dead.tolist() == [dead]


@pytest.mark.parametrize(("active", "saturated"), [(950, False), (951, True), (1000, True)])
def test_a_relu_is_saturated_above_ninety_five_active_in_a_hundred(active, saturated):
    activations = torch.zeros(1000, 1)
    activations[:active] = 1.0
    assert layer_extrema("h", "relu", activations).saturated.tolist() == [saturated]


def test_a_relu_that_is_seldom_active_is_neither():
    activations = torch.zeros(1000, 1)
    activations[:30] = 1.0
    assert layer_extrema("h", "relu", activations).extreme == 0


def test_a_tanh_that_only_switches_is_saturated():
    switch = torch.tensor([[-0.99], [0.99]]).repeat(50, 1)
    found = layer_extrema("h", "tanh", switch)
    assert found.saturated.tolist() == [True]
    assert found.dead.tolist() == [False]


def test_the_standard_error_is_binomial_and_never_zero():
    activations = torch.zeros(400, 2)
    activations[:100, 1] = 1.0
    found = layer_extrema("h", "relu", activations)
    assert found.high_se[1] == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.01)
    assert 0 < found.high_se[0] < 0.005
    draws = np.random.default_rng(0).binomial(400, 0.25, 4000) / 400
    assert found.high_se[1] == pytest.approx(draws.std(), rel=0.05)


def test_a_dead_unit_puts_out_its_mean():
    found = layer_extrema("h", "tanh", torch.full((100, 1), -0.97, dtype=torch.float64))
    assert found.dead[0]
    assert found.mean[0] == pytest.approx(-0.97)


def test_the_share_is_over_all_layers():
    findings = [layer_extrema(name, name, layer(name)) for name in ("relu", "tanh")]
    assert share(findings) == (4, 6)
    assert share([]) == (0, 0)


def test_a_layer_without_units_has_no_extrema():
    assert layer_extrema("h", "relu", torch.zeros(5, 0)).extreme == 0


def test_findings_are_frozen():
    found = layer_extrema("h", "relu", torch.zeros(5, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.layer = "other"


@pytest.mark.parametrize(
    ("activation", "shape", "word"),
    [("swish", (4, 2), "relu, gelu"), ("relu", (4,), "samples by units"), ("relu", (0, 3), "samples by units")],
)
def test_bad_input_is_named(activation, shape, word):
    with pytest.raises(ValueError, match=word):
        layer_extrema("h", activation, torch.zeros(shape))
