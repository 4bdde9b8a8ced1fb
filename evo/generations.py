"""Generations: settings by one of Optuna's samplers; the children of a generation start from snapshots of earlier ones.

What is answered depends on seed, config and the networks' own figures alone, never on the order in which they end, so a
search that is resumed is asked the same again.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import optuna

from evo.population import Birth, Ground, Objective, Point, choose_parent, name_of, score
from evo.suggestions import sampler_seed, suggest

Sampler = Callable[[int, int], optuna.samplers.BaseSampler]
"""From the size of a generation and a seed."""


def nsga2(size: int, seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=size, seed=seed)


def nsga3(size: int, seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.NSGAIIISampler(population_size=size, seed=seed)


def tpe(size: int, seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(n_startup_trials=size, seed=seed)


@dataclass
class Generations:
    """A generation is asked for as a whole, and told of as a whole, in the order of the names.

    objective: pareto tells the sampler of information and parameters, score of the one scalar.
    """

    ground: Ground
    sampler: Sampler = nsga2
    objective: Objective = "pareto"
    _lives: dict[str, Sequence[Point]] = field(default_factory=dict)
    _asked: dict[str, optuna.Trial] = field(default_factory=dict)
    _waiting: deque[Birth] = field(default_factory=deque)
    _generation: int = -1
    _born: int = 0

    def __post_init__(self) -> None:
        config = self.ground.config
        sampler = self.sampler(config.search.population, sampler_seed(config))
        if self.objective == "pareto":
            self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        else:
            self._study = optuna.create_study(direction="maximize", sampler=sampler)

    @property
    def exhausted(self) -> bool:
        return self._born == self.ground.config.search.networks

    def birth(self) -> Birth | None:
        if not self._waiting and not self.exhausted and self._asked.keys() <= self._lives.keys():
            self._next_generation()
        if not self._waiting:
            return None
        self._born += 1
        return self._waiting.popleft()

    def ended(self, network: str, life: Sequence[Point]) -> None:
        self._lives[network] = life

    def _next_generation(self) -> None:
        self._tell()
        self._generation += 1
        ground, search = self.ground, self.ground.config.search
        # Always a whole generation: of a search that is to end within it the rest is not born, and had it been asked
        # for more networks, these would be the same.
        names = [name_of(i) for i in range(self._born, self._born + search.population)]
        self._asked = {name: self._study.ask() for name in names}
        for name, trial in self._asked.items():
            parent = self._parent(name) if self._generation else None
            parent = parent or ground.parent
            self._waiting.append(Birth(name, self._generation, parent, suggest(ground, trial, parent)))
        while self._born + len(self._waiting) > search.networks:
            self._waiting.pop()

    def _parent(self, child: str) -> str | None:
        return choose_parent(self.ground.config.seed, child, self._lives, self.objective, self.ground.price)

    def _tell(self) -> None:
        """The figures of a whole generation. A failed network is worse than all others."""
        ends = {name: self._lives[name][-1] for name in self._asked if self._lives[name]}
        if self.objective == "score":
            values = {n: (score(p.information, p.parameters, self.ground.price),) for n, p in ends.items()}
            worst: tuple[float, ...] = (min((v for (v,) in values.values()), default=0.0) - 1.0,)
            for name, trial in self._asked.items():
                self._study.tell(trial, values.get(name, worst))
            return
        worst = (
            min((p.information for p in ends.values()), default=0.0) - 1.0,
            max((p.parameters for p in ends.values()), default=0) + 1,
        )
        for name, trial in self._asked.items():
            end = ends.get(name)
            self._study.tell(trial, worst if end is None else (end.information, end.parameters))
