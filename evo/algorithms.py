"""The registry of search algorithms: who makes births, whether they follow from the events alone, who ends a life."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from evo.aging import Aging
from evo.config import Config, ConfigError
from evo.generations import Generations, nsga2, nsga3, tpe
from evo.independents import Draws, Independents
from evo.population import Ground, Objective, Population


@dataclass(frozen=True)
class Algorithm:
    """about: one line. objectives: what it can go by, the usual one first.

    generational: births depend on seed, config and figures alone, so that the search repeats bit for bit, resumes as an
    unbroken one, and has the same first births when it is asked for more networks. scheduler: of Ray Tune, which ends
    lives early, or has them go on from copies of others. parents: what children start from.
    """

    about: str
    population: Callable[[Ground, Objective], Population]
    objectives: tuple[Objective, ...] = ("pareto",)
    generational: bool = True
    scheduler: Literal["in order", "asha", "pbt"] = "in order"
    parents: Literal["any snapshot", "last snapshot", "none"] = "any snapshot"


ALGORITHMS: dict[str, Algorithm] = {
    "nsga2": Algorithm(
        "generations; settings by Optuna's NSGA-II on information and parameters",
        lambda ground, _: Generations(ground, nsga2),
    ),
    "nsga3": Algorithm(
        "generations; settings by Optuna's NSGA-III, which keeps to reference directions between the two",
        lambda ground, _: Generations(ground, nsga3),
    ),
    "tpe": Algorithm(
        "generations; settings by Optuna's TPE, on both or on the score",
        lambda ground, objective: Generations(ground, tpe, objective),
        ("pareto", "score"),
    ),
    "regularised": Algorithm(
        "aging evolution: children of the best of a sample, with one more action drawn at random; the oldest goes",
        Aging,
        ("pareto", "score"),
        parents="last snapshot",
    ),
    "asha": Algorithm(
        "no parents; settings by TPE on the score, the worse half of lives ended early at each rung",
        lambda ground, _: Independents(ground),
        ("score",),
        generational=False,
        scheduler="asha",
        parents="none",
    ),
    "pbt": Algorithm(
        "settings at random; the worst by the score go on from copies of the best, with other settings",
        lambda ground, _: Draws(ground),
        ("score",),
        generational=False,
        scheduler="pbt",
        parents="none",
    ),
}


def population(ground: Ground) -> Population:
    """Of the algorithm and by the objective that the config says. Raises ConfigError as `objective` does."""
    return ALGORITHMS[ground.config.search.algorithm].population(ground, objective(ground.config))


def objective(config: Config) -> Objective:
    """What the search goes by. Raises ConfigError where its algorithm cannot."""
    name, asked = config.search.algorithm, config.search.objective
    able = ALGORITHMS[name].objectives
    if asked is not None and asked not in able:
        others = ", ".join(other for other, a in ALGORITHMS.items() if asked in a.objectives)
        raise ConfigError(
            f"search.objective: expected {' or '.join(able)} with search.algorithm: {name}, got {asked}; leave it out, "
            f"or write search.algorithm: one of {others}"
        )
    return asked or able[0]
