"""What triggers remember: collected where it is asked for, exact through JSON, forgotten with growth; and the policies,
phases, analyses and plateaus of a whole life.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from test_cycle import Rows, balanced, birth, of_kind, plain, whole

from evo import cycle, traces
from evo.config import ConfigError
from evo.cycle import run_cycle
from evo.learning_rates import RATES
from evo.life import Life
from evo.settings import build
from evo.surroundings import Surroundings
from evo.task import Task
from evo.training import Session
from evo.trials import pack, unpack
from tournaments.analyzers import ANALYZERS
from tournaments.policies import POLICIES
from tournaments.triggers import NEEDS, TRIGGERS

LONG: dict[str, Any] = {"training.steps": 900, "growth.cycles": 6}
KEPT = {
    "stagnation": {"loss", "evaluations"}, "active": {"activity"}, "variance": {"spreads"},
    "credits": {"highs", "earned"}, "schedule": set(), "extrema": set(), "plateau": set(), "spike": set(),
}  # fmt: skip


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "WARMUP", 100)


def first(*born_: Any, cycles: int = 3) -> tuple[Life, Any, Any, Rows]:
    around, life, network, state = born_
    rows: Rows = []
    for _ in range(cycles):
        life, network, state, told = run_cycle(around, life, network, state)
        rows += told
    return life, network, state, rows


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_trigger_alone_has_its_own_traces_and_no_others(name: str) -> None:
    quiet = {"growth.false_alarm": 1e-9, "growth.every": 9, "economy.price": 1e6, "economy.final_price": 1e6}
    life, _, _, rows = first(*birth(**{"growth.triggers": name, **quiet, **LONG}))
    assert set(life.traces) == KEPT[name]
    assert [r["trial_steps"] for r in of_kind(rows, "decision")] == [0] * 3
    assert all(r["reason"] for r in of_kind(rows, "decision"))


def test_nothing_is_traced_where_every_cycle_may_grow() -> None:
    assert first(*birth(**LONG))[0].traces == {}


def test_paths_are_followed_only_where_stagnation_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    run = Session.run

    def counted(self: Session, orders: Any, rates: Any, trajectory: int = 0) -> Any:
        asked.append(trajectory)
        return run(self, orders, rates, trajectory)

    monkeypatch.setattr(Session, "run", counted)
    first(*birth(**{"growth.triggers": "plateau", "growth.false_alarm": 1e-9, **LONG}), cycles=1)
    first(*birth(**{"growth.triggers": "stagnation", **LONG}), cycles=1)
    assert asked == [0, 15]


def test_an_evaluation_tells_of_its_own_stretch() -> None:
    life = first(*birth(**{"growth.triggers": "stagnation", "growth.false_alarm": 1e-9, **LONG}))[0]
    assert len(life.traces["evaluations"]) == 2, "the first stretch has none before it"
    for found in life.traces["evaluations"]:
        assert found["stretch"] >= 1 - 1e-9
        assert 0 < found["chance"] <= 1
        assert found["velocities"] == 14
        assert found["improvement"] < 1


@pytest.mark.parametrize("name", ["stagnation or active or variance", "credits and schedule"])
def test_a_life_goes_on_from_json_as_if_it_had_not_stopped(name: str) -> None:
    settings = {"growth.triggers": name, "growth.every": 2, "training.rates": "backoff", "economy.policy": "correct"}
    around, life, network, state = birth(**settings, **LONG)
    life, network, state, _ = first(around, life, network, state)
    back = Life.from_json(json.loads(json.dumps(life.to_json())))
    assert back == life
    assert life.traces
    kept = pack(network, state)
    one, other = whole(around, life, *unpack(kept)), whole(around, back, *unpack(kept))
    assert one[0] == other[0]
    assert repr(plain(one[3])) == repr(plain(other[3]))


def test_growth_makes_triggers_forget() -> None:
    expression = "schedule or active and variance and stagnation and credits"
    around, life, network, state = birth(**{"growth.triggers": expression, "tournament.candidates": 4, **LONG})
    deltas = []
    for _ in range(6):
        life, network, state, rows = run_cycle(around, life, network, state)
        [told] = of_kind(rows, "decision")
        deltas.append(told["action"])
        if told["action"] != "NoChange":
            assert set(life.traces) == {"loss", "grown", "highs", "earned"}
            assert life.traces["grown"] == told["cycle"]
            assert life.traces["highs"] == [life.information]
            assert life.traces["earned"] == life.ledger.earned
        else:
            assert {"activity", "spreads"} <= set(life.traces)
    assert {action == "NoChange" for action in deltas} == {True, False}


def test_the_schedule_counts_cycles_between_growths() -> None:
    settings = {"growth.triggers": "schedule", "growth.every": 3, "training.steps": 1200, "growth.cycles": 8}
    rows = of_kind(whole(*birth(**settings))[3], "decision")
    since = 0
    for row in rows:
        since += 1
        assert f"{since} cycle" in row["reason"]
        assert (row["trial_steps"] > 0) == (since >= 3)
        since = 0 if row["action"] != "NoChange" else since


# --- the economy of a life


@pytest.mark.parametrize("name", POLICIES)
def test_a_life_under_each_policy(name: str) -> None:
    end, _, _, rows = whole(*birth(**{"economy.policy": name, "growth.false_alarm": 0.2, **LONG}))
    balanced(end, rows)
    assert {r["credits_unit"] for r in of_kind(rows, "decision")} == {POLICIES[name].unit}
    assert end.ledger.balance >= -1e-9
    assert of_kind(rows, "decision")[-1]["credits_nats"] == end.ledger.balance
    if name in ("nats", "correct", "proportional"):
        assert end.ledger.earned > 0
    if name == "correct":
        assert end.ledger.best == int(end.ledger.best) > 0
        assert end.ledger.best <= 300, "of the samples that decide"


def test_spikes_earn_and_ten_of_them_buy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cycle, "_spikes", lambda *_: 4)
    _, _, _, rows = first(*birth(**{"economy.policy": "spike", **LONG}), cycles=4)
    before = 0.0
    for row in of_kind(rows, "decision"):
        before += 40
        assert row["delta_parameters"] <= 0 or before >= 100
        before -= 100 if row["delta_parameters"] > 0 else 0
        assert row["credits_nats"] == before
    assert any(row["delta_parameters"] > 0 for row in of_kind(rows, "decision"))


def test_correct_predictions_need_classes() -> None:
    config, task = dataclasses.replace, birth()[0].task
    values: Task = config(task, kind="regression", name="house prices")
    with pytest.raises(ConfigError, match=r"economy\.policy: 'correct' expected .* 'house prices'.*; write economy"):
        Surroundings.of(build({"economy.policy": "correct"}), values, "n000", lambda *_: [])


def test_caps_and_phases_by_epoch() -> None:
    around, life, network, state = birth(**{"economy.caps": [3, 5, 7], "economy.phases": [100, 200], **LONG})
    _, _, _, rows = whole(around, life, network, state)
    decisions = of_kind(rows, "decision")
    assert {r["phase"] for r in decisions} == {"coarse", "medium", "fine"}
    for row in decisions:
        most = {"coarse": 3, "medium": 5, "fine": 7}[row["phase"]]
        assert row["delta_parameters"] <= most
    assert any(r["delta_parameters"] > 0 for r in decisions)
    for row in of_kind(rows, "segment"):
        where = dataclasses.replace(life, step=row["step"])
        assert around.phase(where) == ("coarse" if row["epoch"] < 100 else "medium" if row["epoch"] < 200 else "fine")


def test_a_ledger_from_before_there_were_policies_is_one_of_nats() -> None:
    fields = birth()[1].to_json()
    for name in ("plateaus", "traces"):
        del fields[name]
    life = Life.from_json(json.loads(json.dumps(fields)))
    assert life.traces == {}
    assert life.plateaus == 0
    assert life.ledger.balance == 0.5


# --- when a life ends, what is analysed, plateaus


def test_a_life_may_end_when_no_unit_is_dead_or_saturated(monkeypatch: pytest.MonkeyPatch) -> None:
    around, life, network, state = birth(**{"growth.until": "no_extrema", **LONG})
    left = iter([(2, 8), (1, 8), (0, 8)])
    monkeypatch.setattr(traces, "extremes", lambda *_: next(left))
    end, _, _, rows = whole(around, life, network, state)
    assert end.done
    assert end.cycle == 3
    assert end.reason == "no unit is dead or saturated, which growth.until waits for"
    last = of_kind(rows, "decision")[-1]
    assert last["action"] == "NoChange"
    assert last["reason"] == "no unit is dead or saturated"
    balanced(end, rows)


def test_analyses_are_recorded_at_every_decision_also_where_nothing_grows() -> None:
    settings = {"growth.analyzers": ["extrema"], "growth.triggers": "schedule", "growth.every": 2, **LONG}
    life, _, _, rows = first(*birth(**settings))
    for number in range(3):
        told = [r for r in of_kind(rows, "analysis") if r["cycle"] == number]
        assert {(r["analyzer"], r["site"], r["measure"]) for r in told} >= {("extrema", "hidden1", "dead_share")}
        assert all(r["unit"] == "share" and 0 <= r["value"] <= 1 and r["value_se"] > 0 for r in told)
        assert all(r["operations"] > 0 and r["step"] is not None for r in told)
    assert rows[-1]["kind"] == "decision", "what is asked of a cycle's last row stays the same"
    quiet = first(*birth(**{k: v for k, v in settings.items() if k != "growth.analyzers"}))
    assert quiet[0] == life
    assert of_kind(quiet[3], "analysis") == []


def test_nothing_is_analysed_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(findings: Any) -> Any:
        raise AssertionError("asked for")

    for name in list(ANALYZERS):
        monkeypatch.setitem(ANALYZERS, name, never)
    assert of_kind(first(*birth(), cycles=1)[3], "analysis") == []


@pytest.mark.parametrize("rates", ["backoff", "age * backoff", "density*backoff", "mine"])
def test_plateaus_are_counted_once_and_only_where_some_rule_may_read_them(
    monkeypatch: pytest.MonkeyPatch, rates: str
) -> None:
    monkeypatch.setitem(RATES, "mine", lambda setting: setting.everywhere(0.9**setting.moment.plateaus))
    still = {"training.learning_rate": 1e-9, "growth.triggers": "schedule", "growth.every": 99, **LONG}
    assert first(*birth(**still))[0].plateaus == 0
    around, life, network, state = birth(**{"training.rates": rates, **still})
    seen = []
    for _ in range(4):
        life, network, state, _ = run_cycle(around, life, network, state)
        seen.append((life.plateaus, life.traces["since_plateau"]))
    assert around.plan.segment > 96, "long enough for a test of its own"
    assert seen == [(n, 0) for n in (1, 2, 3, 4)]


def test_a_plateau_waits_for_losses_of_its_own() -> None:
    config = build({"training.rates": "backoff"})
    life = first(*birth(**LONG), cycles=1)[0]
    flat = dataclasses.replace(life, losses=(1.0,) * 90, traces={"since_plateau": 0})
    after = traces.trained(config, flat, np.ones(90), None)
    assert (after.plateaus, after.traces["since_plateau"]) == (0, 90)
    more = traces.trained(config, dataclasses.replace(after, losses=(1.0,) * 180), np.ones(90), None)
    assert (more.plateaus, more.traces["since_plateau"]) == (1, 0)


def test_every_need_has_its_traces() -> None:
    assert set(KEPT) == set(NEEDS)
