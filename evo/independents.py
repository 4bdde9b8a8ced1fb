"""Networks without parents in the population: for schedulers that end lives early, or copy them, by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import optuna

from evo.population import Birth, Ground, Point, name_of, score
from evo.suggestions import drawn, growth_settings, sampler_seed, suggest


@dataclass
class Independents:
    """For ASHA: Optuna's TPE on one score, told in whatever order they end.

    What it answers depends on that order, so the settings of networks that have begun (`ground.begun`) stand.
    """

    ground: Ground
    _asked: dict[str, optuna.Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.ground.config
        sampler = optuna.samplers.TPESampler(n_startup_trials=config.search.population, seed=sampler_seed(config))
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for begun in self.ground.begun:
            seeded = self.ground.parent is None and config.search.hidden and begun.network.hidden
            units = {"hidden": begun.network.hidden[0]} if seeded else {}
            self._study.enqueue_trial({**growth_settings(begun), **units})

    @property
    def exhausted(self) -> bool:
        return len(self._asked) == self.ground.config.search.networks

    def birth(self) -> Birth | None:
        if self.exhausted:
            return None
        name = name_of(len(self._asked))
        trial = self._asked[name] = self._study.ask()
        return Birth(name, 0, self.ground.parent, suggest(self.ground, trial, self.ground.parent))

    def ended(self, network: str, life: Sequence[Point]) -> None:
        trial = self._asked[network]
        if life:
            self._study.tell(trial, score(life[-1].information, life[-1].parameters, self.ground.price))
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)


@dataclass
class Draws:
    """Networks drawn at random, for PBT, which changes their settings itself."""

    ground: Ground
    _born: int = 0

    @property
    def exhausted(self) -> bool:
        return self._born == self.ground.config.search.networks

    def birth(self) -> Birth | None:
        if self.exhausted:
            return None
        name = name_of(self._born)
        self._born += 1
        return Birth(name, 0, self.ground.parent, drawn(self.ground, name))

    def ended(self, network: str, life: Sequence[Point]) -> None:
        pass
