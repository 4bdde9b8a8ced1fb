"""The contract that every family keeps with every action that it allows."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_actions import (
    SEEDS,
    cost,
    edges_into,
    halved_clone,
    hidden,
    inputs,
    old_block,
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
    Action,
    Connect,
    Disconnect,
    Insert,
    Narrow,
    NoChange,
    Remove,
    Widen,
    from_json,
    to_json,
)
from search_spaces.families import FAMILIES
from search_spaces.network import Network, active
from search_spaces.optimizer_state import ORIGINS, OptimizerState
from search_spaces.randomness import keyed

LEGAL = {
    seed: {"NoChange", *(k for place in FAMILIES[b["family"]].from_blueprint(b).places() for k in place.grows)}
    for seed, b in SEEDS.items()
}
NOWHERE = [("mlp-without-hidden-layers", "Skip")]
"""Legal, but every pair of layers is linked already."""
CASES = [(seed, kind) for seed in SEEDS for kind in ACTIONS if kind in LEGAL[seed] and (seed, kind) not in NOWHERE]
REFUSED = [(seed, kind) for seed in SEEDS for kind in ACTIONS if kind not in LEGAL[seed]]
FIRST = {"Narrow": "Widen", "Disconnect": "Connect", "Remove": "Insert"}
"""What must come first so that there is something to take out without harm."""

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)


def drawn(seed: str, kind: str, keep: bool, number: int, dtype: torch.dtype = torch.float64) -> tuple[Network, Action]:
    """A network, and an action of that kind on it."""
    rng = keyed("drawn", seed, kind, number)
    network = seed_network(seed, rng, dtype)
    # A layer that others need cannot go: one is put in first.
    if kind in FIRST and (keep or kind == "Remove"):
        network, _ = surgery.apply(network, [random_action(network, rng, keep=keep, kind=FIRST[kind])])
    action = random_action(network, rng, keep, kind)
    assert action.name == kind
    return network, action


def same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def same_state(a: OptimizerState | None, b: OptimizerState | None) -> bool:
    assert a is not None
    assert b is not None
    return all(same_tensors(a.parts()[part][0], b.parts()[part][0]) for part in a.parts())


@torch.no_grad()
def gap(a: Network, b: Network, x: Tensor) -> float:
    """Largest difference of the outputs; relative to the largest output in float32, to that or 1 in float64."""
    found, wanted = a(x), b(x)
    floor = 1.0 if x.dtype == torch.float64 else 0.0
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=floor))


def tolerance(dtype: torch.dtype) -> float:
    return 1e-12 if dtype == torch.float64 else 1e-6


def check_invariants(network: Network, state: OptimizerState | None) -> None:
    """What must hold of any network that surgery put out."""
    buffers = dict(network.named_buffers())
    for name, mask in network.masks().items():
        values = dict(network.named_parameters())[name]
        assert set(buffers[mask].unique().tolist()) <= {0.0, 1.0}
        assert not values[~buffers[mask].bool()].any(), f"{name} has masked weights other than 0"
    assert network.count() == sum(int(a.sum()) for a in active(network).values())
    rebuilt = type(network).from_blueprint(json.loads(json.dumps(network.blueprint())))
    assert dict(rebuilt.axes()) == dict(network.axes())
    assert {k: t.shape for k, t in surgery.tensors(rebuilt).items()} == {
        k: t.shape for k, t in surgery.tensors(network).items()
    }
    assert state is not None
    for part, (values, _) in state.parts().items():
        assert {k: t.shape for k, t in values.items()} == {k: p.shape for k, p in network.named_parameters()}, part


def test_every_family_is_under_contract() -> None:
    assert {blueprint["family"] for blueprint in SEEDS.values()} == set(FAMILIES)
    assert set().union(*LEGAL.values()) == set(ACTIONS)


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


def old_slots(network: Network, action: Action) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Slots that stay, by axis: where they were and where they are."""
    size = network.axis_sizes().get(action.site, 0)
    match action:
        case Widen():
            return {action.site: list(range(size))}, {action.site: list(range(size))}
        case Narrow():
            stay = [slot for slot in range(size) if slot not in action.slots]
            return {action.site: stay}, {action.site: list(range(len(stay)))}
    return {}, {}


@pytest.mark.parametrize(("seed", "kind"), CASES)
def test_old_slots_are_bit_equal_and_fresh_ones_start_anew(seed: str, kind: str) -> None:
    for number in range(5):
        network, action = drawn(seed, kind, False, number)
        state = random_state(network, keyed("state", number))
        for name, origin in state.origin.items():
            drawn_origins = keyed("origin", number, name).integers(0, len(ORIGINS), tuple(origin.shape))
            origin.copy_(torch.from_numpy(drawn_origins))
        before = surgery.tensors(copy.deepcopy(network))
        grown, new_state = surgery.apply(network, [action], state)
        assert same_tensors(before, surgery.tensors(network)), "the original was written to"
        was, now = old_slots(network, action)
        rewired = action.edges if isinstance(action, Connect | Disconnect) else ()
        assert new_state is not None
        for name, tensor in surgery.tensors(grown).items():
            order = torch.arange(tensor.numel()).reshape(tensor.shape)
            written = {
                int(order.flatten(1)[edge.row, edge.column])
                for edge in rewired
                if name in (f"links.{edge.link}", f"mask.{edge.link}")
            }
            if tensor.dim() > 1:
                assert len(written) in (0, sum(name.partition(".")[2] == edge.link for edge in rewired))
            old: dict[int, int] = {}
            if name in before:
                source = torch.arange(before[name].numel()).reshape(before[name].shape)
                to = old_block(grown, name, order, now).flatten().tolist()
                old = dict(zip(to, old_block(network, name, source, was).flatten().tolist(), strict=True))
            kept = [i for i in old if i not in written]
            fresh = [i for i in range(tensor.numel()) if i not in old or i in written]
            came = [old[i] for i in kept]
            assert torch.equal(tensor.flatten()[kept], before[name].flatten()[came] if kept else tensor.flatten()[:0])
            if name not in new_state.age:
                continue
            for part, (values, blank) in new_state.parts().items():
                moved = values[name].flatten()
                # What is fresh came by this action; what one that adds nothing leaves behind counts as the seed's.
                made_by = ORIGINS.index(kind) if kind in ORIGINS else 0
                assert (moved[fresh] == (made_by if part == "origin" else blank)).all(), (name, part)
                if kept:
                    assert torch.equal(moved[kept], state.parts()[part][0][name].flatten()[came]), (name, part)


@pytest.mark.parametrize("seed", [s for s in SEEDS if "Widen" in LEGAL[s]])
def test_new_units_are_as_the_action_says(seed: str) -> None:
    for number in range(5):
        network, action = drawn(seed, "Widen", False, number)
        assert isinstance(action, Widen)
        grown, _ = surgery.apply(network, [action])
        first = network.axis_sizes()[action.site]
        for slot, unit in enumerate(action.units, start=first):
            found = grown.unit(action.site, slot)
            assert found.bias == pytest.approx(unit.bias, abs=1e-14)
            for spokes, wanted in ((found.fan_in, unit.fan_in), (found.fan_out, unit.fan_out)):
                values = {(s.layer, s.slot): s.value for s in spokes}
                assert values == pytest.approx({(s.layer, s.slot): s.value for s in wanted}, rel=1e-12)


@pytest.mark.parametrize("seed", [s for s in SEEDS if "Narrow" in LEGAL[s]])
def test_widen_then_narrow_is_the_identity(seed: str) -> None:
    for number in range(5):
        network, action = drawn(seed, "Widen", False, number)
        assert isinstance(action, Widen)
        state = random_state(network, keyed("state", number))
        first = network.axis_sizes()[action.site]
        back = Narrow(action.site, tuple(range(first, first + len(action.units))))
        again, new_state = surgery.apply(network, [action, back], state)
        assert same_tensors(surgery.tensors(again), surgery.tensors(network))
        assert same_state(new_state, state)
        assert again.blueprint() == network.blueprint()


@pytest.mark.parametrize("seed", [s for s in SEEDS if "Remove" in LEGAL[s]])
def test_insert_then_remove_is_the_identity(seed: str) -> None:
    for number in range(5):
        network, action = drawn(seed, "Insert", False, number)
        assert isinstance(action, Insert)
        state = random_state(network, keyed("state", number))
        try:
            again, new_state = surgery.apply(network, [action, Remove(action.site)], state)
        except ValueError as err:
            raise AssertionError(f"{action}") from err
        old = surgery.tensors(network)
        found = surgery.tensors(again)
        assert same_tensors({k: found[k] for k in old}, old)
        assert same_tensors(found, old)
        assert same_state(new_state, state)


@pytest.mark.parametrize("seed", list(SEEDS))
def test_connect_then_disconnect_is_the_identity_but_for_the_ages_there(seed: str) -> None:
    network, action = drawn(seed, "Connect", False, 0)
    assert isinstance(action, Connect)
    again, _ = surgery.apply(network, [action, Disconnect(action.site, action.edges)])
    assert same_tensors(surgery.tensors(again), surgery.tensors(network))
    assert again.blueprint() == network.blueprint()


@pytest.mark.parametrize(("seed", "kind"), REFUSED)
def test_actions_that_are_not_legal_are_refused_in_one_line(seed: str, kind: str) -> None:
    network = seed_network(seed, keyed("refused"))
    site = network.places()[0].layer
    action = from_json(json.dumps([{"name": kind, "site": site, **_OTHER_FIELDS.get(kind, {})}]))[0]
    with pytest.raises(ValueError, match="write") as caught:
        surgery.apply(network, [action])
    assert site in str(caught.value)
    assert "\n" not in str(caught.value)


_OTHER_FIELDS: dict[str, dict[str, object]] = {
    "Widen": {"units": []},
    "Narrow": {"slots": [0]},
    "Insert": {"before": "output", "units": []},
    "Skip": {"edges": []},
}


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


@quick
@given(seed=st.sampled_from(list(SEEDS)), keep=st.booleans(), draws=st.lists(st.integers(0, 2**32 - 1), max_size=8))
def test_random_sequences_of_actions(seed: str, keep: bool, draws: list[int]) -> None:
    network = seed_network(seed, keyed("sequence", seed))
    state: OptimizerState | None = random_state(network, keyed("state"))
    first, x, count = network, inputs(network, keyed("x")), network.count()
    actions: list[Action] = []
    for draw in draws:
        action = random_action(network, keyed(draw), keep)
        count += cost(network, action)
        network, state = surgery.apply(network, [action], state)
        actions.append(action)
        assert network.count() == count, "the books do not balance"
        check_invariants(network, state)
    if keep:
        assert gap(network, first, x) <= 1e-12
    replayed, replayed_state = surgery.apply(
        first, from_json(to_json(tuple(actions))), random_state(first, keyed("state"))
    )
    assert same_tensors(surgery.tensors(replayed), surgery.tensors(network))
    assert same_state(replayed_state, state)


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


@pytest.mark.parametrize("seed", list(SEEDS))
def test_no_change_changes_nothing(seed: str) -> None:
    network = seed_network(seed, keyed("no change"))
    state = random_state(network, keyed("state"))
    again, new_state = surgery.apply(network, [NoChange()], state)
    assert same_tensors(surgery.tensors(again), surgery.tensors(network))
    assert same_state(new_state, state)
    assert again is not network
