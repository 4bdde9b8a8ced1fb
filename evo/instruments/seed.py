"""The smallest seed: which network, of few units and few edges, still learns more than chance by a stated margin?

Hidden layers and densities make a grid of seeds, and plain training tries them by successive halving: short lives for
all, four times longer ones for fewer, full lives and all seeds for the last. After a round, what is larger than the
smallest few that have passed is out, and of the smaller ones that have not the better half goes on. Passing means that
in every life the lower 95% bound of the validation information, over its samples, is above the margin; at zero nats a
network knows no more than how often each label comes.

What a short life cuts might have passed in a full one. So the answer is checked: the ones below it in parameters live
full lives too, the nearest first, each that passes becoming the answer, until SPARE in a row have failed. Where nothing
has passed, the next larger ones do. MOST of those that were cut are tried again in all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
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
"""Smallest ones that have passed and go on, in case the first fails in a longer life or in another seed. Also, how many
in a row must fail below the answer for it to stand."""

MOST = 12
"""Seeds that were cut early and are tried again at full length, at most."""


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

    def live(sprouts: Sequence[Sprout], shorter: int = 1) -> list[Tried]:
        seeds = list(request.each_seed) if shorter == 1 else [request.config.seed]
        length = {"training.steps": max(1, steps // shorter), "training.epochs": None}
        wanted = [request.job(_name(sprout), s, {**sprout.change, **length}) for sprout in sprouts for s in seeds]
        outcomes = bench.run(wanted)
        return [Tried(s, tuple(outcomes[i * len(seeds) : (i + 1) * len(seeds)])) for i, s in enumerate(sprouts)]

    everything, points = grid(request, bench), []
    field = everything
    for shorter in SHORTENED[:-1]:
        tried = live(field, shorter)
        points += [(t.outcomes[0].active_parameters, t.outcomes[0].validation_information) for t in tried]
        field = survivors(tried, margin)
    last = live(field)
    search = Search(margin, everything, last, checked(last, everything, live, margin))
    return _result(request, search, points)


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


def smallest(tried: Sequence[Tried], margin: float) -> Tried | None:
    """Of those that pass."""
    passed = [t for t in tried if t.bound > margin]
    return min(passed, key=lambda t: (t.sprout.parameters, -t.bound), default=None)


def next_below(everything: Sequence[Sprout], sprout: Sprout) -> list[Sprout]:
    """The SPARE nearest in parameters, the nearest first. everything: smallest first."""
    return [s for s in reversed(everything) if s.parameters < sprout.parameters][:SPARE]


def checked(
    last: Sequence[Tried], everything: Sequence[Sprout], live: Callable[[Sequence[Sprout]], list[Tried]], margin: float
) -> list[Tried]:
    """Full lives beyond those of the last round: of the SPARE next below the answer, which one of them may become, or,
    where there is no answer, of the next above all that lived one. At most MOST. everything: smallest first.
    """
    added: list[Tried] = []
    while True:
        full = [*last, *added]
        known, answer = {t.sprout for t in full}, smallest(full, margin)
        if answer is not None:
            near = next_below(everything, answer.sprout)
        else:
            largest = max((s.parameters for s in known), default=0)
            near = [s for s in everything if s.parameters > largest][:SPARE]
        todo = [s for s in near if s not in known][: MOST - len(added)]
        if not todo:
            return added
        added += live(todo)


@dataclass(frozen=True)
class Search:
    """last: who came to the last round. added: who was cut before, and lived a full life to check the answer."""

    margin: float
    everything: Sequence[Sprout]
    last: Sequence[Tried]
    added: Sequence[Tried]

    @property
    def full(self) -> list[Tried]:
        """All that lived a full life, smallest first."""
        return sorted([*self.last, *self.added], key=lambda t: (t.sprout.parameters, -t.bound))

    @property
    def found(self) -> Tried | None:
        return smallest(self.full, self.margin)

    @property
    def below(self) -> list[Sprout]:
        """The SPARE next below the answer, the nearest first."""
        return [] if self.found is None else next_below(self.everything, self.found.sprout)

    @property
    def complete(self) -> bool:
        """Whether all of those failed in full lives."""
        return set(self.below) <= {t.sprout for t in self.full}


def _result(request: Request, search: Search, points: Sequence[tuple[float, float]]) -> Result:
    tried, found, margin = search.full, search.found, search.margin
    table = pd.DataFrame([_row(t, margin, found) for t in tried], columns=[column.name for column in COLUMNS])
    settings = None if found is None else _settings(request, found.sprout)
    summary = {
        "task": request.config.task,
        "margin_nats": margin,
        "seeds": list(request.each_seed),
        "found": None if found is None else {**_row(found, margin, found), "settings": settings},
        "last_round": [{**_row(t, margin, found), "seeds": [dataclasses.asdict(o) for o in t.outcomes]} for t in tried],
        "checked": {"tried_again": [_name(t.sprout) for t in search.added], "complete": search.complete},
    }
    last = [(_mean(t, "active_parameters"), _mean(t, "validation_information"), t.bound) for t in tried]
    at = None if found is None else (_mean(found, "active_parameters"), _mean(found, "validation_information"))
    picture = pictures.seeds(f"Smallest seed for {request.config.task}", points, last, margin, at)
    files = {} if settings is None or found is None else {"seed.yaml": _yaml(request, found, margin, settings)}
    return Result(summary, table, COLUMNS, picture, _notes(request, search), files)


def _row(tried: Tried, margin: float, found: Tried | None) -> dict[str, Any]:
    """Means over seeds."""
    figures = ("active_parameters", "validation_information", "validation_accuracy", "test_accuracy")
    verdict = "the smallest" if tried is found else "passes" if tried.bound > margin else "below the margin"
    return {
        "layers": _name(tried.sprout), "hidden": list(tried.sprout.hidden), "density": tried.sprout.density,
        **{figure: _mean(tried, figure) for figure in figures}, "bound": tried.bound, "verdict": verdict,
    }  # fmt: skip


def _notes(request: Request, search: Search) -> tuple[str, ...]:
    asked = f"{search.margin:g} nats above chance, at 95%, in each of {request.seeds} seeds"
    found, full = search.found, len(search.full)
    again = f"; {len(search.added)} of them had been cut by a short life" if search.added else ""
    if found is None:
        whose = f"no seed of the grid is {asked}"
        if full < len(search.everything):
            whose = f"none of the {full} seeds that lived a full life is {asked}{again}"
        return (f"{whose}; write a lower --margin, or more --epochs",)
    return (
        f"the smallest seed that is {asked}: {_name(found.sprout)}, {found.sprout.parameters:,} parameters",
        f"{full} of {len(search.everything)} seeds lived a full life{again}; {_below(search)}",
        "grow from it: --config seed.yaml, beside the picture",
    )


def _below(search: Search) -> str:
    """How sure it is that none is smaller."""
    names = ", ".join(_name(sprout) for sprout in search.below)
    if not search.complete:
        return f"a smaller one may pass: {MOST} were tried again, the most that are; write more --epochs"
    return f"the next smaller failed in one: {names}" if names else "the grid has none that is smaller"


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
