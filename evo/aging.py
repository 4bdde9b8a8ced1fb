"""Regularised evolution (Real et al. 2019): the oldest dies, not the worst, so nobody stays who was only lucky once.

A fixed number of networks is living. The parent of a child is the best of a few that are drawn from the living; the
child starts from the parent's last snapshot with one more growth or pruning action, drawn at random, and lives a
shorter life. Children are born in batches, chosen from the networks that had ended before the batch, and join the
living in the order of their names: what is answered does not depend on the order in which networks end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evo.life import length
from evo.population import Birth, Ground, Objective, Point, name_of, places
from evo.suggestions import drawn, growth_space
from search_spaces.randomness import keyed


@dataclass
class Aging:
    """objective: by which the best of a sample is found."""

    ground: Ground
    objective: Objective = "pareto"
    _births: dict[str, Birth] = field(default_factory=dict)
    _ends: dict[str, Point | None] = field(default_factory=dict)
    _living: list[str] = field(default_factory=list)
    _batch: list[str] = field(default_factory=list)
    _waiting: deque[Birth] = field(default_factory=deque)
    _generation: int = -1
    _born: int = 0

    @property
    def exhausted(self) -> bool:
        return self._born == self.ground.config.search.networks

    @property
    def living(self) -> tuple[str, ...]:
        """From the oldest to the youngest, as of the latest batch."""
        return tuple(self._living)

    def birth(self) -> Birth | None:
        if not self._waiting and not self.exhausted and all(name in self._ends for name in self._batch):
            self._next_batch()
        if not self._waiting:
            return None
        self._born += 1
        return self._waiting.popleft()

    def ended(self, network: str, life: Sequence[Point]) -> None:
        self._ends[network] = life[-1] if life else None

    def _next_batch(self) -> None:
        search = self.ground.config.search
        self._living += [name for name in self._batch if self._ends[name] is not None]
        self._living = self._living[-search.population :]
        self._generation += 1
        size = batch_size(search.batch, search.population) if self._generation else search.population
        self._batch = [name_of(i) for i in range(self._born, min(self._born + size, search.networks))]
        for name in self._batch:
            birth = self._child(name) if self._living else self._first(name)
            self._births[name] = birth
            self._waiting.append(birth)

    def _first(self, name: str) -> Birth:
        """A network without a parent among the living: a seed, or the snapshot that the search starts from."""
        settings: dict[str, Any] = drawn(self.ground, name)
        if self.ground.parent is not None:
            settings["growth.mutate"] = True  # else all of them would begin as one and the same
        return Birth(name, self._generation, self.ground.parent, settings)

    def _child(self, name: str) -> Birth:
        config = self.ground.config
        parent = self._tournament(name)
        end = self._ends[parent]
        assert end is not None
        inherited = self._births[parent].settings
        settings: dict[str, Any] = {key: inherited[key] for key in growth_space(config)}
        settings |= length(config, max(1, round(config.growth.cycles * config.search.child_life)))
        settings["growth.mutate"] = True
        if not config.search.child_tournaments:
            settings["growth.settle"] = 1.0
        return Birth(name, self._generation, end.snapshot, settings)

    def _tournament(self, child: str) -> str:
        """The best of a sample of the living, drawn with replacement; of equals the one that was drawn first."""
        search = self.ground.config.search
        draw = keyed(self.ground.config.seed, "sample", child).integers(len(self._living), size=search.sample)
        ends = [point for name in self._living if (point := self._ends[name]) is not None]
        far = places(ends, self.objective, self.ground.price)
        return self._living[min((int(i) for i in draw), key=lambda i: far[i])]


def batch_size(asked: int | None, population: int) -> int:
    """Children that are born at once: half of the living, unless the config says."""
    return asked or max(1, population // 2)
