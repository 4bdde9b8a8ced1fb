"""How a life is cut into stretches, and that it survives a round trip."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo.config import Config
from evo.life import Life, Plan
from evo.settings import build
from tournaments.economy import Ledger

quick = settings(max_examples=200, deadline=None, database=None, derandomize=True)
number = st.floats(allow_nan=False, allow_infinity=False)


@quick
@given(
    steps=st.integers(1, 50_000),
    cycles=st.integers(1, 60),
    settle=st.floats(0, 1),
    rungs=st.lists(st.integers(1, 80), min_size=1, max_size=3),
)
def test_the_stretches_of_a_life_add_up(steps: int, cycles: int, settle: float, rungs: list[int]) -> None:
    config = build(
        {"training.steps": steps, "growth.cycles": cycles, "growth.settle": settle, "tournament.rungs": rungs}
    )
    plan = Plan.of(config, 1000)
    assert plan.total == steps
    assert plan.trial == sum(rungs)
    assert plan.cycles * (plan.segment + (plan.trial if plan.cycles else 0)) + plan.settle == plan.total
    assert 0 <= plan.cycles <= cycles
    assert plan.settle >= 0
    if plan.cycles:
        assert plan.segment >= plan.trial, "more is learned between tournaments than in one"
        assert plan.settle >= round(steps * settle) - 1
    short = plan.cut(plan.cycles // 2, plan.cycles // 2 * (plan.segment + plan.trial))
    assert short.cycles == plan.cycles // 2
    assert short.total <= plan.total
    assert short.total - short.settle == short.cycles * (plan.segment + plan.trial)


@pytest.mark.parametrize(("steps", "cycles"), [(39, 0), (59, 0), (60, 1), (119, 1), (120, 2)])
def test_short_lives_hold_fewer_tournaments_or_none(steps: int, cycles: int) -> None:
    settings = {"training.steps": steps, "tournament.rungs": [10, 20], "growth.settle": 0.0, "growth.cycles": 20}
    plan = Plan.of(build(settings), 500)
    assert plan.cycles == cycles
    if not cycles:
        assert plan.settle == plan.total == steps


@pytest.mark.parametrize(
    ("samples", "batch", "epochs", "total"),
    [(640, 64, 3.0, 30), (100, 64, 2.0, 3), (20, 64, 5.0, 5), (1000, 10, 0.001, 1)],
)
def test_epochs_become_steps(samples: int, batch: int, epochs: float, total: int) -> None:
    config = build({"training.epochs": epochs, "training.batch_size": batch, "training.steps": 99_999})
    assert Plan.of(config, samples).total == total


def test_the_defaults_spend_less_than_a_third_of_their_own_steps_on_the_control() -> None:
    plan = Plan.of(Config(), 1000)
    assert plan.cycles == Config().growth.cycles
    assert plan.cycles * plan.trial < plan.total / 3


@quick
@given(
    information=number,
    losses=st.lists(st.floats(width=32), max_size=5),
    rate=number,
    best=number,
    cycle=st.integers(0, 99),
)
def test_a_life_survives_json_to_the_bit(
    information: float, losses: list[float], rate: float, best: float, cycle: int
) -> None:
    ledger = Ledger(0.5, 0.1 + 0.2, earned=1 / 3, spent=1e-9, cooldown=2)
    life = Life(
        cycle, 7, ledger, information, -0.1, 99, 0.1, 0.2, 0.3, tuple(losses), (1.5,), rate, 5, 6, 7, best, True, "why"
    )
    back = Life.from_json(json.loads(json.dumps(life.to_json())))
    assert repr(back) == repr(life)


@pytest.mark.parametrize(
    "change",
    [{"ledger": None}, {"ledger": {"endowment": 1.0}}, {"losses": 3}, {"surprise": 1}, {"losses": ["x"]}],
)
def test_what_is_no_life_is_told(change: dict[str, object]) -> None:
    fields = {**Life(0, 0, Ledger(0.5, 0.0), 0.0, 0.0, 9).to_json(), **change}
    with pytest.raises(ValueError, match=r"(?s)state\.json: expected the fields of a life|could not convert"):
        Life.from_json(fields)


def test_a_life_that_lacks_a_field_is_told() -> None:
    fields = Life(0, 0, Ledger(0.5, 0.0), 0.0, 0.0, 9).to_json()
    given = {f.name for f in dataclasses.fields(Life) if f.default is f.default_factory is dataclasses.MISSING}
    for name in given:
        with pytest.raises(ValueError, match="expected the fields of a life"):
            Life.from_json({k: v for k, v in fields.items() if k != name})
