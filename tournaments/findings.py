"""Findings: the evidence of one decision with the statistics of its places, computed once, when first asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from search_spaces.network import Network, Place
from search_spaces.optimizer_state import OptimizerState
from tournaments.analysis import Analysis
from tournaments.evidence import Evidence
from tournaments.place import GramCache, PlaceStatistics, Residual, residual, statistics

T = TypeVar("T")


class Findings:
    """What proposers read.

    grow, trim: parameters that a candidate may add, or take away. draw: a generator by purpose, so that one proposer's
    draws do not depend on another's. state: ages and origins of all elements, where they are known, at `step` of the
    life. picture: (channels, height, width) of an input, where it is one; blocks: sides of the blocks of pixels that
    coarse pictures were made of before, and are now. connections, incoming: that a candidate may make at most, in all
    and into one unit; None for any number.
    """

    def __init__(
        self,
        network: Network,
        evidence: Evidence,
        grow: int,
        trim: int,
        draw: Callable[[str], np.random.Generator],
        cache: GramCache | None = None,
        state: OptimizerState | None = None,
        step: int = 0,
        picture: tuple[int, int, int] | None = None,
        blocks: tuple[int, int] = (2, 1),
        connections: int | None = None,
        incoming: int | None = None,
    ) -> None:
        self.network, self.evidence, self.grow, self.trim, self.draw = network, evidence, grow, trim, draw
        self.state, self.step = state, step
        self.picture, self.blocks = picture, blocks
        self.connections, self.incoming = connections, incoming
        self.places = {p.layer: p for p in network.places()}
        self._cache = cache or GramCache()
        self._statistics: dict[str, PlaceStatistics] = {}
        self._residuals: dict[str, Residual] = {}
        self._once: dict[str, Any] = {}

    def statistics(self, layer: str) -> PlaceStatistics:
        """Gram matrices of the place."""
        if layer not in self._statistics:
            self._statistics[layer] = statistics(self.network, self.places[layer], self.evidence, self._cache)
        return self._statistics[layer]

    def residual(self, layer: str) -> Residual:
        """Its features with each row's own regressed out."""
        if layer not in self._residuals:
            self._residuals[layer] = residual(self.statistics(layer))
        return self._residuals[layer]

    def analysis(self, analyzer: Callable[[Findings], Analysis]) -> Analysis:
        """What this analyzer finds; computed when first asked for, once a decision."""
        # What can be called need not be a function, and then has no name of its own.
        name = getattr(analyzer, "__qualname__", repr(analyzer))
        return self.once(f"analysis {analyzer.__module__}.{name}", lambda: analyzer(self))

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What several proposals of one decision need, made by the first that asks."""
        if key not in self._once:
            self._once[key] = make()
        found: T = self._once[key]
        return found

    def within(self, grow: int, trim: int) -> Findings:
        """The same findings at another budget: statistics and analyses are shared, what a budget bore on is not."""
        other = copy.copy(self)
        other.grow, other.trim = grow, trim
        other._once = {key: found for key, found in self._once.items() if key.startswith("analysis ")}
        return other

    def linked(self, source: str, target: str) -> bool:
        """Whether the network has this link."""
        return f"links.{source}>{target}" in self.network.masks()

    def sources(self, layer: str) -> list[str]:
        """Layers linked into `layer`."""
        place: Place = self.places[layer]
        return [s for s in place.sources if self.linked(s, layer)]

    def consumers(self, layer: str) -> list[str]:
        """Layers that `layer` is linked into."""
        return [t for t in self.places if self.linked(layer, t)]

    def fed(self, layer: str) -> Tensor:
        """(units,) bool: units of `layer` that have an active edge in."""
        into = [self.mask(s, layer).any(dim=1) for s in self.sources(layer)]
        return self._any(layer, into)

    def heard(self, layer: str) -> Tensor:
        """(units,) bool: units of `layer` that have an active edge out."""
        return self._any(
            layer, [self.by_unit(layer, self.mask(layer, t).any(dim=0)) > 0 for t in self.consumers(layer)]
        )

    def held(self, layer: str) -> Tensor:
        """(units,) int64: parameters that go with each unit of `layer`, its edges in and out and its own."""
        units, device = self.network.axis_sizes()[layer], self.evidence.x.device
        own = torch.full((units,), self.own_parameters(layer), device=device)
        into = [self.mask(s, layer).sum(dim=1) for s in self.sources(layer)]
        out = [self.by_unit(layer, self.mask(layer, t).sum(dim=0)) for t in self.consumers(layer)]
        return torch.stack([own, *into, *out]).sum(dim=0)

    def _any(self, layer: str, found: list[Tensor]) -> Tensor:
        none = torch.zeros(self.network.axis_sizes()[layer], dtype=torch.bool, device=self.evidence.x.device)
        return torch.stack([none, *found]).any(dim=0)

    def mask(self, source: str, target: str) -> Tensor:
        """(q, p) bool, the active edges of a link."""
        name = self.network.masks()[f"links.{source}>{target}"]
        mask = self.network.get_buffer(name)
        return mask.reshape(len(mask), -1).bool()

    def weight(self, source: str, target: str) -> Tensor:
        """(q, p) the weights of a link."""
        weight = self.network.get_parameter(f"links.{source}>{target}").detach()
        return weight.reshape(len(weight), -1)

    def reach(self, source: str, target: str) -> int:
        """How many weights join a unit of `source` to one of `target`: 1, or a kernel's taps."""
        return self.mask(source, target).shape[1] // self.network.axis_sizes()[source]

    def own_parameters(self, layer: str) -> int:
        """Parameters that a unit of `layer` has beside its edges: a bias, or a normalisation's scale and shift."""
        axes = self.network.axes()
        return sum(axes[name] == layer for name, _ in self.network.named_parameters())

    def by_unit(self, layer: str, columns: Tensor) -> Tensor:
        """(units,): the sum over the columns of a link that belong to each unit of its source `layer`."""
        return columns.reshape(self.network.axis_sizes()[layer], -1).sum(dim=1)

    def features(self, source: str, target: str) -> Tensor:
        """(r, p): what `source` shows `target`, position by position."""
        return self.network.lift(source, target, self.evidence.activations[source]).flatten(0, 1)

    def column_mask(self, layer: str, sources: list[str]) -> Tensor:
        """(q, p+1) bool: the columns of these sources, in the statistics of `layer`, for every row."""
        stats = self.statistics(layer)
        allowed = torch.zeros_like(stats.present)
        for source in sources:
            first, last = stats.columns[source]
            allowed[:, first:last] = True
        return allowed
