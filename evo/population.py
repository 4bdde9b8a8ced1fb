"""The population: which networks are to live, from whom and with which settings. Knows nothing of Ray.

A population answers `birth` and is told by `ended`; `evo.algorithms` lists those that there are. Here is what they
share: their nouns, and how networks are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from evo.config import Config
from search_spaces.randomness import keyed

Objective = Literal["pareto", "score"]


@dataclass(frozen=True)
class Birth:
    """A network to be. settings: dotted keys of the config. parent: network/snapshot that it starts from."""

    network: str
    generation: int
    parent: str | None
    settings: Mapping[str, Any]

    def as_tune_config(self) -> dict[str, Any]:
        return {"birth": {**vars(self), "settings": dict(self.settings)}}


@dataclass(frozen=True)
class Point:
    """A snapshot by its figures. snapshot: network/cycle, as a child names its parent."""

    snapshot: str
    information: float
    parameters: int


@dataclass(frozen=True)
class Ground:
    """What every population stands on.

    inputs, outputs: of the task, for the density at which a seed has as many parameters as were asked for. price: nats
    a parameter, of the score. parent: snapshot that those start from who have no parent in the population; None: from
    seeds. begun: the configs of networks that a resumed search finds, in order, for whoever cannot ask them again.
    """

    config: Config
    inputs: int
    outputs: int
    price: float = 0.0
    parent: str | None = None
    begun: Sequence[Config] = ()


class Population(Protocol):
    """Births in the order of the networks' names; every one must be told of by `ended` sooner or later."""

    @property
    def exhausted(self) -> bool:
        """Whether all networks have been born."""

    def birth(self) -> Birth | None:
        """The next network; None while there is none, or none yet."""

    def ended(self, network: str, life: Sequence[Point]) -> None:
        """life: the network's snapshots in order; empty where it failed."""


def name_of(number: int) -> str:
    return f"n{number:03d}"


def number_of(name: str) -> int:
    """Of a network by its name."""
    return int(name.removeprefix("n"))


def score(information: float, parameters: int, price: float) -> float:
    """One scalar instead of a front: nats of validation information, less the price of what holds them."""
    return information - price * parameters


def places(points: Sequence[Point], objective: Objective, price: float) -> NDArray[np.float64]:
    """How far each is from being the best, lower being better: its Pareto rank, or its score's distance to the best."""
    if objective == "pareto":
        return ranks(points).astype(np.float64)
    scores = np.array([score(p.information, p.parameters, price) for p in points], dtype=np.float64)
    far: NDArray[np.float64] = scores.max(initial=-np.inf) - scores
    return far


def choose_parent(
    seed: int, child: str, lives: Mapping[str, Sequence[Point]], objective: Objective = "pareto", price: float = 0.0
) -> str | None:
    """A snapshot by binary tournament on the objective; None where no network has left one.

    Each network enters with its own non-dominated snapshots, but for those that know less than half of what the best
    one knows: a parent's head start is what it knows.
    """
    most = max((p.information for life in lives.values() for p in life), default=0.0)
    pool: list[Point] = []
    for name in sorted(lives):
        life = lives[name]
        pool += [p for p, rank in zip(life, ranks(life), strict=True) if rank == 0 and 2 * p.information >= most]
    if not pool:
        return None
    among = places(pool, objective, price)
    first, second = (int(i) for i in keyed(seed, "parent", child).integers(len(pool), size=2))
    return pool[second if among[second] < among[first] else first].snapshot


def ranks(points: Sequence[Point]) -> NDArray[np.int64]:
    """Non-dominated sorting: 0 for the front, 1 for the front of what is left, and so on. Twins share a rank."""
    information = np.array([p.information for p in points], dtype=np.float64)
    parameters = np.array([p.parameters for p in points], dtype=np.int64)
    no_worse = (information[:, None] >= information[None]) & (parameters[:, None] <= parameters[None])
    better = (information[:, None] > information[None]) | (parameters[:, None] < parameters[None])
    dominates = no_worse & better
    found = np.full(len(points), -1, dtype=np.int64)
    rank = 0
    while (left := found < 0).any():
        found[left & ~dominates[left].any(axis=0)] = rank
        rank += 1
    return found
