"""The population: which networks are to live, from whom and with which settings. Knows nothing of Ray.

Generations (the default): settings by Optuna's NSGA-II on (validation information up, active parameters down); the
children of a generation start from snapshots of earlier ones. What it answers depends on seed, config and the networks'
own figures alone, never on the order in which they end, so a search that is resumed is asked the same again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray

from evo.config import Config
from search_spaces.randomness import keyed
from search_spaces.spaces import density_for

optuna.logging.set_verbosity(optuna.logging.ERROR)


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


@dataclass
class Generations:
    """inputs, outputs: of the task, for the density at which a seed has as many parameters as were asked for."""

    config: Config
    inputs: int
    outputs: int
    _lives: dict[str, Sequence[Point]] = field(default_factory=dict)
    _asked: dict[str, optuna.Trial] = field(default_factory=dict)
    _waiting: deque[Birth] = field(default_factory=deque)
    _generation: int = -1
    _born: int = 0

    def __post_init__(self) -> None:
        seed = int(keyed(self.config.seed, "optuna").integers(2**31))
        sampler = optuna.samplers.NSGAIISampler(population_size=self.config.search.population, seed=seed)
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    @property
    def exhausted(self) -> bool:
        return self._born == self.config.search.networks

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
        search = self.config.search
        names = [name_of(i) for i in range(self._born, min(self._born + search.population, search.networks))]
        self._asked = {name: self._study.ask() for name in names}
        for name, trial in self._asked.items():
            parent = choose_parent(self.config.seed, name, self._lives) if self._generation else None
            # A child has its parent's shape: only what rules its growth is left to choose.
            settings = suggest_growth(self.config, trial)
            if parent is None:
                settings |= suggest_seed(self.config, trial, self.inputs, self.outputs)
            self._waiting.append(Birth(name, self._generation, parent, settings))

    def _tell(self) -> None:
        """The figures of a whole generation, in the order of the names. A failed network is worse than all others."""
        ends = [self._lives[name][-1] for name in self._asked if self._lives[name]]
        worst = (
            min((p.information for p in ends), default=0.0) - 1.0,
            max((p.parameters for p in ends), default=0) + 1,
        )
        for name, trial in self._asked.items():
            life = self._lives[name]
            self._study.tell(trial, (life[-1].information, life[-1].parameters) if life else worst)


@dataclass
class Independents:
    """Networks without parents, for ASHA: Optuna's TPE on one score, told in whatever order they end.

    begun: the configs of networks that a resumed search finds, in order; their settings stand.
    """

    config: Config
    inputs: int
    outputs: int
    price: float
    begun: Sequence[Config] = ()
    _asked: dict[str, optuna.Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seed = int(keyed(self.config.seed, "optuna").integers(2**31))
        sampler = optuna.samplers.TPESampler(n_startup_trials=self.config.search.population, seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for config in self.begun:
            units = {"hidden": config.network.hidden[0]} if self.config.search.hidden and config.network.hidden else {}
            self._study.enqueue_trial({**growth_settings(config), **units})

    @property
    def exhausted(self) -> bool:
        return len(self._asked) == self.config.search.networks

    def birth(self) -> Birth | None:
        if self.exhausted:
            return None
        name = name_of(len(self._asked))
        trial = self._asked[name] = self._study.ask()
        settings = suggest_growth(self.config, trial) | suggest_seed(self.config, trial, self.inputs, self.outputs)
        return Birth(name, 0, None, settings)

    def ended(self, network: str, life: Sequence[Point]) -> None:
        trial = self._asked[network]
        if life:
            self._study.tell(trial, score(life[-1].information, life[-1].parameters, self.price))
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)


@dataclass
class Draws:
    """Networks drawn at random, for PBT, which changes their settings itself."""

    config: Config
    inputs: int
    outputs: int
    _born: int = 0

    @property
    def exhausted(self) -> bool:
        return self._born == self.config.search.networks

    def birth(self) -> Birth | None:
        if self.exhausted:
            return None
        name = name_of(self._born)
        self._born += 1
        sampler = optuna.samplers.RandomSampler(seed=int(keyed(self.config.seed, "drawn", name).integers(2**31)))
        trial = optuna.create_study(sampler=sampler).ask()
        settings = suggest_growth(self.config, trial) | suggest_seed(self.config, trial, self.inputs, self.outputs)
        return Birth(name, 0, None, settings)

    def ended(self, network: str, life: Sequence[Point]) -> None:
        pass


def score(information: float, parameters: int, price: float) -> float:
    """The one scalar that ASHA and PBT judge: nats of validation information, less the price of what holds them."""
    return information - price * parameters


Range = optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution
Space = dict[str, Range]


def growth_space(config: Config) -> Space:
    search, float_ = config.search, optuna.distributions.FloatDistribution
    return {
        "training.learning_rate": float_(*search.learning_rate, log=True),
        "economy.final_price": float_(*search.final_price, log=True),
        "growth.stake": float_(*search.stake),
    }


def growth_settings(config: Config) -> dict[str, float]:
    """What `growth_space` ranges over, as this config has it."""
    return {
        "training.learning_rate": config.training.learning_rate,
        "economy.final_price": config.economy.final_price,
        "growth.stake": config.growth.stake,
    }


def seed_space(config: Config) -> Space:
    """What is searched of the seed's shape; nothing of it where the config settles it."""
    ranges = {"hidden": config.search.hidden, "seed_parameters": config.search.seed_parameters}
    return {name: optuna.distributions.IntDistribution(*range_) for name, range_ in ranges.items() if range_}


def suggest_growth(config: Config, trial: optuna.Trial) -> dict[str, Any]:
    return {name: _suggest(trial, name, space) for name, space in growth_space(config).items()}


def suggest_seed(config: Config, trial: optuna.Trial, inputs: int, outputs: int) -> dict[str, Any]:
    """Units of every hidden layer, and the density at which the seed has the parameters that were suggested; each only
    where it is searched.
    """
    drawn = {name: _suggest(trial, name, space) for name, space in seed_space(config).items()}
    hidden, settings = list(config.network.hidden), dict[str, Any]()
    if "hidden" in drawn:
        settings["network.hidden"] = hidden = [int(drawn["hidden"])] * len(hidden)
    if "seed_parameters" in drawn:
        settings["network.density"] = density_for(inputs, tuple(hidden), outputs, int(drawn["seed_parameters"]))
    return settings


def _suggest(trial: optuna.Trial, name: str, space: Range) -> float | int:
    if isinstance(space, optuna.distributions.IntDistribution):
        return trial.suggest_int(name, space.low, space.high)
    return trial.suggest_float(name, space.low, space.high, log=space.log)


def choose_parent(seed: int, child: str, lives: Mapping[str, Sequence[Point]]) -> str | None:
    """A snapshot by binary tournament on Pareto rank; None where no network has left one.

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
    among = ranks(pool)
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
