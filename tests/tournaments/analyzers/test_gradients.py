"""Gradient flow: known gradients, silent units, vanishing and exploding."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from search_spaces.families import Mlp
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.analyzers.gradients import gradients
from tournaments.evidence import Evidence, collect
from tournaments.findings import Findings


def network(*hidden: int, activation: str = "relu") -> Mlp:
    names = ["input", *(f"hidden{i + 1}" for i in range(len(hidden))), "output"]
    made = Mlp(list(zip(names, [4, *hidden, 2], strict=True)), list(itertools.pairwise(names)), activation)
    connect(made, 1.0, keyed("gradients", *hidden))
    return made


def with_gradients(**given: torch.Tensor) -> Findings:
    """A network of one hidden layer, whose gradients are given."""
    n = len(next(iter(given.values())))
    nothing = torch.zeros(n, 4), torch.zeros(n).long()
    seen = Evidence("classification", *nothing, {"input": nothing[0]}, given, given, 1.0)
    return Findings(network(3), seen, 5, 2, lambda purpose: keyed("draw", purpose))


def test_the_gradient_is_the_root_mean_square_over_units_averaged_over_samples():
    hidden = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    output = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    found = gradients(with_gradients(hidden1=hidden, output=output))
    first = 5 / math.sqrt(3)
    assert found.value("hidden1", "gradient") == pytest.approx(first / 2)
    assert found.value("output", "gradient") == pytest.approx(2.0)
    assert found.value("", "ratio") == pytest.approx(first / 4)
    assert found.value("hidden1", "silent_share") == pytest.approx(1 / 3)
    np.testing.assert_allclose(found.arrays["hidden1"], np.array([3, 4, 0]) / math.sqrt(2))
    [measure] = [m for m in found.measures if (m.site, m.name) == ("output", "gradient")]
    assert measure.se == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert measure.unit == "nats per unit"


def test_a_map_counts_as_one_unit():
    maps = torch.ones(5, 3, 2, 2)
    found = gradients(with_gradients(hidden1=maps, output=torch.ones(5, 2)))
    assert found.value("hidden1", "gradient") == pytest.approx(2.0)  # the norm over four positions
    assert found.arrays["hidden1"].shape == (3,)


def test_neither_width_nor_samples_change_the_scale():
    rng = keyed("scale")
    values = {w: torch.from_numpy(rng.standard_normal((4000, w))) for w in (3, 300)}
    found = [
        gradients(with_gradients(hidden1=values[w][:n], output=torch.ones(n, 2))).value("hidden1", "gradient")
        for w, n in ((300, 4000), (300, 500))
    ]
    assert found == pytest.approx([1.0, 1.0], abs=0.02)


def test_the_error_of_the_ratio_is_that_of_repeated_samples():
    def drawn(key: int) -> Findings:
        rng = keyed("ratio", key)
        size = rng.exponential(size=(300, 1))
        hidden = size * rng.standard_normal((300, 3))
        output = size * rng.standard_normal((300, 2))
        return with_gradients(hidden1=torch.from_numpy(hidden), output=torch.from_numpy(output))

    found = [gradients(drawn(key)) for key in range(150)]
    errors = [m.se for each in found for m in each.measures if m.name == "ratio"]
    assert np.mean(errors) == pytest.approx(np.std([each.value("", "ratio") for each in found]), rel=0.15)


def test_dead_units_are_silent():
    made = network(6)
    with torch.no_grad():
        made.get_parameter("biases.hidden1")[:2] = -100.0
    rng = keyed("dead")
    x = torch.from_numpy(rng.standard_normal((300, 4))).float()
    seen = collect(made, x, torch.arange(300) % 2, "classification", rng)
    found = gradients(Findings(made, seen, 5, 2, lambda purpose: keyed("draw", purpose)))
    assert found.value("hidden1", "silent_share") == pytest.approx(2 / 6)
    assert found.value("output", "silent_share") == 0.0
    assert np.flatnonzero(found.arrays["hidden1"] == 0).tolist() == [0, 1]


def test_a_deep_sigmoid_network_vanishes_and_a_shallow_one_does_not():
    rng = keyed("deep")
    x = torch.from_numpy(rng.standard_normal((200, 4))).float()
    verdicts = {}
    for depth in (1, 8):
        made = network(*[5] * depth, activation="sigmoid")
        seen = collect(made, x, torch.arange(200) % 2, "classification", rng)
        verdicts[depth] = gradients(Findings(made, seen, 5, 2, lambda purpose: keyed("draw", purpose)))
    assert verdicts[8].value("", "vanishing") == 1.0
    assert verdicts[1].value("", "vanishing") == 0.0
    assert verdicts[8].value("", "exploding") == verdicts[1].value("", "exploding") == 0.0


@pytest.mark.parametrize(("scale", "vanishing", "exploding"), [(1e-3, 1, 0), (0.05, 0, 0), (50.0, 0, 0), (1e3, 0, 1)])
def test_the_ratio_is_judged_against_its_limits(scale, vanishing, exploding):
    values = torch.from_numpy(keyed("limits").standard_normal((100, 3)))
    found = gradients(with_gradients(hidden1=scale * values, output=values[:, :2]))
    assert (found.value("", "vanishing"), found.value("", "exploding")) == (vanishing, exploding)


def test_without_any_gradient_all_is_silent_and_nothing_vanishes():
    found = gradients(with_gradients(hidden1=torch.zeros(9, 3), output=torch.zeros(9, 2)))
    assert found.value("hidden1", "silent_share") == found.value("output", "silent_share") == 1.0
    assert found.value("", "ratio") == 1.0
    assert found.value("", "vanishing") == 0.0
