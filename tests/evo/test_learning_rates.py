"""What every learning-rate rule keeps to, how rules are named together, and what they make of a session of training."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pretend_graphs
import pytest
import torch
from grown_networks import CONFIG, KINDS, grown_of, lived, masked_edge, seed_of, setting_of, split_of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from evo import learning_rates
from evo.batches import batch_orders, cosine_rates
from evo.config import ConfigError, TrainingConfig
from evo.learning_rate_setting import Factors, Setting
from evo.learning_rates import RATES, describe, parse, scales
from evo.training import Moment, Session, Trained
from search_spaces.families import Mlp
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.objective import losses

TOTAL = 90
COMPOSED = ("age * density", "freeze * trust", "cascade * warmup * backoff")
STAGES = [(kind, stage) for kind in KINDS for stage in ("seed", "grown")]


def network_of(kind: str, stage: str) -> tuple[Network, OptimizerState]:
    return seed_of(kind) if stage == "seed" else grown_of(kind)


def session_of(
    kind: str,
    network: Network,
    state: OptimizerState,
    rates: str,
    step: int = 0,
    plateaus: int = 0,
    config: TrainingConfig = CONFIG,
    capture: bool | None = None,
) -> Session:
    config = config.model_copy(update={"rates": rates})
    at = Moment(step, TOTAL, plateaus)
    return Session(network, state, split_of(kind), "classification", config, capture=capture, at=at)


def plan(steps: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    orders = batch_orders(80, TOTAL, CONFIG.batch_size, keyed("test", "batches"))
    return orders[start : start + steps], cosine_rates(CONFIG, start, steps, TOTAL)


def trained(
    kind: str,
    network: Network,
    state: OptimizerState,
    rates: str,
    cuts: tuple[int, ...] = (0, TOTAL),
    plateaus: int = 0,
) -> tuple[Network, OptimizerState]:
    """A copy, trained from step to step of a life, in a session each."""
    network = copy.deepcopy(network)
    for start, stop in itertools.pairwise(cuts):
        session = session_of(kind, network, state, rates, start, plateaus)
        assert not session.run(*plan(stop - start, start)).diverged
        state, network = session.close(), copy.deepcopy(network)
    return network, state


def same(one: tuple[Network, OptimizerState], other: tuple[Network, OptimizerState]) -> bool:
    tensors = [dict(network.state_dict()) for network, _ in (one, other)]
    parts = [{f"{p}/{k}": t for p, (v, _) in s.parts().items() for k, t in v.items()} for _, s in (one, other)]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in (tensors, parts))


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
    """Another factor for every single element; test_training compares the latter with AdamW element by element."""
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


# --- frozen


def half_frozen(setting: Setting) -> Factors:
    """All of the first layer from step 20 on, and every other element of the rest from step 40 on."""
    step, found = setting.moment.step, {}
    for name, p in setting.parameters.items():
        every_other = (torch.arange(p.numel(), device=p.device) % 2).view(p.shape).float()
        first = setting.depths[setting.layers[name]] == 0
        found[name] = torch.ones_like(p) * (0.0 if first and step >= 20 else 1.0)
        if not first and step >= 40:
            found[name] = every_other
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_stays_to_the_bit_with_its_moments_and_ages(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATES, "half", half_frozen)
    network, state = grown_of(kind)
    session = session_of(kind, network, state, "half")
    session.run(*plan(40))
    held = copy.deepcopy(dict(network.named_parameters()))
    between = session.close()
    session = session_of(kind, network, between, "half", step=40)
    session.run(*plan(30, 40))
    after = session.close()
    zero = {k: f == 0 for k, f in half_frozen(setting_of(network, state, step=40)).items()}
    for name, on in active(network).items():
        still, moving = zero[name] & on, ~zero[name] & on
        p = network.get_parameter(name)
        assert torch.equal(p[still], held[name][still])
        assert bool((p[moving] != held[name][moving]).any()) == bool(moving.any())
        for part, (values, _) in after.parts().items():
            assert torch.equal(values[name][still], between.parts()[part][0][name][still]), (name, part)
        assert torch.equal(after.age[name][moving], between.age[name][moving] + 30)
        assert p.requires_grad
    depths = setting_of(network, state)
    first = [name for name, layer in depths.layers.items() if depths.depths[layer] == 0]
    assert all(int((between.age[k] - state.age[k])[active(network)[k]].max()) == 20 for k in first)


def test_everything_may_be_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATES, "none", lambda setting: setting.everywhere(0.0))
    network, state = grown_of("convnet")
    kept = copy.deepcopy((dict(network.named_parameters()), state))
    session = session_of("convnet", network, state, "none")
    found = session.run(*plan(15))
    assert np.isfinite(found.losses).all()
    assert not found.norms.any()
    assert all(torch.equal(p, kept[0][name]) for name, p in network.named_parameters())
    assert all(torch.equal(after, kept[1].age[name]) for name, after in session.close().age.items())


def test_what_was_frozen_may_thaw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        RATES, "thaw", lambda setting: setting.everywhere(0.0 if 20 <= setting.moment.step < 40 else 1.0)
    )
    network, state = grown_of("mlp")
    found, after = trained("mlp", network, state, "thaw", (0, 60))
    on = active(network)
    assert all(bool((after.age[k] - state.age[k] == 40)[on[k]].all()) for k in on)
    assert same((found, after), trained("mlp", network, state, "thaw", (0, 20, 30, 40, 60)))


def test_frozen_layers_cost_no_work() -> None:
    """Multiplications of one step, counted: forward all, backward only what the last layer's gradient takes."""
    layers = [("input", 20), ("hidden1", 16), ("hidden2", 12), ("output", 3)]
    network = Mlp(layers, [("input", "hidden1"), ("hidden1", "hidden2"), ("hidden2", "output")])
    connect(network, 0.6, keyed("test", "work"))
    x = torch.from_numpy(keyed("test", "x").normal(size=(80, 20)).astype(np.float32))
    data = replace(split_of("mlp"), x=x)
    cells, batch = (20 * 16, 16 * 12, 12 * 3), CONFIG.batch_size
    wanted = {
        0: 2 * batch * (3 * sum(cells) - cells[0]),  # the input asks for no gradient
        60: 2 * batch * (sum(cells) + cells[-1]),
    }
    for step, work in wanted.items():
        config = CONFIG.model_copy(update={"rates": "freeze"})
        session = Session(
            network, OptimizerState.fresh(network), data, "classification", config, at=Moment(step, TOTAL)
        )
        with FlopCounterMode(display=False) as counter:
            session.run(*plan(1, step))
        assert counter.get_total_flops() == work
        held = sum(session.layout.size(name) for name in session.layout.names)
        assert held == len(session.adam.theta)
        wants = {name for name, p in network.named_parameters() if p.requires_grad}
        if step:
            assert wants == {"links.hidden2>output", "biases.output"}
            assert held == int(network.get_buffer("mask.hidden2>output").sum()) + 3
        session.close()
        assert all(p.requires_grad for p in network.parameters())


def test_a_frozen_layers_ages_do_not_confuse_the_others_strata() -> None:
    network, state = grown_of("mlp")
    found, after = trained("mlp", network, state, "freeze", (0, TOTAL))
    on = active(network)
    assert len({int(a) for name in on for a in after.age[name][on[name]].unique()}) > 3
    told = {row.parameter: row for row in describe("freeze * age", setting_of(found, after, step=TOTAL, total=TOTAL))}
    assert told["biases.output"].largest == pytest.approx(0.1 * 0.1), "the seed's, one growth event of its layer ago"
    assert told["links.input>output"].smallest == pytest.approx(0.1)


def test_training_that_diverges_is_told_not_raised_whatever_the_rule() -> None:
    for name in RATES:
        network, state = grown_of("mlp")
        session = session_of("mlp", network, state, name)
        orders, _ = plan(35)
        found: Trained = session.run(orders, np.full(35, 1e30))
        assert found.diverged or name == "freeze", name
        session.close()


def test_a_gradient_is_clipped_by_the_norm_of_what_is_trained() -> None:
    network, state = grown_of("mlp")
    session = session_of("mlp", network, state, "freeze", step=60)
    kept = copy.deepcopy(network)
    orders, rates = plan(1, 60)
    found = session.run(orders, rates)
    data, names = split_of("mlp"), ("links.hidden2>output", "links.input>output", "biases.output")
    loss = losses("classification", kept(data.x[orders[0]]), data.y[orders[0]]).mean()
    grads: tuple[Tensor, ...] = torch.autograd.grad(loss, [kept.get_parameter(name) for name in names])
    chosen = [g[active(kept)[name]] for name, g in zip(names, grads, strict=True)]
    assert found.norms[0] == pytest.approx(float(torch.cat(chosen).norm()), rel=1e-5)


CAPTURED = ("uniform", "half", "cascade", "trust", "combined", "freeze * age", "backoff")


def run_captured(
    rates: str, quantise: int, capture: bool, device: str = "cpu"
) -> tuple[Trained, Network, OptimizerState]:
    config = CONFIG.model_copy(update={"rates": rates, "quantise_every": quantise})
    network, state = grown_of("mlp", last=0)
    network.to(device)
    state = OptimizerState(**{p: {k: t.to(device) for k, t in v.items()} for p, (v, _) in state.parts().items()})
    data = split_of("mlp")
    data = replace(data, x=data.x.to(device), y=data.y.to(device))
    session = Session(network, state, data, "classification", config, capture=capture, at=Moment(0, TOTAL))
    return session.run(*plan(TOTAL), 5), network, session.close()


@pytest.mark.parametrize("quantise", [0, 3])
@pytest.mark.parametrize("rates", CAPTURED)
def test_replayed_steps_read_what_is_meant_now(rates: str, quantise: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On pretended graphs, to the bit."""
    monkeypatch.setitem(RATES, "half", half_frozen)
    one, eager, before = run_captured(rates, quantise, False)
    graphs = pretend_graphs.install(monkeypatch)
    other, captured, after = run_captured(rates, quantise, True)
    assert np.array_equal(one.losses, other.losses)
    assert np.array_equal(one.norms, other.norms)
    assert one.velocities is not None
    assert np.array_equal(one.velocities, other.velocities)
    assert same((eager, before), (captured, after))
    replayed = sum(graph.replays for graph in graphs)
    assert replayed >= 0.7 * TOTAL, "nearly all steps are replayed ones"
    if rates in ("uniform", "cascade", "backoff"):
        assert len(graphs) == (2 if quantise else 1), "nothing moves"
    if rates == "half":
        assert len(graphs) == (6 if quantise else 3), "once more each time that other elements are frozen"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("quantise", [0, 3])
@pytest.mark.parametrize("rates", CAPTURED)
def test_captured_steps_compute_what_eager_ones_do(rates: str, quantise: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RATES, "half", half_frozen)
    one, eager, before = run_captured(rates, quantise, False, "cuda")
    other, captured, after = run_captured(rates, quantise, True, "cuda")
    np.testing.assert_allclose(one.losses, other.losses, rtol=1e-3, atol=1e-5)
    assert one.velocities is not None
    assert other.velocities is not None
    np.testing.assert_allclose(one.velocities, other.velocities, rtol=1e-2, atol=1e-4)
    for (name, p), q in zip(eager.named_parameters(), captured.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
        assert torch.equal(before.age[name], after.age[name])


def test_the_edges_of_a_network_that_grew_are_where_they_are_said_to_be() -> None:
    """Of the networks that all of this is tested on."""
    for kind in KINDS:
        network, state = grown_of(kind)
        on = active(network)
        assert {int(a) for name in on for a in state.age[name][on[name]].unique()} == {530, 130, 30}
        assert masked_edge(network, network.places()[0].sources[0] + ">" + network.places()[0].layer)
