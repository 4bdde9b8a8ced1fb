"""A session of training: cut anywhere it is the same, what blows up is told, and whatever is learned is evaluated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from aged_networks import CONFIG, MATURE, aged, close, network_of, plan, same, split_of, train

from evo.task import Split
from evo.training import Session, held_out_losses, predict
from search_spaces.families import Convnet
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.objective import Kind, losses

# --- sessions


@pytest.mark.parametrize("ages", [(40,), (0, 5, 900)])
def test_two_sessions_are_one_long_session(ages: tuple[int, ...]) -> None:
    network = network_of()
    state = aged(network, torch.tensor(ages))
    orders, rates = plan(30, MATURE)
    whole, after, session = train(network, state, 30, MATURE)
    assert bool(len(session.others)) == (len(ages) > 1)
    halves, state_between = copy.deepcopy(network), state
    for part in (slice(None, 11), slice(11, None)):
        session = Session(halves, state_between, split_of(), "classification", MATURE)
        session.run(orders[part], rates[part])
        state_between = session.close()
        halves = copy.deepcopy(halves)
    assert same(dict(whole.named_parameters()), dict(halves.named_parameters()))
    for part, (values, _) in after.parts().items():
        assert same(values, state_between.parts()[part][0]), part


def test_the_same_again_is_the_same_and_draws_no_global_numbers() -> None:
    network, before = network_of(), torch.get_rng_state()
    one, _, first = train(network, aged(network, torch.tensor([0, 9])), 12)
    other, _, second = train(network, aged(network, torch.tensor([0, 9])), 12)
    assert same(dict(one.named_parameters()), dict(other.named_parameters()))
    assert torch.equal(first.log, second.log)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_steps_change_nothing() -> None:
    network = network_of()
    state = aged(network, torch.tensor([0, 9]))
    trained, after, session = train(network, state, 0)
    assert same(dict(trained.named_parameters()), dict(network.named_parameters()))
    assert same(after.age, state.age)
    assert session.log.shape == (0, 2)


@pytest.mark.parametrize("ages", [(0,), (0, 700)])
def test_what_blows_up_is_told_not_raised(ages: tuple[int, ...]) -> None:
    network = network_of()
    session = Session(network, aged(network, torch.tensor(ages)), split_of(), "classification", CONFIG)
    orders, _ = plan(8)
    trained = session.run(orders, np.full(8, 1e30))
    assert trained.diverged
    assert trained.losses.shape == trained.norms.shape == (8,)


def test_learns_values_as_well_as_classes() -> None:
    network, data = network_of(), split_of(kind="regression")
    before = held_out_losses(network, data, "regression").mean()
    session = Session(network, OptimizerState.fresh(network), data, "regression", CONFIG)
    orders, rates = plan(150)
    trained = session.run(orders, rates)
    assert held_out_losses(network, data, "regression").mean() < 0.7 * before
    assert trained.losses[-20:].mean() < trained.losses[:20].mean()


def test_a_convnets_running_statistics_move_and_its_picture_is_learned() -> None:
    layers = [("input", 1), ("channel1", 3), ("output", 2)]
    network = Convnet((1, 6, 6), layers, "relu")
    connect(network, 0.7, keyed("test", "convnet"))
    draw = keyed("test", "pictures")
    x = torch.from_numpy(draw.normal(size=(60, 36)).astype(np.float32))
    data = Split(x, (x[:, :18].sum(dim=1) > 0).long())
    before = {k: t.clone() for k, t in network.named_buffers()}
    session = Session(network, OptimizerState.fresh(network), data, "classification", CONFIG)
    trained = session.run(*plan(80))
    assert trained.losses[-10:].mean() < trained.losses[:10].mean()
    moved = [k for k, t in network.named_buffers() if not torch.equal(t, before[k])]
    assert {k.rpartition(".")[2] for k in moved} == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("ages", [(40,), (0, 5, 900)])
def test_a_captured_step_computes_what_an_eager_one_does(ages: tuple[int, ...]) -> None:
    network, data = network_of(), split_of()
    network.to("cuda")
    data = Split(data.x.cuda(), data.y.cuda())
    found = []
    for capture in (False, True):
        body, state = copy.deepcopy(network), aged(network_of(), torch.tensor(ages))
        state = OptimizerState(
            **{p: {k: t.cuda() for k, t in values.items()} for p, (values, _) in state.parts().items()}
        )
        session = Session(body, state, data, "classification", MATURE, capture=capture)
        trained = session.run(*plan(25, MATURE))
        found.append((body.cpu(), trained))
    close(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1].losses, found[1][1].losses, rtol=1e-4)


# --- evaluation


def test_predictions_are_made_in_evaluation_mode_and_the_mode_is_given_back() -> None:
    network = Convnet((1, 6, 6), [("input", 1), ("channel1", 3), ("output", 2)], "relu")
    connect(network, 0.7, keyed("test", "convnet"))
    x = torch.from_numpy(keyed("test", "x").normal(size=(10, 36)).astype(np.float32))
    network.train()
    buffers = {k: t.clone() for k, t in network.named_buffers()}
    outputs = predict(network, x, batch=3)
    assert network.training
    assert not outputs.requires_grad
    assert same(dict(network.named_buffers()), buffers)
    torch.testing.assert_close(outputs, network.eval()(x).detach())
    predict(network, x)
    assert not network.training


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_held_out_losses_are_summed_in_double(kind: Kind) -> None:
    network, data = network_of(), split_of(kind=kind)
    found = held_out_losses(network, data, kind)
    assert found.dtype == np.float64
    assert found.shape == (60,)
    np.testing.assert_allclose(found, losses(kind, predict(network, data.x), data.y).numpy(), rtol=1e-5)
