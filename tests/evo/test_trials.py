"""A trial is a pure function of data, parent and request."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch

from evo.batches import batch_orders, cosine_rates
from evo.config import TrainingConfig
from evo.task import Split, Task
from evo.training import Session, held_out_losses
from evo.trials import Body, TrialRequest, TrialResult, pack, run_trial, unpack
from search_spaces import actions, surgery
from search_spaces.actions import Narrow, Spoke, Unit, Widen
from search_spaces.families import Convnet, Mlp
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect

GROWTH = Widen(
    "hidden1",
    (Unit((Spoke("input", 0, 0.4), Spoke("input", 3, -0.2)), (Spoke("output", 1, 0.3),), 0.1),),
)


def task_of(shape: int = 8) -> Task:
    draw = keyed("test", "task")

    def split(n: int) -> Split:
        x = torch.from_numpy(draw.normal(size=(n, shape)).astype(np.float32))
        return Split(x, (x[:, 0] * x[:, 1] > 0).long())

    names = {"train": split(200), "growth": split(50), "audit": split(40), "validation": split(30), "test": split(30)}
    return Task("small", "classification", (shape,), 2, names, math.log(2), {})


def network_of() -> Network:
    network = Mlp([("input", 8), ("hidden1", 4), ("output", 2)], [("input", "hidden1"), ("hidden1", "output")])
    connect(network, 0.5, keyed("test", "network"))
    return network


def parent_of(network: Network | None = None) -> Body:
    network = network or network_of()
    state = OptimizerState.fresh(network)
    for values in state.age.values():
        values.fill_(100)
    for values in state.second.values():
        values.fill_(1e-4)
    return pack(network, state)


def request(steps: int = 12, **changes: object) -> TrialRequest:
    plain = TrialRequest(
        key=(7, "n000", 3), arm=1, seed=0, rung=0, actions="", start=None, step=50, steps=steps, total=400,
        rate=1.0, jitter=0.1, training=TrainingConfig(batch_size=16, weight_decay=0.01),
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def same_bodies(one: Body, other: Body) -> bool:
    pairs = [(one.weights, other.weights), (one.optimizer, other.optimizer)]
    return one.blueprint == other.blueprint and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs
    )


def same(one: TrialResult, other: TrialResult) -> bool:
    """In all but the time that it took."""
    return (
        np.array_equal(one.growth, other.growth)
        and np.array_equal(one.audit, other.audit)
        and same_bodies(one.body, other.body)
        and (one.arm, one.seed, one.train_loss, one.norm, one.diverged)
        == (other.arm, other.seed, other.train_loss, other.norm, other.diverged)
    )


def test_the_same_request_gives_the_same_result_and_leaves_the_parent_alone() -> None:
    task, parent = task_of(), parent_of()
    kept = pickle.loads(pickle.dumps(parent))
    wanted = request(actions=actions.to_json((GROWTH,)))
    torch.manual_seed(1)
    first = run_trial(task, parent, wanted)
    torch.manual_seed(2)
    assert same(first, run_trial(task, parent, wanted))
    assert same_bodies(parent, kept)


def test_a_trial_survives_travel() -> None:
    task, parent = task_of(), parent_of()
    wanted = request(actions=actions.to_json((GROWTH,)))
    here = run_trial(task, parent, wanted)
    there_task, there_parent, there_wanted = pickle.loads(pickle.dumps((task, parent, wanted)))
    there = run_trial(there_task, there_parent, there_wanted)
    assert same(here, there)
    assert same(here, pickle.loads(pickle.dumps(there)))


def test_edits_come_before_training() -> None:
    task, parent = task_of(), parent_of()
    found = run_trial(task, parent, request(actions=actions.to_json((GROWTH,))))
    network, state = unpack(found.body)
    before, state_before = unpack(parent)
    assert network.count() == before.count() + 4
    assert network.axis_sizes()["hidden1"] == 5
    assert set(state.age["links.input>hidden1"][4].tolist()) == {0, 12}
    assert int(state.age["biases.hidden1"][4]) == 12
    assert int(state.age["biases.hidden1"][0]) == 112

    by_hand, state_by_hand = surgery.apply(before, (GROWTH,), state_before)
    assert state_by_hand is not None
    wanted = request()
    orders = batch_orders(200, 12, 16, keyed(*wanted.key, "batches", 0, 0))
    calm = run_trial(task, parent, request(actions=actions.to_json((GROWTH,)), jitter=0.0))
    session = Session(by_hand, state_by_hand, task.splits["train"], "classification", wanted.training)
    trained = session.run(orders, cosine_rates(wanted.training, 50, 12, 400))
    assert same_bodies(calm.body, pack(by_hand, session.close()))
    assert calm.train_loss == float(trained.losses.mean())
    assert np.array_equal(calm.audit, held_out_losses(by_hand, task.splits["audit"], "classification"))
    assert calm.growth.shape == (50,)
    assert calm.audit.shape == (40,)


def test_several_actions_make_one_candidate() -> None:
    both = (GROWTH, Narrow("hidden1", (0,)))
    found = run_trial(task_of(), parent_of(), request(actions=actions.to_json(both)))
    network, _ = unpack(found.body)
    assert network.axis_sizes()["hidden1"] == 4


def test_a_later_rung_goes_on_where_the_fork_stopped() -> None:
    task, parent = task_of(), parent_of()
    first = run_trial(task, parent, request(actions=actions.to_json((GROWTH,))))
    later = request(start=first.body, rung=1, step=62, steps=6)
    found = run_trial(task, parent, later)
    network, state = unpack(found.body)
    assert network.axis_sizes()["hidden1"] == 5
    assert int(state.age["biases.hidden1"][0]) == 118
    assert same(found, run_trial(task, pack(*unpack(first.body)), dataclasses.replace(later, start=None)))


def test_arms_share_their_batches_but_for_the_jitter() -> None:
    task, parent = task_of(), parent_of()
    run = lambda **changes: run_trial(task, parent, request(**changes))  # noqa: E731
    one, two = run(arm=1, jitter=0.0), run(arm=2, jitter=0.0)
    assert same_bodies(one.body, two.body)
    assert not same_bodies(run(arm=1).body, run(arm=2).body)
    assert not same_bodies(one.body, run(arm=1, jitter=0.0, seed=1).body)
    assert not same_bodies(one.body, run(arm=1, jitter=0.0, rung=1).body)
    assert not same_bodies(one.body, run(arm=1, jitter=0.0, key=(8, "n000", 3)).body)
    assert not same_bodies(one.body, run(arm=1, jitter=0.0, rate=0.5).body)


@pytest.mark.parametrize("rate", [1e12, 1e38])
def test_a_fork_that_diverges_is_reported(rate: float) -> None:
    training = TrainingConfig(batch_size=16, weight_decay=0.5)
    found = run_trial(task_of(), parent_of(), request(steps=40, rate=rate, training=training))
    assert found.diverged
    assert found.growth.shape == (50,)


def test_update_scales_follow_the_moment_of_the_life_and_its_plateaus() -> None:
    task, parent = task_of(), parent_of()
    frozen = TrainingConfig(batch_size=16, weight_decay=0.01, rates="freeze")
    early, late = (run_trial(task, parent, request(training=frozen, step=step)) for step in (0, 300))
    moved = lambda found: {k for k, t in found.body.weights.items() if not torch.equal(t, parent.weights[k])}  # noqa: E731
    assert {k.rpartition(".")[0] for k in moved(early)} == {"links", "biases"}
    assert moved(early) == {k for k in parent.weights if not k.startswith("mask.")}
    assert moved(late) == {"links.hidden1>output", "biases.output"}
    on = parent.weights["mask.input>hidden1"].bool()
    assert set(late.body.optimizer["age/links.input>hidden1"][on].tolist()) == {100}
    backing_off = TrainingConfig(batch_size=16, weight_decay=0.01, rates="backoff")
    plain = run_trial(task, parent, request(training=TrainingConfig(batch_size=16, weight_decay=0.01), rate=0.25))
    quarter = run_trial(task, parent, request(training=backing_off, plateaus=2))
    assert same_bodies(plain.body, quarter.body)


def test_a_body_is_unpacked_into_tensors_of_its_own() -> None:
    parent = parent_of()
    network, state = unpack(parent)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers(), *state.first.values(), *state.age.values()]:
            tensor.add_(1)
    assert same_bodies(parent, parent_of())


def test_a_convnets_statistics_travel_with_it() -> None:
    network = Convnet((1, 4, 4), [("input", 1), ("channel1", 3), ("output", 2)], "relu")
    connect(network, 0.8, keyed("test", "convnet"))
    task, parent = task_of(16), parent_of(network)
    found = run_trial(task, parent, request())
    moved = {k for k in parent.weights if not torch.equal(parent.weights[k], found.body.weights[k])}
    assert {"norms.channel1.running_mean", "norms.channel1.num_batches_tracked"} <= moved
    assert same(found, run_trial(task, parent, request()))
