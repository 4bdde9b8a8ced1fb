"""int8 weights seen in training: what rounding keeps, where gradients go, and which steps see it."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from grown_networks import CONFIG, KINDS, grown_of, split_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torch.func import functional_call

from evo.batches import batch_orders, cosine_rates
from evo.quantisation import LEVELS, dequantise, fake_quantise, quantise, step_size
from evo.training import Moment, Session, Trained
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from tournaments.objective import losses

quick = settings(max_examples=100, deadline=None, database=None, derandomize=True)
tensors = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=1, max_dims=3, max_side=8),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


@quick
@given(tensors)
def test_rounding_moves_no_value_further_than_half_a_level(values: np.ndarray) -> None:
    x = torch.from_numpy(values)
    size = step_size(x)
    levels = quantise(x, size)
    back = dequantise(levels, size)
    assert levels.dtype == torch.int8
    assert int(levels.min()) >= -LEVELS
    assert torch.equal(back, fake_quantise(x))
    assert bool(((back - x).abs() <= size * 0.5 * (1 + 1e-4)).all())
    assert torch.equal(back[x == 0], x[x == 0]), "a masked weight stays masked"
    assert torch.equal(quantise(-x, size), -levels), "symmetric"
    assert torch.equal(quantise(back, size), levels), "what is on a level stays there"


def test_there_are_at_most_255_levels_and_the_largest_is_the_outermost() -> None:
    x = torch.from_numpy(keyed("test", "levels").normal(size=100_000).astype(np.float32))
    levels = quantise(x, step_size(x))
    assert 200 < len(levels.unique()) <= 255
    assert int(levels.abs().max()) == LEVELS
    assert float(fake_quantise(x).abs().max()) == pytest.approx(float(x.abs().max()), rel=1e-6)


@pytest.mark.parametrize("shape", [(3, 4), (5,), (0,), ()])
def test_a_tensor_of_zeros_stays_one(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    found = fake_quantise(x)
    assert torch.equal(found, torch.zeros(shape))
    found.sum().backward()
    assert torch.equal(x.grad, torch.ones(shape))


def test_gradients_go_straight_through_inside_the_range_and_stop_outside() -> None:
    x = torch.from_numpy(keyed("test", "through").normal(size=(40, 30)).astype(np.float32)).requires_grad_()
    weight = torch.from_numpy(keyed("test", "weight").normal(size=(40, 30)).astype(np.float32))
    (found,) = torch.autograd.grad((fake_quantise(x) * weight).sum(), x)
    assert torch.equal(found, weight)
    narrow = torch.tensor(1.0 / LEVELS)
    (found,) = torch.autograd.grad((fake_quantise(x, narrow) * weight).sum(), x)
    inside = x.detach().abs() <= 1.0
    assert 0 < int(inside.sum()) < inside.numel()
    edge = (x.detach().abs() - 1).abs() < 1 / LEVELS
    assert torch.equal(found[inside & ~edge], weight[inside & ~edge])
    assert not found[~inside & ~edge].any()


# --- in a session


def run(
    kind: str, steps: int, every: int, start: int = 0, found: tuple[Network, OptimizerState] | None = None
) -> tuple[Network, OptimizerState, Trained]:
    network, state = copy.deepcopy(found or grown_of(kind))
    config = CONFIG.model_copy(update={"quantise_every": every})
    session = Session(network, state, split_of(kind), "classification", config, at=Moment(start, 100))
    orders = batch_orders(80, 60, CONFIG.batch_size, keyed("test", "batches"))[start : start + steps]
    trained = session.run(orders, cosine_rates(CONFIG, start, steps, 100))
    return network, session.close(), trained


def tensors_of(network: Network) -> dict[str, Tensor]:
    return dict(network.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_every_nth_step_of_the_life_sees_rounded_weights(kind: str) -> None:
    plain, rounded = run(kind, 20, 0)[2], run(kind, 20, 7)[2]
    same = plain.losses == rounded.losses
    assert same[:6].all(), "steps 1 to 6"
    assert not same[6]
    assert np.abs(plain.losses - rounded.losses).max() < 0.1
    assert not (plain.losses == run(kind, 3, 1)[2].losses[0]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_which_steps_do_does_not_depend_on_how_a_life_is_cut(kind: str) -> None:
    whole, after, _ = run(kind, 30, 4)
    found: tuple[Network, OptimizerState] = grown_of(kind)
    for start, stop in itertools.pairwise((0, 5, 6, 19, 30)):
        found = run(kind, stop - start, 4, start, found)[:2]
    assert all(torch.equal(t, tensors_of(found[0])[k]) for k, t in tensors_of(whole).items())
    assert all(torch.equal(t, found[1].first[k]) for k, t in after.first.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_such_a_step_is_that_at_the_rounded_weights(kind: str) -> None:
    network, state = grown_of(kind)
    data = split_of(kind)
    order = batch_orders(80, 60, CONFIG.batch_size, keyed("test", "batches"))[0]
    parameters = dict(network.named_parameters())
    rounded = {
        k: (fake_quantise(p) if k in network.masks() else p).detach().requires_grad_() for k, p in parameters.items()
    }
    network.train()
    loss = losses("classification", functional_call(network, rounded, (data.x[order],)), data.y[order]).mean()
    grads = torch.autograd.grad(loss, list(rounded.values()))
    norm = torch.cat([g[active(network)[k]] for k, g in zip(rounded, grads, strict=True)]).norm()
    moved, after, trained = run(kind, 1, 1)
    assert trained.losses[0] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert trained.norms[0] == pytest.approx(float(norm), rel=1e-5)
    factor = min(1.0, CONFIG.clip_norm / (float(norm) + 1e-6))
    for (name, p), g in zip(parameters.items(), grads, strict=True):
        on = active(network)[name]
        wanted = CONFIG.beta1 * state.first[name] + (1 - CONFIG.beta1) * g * factor
        torch.testing.assert_close(after.first[name][on], wanted[on], rtol=1e-4, atol=1e-7)
        assert not moved.get_parameter(name)[~on].any(), "masks stay"
        step = (moved.get_parameter(name) - p).detach()[on]
        assert float(step.abs().max()) < 3 * CONFIG.learning_rate, "it is the exact weights that are updated"
