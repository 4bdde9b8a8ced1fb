"""Forks judged on the average of their last weights: the average itself, and what follows it and what does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_cycle import birth, of_kind, whole
from test_trials import parent_of, request, same_bodies, task_of

from evo.averaging import STRIDE, Average, put
from evo.batches import batch_orders, cosine_rates
from evo.config import TrainingConfig
from evo.training import Session, held_out_losses
from evo.trials import run_trial, unpack
from search_spaces.randomness import keyed


def test_the_average_is_that_of_the_weights_that_entered() -> None:
    values = [torch.full((2,), float(i)) for i in range(21)]
    mean = Average(20, 0.5)
    for step, value in enumerate(values):
        mean.look(step, {"w": value})
    assert mean.stops == (15, 20), f"the later half, every {STRIDE} steps, the last among them"
    weights = mean.weights()
    assert weights is not None
    assert weights["w"].tolist() == [17.5, 17.5]
    assert Average(20, 0.0).stops == ()
    assert Average(20, 0.0).weights() is None


def test_a_session_averages_what_it_trains() -> None:
    task = task_of()
    network, state = unpack(parent_of())
    train, config = task.splits["train"], TrainingConfig(batch_size=16, weight_decay=0.01)
    orders, rates = batch_orders(len(train.x), 10, 16, keyed("orders")), cosine_rates(config, 0, 10, 10)
    seen = []
    other, other_state = unpack(parent_of())
    for first in (0, 5):
        session = Session(other, other_state, train, task.kind, config)
        session.run(orders[first : first + 5], rates[first : first + 5])
        other_state = session.close()
        seen.append({name: p.detach().clone() for name, p in other.named_parameters()})
    session = Session(network, state, train, task.kind, config)
    average = session.run(orders, rates, average=1.0).average
    session.close()
    assert average is not None
    for name, p in network.named_parameters():
        torch.testing.assert_close(average[name], (seen[0][name] + seen[1][name]) / 2, rtol=1e-4, atol=1e-6)
        assert not torch.equal(average[name], p)


def test_a_trial_is_judged_on_the_average_and_goes_on_as_it_stands() -> None:
    task, parent = task_of(), parent_of()
    plain, judged = (run_trial(task, parent, request(steps=40, average=share)) for share in (0.0, 0.5))
    assert same_bodies(plain.body, judged.body), "what is adopted does not depend on how it is judged"
    assert np.array_equal(plain.growth, plain.as_is)
    assert np.array_equal(plain.as_is, judged.as_is)
    assert not np.array_equal(judged.growth, judged.as_is)
    assert not np.array_equal(judged.audit, plain.audit)
    network, _ = unpack(judged.body)
    assert np.array_equal(held_out_losses(network, task.splits["growth"], task.kind), judged.as_is)


def test_seeds_differ_less_by_their_averages() -> None:
    """At a rate that makes the weights wander, which is what the average is for."""
    task, parent = task_of(), parent_of()
    training = TrainingConfig(batch_size=4, learning_rate=0.05, weight_decay=0.0)
    means = {}
    for share in (0.0, 0.5):
        forks = [
            run_trial(task, parent, request(steps=200, seed=seed, average=share, training=training, total=10_000))
            for seed in range(8)
        ]
        means[share] = np.std([fork.growth.mean() for fork in forks], ddof=1)
    assert means[0.5] < 0.7 * means[0.0]


def test_the_books_balance_with_weights_as_they_stand() -> None:
    around, life, network, state = birth(**{"tournament.average": 0.5})
    end, grown, _, rows = whole(around, life, network, state)
    decisions = of_kind(rows, "decision")
    assert any(r["gain_fork_nats"] for r in decisions), "a life in which nothing was adopted shows little"
    held = around.task.splits["growth"]
    now = around.task.entropy - held_out_losses(grown, held, around.task.kind).mean()
    assert end.information == pytest.approx(float(now), abs=1e-12)
    gained = end.gain_training + end.gain_control + end.gain_fork
    assert end.information == pytest.approx(end.born + gained, abs=1e-9)


def test_weights_are_put_where_they_belong() -> None:
    network, _ = unpack(parent_of())
    wanted = {name: torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) for name, p in
              network.named_parameters()}  # fmt: skip
    put(network, wanted)
    assert all(torch.equal(p, wanted[name]) for name, p in network.named_parameters())
