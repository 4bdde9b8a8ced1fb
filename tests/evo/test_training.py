"""A step of training: torch's own AdamW where all ages agree, a slow reference element by element where they differ."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evo.batches import batch_orders, cosine_rates, jittered
from evo.config import TrainingConfig
from evo.task import Split
from evo.training import Session, held_out_losses, predict
from search_spaces.families import Convnet, Mlp
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.objective import Kind, losses

EPSILON = 1e-8
CONFIG = TrainingConfig(batch_size=16, learning_rate=0.02, weight_decay=0.1, clip_norm=0.5, warmup=0)
MATURE = TrainingConfig(batch_size=16, learning_rate=0.02, weight_decay=0.1, warmup=20)
quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def network_of(density: float = 0.4) -> Network:
    layers = [("input", 6), ("hidden1", 5), ("hidden2", 4), ("output", 3)]
    links = [("input", "hidden1"), ("input", "hidden2"), ("hidden1", "hidden2"), ("hidden2", "output")]
    network = Mlp(layers, links, "gelu")
    connect(network, density, keyed("test", "weights"))
    # One matrix without a hole, so that both ways of holding a parameter are gone through.
    connect_fully(network, "links.hidden2>output")
    return network


def connect_fully(network: Network, name: str) -> None:
    with torch.no_grad():
        network.get_buffer(network.masks()[name]).fill_(1.0)
        weight = network.get_parameter(name)
        weight.copy_(torch.from_numpy(keyed("test", name).normal(size=tuple(weight.shape))))


def split_of(n: int = 60, kind: Kind = "classification") -> Split:
    draw = keyed("test", "split", n)
    x = torch.from_numpy(draw.normal(size=(n, 6)).astype(np.float32))
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0).long()
    return Split(x, y if kind == "classification" else torch.stack([x[:, 0], x[:, 1] ** 2, x[:, 2]], dim=1))


def aged(network: Network, ages: Tensor | int, scales: tuple[float, ...] = (1.0,)) -> OptimizerState:
    """Moments of a life that has gone on for a while, ages drawn from `ages`, update scales from `scales`."""
    state, draw = OptimizerState.fresh(network), keyed("test", "state")
    choice = torch.as_tensor(ages).reshape(-1).numpy()
    for name, mask in active(network).items():
        shape = tuple(mask.shape)
        state.age[name].copy_(torch.from_numpy(draw.choice(choice, shape)) * mask)
        had = (state.age[name] > 0) & mask
        state.first[name].copy_(torch.from_numpy(draw.normal(size=shape) * 0.01) * had)
        state.second[name].copy_(torch.from_numpy(draw.uniform(1e-5, 1e-3, shape)) * had)
        state.scale[name].copy_(torch.from_numpy(draw.choice(np.array(scales), shape)))
    return state


def plan(steps: int, config: TrainingConfig = CONFIG) -> tuple[np.ndarray, np.ndarray]:
    orders = batch_orders(60, steps, config.batch_size, keyed("test", "batches"))
    return orders, cosine_rates(config, 0, steps, 2 * steps)


def train(
    network: Network, state: OptimizerState, steps: int, config: TrainingConfig = CONFIG, correct_all: bool = False
) -> tuple[Network, OptimizerState, Session]:
    """A trained copy; the originals stay. correct_all: treat every element as one whose age is not the majority's."""
    network, orders_rates = copy.deepcopy(network), plan(steps, config)
    session = Session(network, state, split_of(), "classification", config)
    if correct_all:
        session.adam.others = torch.arange(len(session.adam.theta))
    assert not session.run(*orders_rates).diverged
    return network, session.close(), session


def by_torch(
    network: Network, state: OptimizerState, steps: int, config: TrainingConfig
) -> tuple[Network, list[float]]:
    """A hand-written loop over the same masked layers."""
    network = copy.deepcopy(network)
    parameters = dict(network.named_parameters())
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=1.0, betas=(config.beta1, config.beta2), eps=EPSILON,
        weight_decay=config.weight_decay or 0.0, fused=True,
    )  # fmt: skip
    for name, p in parameters.items():
        oldest = int(state.age[name].max())
        if oldest:
            optimizer.state[p] = {
                "step": torch.tensor(float(oldest)),
                "exp_avg": state.first[name].clone(),
                "exp_avg_sq": state.second[name].clone(),
            }
    data, told = split_of(), []
    for order, rate in zip(*plan(steps, config), strict=True):
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.zero_grad()
        loss = losses("classification", network(data.x[order]), data.y[order]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip_norm)
        optimizer.step()
        told.append(float(loss.detach()))
    return network, told


def by_element(
    network: Network, state: OptimizerState, steps: int, config: TrainingConfig
) -> tuple[Network, dict[str, np.ndarray]]:
    """AdamW in float64, every element with its own count of updates, ramp and scale."""
    network, masks = copy.deepcopy(network), active(network)
    parameters = dict(network.named_parameters())
    theta = {k: p.detach().double().numpy().copy() for k, p in parameters.items()}
    first = {k: t.double().numpy().copy() for k, t in state.first.items()}
    second = {k: t.double().numpy().copy() for k, t in state.second.items()}
    data = split_of()
    for i, (order, rate) in enumerate(zip(*plan(steps, config), strict=True)):
        with torch.no_grad():
            for k, p in parameters.items():
                p.copy_(torch.from_numpy(theta[k]))
        loss = losses("classification", network(data.x[order]), data.y[order]).mean()
        grads = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        norm = np.sqrt(sum(float((g.double()[masks[k]] ** 2).sum()) for k, g in grads.items()))
        for k in parameters:
            g = grads[k].double().numpy() * min(1.0, config.clip_norm / (norm + 1e-6))
            for at in zip(*np.nonzero(masks[k].numpy()), strict=True):
                t = int(state.age[k][at]) + i + 1
                step = float(rate) * float(state.scale[k][at]) * min(1.0, t / max(config.warmup, 1))
                first[k][at] = config.beta1 * first[k][at] + (1 - config.beta1) * g[at]
                second[k][at] = config.beta2 * second[k][at] + (1 - config.beta2) * g[at] ** 2
                mean = first[k][at] / (1 - config.beta1**t)
                spread = np.sqrt(second[k][at] / (1 - config.beta2**t))
                theta[k][at] *= 1 - step * (config.weight_decay or 0.0)
                theta[k][at] -= step * mean / (spread + EPSILON)
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(torch.from_numpy(theta[k]))
    return network, first


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def close(one: Network, other: Network, tolerance: float = 2e-6) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")


# --- both paths


@pytest.mark.parametrize(("ages", "config"), [(0, CONFIG), (37, MATURE), (1000, CONFIG)])
def test_uniform_ages_are_torchs_fused_adamw(ages: int, config: TrainingConfig) -> None:
    network = network_of()
    state = aged(network, ages)
    trained, _, session = train(network, state, 40, config)
    expected, told = by_torch(network, state, 40, config)
    assert not len(session.others)
    close(trained, expected)
    np.testing.assert_allclose(session.log[:, 0].numpy(), told, rtol=1e-5)


def test_every_element_counts_its_own_updates_and_ramps_up_by_itself() -> None:
    network = network_of()
    state = aged(network, torch.tensor([0, 0, 1, 7, 30, 400, 5000]), scales=(0.25, 1.0, 2.0))
    trained, after, session = train(network, state, 25, MATURE)
    expected, first = by_element(network, state, 25, MATURE)
    assert 0 < len(session.others) < len(session.adam.theta)
    close(trained, expected)
    for name, mask in active(network).items():
        np.testing.assert_allclose(after.first[name][mask], first[name][mask.numpy()], rtol=2e-3, atol=1e-6)
        assert torch.equal(after.age[name][mask], state.age[name][mask] + 25)


@pytest.mark.parametrize("age", [20, 600, 4000])
def test_both_ways_of_updating_agree_where_ages_do(age: int) -> None:
    network = network_of()
    state = aged(network, age)
    one, one_after, _ = train(network, state, 30, MATURE)
    other, other_after, _ = train(network, state, 30, MATURE, correct_all=True)
    close(one, other)
    for name in one_after.first:
        torch.testing.assert_close(one_after.first[name], other_after.first[name], rtol=1e-3, atol=1e-6)
    assert same(one_after.age, other_after.age)


def test_those_who_are_warmed_up_and_many_need_no_correction() -> None:
    network = network_of()
    mature = aged(network, torch.tensor([1800, 2500, 100_000]))
    assert not len(train(network, mature, 3, MATURE)[2].others), "no bias is left at such ages"
    young = aged(network, 19)
    assert len(train(network, young, 3, MATURE)[2].others) == network.count(), "a ramp is not over yet"
    rescaled = aged(network, 2500, scales=(0.5,))
    session = train(network, rescaled, 3, MATURE)[2]
    assert not len(session.others), "a scale that all have is the rate's"
    assert session.adam.common == 0.5
    rescaled.scale["biases.output"].fill_(0.25)
    assert len(train(network, rescaled, 3, MATURE)[2].others) == 3
    few = aged(network, 100)
    few.age["biases.output"].fill_(60)
    session = train(network, few, 3, MATURE)[2]
    assert len(session.others) == 3
    assert float(session.adam.clock) == 103


def test_a_fresh_slots_first_updates_are_small() -> None:
    """With its neighbours' step count it would take (1−β₁)/√(1−β₂) = 3 times the rate, and more within 12 steps."""
    config = TrainingConfig(batch_size=60, learning_rate=1e-3, weight_decay=0.0, beta2=0.999, clip_norm=1e9)
    network, state = network_of(), aged(network_of(), 10_000)
    name = "links.input>hidden1"
    fresh = active(network)[name]
    for part in (state.first, state.second, state.age):
        part[name].zero_()
    session = Session(network, state, split_of(), "classification", config)
    orders = np.tile(np.arange(60), (1, 1))
    before = network.get_parameter(name).detach().clone()
    for k in range(1, 13):
        session.run(orders, np.array([config.learning_rate]))
        now = network.get_parameter(name).detach().clone()
        moved = ((now - before)[fresh].abs() / config.learning_rate).max().item()
        before = now
        ramp = k / config.warmup
        assert moved <= 1.2 * ramp, k
        if k == 1:
            assert moved == pytest.approx(ramp, rel=1e-3)


# --- what never moves


@pytest.mark.parametrize("ages", [(500,), (0, 3, 500)])
def test_masked_weights_never_move(ages: tuple[int, ...]) -> None:
    network = network_of()
    with torch.no_grad():
        for name, mask in active(network).items():
            network.get_parameter(name).masked_fill_(~mask, 7.25)
    trained, after, _ = train(network, aged(network, torch.tensor(ages)), 20, MATURE)
    for name, mask in active(network).items():
        weight = trained.get_parameter(name)
        assert bool((weight[~mask] == 7.25).all())
        assert bool((weight[mask] != network.get_parameter(name)[mask]).any())
        for values in (after.first, after.second, after.age):
            assert not values[name][~mask].any()
    assert all(torch.equal(a, b) for a, b in zip(trained.buffers(), network.buffers(), strict=True))


def test_a_scale_of_zero_freezes_to_the_bit_and_a_half_halves() -> None:
    network = network_of()
    state = aged(network, 500)
    frozen, halved = "links.input>hidden2", "biases.output"
    state.scale[frozen].zero_()
    state.scale[halved].fill_(0.5)
    trained, after, _ = train(network, state, 15, MATURE)
    assert torch.equal(trained.get_parameter(frozen), network.get_parameter(frozen))
    for part, (values, _) in after.parts().items():
        assert torch.equal(values[frozen], state.parts()[part][0][frozen]), part
    one, _, _ = train(network, state, 1, MATURE.model_copy(update={"weight_decay": 0.0}))
    state.scale[halved].fill_(1.0)
    whole, _, _ = train(network, state, 1, MATURE.model_copy(update={"weight_decay": 0.0}))
    start = network.get_parameter(halved)
    torch.testing.assert_close(2 * (one.get_parameter(halved) - start), whole.get_parameter(halved) - start)


def test_the_state_comes_back_in_the_parameters_shapes() -> None:
    network = network_of()
    state = aged(network, torch.tensor([0, 50]))
    _, after, _ = train(network, state, 4)
    fresh = OptimizerState.fresh(network)
    for part, (values, _) in after.parts().items():
        wanted = fresh.parts()[part][0]
        assert {k: (t.shape, t.dtype) for k, t in values.items()} == {k: (t.shape, t.dtype) for k, t in wanted.items()}
    assert all(bool((after.second[k] >= 0).all()) for k in after.second)


def test_the_order_of_a_states_names_does_not_matter() -> None:
    network = network_of()
    state = aged(network, torch.tensor([0, 50]))
    shuffled = OptimizerState(**{part: dict(reversed(values.items())) for part, (values, _) in state.parts().items()})
    one, one_after, _ = train(network, state, 5)
    other, other_after, _ = train(network, shuffled, 5)
    assert same(dict(one.named_parameters()), dict(other.named_parameters()))
    assert same(one_after.first, other_after.first)
    assert same(one_after.age, other_after.age)


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


# --- batches and rates


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
