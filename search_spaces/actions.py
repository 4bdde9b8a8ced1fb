"""Actions: what a network may become next, as frozen data.

An action holds a name, a site and numbers, nothing else: which slots, which edges, which values. It draws nothing and
decides nothing, so applying it twice gives the same network twice, in any process. The values of fresh weights are part
of it; `initial` makes them.

Vocabulary: a *layer* is a named axis of units (`input`, `hidden1`, `output`); a *link* joins a source layer to a later
layer and is written `"input>hidden1"`; an edge of a link is (row, column) = (unit of the later layer, unit of the source).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
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
    """Put a new layer called `site` right before layer `before`. Keeps the function when every fan-out value is zero."""

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
    """Add the link `site` = "source>target", which the network lacks, with these edges. Kept when every value is zero."""

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
        return tuple(_build(row) for row in rows)
    except (TypeError, KeyError, json.JSONDecodeError) as err:
        raise ValueError(f"expected a JSON list of actions as `to_json` writes it, got {text[:80]!r} ({err})") from err


def _build(row: dict[str, Any]) -> Action:
    fields = dict(row)
    name = fields.pop("name")
    if name not in ACTIONS:
        raise ValueError(f"unknown action {name!r}; write one of {', '.join(ACTIONS)}")
    if "units" in fields:
        fields["units"] = tuple(
            Unit(
                tuple(Spoke(**s) for s in u["fan_in"]), tuple(Spoke(**s) for s in u["fan_out"]), float(u["bias"])
            )
            for u in fields["units"]
        )
    if "edges" in fields:
        fields["edges"] = tuple(Edge(**e) for e in fields["edges"])
    for key in ("slots", "folds"):
        if key in fields:
            fields[key] = tuple(fields[key])
    if "splits" in fields:
        fields["splits"] = tuple((int(slot), float(factor)) for slot, factor in fields["splits"])
    return ACTIONS[name](**fields)
