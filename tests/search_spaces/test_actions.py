"""Actions as data: the JSON round trip of each, and errors for JSON that is none."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.actions import (
    ACTIONS,
    Action,
    Connect,
    Disconnect,
    Edge,
    Insert,
    Narrow,
    NoChange,
    Remove,
    Skip,
    Spoke,
    Unit,
    Widen,
    from_json,
    to_json,
)

quick = settings(max_examples=100, deadline=None, database=None, derandomize=True)

names = st.text(max_size=8)
slots = st.integers(0, 2**40)
numbers = st.floats(allow_nan=False)


def tuples(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(of, max_size=3).map(tuple)


edges = st.builds(Edge, names, slots, slots, numbers)
spokes = st.builds(Spoke, names, slots, numbers)
units = st.builds(Unit, tuples(spokes), tuples(spokes), numbers)
KINDS: dict[str, st.SearchStrategy[Action]] = {
    "NoChange": st.builds(NoChange, names),
    "Widen": st.builds(Widen, names, tuples(units), tuples(st.tuples(slots, numbers))),
    "Narrow": st.builds(Narrow, names, tuples(slots), tuples(numbers)),
    "Insert": st.builds(Insert, names, names, tuples(units)),
    "Remove": st.builds(Remove, names),
    "Connect": st.builds(Connect, names, tuples(edges)),
    "Disconnect": st.builds(Disconnect, names, tuples(edges)),
    "Skip": st.builds(Skip, names, tuples(edges)),
}


def test_every_action_is_tried() -> None:
    assert set(KINDS) == set(ACTIONS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_round_trip_of_each(kind: str) -> None:
    @quick
    @given(action=KINDS[kind])
    def round_trip(action: Action) -> None:
        assert from_json(to_json((action,))) == (action,)

    round_trip()


@quick
@given(sequence=tuples(st.one_of(*KINDS.values())))
def test_round_trip_of_sequences(sequence: tuple[Action, ...]) -> None:
    text = to_json(sequence)
    assert from_json(text) == sequence
    assert "\n" not in text
    assert to_json(from_json(text)) == text


def test_values_come_back_to_the_last_bit() -> None:
    action = Connect("output", (Edge("a>b", 0, 1, 0.1 + 0.2), Edge("a>b", 0, 2, 5e-324), Edge("a>b", 0, 3, -0.0)))
    (back,) = from_json(to_json((action,)))
    assert isinstance(back, Connect)
    assert [edge.value.hex() for edge in back.edges] == [edge.value.hex() for edge in action.edges]


def test_actions_are_frozen_and_hashable() -> None:
    action = Widen("hidden1", (Unit((Spoke("input", 0, 1.0),), (Spoke("output", 0, 0.0),)),))
    assert len({action, dataclasses.replace(action)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        action.site = "hidden2"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a JSON list of actions"),
        ("{", "expected a JSON list of actions"),
        ("[" * 100_000, "expected a JSON list of actions"),
        ("5", "expected a JSON list of actions"),
        ("null", "expected a JSON list of actions"),
        ('{"name": "NoChange"}', "expected a JSON list of actions"),
        ('"NoChange"', "expected a JSON list of actions"),
        ("[3]", "unknown action"),
        ('["NoChange"]', "unknown action"),
        ("[{}]", "unknown action"),
        ('[{"name": "Grow"}]', "write one of NoChange, Widen"),
        ('[{"name": ["Widen"]}]', "unknown action"),
        ('[{"name": "Widen", "site": "a"}]', "action Widen: expected the fields site, units, splits"),
        ('[{"name": "Remove", "site": "a", "slots": [1]}]', "action Remove: expected the fields site"),
        ('[{"name": "Remove", "site": "a", "colour": 1}]', "action Remove: expected the fields site"),
        ('[{"name": "Remove", "site": 3}]', "3 is no text"),
        ('[{"name": "Narrow", "site": "a", "slots": 3}]', "3 is no list"),
        ('[{"name": "Narrow", "site": "a", "slots": ["3"]}]', "'3' is no slot"),
        ('[{"name": "Narrow", "site": "a", "slots": [1.5]}]', "1.5 is no slot"),
        ('[{"name": "Narrow", "site": "a", "slots": [true]}]', "True is no slot"),
        ('[{"name": "Widen", "site": "a", "units": [7]}]', "7 is no Unit"),
        ('[{"name": "Widen", "site": "a", "units": [{"fan_in": []}]}]', "action Widen"),
        ('[{"name": "Widen", "site": "a", "units": [], "splits": [[1]]}]', "action Widen"),
        ('[{"name": "Connect", "site": "a", "edges": ["x"]}]', "'x' is no Edge"),
        ('[{"name": "Connect", "site": "a", "edges": [{"link": "a>b", "row": 0}]}]', "action Connect"),
        ('[{"name": "Connect", "site": "a", "edges": [{"link": "a>b", "row": 0, "column": 1, "value": "2"}]}]', "'2'"),
    ],
)
def test_bad_json_is_one_clear_error(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"as `to_json` writes|write one of") as caught:
        from_json(text)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400


def test_json_holds_names_and_numbers_only() -> None:
    rows = json.loads(to_json((Narrow("hidden1", (2,), (0.5,)), NoChange())))
    assert rows == [
        {"name": "Narrow", "site": "hidden1", "slots": [2], "folds": [0.5]},
        {"name": "NoChange", "site": ""},
    ]
