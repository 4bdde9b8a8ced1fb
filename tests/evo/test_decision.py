"""Decisions: when none is due, what their triggers look at, and how long the adopted fork has lived."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from small_life import made
from test_cycle import Rows, Spoil, balanced, birth, lost, of_kind, whole

from evo import decision, proposing
from evo.config import ConfigError
from evo.cycle import run_cycle
from search_spaces.actions import Connect, Disconnect, Edge, Narrow, NoChange, from_json
from search_spaces.randomness import keyed
from search_spaces.spaces import seed
from tournaments import triggers
from tournaments.analysis import Analysis, Cost, Measure
from tournaments.analyzers.extrema import hidden_extrema, share
from tournaments.candidate import Candidate
from tournaments.evidence import collect
from tournaments.policies import Seen


def proposers(rows: Rows) -> set[str]:
    return {str(row["proposer"]) for row in of_kind(rows, "candidate")}


def test_a_control_that_diverges_in_another_seed_is_adopted_for_the_steps_that_it_lived() -> None:
    spoil: Spoil = lambda request, result: (  # noqa: E731
        lost(result) if (request.arm, request.seed, request.rung) == (0, 1, 0) else result
    )
    around, life, network, state = birth(spoil)
    after, _, _, rows = run_cycle(around, life, network, state)
    [told] = of_kind(rows, "decision")
    arms = of_kind(rows, "candidate")
    assert "the control diverged" in told["reason"]
    assert after.step == around.plan.segment + 3, "one rung of 3 steps, the one of 5 never came"
    assert told["trial_steps"] == after.spent == (1 + len(arms)) * 2 * 3 - 3
    balanced(after, rows)


def test_a_network_rests_after_growth() -> None:
    around, life, network, state = birth(**{"economy.cooldown": 2, "growth.cycles": 5, "training.steps": 280})
    rows = whole(around, life, network, state)[3]
    decisions = {r["cycle"]: r for r in of_kind(rows, "decision")}
    grown = [cycle for cycle, r in decisions.items() if r["delta_parameters"] > 0]
    assert grown[0] + 2 in decisions
    for cycle in (grown[0] + 1, grown[0] + 2):
        assert "rests after growth" in decisions[cycle]["reason"]
        assert decisions[cycle]["trial_steps"] == 0
        assert not [r for r in of_kind(rows, "candidate") if r["cycle"] == cycle]
    assert "rests" not in decisions.get(grown[0] + 3, {"reason": ""})["reason"]


def test_nothing_is_taken_away_where_trimming_is_off() -> None:
    settings: dict[str, Any] = {"tournament.candidates": 12, "tournament.random_share": 1.0}
    with_it = whole(*birth(**settings))[3]
    without = whole(*birth(**settings, **{"growth.trim": 0.0}))[3]
    assert proposers(with_it) & proposing.TRIMMERS
    assert not proposers(without) & proposing.TRIMMERS
    for row in of_kind(without, "candidate"):
        assert not any(isinstance(action, Disconnect | Narrow) for action in from_json(row["action_json"]))


def test_no_evidence_is_gathered_where_no_trigger_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def counted(*args: Any) -> Any:
        passes.append(args)
        return collect(*args)

    monkeypatch.setattr(decision, "collect", counted)
    quiet = {"growth.false_alarm": 1e-9}
    whole(*birth(**quiet, **{"growth.triggers": "spike"}))
    assert passes == []
    whole(*birth(**quiet, **{"growth.triggers": "spike and extrema"}))
    assert len(passes) == 3


def test_what_overflows_is_not_screened() -> None:
    around, life, network, state = birth()
    with torch.no_grad():
        network.get_parameter("biases.hidden1")[0] = 1e25
        network.get_buffer("mask.hidden1>output")[:, 0] = 0
        network.get_parameter("links.hidden1>output")[:, 0] = 0
    _, after, _, rows = decision.decide(around, life, network, state, Seen(life.information))
    assert after is network
    assert "overflow" in of_kind(rows, "decision")[0]["reason"]


def test_a_channel_is_one_unit_and_its_positions_are_samples() -> None:
    config, task = made(**{"network.family": "convnet", "network.hidden": [3, 2], "network.density": 1.0})
    network = seed(config.network.model_dump(), task.shape, task.picture, task.outputs, keyed(1))
    with torch.no_grad():
        network.get_parameter("norms.channel1.bias")[1] = -100.0
    train = task.splits["train"]
    evidence = collect(network, train.x[:64], train.y[:64], task.kind, keyed(2))
    extreme, units = share(hidden_extrema(network, evidence))
    assert units == 5
    assert 1 <= extreme < 5


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda findings: [Candidate((NoChange(),), "own", "nothing", 3, 1.0, 1.0)], "expected a cost of 0 parameters"),
        (lambda findings: [Candidate((NoChange(),), "own", "nothing", 0, math.inf, 1.0)], "finite predictions"),
        (lambda findings: ["x"], "expected a list of Candidate, got 'x'"),
        (lambda findings: None, "failed with TypeError"),
        (lambda findings: [Candidate((Connect("*", (Edge("no>where", 0, 0),)),), "own", "", 1, 1.0)], "cannot be done"),
    ],
)
def test_a_proposer_from_outside_that_is_wrong_is_told_so_by_name(
    monkeypatch: pytest.MonkeyPatch, wrong: Any, told: str
) -> None:
    monkeypatch.setitem(proposing.PROPOSERS, "own", wrong)
    with pytest.raises(ConfigError, match=told) as caught:
        whole(*birth(**{"growth.proposers": ["own"]}))
    assert str(caught.value).startswith("growth.proposers: own")


def analysis(*measures: Any, **more: Any) -> Any:
    found = {"analyzer": "own", "measures": measures, "cost": Cost(5, 10.0), "arrays": {}} | more
    return lambda findings: Analysis(**found)


def broken(*given: Any) -> Any:
    raise RuntimeError("no such\nfile as mine")


FINE = Measure("hidden1", "edges", np.float32(7.0), 0, "edges")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (broken, r"failed with RuntimeError\('no such\\nfile as mine'\); mend it, or leave it out$"),
        (lambda: None, "failed with TypeError"),
        (lambda findings: None, "expected a tournaments.analysis.Analysis, got None; return Analysis"),
        (analysis("x"), "expected each measure to be a Measure, got 'x'; write Measure"),
        (analysis(measures=3), "expected its name and a tuple of Measure, got 'own' and 3; return Analysis"),
        (analysis(FINE, analyzer=None), "expected its name and a tuple of Measure, got None"),
        (analysis(FINE, cost=None), "expected a Cost of finite numbers, none below 0, got None; write Cost"),
        (analysis(FINE, cost=Cost(5, math.inf)), "expected a Cost of finite numbers"),
        (analysis(FINE, arrays={"a": [1]}), "expected arrays by name, got .*; give NumPy arrays"),
        (
            analysis(Measure("", "m", math.nan, 0.0, "1")),
            "expected m of the network to be finite .* got nan and",
        ),
        (analysis(Measure("a", "m", 1.0, math.inf, "1")), "expected m of a to be finite numbers.* got 1.0 and inf;"),
        (analysis(Measure("a", "m", 1.0, -1.0, "1")), "the standard error not below 0, got 1.0 and -1.0"),
        (analysis(Measure("a", "m", torch.ones(3), 0.0, "1")), "finite numbers.* got tensor"),
        (analysis(Measure(None, "m", 1.0, 0.0, "1")), "expected site, name and unit as text, got .None, 'm', '1'."),
    ],
)
def test_an_analyzer_from_outside_that_is_wrong_is_told_so_by_name(
    monkeypatch: pytest.MonkeyPatch, wrong: Any, told: str
) -> None:
    monkeypatch.setitem(decision.ANALYZERS, "own", wrong)
    with pytest.raises(ValueError, match=told) as caught:
        whole(*birth(**{"growth.analyzers": ["own"]}))
    assert str(caught.value).startswith("growth.analyzers: own")
    assert "\n" not in str(caught.value)


def test_an_analyzer_from_outside_that_is_right_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decision.ANALYZERS, "own", functools.partial(analysis(FINE)))
    rows = whole(*birth(**{"growth.analyzers": ["own"]}))[3]
    told = {(r["analyzer"], r["site"], r["measure"], r["value"], r["value_se"]) for r in of_kind(rows, "analysis")}
    assert told == {("own", "hidden1", "edges", 7.0, 0.0)}
    assert all(type(r["value"]) is float for r in of_kind(rows, "analysis"))


def test_a_trigger_from_outside_that_fails_ends_the_life_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(triggers.TRIGGERS, "own", broken)
    with pytest.raises(ValueError, match=r"^growth.triggers: own failed with RuntimeError\('no such"):
        whole(*birth(**{"growth.triggers": "own"}))


def test_want_of_memory_is_nobodys_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(findings: Any) -> Any:
        raise MemoryError

    monkeypatch.setitem(decision.ANALYZERS, "own", greedy)
    with pytest.raises(MemoryError):
        whole(*birth(**{"growth.analyzers": ["own"]}))
