"""Actions: what a network may become next, as frozen data.

An action holds a name, a site and numbers, nothing else: which slots, which edges, which values. It draws nothing and
decides nothing, so applying it twice gives the same network twice, in any process. The values of fresh weights are part
of it: whoever proposes an action gives them.

Vocabulary: a *layer* is a named axis of units (`input`, `hidden1`, `output`); a *link* joins a source layer to a later
layer and is written `"input>hidden1"`; an edge of a link is one weight, (row, column) = (unit of the later layer, unit
of the source). Where a pair of units shares several weights (kernels), `families/links.py` says how they are counted.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Edge:
    """One weight of a link. row: unit of the later layer, column: flat index into what the source feeds it."""

    link: str
    row: int
    column: int
    value: float = 0.0


@dataclass(frozen=True)
class Spoke:
    """One weight of a unit that is being made: the layer at the other end, the slot there, the value."""

    layer: str
    slot: int
    value: float


@dataclass(frozen=True)
class Unit:
    """A new unit with its fan-in and its fan-out together: a unit that lacks either never wakes up."""

    fan_in: tuple[Spoke, ...]
    fan_out: tuple[Spoke, ...]
    bias: float = 0.0


@dataclass(frozen=True)
class NoChange:
    """The control: train on, change nothing."""

    name: ClassVar[str] = "NoChange"
    site: str = ""


@dataclass(frozen=True)
class Widen:
    """Append units to layer `site`.

    `splits` rescales what old slots send on, (slot, factor): a clone that takes half of its original's fan-out leaves
    the original a factor 0.5. Keeps the function when every fan-out value is zero, or the splits make up for them.
    """

    name: ClassVar[str] = "Widen"
    site: str
    units: tuple[Unit, ...]
    splits: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Narrow:
    """Take `slots` out of layer `site`; `folds[i]`, the constant that slot i put out, moves into its consumers' biases.

    Keeps the function when each slot sends nothing on, or did put out that constant.
    """

    name: ClassVar[str] = "Narrow"
    site: str
    slots: tuple[int, ...]
    folds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Insert:
    """Put a new layer `site` right before layer `before`. Keeps the function when every fan-out value is zero."""

    name: ClassVar[str] = "Insert"
    site: str
    before: str
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Remove:
    """Take layer `site` out with all of its links. Keeps the function when it sends nothing on."""

    name: ClassVar[str] = "Remove"
    site: str


@dataclass(frozen=True)
class Connect:
    """Switch on masked edges (a patch, a route). Keeps the function when every value is zero."""

    name: ClassVar[str] = "Connect"
    site: str
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Disconnect:
    """Switch off active edges for good (their values are ignored). Keeps the function when each was zero."""

    name: ClassVar[str] = "Disconnect"
    site: str
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Skip:
    """Add the link `site` = "source>target", which the network lacks. Keeps the function when every value is zero."""

    name: ClassVar[str] = "Skip"
    site: str
    edges: tuple[Edge, ...]


Action = NoChange | Widen | Narrow | Insert | Remove | Connect | Disconnect | Skip
ACTIONS: Mapping[str, type[Action]] = {
    kind.name: kind for kind in (NoChange, Widen, Narrow, Insert, Remove, Connect, Disconnect, Skip)
}


def to_json(actions: tuple[Action, ...]) -> str:
    """A sequence of actions as one line of JSON; `from_json` gives back an equal sequence."""
    return json.dumps([{"name": a.name, **dataclasses.asdict(a)} for a in actions], separators=(",", ":"))


def from_json(text: str) -> tuple[Action, ...]:
    """Raises ValueError where the text is no list of actions, or names an action or field that there is none of."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"expected a JSON list of actions as `to_json` writes it, got {text[:80]!r} ({err})") from err
    if not isinstance(rows, list):
        raise ValueError(f"expected a JSON list of actions as `to_json` writes it, got {text[:80]!r}")
    return tuple(_build(row) for row in rows)


def _build(row: Any) -> Action:
    name = row.get("name") if isinstance(row, dict) else None
    if not isinstance(name, str) or name not in ACTIONS:
        raise ValueError(f'unknown action {str(row)[:80]!r}; write one of {", ".join(ACTIONS)} as its "name"')
    fields = {key: value for key, value in row.items() if key != "name"}
    try:
        return ACTIONS[name](**{key: _FIELDS[key](value) for key, value in fields.items()})
    except (TypeError, KeyError, ValueError) as err:
        wanted = ", ".join(f.name for f in dataclasses.fields(ACTIONS[name]))
        raise ValueError(f"action {name}: expected the fields {wanted} as `to_json` writes them, got {err!r}") from err


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _slot(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no slot")
    return value


def _record(kind: type[Spoke] | type[Unit] | type[Edge]) -> Callable[[Any], Any]:
    def read(row: Any) -> Any:
        if not isinstance(row, dict):
            raise TypeError(f"{row!r} is no {kind.__name__}")
        return kind(**{key: _FIELDS[key](value) for key, value in row.items()})

    return read


def _split(row: list[Any]) -> tuple[int, float]:
    slot, factor = row
    return _slot(slot), _number(factor)


def _each(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_all(rows: Any) -> tuple[Any, ...]:
        if not isinstance(rows, list):
            raise TypeError(f"{rows!r} is no list")
        return tuple(read(row) for row in rows)

    return read_all


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "site": _text,
    "before": _text,
    "layer": _text,
    "link": _text,
    "row": _slot,
    "column": _slot,
    "slot": _slot,
    "value": _number,
    "bias": _number,
    "units": _each(_record(Unit)),
    "edges": _each(_record(Edge)),
    "fan_in": _each(_record(Spoke)),
    "fan_out": _each(_record(Spoke)),
    "slots": _each(_slot),
    "folds": _each(_number),
    "splits": _each(_split),
}
