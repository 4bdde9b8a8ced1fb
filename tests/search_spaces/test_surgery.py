"""Surgery on every family: what stays is bit-equal, what is new starts anew, and what was done can be undone."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from every_action import CASES, LEGAL, REFUSED, drawn, gap, same_state, same_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from random_actions import (
    SEEDS,
    cost,
    inputs,
    old_block,
    random_action,
    random_state,
    seed_network,
)

from search_spaces import surgery
from search_spaces.actions import (
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
from search_spaces.network import Network, active
from search_spaces.optimizer_state import ORIGINS, OptimizerState
from search_spaces.randomness import keyed

quick = settings(max_examples=60, deadline=None, database=None, derandomize=True)
_OTHER_FIELDS: dict[str, dict[str, object]] = {
    "Widen": {"units": []},
    "Narrow": {"slots": [0]},
    "Insert": {"before": "output", "units": []},
    "Skip": {"edges": []},
}


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


@pytest.mark.parametrize("seed", list(SEEDS))
def test_no_change_changes_nothing(seed: str) -> None:
    network = seed_network(seed, keyed("no change"))
    state = random_state(network, keyed("state"))
    again, new_state = surgery.apply(network, [NoChange()], state)
    assert same_tensors(surgery.tensors(again), surgery.tensors(network))
    assert same_state(new_state, state)
    assert again is not network


@pytest.mark.parametrize(("seed", "kind"), REFUSED)
def test_actions_that_are_not_legal_are_refused_in_one_line(seed: str, kind: str) -> None:
    network = seed_network(seed, keyed("refused"))
    site = network.places()[0].layer
    action = from_json(json.dumps([{"name": kind, "site": site, **_OTHER_FIELDS.get(kind, {})}]))[0]
    with pytest.raises(ValueError, match="write") as caught:
        surgery.apply(network, [action])
    assert site in str(caught.value)
    assert "\n" not in str(caught.value)


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
