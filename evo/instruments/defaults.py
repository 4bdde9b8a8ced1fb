"""What an instrument asks of each task where nothing else is said: the networks that the source documents speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evo.config import ConfigError

LADDER = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005)


@dataclass(frozen=True)
class Usual:
    """hidden: layers of the network. density: of a seed below the cliff. most: density that a rescue may end at.
    growing: settings of the rescue's tournaments that the defaults, made for tiny seeds, do not suit.
    """

    hidden: tuple[int, ...]
    density: float
    most: float
    growing: Mapping[str, Any] = field(default_factory=dict)


MNIST: Mapping[str, Any] = {
    # Eight decisions with longer trials, judged on averaged weights: the usual 60 steps are a twelfth of an epoch, and
    # show what an edge gains here, not what a layer does. Growth may double a network that is short of everything, and
    # more candidates are tried: with four, what would lead beyond a linear network is often not among them.
    "training.steps": 7_000,
    "growth.cycles": 8,
    "growth.stake": 1.0,
    "economy.limits": [1.0, 1.0, 1.0],
    "tournament.candidates": 8,
    "tournament.rungs": [60, 190],
    "tournament.average": 0.5,
}
USUAL = {"digits": Usual((64, 32), 0.01, 0.05), "mnist": Usual((300, 100), 0.001, 0.05, MNIST)}
OTHERWISE = Usual((64, 32), 0.01, 0.2)  # few inputs leave few cells, of which biases alone would be a twentieth


def usual(task: str) -> Usual:
    return USUAL.get(task, OTHERWISE)


def densities(text: str | None) -> tuple[float, ...]:
    """'1, .1, .01' as rungs, densest first. Raises ConfigError."""
    if text is None:
        return LADDER
    try:
        found = sorted({float(word) for word in text.replace(",", " ").split()}, reverse=True)
    except ValueError:
        found = []
    if len(found) < 3 or not all(0 < d <= 1 for d in found):
        raise ConfigError(
            f"--densities: expected at least 3 numbers above 0 and at most 1, got {text!r}; write 1,.1,.01, say"
        )
    return tuple(found)


def hidden(text: str) -> list[int]:
    """'300,100' as layers, '' as none. Raises ConfigError."""
    words = text.replace(",", " ").split()
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise ConfigError(f"--hidden: expected whole numbers ≥ 1 with commas, got {text!r}; write 300,100, or ''")
    return [int(word) for word in words]


def names(text: str | None, known: Sequence[str], option: str) -> tuple[str, ...]:
    """'a,b' as some of the names known; all where nothing is said. Raises ConfigError."""
    if text is None:
        return tuple(known)
    words = tuple(dict.fromkeys(text.replace(",", " ").split()))
    unknown = [word for word in words if word not in known]
    if unknown or not words:
        told = ", ".join(known)
        raise ConfigError(f"{option}: expected some of {told}, got {(unknown or [text])[0]!r}; write {known[0]}, say")
    return words
