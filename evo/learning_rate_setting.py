"""What a learning-rate rule may look at: the network, its elements' ages and origins, and where in its life it is.

A *stratum* is what one growth event left: elements of the same age. The newest is 0, and an element of stratum k has
seen k growth events since it was made, which is its age in growth phases. So no clock is needed, and where nothing has
grown yet every element is of stratum 0.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evo.config import TrainingConfig
from search_spaces import axes
from search_spaces.network import Network, active
from search_spaces.optimizer_state import ORIGINS, OptimizerState

if TYPE_CHECKING:
    from evo.training import Moment

Factors = dict[str, Tensor]
"""By parameter name, a factor on the update of each element, broadcastable to the parameter."""


@dataclass(frozen=True, eq=False)
class Setting:
    """state: ages, origins and moments in the parameters' shapes. moment: step of total, plateaus so far.

    epoch: steps of one pass over the training data. trainable: elements that may move at all, boolean by parameter name
    (None: every active one); the others' ages stand still, so they tell nothing of growth.
    """

    network: Network
    state: OptimizerState
    moment: Moment
    config: TrainingConfig
    epoch: float = 1.0
    trainable: Mapping[str, Tensor] | None = None

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.network.named_parameters()}

    @cached_property
    def active(self) -> dict[str, Tensor]:
        """By parameter name, boolean of its shape."""
        return active(self.network)

    @cached_property
    def moving(self) -> dict[str, Tensor]:
        """By parameter name, True where an element is active and may move."""
        if self.trainable is None:
            return self.active
        return {name: on & self.trainable[name] for name, on in self.active.items()}

    # --- layers

    @cached_property
    def depths(self) -> dict[str, int]:
        """Every layer that has weights, from 0 behind the input."""
        return {place.layer: i for i, place in enumerate(self.network.places())}

    @cached_property
    def layers(self) -> dict[str, str]:
        """By parameter name, the layer that it makes: the axis along its first dimension."""
        expressions = self.network.axes()
        return {name: _first_axis(expressions[name]) for name in self.parameters}

    @cached_property
    def links(self) -> tuple[tuple[str, str], ...]:
        """(source, target) of every link."""
        names = (name.rpartition(".")[2] for name in self.network.masks())
        return tuple((source, target) for source, _, target in (name.partition(">") for name in names))

    def by_layer(self, factor: Callable[[str], float]) -> Factors:
        """One factor for each layer, all of its parameters alike."""
        return {name: self._scalar(name, factor(layer)) for name, layer in self.layers.items()}

    def everywhere(self, factor: float) -> Factors:
        """The same factor for every element."""
        return {name: self._scalar(name, factor) for name in self.parameters}

    # --- elements

    @cached_property
    def strata(self) -> dict[str, Tensor]:
        """By parameter name, int64 of its shape: growth events since each element was made."""
        found = [_distinct(self.state.age[name][on]) for name, on in self.moving.items()]
        ages = torch.unique(torch.cat(found))
        return {name: torch.searchsorted(ages, age.contiguous()) for name, age in self.state.age.items()}

    @cached_property
    def grown(self) -> bool:
        """Whether any element has been added to the seed."""
        return any(bool((origin[self.active[name]] != 0).any()) for name, origin in self.state.origin.items())

    def is_from(self, name: str, *origins: str) -> Tensor:
        """Boolean of the parameter's shape: elements that the seed or these actions made."""
        origin = self.state.origin[name]
        found = torch.zeros_like(origin, dtype=torch.bool)
        for one in origins:
            found |= origin == ORIGINS.index(one)
        return found

    @cached_property
    def grown_last(self) -> frozenset[str]:
        """Layers of the newest growth event: those that got units, else those that got edges. Empty before any."""
        units: set[str] = set()
        edges: set[str] = set()
        masked = self.network.masks()
        for name, stratum in self.strata.items():
            newest = (stratum == 0) & self.moving[name] & (self.state.origin[name] != 0)
            if bool(newest.any()):
                (edges if name in masked else units).add(self.layers[name])
        return frozenset(units or edges)

    def distances(self, start: frozenset[str]) -> dict[str, int]:
        """Links between each layer and the nearest of `start`, whichever way they lead, not through the input."""
        near: dict[str, set[str]] = {layer: set() for layer in self.depths}
        for source, target in self.links:
            if source in near and target in near:
                near[source].add(target)
                near[target].add(source)
        found, queue = dict.fromkeys(start, 0), deque(sorted(start))
        while queue:
            layer = queue.popleft()
            for other in sorted(near.get(layer, set()) - found.keys()):
                found[other] = found[layer] + 1
                queue.append(other)
        return found

    def _scalar(self, name: str, value: float) -> Tensor:
        return torch.full((), value, device=self.parameters[name].device)


def _first_axis(expression: str) -> str:
    dimensions = axes.parse(expression)
    at: axes.Dimension | None = dimensions[0] if dimensions else None
    while isinstance(at, axes.Product | axes.Sum):
        at = at.factors[0] if isinstance(at, axes.Product) else at.terms[0]
    return at.name if at is not None else ""


def _distinct(ages: Tensor) -> Tensor:
    """The different values, sorted. Most parameters hold only one, which needs no sorting."""
    if not len(ages):
        return ages
    low, high = torch.aminmax(ages)
    return low.view(1) if bool(low == high) else torch.unique(ages)
