"""The contract that every family keeps: which actions keep its function, and what its layers show."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from every_action import CASES, LEGAL, drawn, gap, same_state, same_tensors, tolerance
from random_actions import (
    SEEDS,
    edges_into,
    halved_clone,
    hidden,
    inputs,
    random_action,
    random_state,
    seed_network,
    sources,
    targets,
    weights,
)
from torch import Tensor

from search_spaces import checkpoint, surgery
from search_spaces.actions import (
    ACTIONS,
    Disconnect,
    Narrow,
)
from search_spaces.families import FAMILIES
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed


def test_every_family_is_under_contract() -> None:
    assert {blueprint["family"] for blueprint in SEEDS.values()} == set(FAMILIES)
    assert set().union(*LEGAL.values()) == set(ACTIONS)


def cut_off(network: Network, layer: str, slots: tuple[int, ...]) -> Network:
    """The network with nothing active leading into these units."""
    edges = [edge for edge in edges_into(network, layer, on=True) if edge.row in slots]
    return surgery.apply(network, [Disconnect(layer, tuple(edges))])[0]


def put_out(network: Network, layer: str, slots: tuple[int, ...], x: Tensor) -> tuple[float, ...]:
    """The constants that these units put out."""
    seen: dict[str, Tensor] = {}

    def tap(name: str, values: Tensor) -> Tensor:
        seen[name] = values.detach()
        return values

    network(x, tap)
    columns = [seen[f"act:{layer}"][:, slot].flatten() for slot in slots]
    assert all(bool((c == c[0]).all()) for c in columns)
    return tuple(float(c[0]) for c in columns)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_function_is_kept_where_claimed(seed: str, kind: str, dtype: torch.dtype) -> None:
    for number in range(5):
        network, action = drawn(seed, kind, True, number, dtype)
        grown, _ = surgery.apply(network, [action])
        x = inputs(network, keyed("x", number))
        assert gap(grown, network, x) <= tolerance(dtype)
        assert gap(copy.deepcopy(grown).train(), copy.deepcopy(network).train(), x) <= tolerance(dtype)


@pytest.mark.parametrize(("seed", "kind"), [case for case in CASES if case[1] != "NoChange"])
def test_other_actions_do_change_the_function(seed: str, kind: str) -> None:
    """Else the test above would pass on networks that ignore what is done to them."""
    gaps = []
    for number in range(5):
        network, action = drawn(seed, kind, False, number)
        gaps.append(gap(surgery.apply(network, [action])[0], network, inputs(network, keyed("x", number))))
    assert max(gaps) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("seed", [s for s in SEEDS if "Widen" in LEGAL[s]])
def test_clones_with_splits_keep_the_function(seed: str, dtype: torch.dtype) -> None:
    network = seed_network(seed, keyed("clones", seed), dtype)
    x = inputs(network, keyed("x"))
    for place in hidden(network):
        for slot in range(network.axis_sizes()[place.layer]):
            action = halved_clone(network, place.layer, slot)
            grown, state = surgery.apply(network, [action], random_state(network, keyed("state")))
            assert gap(grown, network, x) <= tolerance(dtype)
            assert state is not None
            for target in targets(network, place.layer):
                # What the original sends on was rescaled, and begins anew with what its clone sends on.
                link = f"{place.layer}>{target}"
                ages = state.age[f"links.{link}"].reshape(weights(grown, link)[0].shape)
                assert not ages[:, [slot, -1]].any()
                assert ages[:, [i for i in range(ages.shape[1] - 1) if i != slot]].all()
                old, new = weights(network, link)[0], weights(grown, link)[0]
                assert torch.equal(new[:, slot], old[:, slot] / 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("seed", [s for s in SEEDS if "Narrow" in LEGAL[s]])
def test_folds_keep_the_function_of_constant_units(seed: str, dtype: torch.dtype) -> None:
    network = seed_network(seed, keyed("folds", seed), dtype)
    x = inputs(network, keyed("x"))
    for place in hidden(network):
        slots = (2, 0) if network.axis_sizes()[place.layer] > 2 else (1,)
        unfed = cut_off(network, place.layer, slots)
        constants = put_out(unfed, place.layer, slots, x)
        narrow = Narrow(place.layer, slots, constants)
        in_picture = [p.layer for p in unfed.places() if place.layer in p.sources and p.positions > 1]
        if any(constants) and in_picture:
            with pytest.raises(ValueError, match="write folds of 0"):
                surgery.apply(unfed, [narrow])
            continue
        state = random_state(unfed, keyed("state"))
        narrowed, new_state = surgery.apply(unfed, [narrow], state)
        assert gap(narrowed, unfed, x) <= tolerance(dtype)
        if any(constants):
            assert gap(surgery.apply(unfed, [Narrow(place.layer, slots)])[0], unfed, x) > 1e-3
        assert new_state is not None
        biases = [f"biases.{target}" for target in targets(unfed, place.layer)]
        for name in set(biases) & set(state.first):
            assert torch.equal(new_state.first[name], state.first[name])
            assert torch.equal(new_state.age[name], state.age[name])


@pytest.mark.parametrize("seed", list(SEEDS))
def test_masked_weights_get_no_gradient(seed: str) -> None:
    network = seed_network(seed, keyed("gradient")).train()
    network(inputs(network, keyed("x"))).square().sum().backward()
    for name, on in active(network).items():
        gradient = dict(network.named_parameters())[name].grad
        assert gradient is not None
        assert not gradient[~on].any()


@pytest.mark.parametrize("seed", list(SEEDS))
def test_taps_see_every_layer_and_may_change_it(seed: str) -> None:
    network = seed_network(seed, keyed("taps"))
    x = inputs(network, keyed("x"))
    seen: dict[str, tuple[int, ...]] = {}

    def look(name: str, values: Tensor) -> Tensor:
        seen[name] = tuple(values.shape)
        return values

    wanted = network(x)
    assert torch.equal(network(x, look), wanted)
    sizes = network.axis_sizes()
    layers = [place.layer for place in network.places()]
    assert list(seen) == [f"{when}:{n}" for n in layers for when in ("pre", "act")][:-1]
    for place in network.places():
        shape = seen[f"pre:{place.layer}"]
        assert shape[:2] == (len(x), sizes[place.layer])
        assert torch.Size(shape[2:]).numel() == place.positions
    assert not network(x, lambda name, z: z * 0 if name == "pre:output" else z).any()


@pytest.mark.parametrize("seed", list(SEEDS))
def test_lifted_activations_times_weights_are_the_pre_activations(seed: str) -> None:
    network = seed_network(seed, keyed("lift"))
    x = inputs(network, keyed("x"))
    seen = {"act:input": x}

    def look(name: str, values: Tensor) -> Tensor:
        seen[name] = values.detach()
        return values

    network(x, look)
    for place in network.places():
        target = place.layer
        pre = network.lower(target, seen[f"pre:{target}"])
        assert pre.shape == (len(x), place.positions, network.axis_sizes()[target])
        for source in sources(network, target):
            values, _ = weights(network, f"{source}>{target}")
            pre = pre - network.lift(source, target, seen[f"act:{source}"]) @ values.flatten(1).T
        bias = surgery.tensors(network).get(f"biases.{target}", torch.zeros(pre.shape[2]))
        torch.testing.assert_close(pre, bias.detach().expand_as(pre).to(pre), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("seed", list(SEEDS))
def test_checkpoints_give_back_network_and_state(seed: str, dtype: torch.dtype, tmp_path: Path) -> None:
    rng = keyed("checkpoint", seed)
    network = seed_network(seed, rng, dtype)
    state: OptimizerState | None = random_state(network, rng)
    for _ in range(4):
        network, state = surgery.apply(network, [random_action(network, rng, keep=False)], state)
    checkpoint.save(tmp_path / "one", network, state, {"cycle": 3}, ["n000/000001"])
    loaded = checkpoint.load(tmp_path / "one")
    assert type(loaded.network) is type(network)
    assert loaded.network.blueprint() == network.blueprint()
    assert same_tensors(surgery.tensors(loaded.network), surgery.tensors(network))
    assert same_state(loaded.state, state)
    assert all(p.requires_grad for p in loaded.network.parameters())
    assert (loaded.extra, loaded.lineage) == ({"cycle": 3}, ["n000/000001"])
    x = inputs(network, rng)
    assert torch.equal(loaded.network.eval()(x), network(x))
    action = random_action(network, rng, keep=False)
    here, there = surgery.apply(network, [action], state), surgery.apply(loaded.network, [action], loaded.state)
    assert same_tensors(surgery.tensors(there[0]), surgery.tensors(here[0]))
    assert same_state(there[1], here[1])
