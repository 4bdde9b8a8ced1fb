"""What a rule freezes stays to the bit and costs nothing, in captured steps too."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pretend_graphs
import pytest
import torch
from grown_networks import CONFIG, KINDS, grown_of, setting_of, split_of
from rated_lives import TOTAL, half_frozen, plan, same, session_of, trained
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from evo.learning_rates import RATES, describe
from evo.training import Moment, Session, Trained
from search_spaces.families import Mlp
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.objective import losses

# --- frozen


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


# --- captured


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
