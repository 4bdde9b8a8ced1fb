"""Each rule by the numbers of the list of strategies that it comes from; rates there are shares of a base of .001."""

from __future__ import annotations

import itertools

import pytest
import torch
from grown_networks import CONFIG, grow, grown_of, lived, masked_edge, seed_of, setting_of
from torch import Tensor

from evo import learning_rate_rules as rules
from evo.learning_rate_setting import Factors, Setting
from search_spaces.actions import Connect, Spoke, Unit, Widen
from search_spaces.families import Mlp
from search_spaces.network import Network, active
from search_spaces.optimizer_state import ORIGINS, OptimizerState

GROWN = setting_of(*grown_of("mlp"))
IN, MIDDLE, OUT, SKIP = "links.input>hidden1", "links.hidden1>hidden2", "links.hidden2>output", "links.input>output"


def at(setting: Setting, factors: Factors, name: str, origin: str) -> list[float]:
    """The different factors of a parameter's active elements that came by this action."""
    chosen = active(setting.network)[name] & (setting.state.origin[name] == ORIGINS.index(origin))
    assert chosen.any()
    whole = torch.broadcast_to(factors[name], chosen.shape)
    return [pytest.approx(float(v)) for v in whole[chosen].unique()]


def layer(factors: Factors, name: str) -> float:
    (only,) = factors[name].unique().tolist()
    return float(only)


def test_strategy_1_cascade() -> None:
    found = rules.cascade(GROWN)
    for i, name in enumerate((IN, MIDDLE, OUT)):
        assert layer(found, name) == pytest.approx(0.1 ** (i / 3))
    assert layer(found, "biases.hidden2") == layer(found, MIDDLE)


def test_strategy_2_scaffold() -> None:
    found = rules.scaffold(GROWN)
    assert at(GROWN, found, IN, "seed") == [0.0001 / 0.001]
    assert at(GROWN, found, IN, "Connect") == at(GROWN, found, IN, "Widen") == [0.0005 / 0.001]


def test_strategy_3_age() -> None:
    found = rules.age(GROWN)
    assert at(GROWN, found, IN, "seed") == [0.01]
    assert at(GROWN, found, IN, "Widen") == [0.1]
    assert at(GROWN, found, IN, "Connect") == at(GROWN, found, SKIP, "Skip") == [1.0]


def test_strategy_4_component() -> None:
    found = rules.component(GROWN)
    assert at(GROWN, found, IN, "seed") == [0.0001 / 0.001]
    assert at(GROWN, found, IN, "Connect") == [0.0005 / 0.001]
    assert at(GROWN, found, IN, "Widen") == at(GROWN, found, SKIP, "Skip") == [1.0]


def test_strategy_5_pretrained() -> None:
    found = rules.pretrained(GROWN)
    assert at(GROWN, found, IN, "seed") == at(GROWN, found, IN, "Widen") == [1e-5 / 1e-3]
    assert at(GROWN, found, IN, "Connect") == at(GROWN, found, SKIP, "Skip") == [5e-4 / 1e-3]
    network, state = widened_last()
    new = setting_of(network, state)
    assert at(new, rules.pretrained(new), IN, "Widen") == [1.0]
    assert at(new, rules.pretrained(new), IN, "seed") == [0.01]


def test_strategy_6_growth_aware() -> None:
    found = rules.growth_aware(GROWN)
    assert at(GROWN, found, IN, "seed") == [0.25], "halved at each of two events"
    assert at(GROWN, found, IN, "Widen") == at(GROWN, found, IN, "Connect") == [1.0]


@pytest.mark.parametrize(("epochs", "wanted"), [(1, 0.2), (2, 0.4), (4, 0.8), (5, 1.0), (9, 1.0)])
def test_strategy_7_warmup(epochs: int, wanted: float) -> None:
    network, state = widened_last()
    lived(network, state, 10 * epochs - 1)
    setting = setting_of(network, state, epoch=10.0)
    found = rules.warmup(setting)
    assert at(setting, found, IN, "Widen") == [wanted], "at the update that ends so many epochs"
    assert at(setting, found, IN, "seed") == [1.0]


def test_a_warm_up_is_averaged_over_the_steps_for_which_it_stands_and_never_0() -> None:
    network, state = widened_last()
    for every in (1, 7, 50, 80):
        setting = setting_of(network, state, epoch=10.0, every=every)
        mean = sum(min(t / 50, 1.0) for t in range(1, every + 1)) / every
        assert at(setting, rules.warmup(setting), IN, "Widen") == [mean]


def test_strategy_8_trust() -> None:
    """The layer's weights as they are, Adam's moments such that its direction is ±.5 everywhere: ‖w‖/‖u‖."""
    network, state = seed_of("mlp")
    lived(network, state, 50)
    for name in state.first:
        state.first[name].fill_(0.005 * (1 - CONFIG.beta1**50))
        state.second[name].fill_(1e-4 * (1 - CONFIG.beta2**50))
    found = rules.trust(setting_of(network, state))
    on, parameters = active(network), dict(network.named_parameters())
    parts = (OUT, "biases.output")
    weights = torch.cat([parameters[name].detach()[on[name]] for name in parts])
    wanted = float(weights.norm()) / (0.5 * len(weights) ** 0.5)
    assert layer(found, OUT) == layer(found, "biases.output") == pytest.approx(wanted, rel=1e-4)
    assert wanted < rules.LARGEST_TRUST
    for name in state.first:
        state.first[name].mul_(1e-6)
    assert layer(rules.trust(setting_of(network, state)), OUT) == rules.LARGEST_TRUST
    assert layer(rules.trust(setting_of(*seed_of("mlp"))), OUT) == 1.0, "never updated"


@pytest.mark.parametrize(
    ("step", "wanted"),
    [
        (0, (0.001, 0.001, 0.001, 0.001)),
        (299, (0.001, 0.001, 0.001, 0.001)),
        (300, (0.00001, 0.00001, 0.0001, 0.0001)),
        (599, (0.00001, 0.00001, 0.0001, 0.0001)),
        (600, (0.0, 0.0, 0.0, 0.0001)),
        (900, (0.0, 0.0, 0.0, 0.0001)),
    ],
)
def test_strategy_9_freeze(step: int, wanted: tuple[float, ...]) -> None:
    names = ["input", "hidden1", "hidden2", "hidden3", "output"]
    links = list(itertools.pairwise(names))
    network = Mlp([(name, 3) for name in names], links)
    found = rules.freeze(setting_of(network, OptimizerState.fresh(network), step=step, total=900))
    assert [layer(found, f"links.{s}>{t}") for s, t in links] == [pytest.approx(w / 0.001) for w in wanted]


def test_the_last_layer_is_never_nearly_frozen() -> None:
    network, state = seed_of("convnet")
    found = rules.freeze(setting_of(network, state, step=450, total=900))
    assert [round(layer(found, name), 3) for name in ("norms.channel1.weight", "biases.hidden1", "biases.output")] == [
        0.01, 0.01, 0.1,
    ]  # fmt: skip


def test_strategy_10_distance() -> None:
    network, state = widened_last()
    found = rules.distance(setting_of(network, state))
    assert [layer(found, name) for name in (IN, MIDDLE, OUT)] == [
        pytest.approx(0.9), pytest.approx(0.7), pytest.approx(0.5),
    ]  # fmt: skip
    lived(network, state, 20)
    network, state = grow(network, state, Connect("hidden2", (masked_edge(network, "hidden1>hidden2"),)), 5)
    found = rules.distance(setting_of(network, state))
    assert [layer(found, name) for name in (IN, MIDDLE, OUT)] == [
        pytest.approx(0.7), pytest.approx(0.9), pytest.approx(0.7),
    ]  # fmt: skip


@pytest.mark.parametrize(("density", "wanted"), [(0.015, 2.0), (0.05, 1.0), (0.2, 0.5)])
def test_strategy_11_density(density: float, wanted: float) -> None:
    network = Mlp([("input", 40), ("output", 25)], [("input", "output")])
    mask = network.get_buffer("mask.input>output")
    mask.view(-1)[: round(density * 1000)] = 1.0
    found = rules.density(setting_of(network, OptimizerState.fresh(network)))
    assert layer(found, "links.input>output") == layer(found, "biases.output") == wanted


def test_strategy_12_sedimentary() -> None:
    found = rules.sedimentary(GROWN)
    assert at(GROWN, found, IN, "seed") == [0.00001 / 0.001]
    assert at(GROWN, found, IN, "Widen") == [0.0001 / 0.001]
    assert at(GROWN, found, SKIP, "Skip") == [1.0]
    assert at(GROWN, found, IN, "Connect") == [0.0005 / 0.001]


def test_backoff_halves_at_every_plateau() -> None:
    for plateaus in range(4):
        found = rules.backoff(setting_of(*grown_of("mlp"), plateaus=plateaus))
        assert {layer(found, name) for name in found} == {0.5**plateaus}


def test_phases_protect_the_old_while_the_new_is_young() -> None:
    young = setting_of(*grown_of("mlp"), epoch=10.0)  # the newest has had 30 updates, 3 epochs
    found = rules.phases(young)
    assert at(young, found, IN, "seed") == at(young, found, IN, "Widen") == [0.1]
    assert at(young, found, IN, "Connect") == [1.0]
    settled = setting_of(*grown_of("mlp"), epoch=6.0)
    assert {layer(rules.phases(settled), name) for name in found} == {1.0}


def test_the_combined_strategy() -> None:
    found = rules.combined(GROWN)
    for i, name in enumerate((IN, MIDDLE, OUT)):
        assert at(GROWN, found, name, "seed") == [0.1**2 * 0.1 ** (i / 3)]
    assert at(GROWN, found, IN, "Connect") == [0.5]
    assert at(GROWN, found, IN, "Widen") == [1.0], "130 updates are more than 5 epochs of 10"
    assert at(GROWN, found, SKIP, "Skip") == [31 / 50]


@pytest.mark.parametrize("name", ["scaffold", "component", "pretrained", "age", "growth_aware", "phases", "distance"])
def test_what_protects_the_old_does_nothing_before_there_is_something_new(name: str) -> None:
    network, state = seed_of("mlp")
    lived(network, state, 123)
    rule = getattr(rules, name)
    assert {float(v) for factor in rule(setting_of(network, state)).values() for v in factor.unique()} == {1.0}


def widened_last() -> tuple[Network, OptimizerState]:
    """A seed of 60 updates whose latest event is a new unit in hidden1, just now."""
    network, state = seed_of("mlp")
    lived(network, state, 60)
    return grow(network, state, Widen("hidden1", (Unit((Spoke("input", 0, 0.3),), (Spoke("hidden2", 1, 0.2),)),)))


def test_strata_count_growth_events_and_leave_out_what_is_frozen() -> None:
    network, state = grown_of("mlp")
    setting = setting_of(network, state)
    on = active(network)
    pairs = [
        torch.stack([state.age[name][mask].long(), setting.strata[name][mask]], dim=1) for name, mask in on.items()
    ]
    seen = {tuple(pair) for pair in torch.cat(pairs).tolist()}
    assert seen == {(530, 2), (130, 1), (30, 0)}
    assert setting.grown_last == {"hidden1", "output"}
    # The first layer stood still for 500 updates: its ages say nothing of when it was made.
    state.age[IN] -= 29 * on[IN]
    confused = setting_of(network, state)
    assert int(confused.strata[MIDDLE].max()) > 2
    moving: dict[str, Tensor] = {name: torch.ones_like(mask) for name, mask in on.items()}
    moving[IN] = torch.zeros_like(moving[IN])
    counted = Setting(network, state, confused.moment, CONFIG, 10.0, moving)
    assert int(counted.strata[MIDDLE][on[MIDDLE]].max()) == 2
