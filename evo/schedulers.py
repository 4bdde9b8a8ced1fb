"""How Ray Tune gets the networks of a search, and when it ends one early: never, by ASHA or by PBT."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from evo import origins
from evo.algorithms import ALGORITHMS, population
from evo.census import Census
from evo.config import Config
from evo.population import Birth, Ground, Population, name_of, number_of
from evo.recorder import networks
from evo.suggestions import growth_settings, growth_space
from evo.task import Task

MAX_FAILURES = 3
"""Deaths of its process that a network survives; nodes that are taken away do not count."""


TRIALS = 100
"""Of each network at most, by whatever cause they end."""


class Asker(Searcher):
    """A population as Tune asks it. Networks that have ended already are told of at once and take no trial.

    Tune itself starts a trial again whose process dies at work, but not one whose process dies before it began, as when
    an actor that is handed from one network to the next is killed in between. Such a network is asked for once more.
    """

    def __init__(self, population: Population, census: Census, scheduler: str) -> None:
        super().__init__()
        self._population, self._census, self._scheduler = population, census, scheduler
        self._births: dict[str, Birth] = {}
        self._broken_off: Birth | None = None
        self._again: deque[Birth] = deque()
        self._times: Counter[str] = Counter()  # that a network's trial broke off

    def suggest(self, trial_id: str) -> Any:
        while (birth := self._next()) is not None:
            life = self._census.life(birth.network)
            if life is None:
                self._births[trial_id] = birth
                return birth.as_tune_config()
            self._population.ended(birth.network, life)
            self._census.tell_ended(birth.network)
        # Tune asks no more once it was told that this is all; a trial that still lives may break off.
        return Searcher.FINISHED if self._population.exhausted and not self._births else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        birth = self._births.pop(trial_id)
        if error:
            self._broken_off = birth  # the callback, which Tune calls next, knows how often it died
        elif (result or {}).get("mistake") is None and self._census.broken is None:
            life = self._census.life(birth.network)
            if life is None:
                life = self._census.end(birth.network, "finished", f"stopped by {self._scheduler}")
            self._population.ended(birth.network, life)

    def broken_off(self, for_good: bool, machines: bool = False, over: bool = False) -> bool:
        """The trial that just ended by an error is asked for again, unless for good; whether it is.

        machines: it was its machine's end, which counts against no network. over: its network has committed its end, of
        which only the word was lost; it is asked for again whatever it died of, and `suggest` then tells of it.
        """
        birth, self._broken_off = self._broken_off, None
        assert birth is not None
        if over:
            self._again.append(birth)
            return True
        self._times[birth.network] += not machines
        if for_good or self._times[birth.network] > MAX_FAILURES:
            self._population.ended(birth.network, [])
            return False
        self._again.append(birth)
        return True

    def _next(self) -> Birth | None:
        return self._again.popleft() if self._again else self._population.birth()

    # Tune would save its searcher; this one is rebuilt from the events.

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        raise NotImplementedError

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """searcher: is asked for each of `samples` trials at most. PBT insists on having all at once: they are in space
    instead.
    """

    scheduler: TrialScheduler
    searcher: Asker | None
    space: dict[str, Any]
    samples: int


def plan(config: Config, task: Task, census: Census, price: float) -> Plan:
    """price: nats a parameter, in the score."""
    # Lost machines may break off more trials than deaths may; the asker says when it is enough.
    algorithm, trials = ALGORITHMS[config.search.algorithm], config.search.networks * TRIALS
    begun = () if algorithm.generational else tuple(census.begun().values())
    parent = origins.place_of(config.network.parent)
    people = population(Ground(config, math.prod(task.shape), task.outputs, price, parent, begun))
    if algorithm.scheduler == "pbt":
        return _pbt(config, people, census)
    if algorithm.scheduler == "asha":
        cycles = config.growth.cycles + 1
        grace = max(1, cycles // 8)
        asha = ASHAScheduler("clock", "score", "max", max_t=cycles, grace_period=grace, reduction_factor=2)
        return Plan(asha, Asker(people, census, "ASHA"), {}, trials)
    in_order = FIFOScheduler()  # type: ignore[no-untyped-call]
    return Plan(in_order, Asker(people, census, "Tune"), {}, trials)


def _pbt(config: Config, population: Population, census: Census) -> Plan:
    births: list[Birth] = []
    while (birth := population.birth()) is not None:
        births.append(birth)
    drawn, begun = {birth.network for birth in births}, census.begun()
    births += [Birth(name, 1, None, growth_settings(c)) for name, c in begun.items() if name not in drawn]
    living = []
    for birth in births:
        if census.life(birth.network) is None:
            living.append(birth.as_tune_config()["birth"])
        else:
            census.tell_ended(birth.network)
    bounds, number = growth_space(config), 1 + max(map(number_of, drawn | set(networks(census.folder))))

    def explored(new: dict[str, Any]) -> dict[str, Any]:
        # What goes on from a copy is a network of its own, with a record of its own.
        nonlocal number
        birth = new["birth"]
        settings = birth["settings"]
        birth["settings"] = settings | {k: min(max(settings[k], b.low), b.high) for k, b in bounds.items()}
        birth["network"], birth["generation"] = name_of(number), int(birth["generation"]) + 1
        number += 1
        return new

    ranges = {name: tune.uniform(bound.low, bound.high) for name, bound in bounds.items()}
    mutations: dict[str, Any] = {"birth": {"settings": ranges}}
    scheduler = PopulationBasedTraining(
        "clock", "score", "max", perturbation_interval=max(1, config.growth.cycles // 5),
        hyperparam_mutations=mutations, custom_explore_fn=explored, log_config=False, require_attrs=False,
    )  # fmt: skip
    return Plan(scheduler, None, {"birth": tune.grid_search(living)}, 1)
