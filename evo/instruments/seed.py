"""The smallest seed: which network, of few units and few edges, still learns more than chance by a stated margin?

Hidden layers and densities make a grid of seeds, and plain training tries them by successive halving: short lives for
all, four times longer ones for fewer, full lives and all seeds for the last. After a round, what is larger than the
smallest few that have passed is out, and of the smaller ones that have not the better half goes on. Passing means that
in every life the lower 95% bound of the validation information, over its samples, is above the margin; at zero nats a
network knows no more than how often each label comes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from evo.config import ConfigError
from evo.instruments import pictures
from evo.instruments.comparisons import Z95
from evo.instruments.instrument import Bench, Request, Result
from evo.instruments.jobs import STATIC, Outcome
from evo.instruments.tables import Column, nats, percent, share, whole
from evo.life import Plan
from search_spaces.randomness import keyed
from search_spaces.spaces import seed as grown_seed

HIDDEN = ((), (2,), (4,), (8,), (16,), (32,))
DENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SHORTENED = (16, 4, 1)
"""By what the lives of each round are shorter than a full one."""

SPARE = 3
"""Smallest ones that have passed and go on, in case the first fails in a longer life or in another seed."""


COLUMNS = (
    Column("layers", "layers"),
    Column("density", "density", share),
    Column("active_parameters", "parameters", whole),
    Column("validation_information", "nats", nats),
    Column("bound", "lower bound", nats),
    Column("validation_accuracy", "accuracy", percent),
    Column("test_accuracy", "test accuracy", percent),
    Column("verdict", "verdict"),
)


@dataclass(frozen=True)
class Sprout:
    """A seed of the grid. parameters: that it is born with."""

    hidden: tuple[int, ...]
    density: float
    parameters: int

    @property
    def change(self) -> dict[str, Any]:
        return {**STATIC, "network.hidden": list(self.hidden), "network.density": self.density}


@dataclass(frozen=True)
class Tried:
    """A seed with the outcomes of one round. bound: the lowest of its lives' lower bounds, nats."""

    sprout: Sprout
    outcomes: tuple[Outcome, ...]

    @property
    def bound(self) -> float:
        return min(o.validation_information - Z95 * o.validation_se for o in self.outcomes)


def seed(request: Request, bench: Bench) -> Result:
    """options: margin, in nats."""
    margin = float(request.options["margin"])
    if not 0 <= margin < bench.task.entropy:
        raise ConfigError(
            f"--margin: expected from 0 to less than H(Y) = {bench.task.entropy:.3f} nats, got {margin:g}; write .1"
        )
    steps = Plan.of(request.config, len(bench.task.splits["train"])).total
    field, points = grid(request, bench), []
    tried: list[Tried] = []
    for number, shorter in enumerate(SHORTENED):
        seeds = list(request.each_seed) if shorter == 1 else [request.config.seed]
        length = {"training.steps": max(1, steps // shorter), "training.epochs": None}
        wanted = [request.job(_name(sprout), s, {**sprout.change, **length}) for sprout in field for s in seeds]
        outcomes = bench.run(wanted)
        tried = [Tried(s, tuple(outcomes[i * len(seeds) : (i + 1) * len(seeds)])) for i, s in enumerate(field)]
        if number < len(SHORTENED) - 1:
            points += [(t.outcomes[0].active_parameters, t.outcomes[0].validation_information) for t in tried]
            field = survivors(tried, margin)
    tried.sort(key=lambda t: (t.sprout.parameters, -t.bound))
    return _result(request, tried, points, margin)


def grid(request: Request, bench: Bench) -> list[Sprout]:
    """Smallest first. Of seeds that come out alike, as even wiring makes them at low densities, the sparsest."""
    found: dict[tuple[Any, ...], Sprout] = {}
    task, network = bench.task, request.config.network
    for hidden in HIDDEN:
        for density in DENSITIES:
            settings = {**network.model_dump(), "hidden": hidden, "density": density, "initial": "he"}
            born = grown_seed(settings, task.shape, task.picture, task.outputs, keyed(request.config.seed, "grid"))
            sprout = Sprout(hidden, density, born.count())
            found.setdefault((hidden, sprout.parameters), sprout)
    return sorted(found.values(), key=lambda sprout: (sprout.parameters, sprout.density))


def survivors(tried: Sequence[Tried], margin: float) -> list[Sprout]:
    """Who goes on to longer lives; smallest first."""
    order = sorted(tried, key=lambda t: t.sprout.parameters)
    passed = [t for t in order if t.bound > margin]
    smallest = passed[0].sprout.parameters if passed else math.inf
    open_ = [t for t in order if t.bound <= margin and t.sprout.parameters < smallest]
    better = sorted(open_, key=lambda t: -t.bound)[: math.ceil(len(open_) / 2)]
    return sorted([t.sprout for t in [*passed[:SPARE], *better]], key=lambda sprout: sprout.parameters)


def _result(request: Request, tried: Sequence[Tried], points: Sequence[tuple[float, float]], margin: float) -> Result:
    found = next((t for t in tried if t.bound > margin), None)
    table = pd.DataFrame([_row(t, margin, found) for t in tried], columns=[column.name for column in COLUMNS])
    settings = None if found is None else _settings(request, found.sprout)
    summary = {
        "task": request.config.task,
        "margin_nats": margin,
        "seeds": list(request.each_seed),
        "found": None if found is None else {**_row(found, margin, found), "settings": settings},
        "last_round": [{**_row(t, margin, found), "seeds": [dataclasses.asdict(o) for o in t.outcomes]} for t in tried],
    }
    last = [(_mean(t, "active_parameters"), _mean(t, "validation_information"), t.bound) for t in tried]
    at = None if found is None else (_mean(found, "active_parameters"), _mean(found, "validation_information"))
    picture = pictures.seeds(f"Smallest seed for {request.config.task}", points, last, margin, at)
    files = {} if settings is None or found is None else {"seed.yaml": _yaml(request, found, margin, settings)}
    return Result(summary, table, COLUMNS, picture, _notes(request, found, margin), files)


def _row(tried: Tried, margin: float, found: Tried | None) -> dict[str, Any]:
    """Means over seeds."""
    figures = ("active_parameters", "validation_information", "validation_accuracy", "test_accuracy")
    verdict = "the smallest" if tried is found else "passes" if tried.bound > margin else "below the margin"
    return {
        "layers": _name(tried.sprout), "hidden": list(tried.sprout.hidden), "density": tried.sprout.density,
        **{figure: _mean(tried, figure) for figure in figures}, "bound": tried.bound, "verdict": verdict,
    }  # fmt: skip


def _notes(request: Request, found: Tried | None, margin: float) -> tuple[str, ...]:
    asked = f"{margin:g} nats above chance, at 95%, in each of {request.seeds} seeds"
    if found is None:
        return (f"no seed of the grid is {asked}; write a lower --margin, or more --epochs",)
    return (
        f"the smallest seed that is {asked}: {_name(found.sprout)}, {found.sprout.parameters:,} parameters",
        "grow from it: --config seed.yaml, beside the picture",
    )


def _settings(request: Request, sprout: Sprout) -> dict[str, Any]:
    network = request.config.network
    return {
        "task": request.config.task,
        "network": {
            "family": network.family, "hidden": list(sprout.hidden), "density": sprout.density,
            "activation": network.activation, "wiring": network.wiring,
        },
    }  # fmt: skip


def _yaml(request: Request, found: Tried, margin: float, settings: Mapping[str, Any]) -> str:
    told = f"# the smallest seed tried that is {margin:g} nats above chance: {found.sprout.parameters} parameters"
    return f"{told}\n{yaml.safe_dump(dict(settings), sort_keys=False)}"


def _name(sprout: Sprout) -> str:
    hidden = "-".join(map(str, sprout.hidden)) or "no hidden layer"
    return f"{hidden} at {share(sprout.density)}"


def _mean(tried: Tried, figure: str) -> float:
    return float(sum(getattr(o, figure) for o in tried.outcomes) / len(tried.outcomes))
