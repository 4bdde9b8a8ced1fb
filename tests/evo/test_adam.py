"""An update: torch's own AdamW where all ages agree, a slow reference element by element where they differ."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from aged_networks import CONFIG, MATURE, aged, close, network_of, plan, same, split_of, train

from evo.config import TrainingConfig
from evo.training import Session
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from tournaments.objective import losses

EPSILON = 1e-8


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
