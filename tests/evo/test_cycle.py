"""One cycle: pure, its books in order, and unshaken by forks or stretches of training that blow up."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_life import made

from evo import books, cycle
from evo.cycle import PATIENCE_WITH_DIVERGENCE, born, figures, run_cycle
from evo.events import VOLATILE
from evo.life import Life
from evo.rows import settings_json
from evo.settings import build
from evo.surroundings import Surroundings, resolved
from evo.task import Task
from evo.training import held_out_losses
from evo.trials import Body, TrialRequest, TrialResult, pack, run_trial, unpack
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import seed

Rows = list[dict[str, Any]]
Spoil = Callable[[TrialRequest, TrialResult], TrialResult]


def runner_of(task: Task, spoil: Spoil = lambda request, result: result) -> Any:
    def run(parent: Body, requests: Sequence[TrialRequest]) -> list[TrialResult]:
        return [spoil(request, run_trial(task, parent, request)) for request in requests]

    return run


def lost(result: TrialResult) -> TrialResult:
    nan = np.full_like(result.growth, np.nan)
    return dataclasses.replace(result, growth=nan, audit=np.full_like(result.audit, np.nan), diverged=True)


def birth(
    spoil: Spoil = lambda request, result: result, **settings: Any
) -> tuple[Surroundings, Life, Network, OptimizerState]:
    config, task = made(**settings)
    around = Surroundings.of(config, task, "n000", runner_of(task, spoil))
    rng = keyed(config.seed, "n000", "seed")
    network = seed(config.network.model_dump(), task.shape, task.picture, task.outputs, rng)
    return around, born(around, network), network, OptimizerState.fresh(network)


def whole(*born_: Any) -> tuple[Life, Network, OptimizerState, Rows]:
    around, life, network, state = born_
    rows: Rows = []
    while not life.done:
        life, network, state, told = run_cycle(around, life, network, state)
        rows += told
    return life, network, state, rows


def plain(rows: Rows) -> Rows:
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]


def of_kind(rows: Rows, kind: str) -> Rows:
    return [row for row in rows if row["kind"] == kind]


def balanced(life: Life, rows: Rows) -> None:
    gains = [float(r[f"gain_{part}_nats"] or 0) for r in rows for part in ("training", "control", "fork")]
    assert life.information - life.born == pytest.approx(sum(gains), abs=1e-9)
    assert life.information - life.born == pytest.approx(
        life.gain_training + life.gain_control + life.gain_fork, abs=1e-9
    )


def test_a_cycle_is_pure() -> None:
    around, life, network, state = birth()
    kept = pack(*unpack(pack(network, state)))
    one = run_cycle(around, life, network, state)
    two = run_cycle(around, life, *unpack(kept))
    assert one[0] == two[0]
    assert repr(plain(one[3])) == repr(plain(two[3]))
    for a, b in ((one[1].parameters(), two[1].parameters()), (network.parameters(), unpack(kept)[0].parameters())):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_a_whole_life_says_what_it_knew_and_what_it_cost() -> None:
    around, life, network, state = birth()
    seeded = network.count()
    end, grown, _, rows = whole(around, life, network, state)
    balanced(end, rows)
    decisions = of_kind(rows, "decision")
    assert len(decisions) == around.plan.cycles == 3
    assert sum(r["delta_parameters"] for r in decisions) == grown.count() - seeded
    assert any(r["delta_parameters"] for r in decisions), "a life in which nothing grew shows little"
    assert end.step == around.plan.total
    assert end.reason == "lived its whole life"
    held = around.task.splits["growth"]
    now = around.task.entropy - held_out_losses(grown, held, around.task.kind).mean()
    assert end.information == pytest.approx(float(now), abs=1e-12)
    assert end.spent == sum(r["trial_steps"] for r in decisions)
    assert max(r["active_parameters"] for r in decisions) <= end.peak
    assert all(r["reason"] for r in rows if r["kind"] != "segment")


def test_the_ledger_can_be_kept_from_the_events() -> None:
    around, life, network, state = birth(**{"growth.cycles": 4, "training.steps": 220})
    best, balance, paid, back = max(life.information, 0.0), life.ledger.balance, 0.0, 0.0
    end, _, _, rows = whole(around, life, network, state)
    for row in rows:
        if row["kind"] not in ("segment", "decision") or row["cycle"] == around.plan.cycles:
            continue
        cost = (row["delta_parameters"] or 0) * (row["price_nats"] or 0.0)
        if cost > 0:
            assert cost <= balance + 1e-12, "nothing is bought on credit"
            paid, balance = paid + cost, balance - cost
        elif cost < 0:
            refund = min(-cost, max(paid - back, 0.0))
            back, balance = back + refund, balance + refund
        if row["information_nats"] > best:
            balance, best = balance + row["information_nats"] - best, row["information_nats"]
        if row["kind"] == "decision":
            assert row["credits_nats"] == pytest.approx(balance, abs=1e-9)
    assert end.ledger.balance == pytest.approx(balance, abs=1e-9)


def test_candidates_tell_all_that_a_decision_rests_on() -> None:
    rows = whole(*birth())[3]
    for number in range(3):
        [decision] = [r for r in of_kind(rows, "decision") if r["cycle"] == number]
        arms = [r for r in of_kind(rows, "candidate") if r["cycle"] == number]
        assert [r["candidate"] for r in arms] == list(range(1, len(arms) + 1))
        assert [r["placebo"] for r in arms] == [False] * (len(arms) - 1) + [number % 2 == 0]
        chosen = [r for r in arms if r["selected"]]
        assert len(chosen) == (decision["action"] != "NoChange")
        if chosen:
            assert chosen[0]["action"] == decision["action"]
            assert chosen[0]["delta_parameters"] == decision["delta_parameters"]
            assert decision["gain_fork_nats"] == pytest.approx(chosen[0]["own_nats"], abs=1e-12)
        for r in arms:
            assert r["reason"]
            assert r["predicted_nats"] is not None or r["placebo"]
            assert r["se_nats"] > 0
            assert r["trial_steps"] == 2 * (8 if r["rungs"] == 2 else 3)
            assert r["seconds"] > 0
            assert r["bytes"] % 4 == 0
            assert r["flops"] > 0
            assert r["bound_nats"] < r["measured_nats"]
        parent = decision["active_parameters"] - decision["delta_parameters"]
        assert [r["bytes"] // 4 - parent for r in arms] == [r["delta_parameters"] for r in arms]


# --- what blows up


def test_candidates_that_diverge_lose_and_life_goes_on() -> None:
    end, network, _, rows = whole(*birth(lambda request, result: lost(result) if request.arm else result))
    assert end.reason == "lived its whole life"
    assert {r["action"] for r in of_kind(rows, "decision")} == {"NoChange"}
    arms = of_kind(rows, "candidate")
    assert arms
    assert all(r["diverged"] and r["reason"] and r["measured_nats"] is None and r["own_nats"] is None for r in arms)
    assert all("no candidate finished its trial" in r["reason"] for r in of_kind(rows, "decision"))
    balanced(end, rows)
    assert all(bool(p.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("rung", [0, 1])
def test_a_control_that_diverges_leaves_the_parent(rung: int) -> None:
    around, life, network, state = birth(
        lambda request, result: lost(result) if (request.arm, request.rung) == (0, rung) else result,
        **{"tournament.candidates": 4},
    )
    seeded = network.count()
    end, grown, _, rows = whole(around, life, network, state)
    assert grown.count() == seeded
    balanced(end, rows)
    for r in of_kind(rows, "decision"):
        assert "the control diverged" in r["reason"]
        assert r["gain_control_nats"] == r["gain_fork_nats"] == 0
        assert r["trial_steps"] > 0
    for number in range(3):
        arms = [r for r in of_kind(rows, "candidate") if r["cycle"] == number]
        placebo = number % 2 == 0
        assert [r["candidate"] for r in arms] == list(range(1, len(arms) + 1))
        assert len(arms) == 4 + placebo
        assert [r["placebo"] for r in arms] == [False] * 4 + [True] * placebo
        assert not any(r["diverged"] or r["selected"] for r in arms)
        assert sum("the control diverged" in r["reason"] for r in arms) == (4 if rung == 0 else 2) + placebo
    assert end.step == around.plan.total, "what the tournaments did not take is trained in the end"


def test_one_fork_of_two_that_diverges_is_enough_to_lose() -> None:
    spoil: Spoil = lambda request, result: lost(result) if (request.arm, request.seed) == (1, 1) else result  # noqa: E731
    rows = whole(*birth(spoil))[3]
    assert all(r["diverged"] == (r["candidate"] == 1) for r in of_kind(rows, "candidate"))


def test_training_that_diverges_is_run_again_at_half_the_rate() -> None:
    # The decay alone multiplies each weight by −3 a step, at half the rate by −1.
    settings = {"training.learning_rate": 40.0, "training.weight_decay": 0.1, "growth.cycles": 1, "training.steps": 200}
    around, life, network, state = birth(**settings)
    end, network, _, rows = whole(around, life, network, state)
    [choice] = of_kind(rows, "choice")
    assert "training diverged; once more from the last decision at 0.5 of the learning rate" in choice["reason"]
    assert choice["epoch"] == 0
    assert end.rate == 0.5
    assert choice["trial_steps"] == around.plan.segment, "steps that were lost are work, too"
    lost = sum(r["trial_steps"] for r in rows if r["kind"] in ("decision", "choice"))
    assert end.spent == lost == books.effort(pd.DataFrame([{**r, "network": "n000"} for r in rows]))[1]
    assert end.reason == "lived its whole life"
    assert of_kind(rows, "segment")[0]["learning_rate"] <= 20
    assert all(bool(p.isfinite().all()) for p in network.parameters())


def test_training_that_diverges_at_every_rate_ends_the_life_with_a_reason() -> None:
    around, life, network, state = birth(**{"training.learning_rate": 1e6, "training.weight_decay": 0.1})
    before = {k: p.detach().clone() for k, p in network.named_parameters()}
    end, left, _, rows = whole(around, life, network, state)
    assert end.done
    assert end.reason == "training diverged at every rate"
    assert len(of_kind(rows, "choice")) == len(rows) == PATIENCE_WITH_DIVERGENCE + 1
    assert end.spent == len(rows) * around.plan.segment
    assert "once more" not in rows[-1]["reason"]
    assert end.information == life.information
    assert all(torch.equal(p, before[k]) for k, p in left.named_parameters())


# --- when nothing is decided


def test_triggers_that_keep_quiet_leave_a_life_of_training_alone() -> None:
    around, life, network, state = birth(**{"growth.triggers": "spike", "growth.false_alarm": 1e-9})
    end, grown, _, rows = whole(around, life, network, state)
    assert grown.count() == network.count()
    assert of_kind(rows, "candidate") == []
    decisions = of_kind(rows, "decision")
    assert [r["action"] for r in decisions] == ["NoChange"] * 3
    assert all(r["reason"] and r["trial_steps"] == 0 for r in decisions)
    assert end.step == around.plan.total
    assert end.tournaments == end.spent == 0
    assert of_kind(rows, "segment")[-1]["learning_rate"] == pytest.approx(
        around.config.training.learning_rate * around.config.training.final_rate, rel=0.05
    )
    balanced(end, rows)


def test_no_credit_buys_nothing() -> None:
    dear = {"economy.endowment": 0.0, "economy.price": 1e6, "economy.final_price": 1e6}
    around, life, network, state = birth(**dear)
    end, _, _, rows = whole(around, life, network, state)
    assert len(of_kind(rows, "decision")) == 3
    assert all(r["delta_parameters"] <= 0 for r in of_kind(rows, "decision"))
    assert end.ledger.spent == 0


def test_never_beyond_the_most_parameters() -> None:
    cheap = {"economy.price": 1e-9, "economy.final_price": 1e-9}
    around, life, network, state = birth(**{"growth.max_parameters": 130, "growth.stake": 1.0}, **cheap)
    end, _, _, rows = whole(around, life, network, state)
    assert network.count() < end.peak <= 130
    assert max(r["delta_parameters"] for r in of_kind(rows, "decision")) <= 130 - network.count()


def test_patience_ends_a_life_that_learns_nothing_more() -> None:
    settings = {"training.patience": 2, "growth.cycles": 12, "training.steps": 400, "training.learning_rate": 1e-9}
    around, life, network, state = birth(**settings, **{"growth.triggers": "spike", "growth.false_alarm": 1e-9})
    # Known before it was born, so that nothing comes after the best.
    end, _, _, rows = whole(around, dataclasses.replace(life, best=9.0), network, state)
    assert end.reason == "no better information for 2 cycles"
    assert end.cycle == 2
    assert len(of_kind(rows, "decision")) == 2


def test_cooldown_rests_between_two_growths() -> None:
    rows = whole(*birth(**{"economy.cooldown": 1, "growth.cycles": 4, "training.steps": 220}))[3]
    deltas = [r["delta_parameters"] for r in of_kind(rows, "decision")]
    assert any(d > 0 for d in deltas)
    assert all(not (a > 0 and b > 0) for a, b in itertools.pairwise(deltas))


def test_what_is_remembered_of_training_is_bounded_and_begins_anew_with_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle, "WINDOW", 16)
    around, life, network, state = birth(**{"growth.cycles": 1})
    after, _, _, rows = run_cycle(around, life, network, state)
    [decision] = of_kind(rows, "decision")
    grown = decision["action"] != "NoChange"
    assert len(after.losses) == len(after.norms) == (0 if grown else 16)
    life = dataclasses.replace(life, losses=(1.0,) * 16, norms=(2.0,) * 16, cycle=around.plan.cycles)
    last, _, _, _ = run_cycle(around, life, network, state)
    assert len(last.losses) == 16
    assert 1.0 not in last.losses


# --- other tasks and families


def test_an_enumerated_task_has_no_error_of_samples() -> None:
    settings = {"task": "parity:4", "data.limit": None, "network.density": 0.7, "training.steps": 200}
    around, life, network, state = birth(**settings)
    end, _, _, rows = whole(around, life, network, state)
    balanced(end, rows)
    arms = of_kind(rows, "candidate")
    assert arms
    assert all(r["se_samples_nats"] == 0 for r in arms)
    assert {r["epoch"] for r in rows if r["step"] == 200} == {200.0}


def test_a_convnet_lives_and_grows() -> None:
    settings = {"network.family": "convnet", "network.hidden": [3], "network.density": 0.5, "growth.cycles": 2}
    around, life, network, state = birth(**settings)
    end, grown, _, rows = whole(around, life, network, state)
    balanced(end, rows)
    assert end.information > life.information
    assert sum(r["delta_parameters"] for r in of_kind(rows, "decision")) == grown.count() - network.count()
    assert len(of_kind(rows, "candidate"))


# --- figures and settings


def test_figures_are_of_the_validation_split() -> None:
    around, _, network, _ = birth()
    found = figures(around.task, network)
    held = around.task.splits["validation"]
    nats = around.task.entropy - held_out_losses(network, held, "classification").mean()
    assert found["validation_information_nats"] == pytest.approx(float(nats))
    assert 0 <= found["validation_accuracy"] <= 1


def test_weight_decay_is_by_epochs_unless_it_is_given() -> None:
    training = build({"training.learning_rate": 0.01, "training.decay_epochs": 20}).training
    decay = resolved(training, 640).weight_decay
    assert decay is not None
    assert training.learning_rate * decay * 10 * 20 == pytest.approx(1)
    assert resolved(training, 30).weight_decay == pytest.approx(1 / (0.01 * 20)), "an epoch is a step at least"
    given = training.model_copy(update={"weight_decay": 0.0})
    assert resolved(given, 640).weight_decay == 0.0


def test_the_recorded_settings_leave_out_who_computes_and_where() -> None:
    one = build({"seed": 3})
    two = build({"seed": 3, "workers": 2, "out": "elsewhere", "name": "x", "budget": 5.0, "record.mlflow": False})
    assert settings_json(one) == settings_json(two)
    assert settings_json(one) != settings_json(build({"seed": 4}))
    assert type(one).model_validate_json(settings_json(one)) == one
