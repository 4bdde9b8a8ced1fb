"""Network: a module that says along which axes its tensors run, where it may grow, and how it is rebuilt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from search_spaces.actions import Action, Unit
from search_spaces.edits import Edit

Blueprint = dict[str, Any]

Tap = Callable[[str, Tensor], Tensor]
"""Called with ("pre:LAYER", pre-activations) and ("act:LAYER", activations) on the way; returns what to go on with.

Pre-activations are what a layer's weights produce, before any normalisation; activations what it feeds onwards, after
any pooling: (n, units), or (n, units, h, w) in a picture.
"""


@dataclass(frozen=True)
class Place:
    """A layer whose pre-activations can be given more features.

    layer: its name. sources: layers whose activations may feed it, in order. grows: actions legal there.
    positions: how many places of a picture share its weights (1 for a dense layer).
    """

    layer: str
    sources: tuple[str, ...]
    grows: frozenset[str]
    positions: int = 1


class Network(nn.Module, ABC):
    """What every family provides. A tensor changes shape only by `surgery.apply`, which reads all of this."""

    family: ClassVar[str]

    @abstractmethod
    def blueprint(self) -> Blueprint:
        """JSON from which `from_blueprint` rebuilds the same axes, links and parameter names; no weights."""

    @classmethod
    @abstractmethod
    def from_blueprint(cls, blueprint: Blueprint) -> Network:
        """A network of that shape, every weight zero and every mask empty. Raises ValueError naming a bad field."""

    @abstractmethod
    def axes(self) -> Mapping[str, str]:
        """For every parameter and buffer by name, the axes that it runs along, in the grammar of `axes`.

        The first dimension is the one produced, the others are consumed: a weight "hidden1 input" makes hidden1.
        """

    @abstractmethod
    def axis_sizes(self) -> Mapping[str, int]:
        """How many slots each axis has."""

    @abstractmethod
    def masks(self) -> Mapping[str, str]:
        """Name of a masked parameter -> name of its boolean mask buffer (True = active)."""

    @abstractmethod
    def places(self) -> tuple[Place, ...]:
        """Where growth is legal, from input to output."""

    @abstractmethod
    def unit(self, layer: str, slot: int) -> Unit:
        """The hidden unit at `slot` as data: a clone of it, with its active weights in and out and its bias.

        Where a layer is normalised, that is folded into the weights and the bias, as new units start unnormalised
        (weight 1, mean 0, variance 1): the clone puts out the same in eval mode, and may differ on a batch.
        """

    def input_shape(self) -> tuple[int, ...]:
        """Of one sample: (features,), or (c, h, w) for a picture, which may come flat as well."""
        return (self.axis_sizes()["input"],)

    @abstractmethod
    def edit(self, action: Action) -> Edit:
        """What the action means here. Raises ValueError naming site, expectation and cure where it is not legal."""

    @abstractmethod
    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """x: (n, *input shape) float32 -> (n, outputs): logits or predicted values."""

    @property
    @abstractmethod
    def nonlinearity(self) -> Callable[[Tensor], Tensor]:
        """What hidden units put out, from their pre-activations."""

    def lift(self, source: str, target: str, activation: Tensor) -> Tensor:
        """(n, positions, p): what `source`'s activation shows to each position of `target`; p counts link columns."""
        return activation.flatten(1).unsqueeze(1)

    def lower(self, target: str, gradient: Tensor) -> Tensor:
        """(n, positions, q): a gradient at `target`'s pre-activations, position by position; q counts link rows."""
        return gradient.flatten(1).unsqueeze(1)

    def count(self) -> int:
        """Active parameters: every unmasked weight and bias. Masked weights are not parameters."""
        masks = self.masks()
        buffers = dict(self.named_buffers())
        return sum(
            int(buffers[masks[name]].sum()) if name in masks else p.numel() for name, p in self.named_parameters()
        )

    def multiply_adds(self) -> int:
        """Of one sample: every active weight of a link, once a position."""
        positions = {place.layer: place.positions for place in self.places()}
        buffers = dict(self.named_buffers())
        return sum(
            int(buffers[mask].sum()) * positions.get(name.rpartition(">")[2], 1) for name, mask in self.masks().items()
        )


@torch.no_grad()
def active(network: Network) -> dict[str, Tensor]:
    """For every parameter, a boolean tensor of its shape: True where it is active."""
    buffers = dict(network.named_buffers())
    masks = network.masks()
    return {
        name: buffers[masks[name]].bool() if name in masks else torch.ones_like(p, dtype=torch.bool)
        for name, p in network.named_parameters()
    }
