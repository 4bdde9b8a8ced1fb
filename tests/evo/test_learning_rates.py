"""What every learning-rate rule keeps to, how rules are named together, and when they are asked."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from grown_networks import CONFIG, KINDS, grown_of, lived, masked_edge, seed_of, setting_of
from rated_lives import TOTAL, plan, same, session_of, trained

from evo import learning_rates
from evo.config import ConfigError
from evo.learning_rate_setting import Factors, Setting
from evo.learning_rates import RATES, describe, parse, scales
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed

COMPOSED = ("age * density", "freeze * trust", "cascade * warmup * backoff")
STAGES = [(kind, stage) for kind in KINDS for stage in ("seed", "grown")]


def network_of(kind: str, stage: str) -> tuple[Network, OptimizerState]:
    return seed_of(kind) if stage == "seed" else grown_of(kind)


# --- every rule


@pytest.mark.parametrize(("kind", "stage"), STAGES)
@pytest.mark.parametrize("name", list(RATES))
def test_a_rule_gives_every_parameter_fit_factors_and_the_same_again(name: str, kind: str, stage: str) -> None:
    network, state = network_of(kind, stage)
    kept = copy.deepcopy((network, state))
    for step, plateaus in ((0, 0), (40, 2), (TOTAL, 5)):
        found = RATES[name](setting_of(network, state, step, TOTAL, plateaus, every=CONFIG.rates_every))
        again = RATES[name](setting_of(network, state, step, TOTAL, plateaus, every=CONFIG.rates_every))
        assert found.keys() == dict(network.named_parameters()).keys()
        for key, p in network.named_parameters():
            assert torch.broadcast_to(found[key], p.shape).shape == p.shape
            assert bool(torch.isfinite(found[key]).all())
            assert bool((found[key] >= 0).all())
            assert torch.equal(found[key], again[key])
    assert same((network, state), kept), "a rule only looks"


@pytest.mark.parametrize(("kind", "stage"), STAGES)
@pytest.mark.parametrize("rates", [*(name for name in RATES if name != "uniform"), *COMPOSED])
def test_a_life_in_two_halves_is_the_whole(rates: str, kind: str, stage: str) -> None:
    """Cut where scales are computed anew; uniform ones never are."""
    network, state = network_of(kind, stage)
    whole = trained(kind, network, state, rates, plateaus=1)
    assert same(whole, trained(kind, network, state, rates, (0, 40, TOTAL), plateaus=1))
    assert not torch.equal(
        torch.cat([p.reshape(-1) for p in whole[0].parameters()]),
        torch.cat([p.reshape(-1) for p in network.parameters()]),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rules_change_what_is_learned_once_something_has_grown(kind: str) -> None:
    network, state = grown_of(kind, last=12)
    plain = trained(kind, network, state, "uniform", plateaus=1)
    for name in RATES:
        assert same(plain, trained(kind, network, state, name, plateaus=1)) == (name == "uniform"), name


def test_the_edges_of_a_network_that_grew_are_where_they_are_said_to_be() -> None:
    """Of the networks that all of this is tested on."""
    for kind in KINDS:
        network, state = grown_of(kind)
        on = active(network)
        assert {int(a) for name in on for a in state.age[name][on[name]].unique()} == {530, 130, 30}
        assert masked_edge(network, network.places()[0].sources[0] + ">" + network.places()[0].layer)


# --- expressions


def test_an_expression_is_the_product_of_what_it_names_and_of_the_states_own_scale() -> None:
    setting = setting_of(*grown_of("mlp"), plateaus=2)
    for values in setting.state.scale.values():
        values.fill_(3.0)
    one, two = RATES["cascade"](setting), RATES["component"](setting)
    for name, scale in scales("cascade * component * backoff", setting).items():
        torch.testing.assert_close(scale, one[name] * two[name] * 0.25 * torch.full(scale.shape, 3.0))
    assert parse("age*density *  trust") == ("age", "density", "trust")
    assert parse(" uniform ") == ("uniform",)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("agee", "'agee'.*; write age$"),
        ("age density", "'age density'"),
        ("age +", "joined by '\\*'"),
        ("", "got ''"),
        ("age *", "got ''.*age \\* density"),
        ("age * age", "'age' stands twice.*write each rule once"),
    ],
)
def test_an_expression_that_cannot_be_is_one_error(expression: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"training.rates: .*{said}") as caught:
        parse(expression)
    assert "\n" not in str(caught.value)


def broken(setting: Setting, kind: str) -> Factors:
    factors = setting.everywhere(1.0)
    name = next(iter(factors))
    if kind == "missing":
        del factors[name]
    elif kind == "shape":
        factors[name] = torch.ones(3, 1, 1)
    else:
        factors[name] = torch.tensor(float(kind))
    return factors


@pytest.mark.parametrize("kind", ["missing", "shape", "-1", "nan", "inf"])
def test_a_users_rule_that_gives_no_factors_is_told_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATES, "mine", lambda setting: broken(setting, kind))
    with pytest.raises(ConfigError, match=r"training\.rates: mine"):
        scales("mine", setting_of(*seed_of("mlp")))


def out_of_range(setting: Setting) -> Factors:
    return {"layer": [1.0][3]}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (out_of_range, r" failed with IndexError\('list index out of range'\); mend it, or leave it out$"),
        (lambda setting: None, ": expected factors by parameter name, got None; return for example setting.everywhere"),
        (lambda setting: 0.5, ": expected factors by parameter name, got 0.5; return for example setting.everywhere"),
        (
            lambda setting: dict.fromkeys(setting.parameters, 0.5),
            ": expected a tensor of real factors .*, got 0.5;",
        ),
        (lambda setting: setting.everywhere(1j), " failed with .*; mend it|: expected a tensor of real factors"),
        (lambda setting: setting.everywhere(-0.5), ": gives .* a factor that is negative or not finite; mend it"),
    ],
)
def test_a_users_rule_that_is_wrong_is_told_so_by_name(rule: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATES, "mine", rule)
    with pytest.raises(ConfigError, match=rf"^training\.rates: mine({told})") as caught:
        scales("uniform * mine", setting_of(*seed_of("mlp")))
    assert "\n" not in str(caught.value)


def test_a_users_rule_may_read_weights_that_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(setting: Setting) -> Factors:
        return {name: p.abs() + 1 for name, p in setting.network.named_parameters()}

    monkeypatch.setitem(RATES, "mine", mine)
    network, state = seed_of("mlp")
    assert not any(scale.requires_grad for scale in scales("mine", setting_of(network, state)).values())


def test_the_resulting_scale_of_every_layer_is_described() -> None:
    network, state = grown_of("mlp")
    setting = setting_of(network, state, step=70, total=TOTAL)
    told = {row.parameter: row for row in describe("scaffold", setting)}
    assert told.keys() == dict(network.named_parameters()).keys()
    row = told["links.input>hidden1"]
    assert (row.layer, row.frozen) == ("hidden1", 0.0)
    assert (row.smallest, row.median, row.largest) == pytest.approx((0.1, 0.1, 0.5))
    assert [row.layer for row in describe("cascade", setting)] == sorted(
        (row.layer for row in told.values()), key=["hidden1", "hidden2", "output"].index
    )
    frozen = {row.parameter: row.frozen for row in describe("freeze", setting)}
    assert {name for name, share in frozen.items() if share == 0} == {
        "links.hidden2>output", "links.input>output", "biases.output",
    }  # fmt: skip
    assert set(frozen.values()) == {0.0, 1.0}


# --- in a session


@pytest.mark.parametrize("kind", KINDS)
def test_a_rules_factor_is_the_states_scale(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another factor for every single element; test_adam compares the latter with AdamW element by element."""
    network, state = grown_of(kind)
    drawn = {
        name: torch.from_numpy(keyed("factor", name).uniform(0.1, 3.0, tuple(p.shape)).astype(np.float32))
        for name, p in network.named_parameters()
    }
    monkeypatch.setitem(RATES, "mine", lambda setting: drawn)
    by_rule = trained(kind, network, state, "mine", (0, 50))
    by_state = trained(kind, network, replace(state, scale=drawn), "uniform", (0, 50))
    assert same(by_rule, (by_state[0], replace(by_state[1], scale=state.scale)))


def test_a_factor_for_all_is_the_learning_rates() -> None:
    network, state = seed_of("mlp")
    lived(network, state, 5000)
    halved, whole = copy.deepcopy(network), copy.deepcopy(network)
    one = session_of("mlp", halved, state, "backoff", plateaus=1)
    assert not len(one.others)
    one.run(*plan(30))
    orders, rates = plan(30)
    session_of("mlp", whole, state, "uniform").run(orders, rates / 2)
    assert same((halved, one.close()), (whole, one.close()))


def test_uniform_asks_no_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    network, state = grown_of("mlp")
    before = trained("mlp", network, state, "uniform")

    def refuse(*_: object) -> Factors:
        raise AssertionError("a rule was asked")

    monkeypatch.setattr(learning_rates, "scales", refuse)
    monkeypatch.setitem(RATES, "uniform", refuse)
    assert same(before, trained("mlp", network, state, "uniform"))


def test_scales_are_computed_anew_at_steps_of_the_life(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watch(setting: Setting) -> Factors:
        seen.append(setting.moment.step)
        return setting.everywhere(1.0)

    monkeypatch.setitem(RATES, "mine", watch)
    session = session_of("mlp", *seed_of("mlp"), "mine", step=7)
    session.run(*plan(5, 7))
    session.run(*plan(20, 12))
    assert seen == [7, 10, 20, 30]
    session.run(*plan(3, 32))
    assert seen == [7, 10, 20, 30]


def test_a_rule_sees_moments_and_ages_as_they_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[OptimizerState] = []
    monkeypatch.setitem(RATES, "mine", lambda setting: (seen.append(setting.state), setting.everywhere(1.0))[1])
    network, state = grown_of("mlp")
    session = session_of("mlp", network, state, "mine")
    session.run(*plan(11))
    reference = copy.deepcopy(grown_of("mlp")[0])
    plain = session_of("mlp", reference, state, "uniform")
    plain.run(*plan(10))
    after = plain.close()
    for part, (values, _) in seen[1].parts().items():
        assert all(torch.equal(values[name], after.parts()[part][0][name]) for name in values), part
