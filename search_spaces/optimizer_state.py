"""Optimiser state, element by element, in the shapes of the parameters, so that every edit carries it along."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.network import Network

ORIGINS = ("seed", "Connect", "Widen", "Insert", "Skip")
"""What made an element: the seed, or the action of that name. `OptimizerState.origin` holds the position in here."""


@dataclass(frozen=True)
class OptimizerState:
    """By parameter name, each of the parameter's shape.

    first, second: Adam's moments, float32. age: updates that this element has had, int32; its bias correction and
    warm-up follow it, not a global step. scale: factor on this element's update, beside any rule's, float32; 0 freezes
    it. origin: what made it, a position in ORIGINS, int8.
    """

    first: dict[str, Tensor]
    second: dict[str, Tensor]
    age: dict[str, Tensor]
    scale: dict[str, Tensor]
    origin: dict[str, Tensor]

    @staticmethod
    def fresh(network: Network) -> OptimizerState:
        """All elements new, as a seed's: moments 0, age 0, scale 1."""
        parameters = dict(network.named_parameters())
        return OptimizerState(
            first={k: torch.zeros_like(p, requires_grad=False) for k, p in parameters.items()},
            second={k: torch.zeros_like(p, requires_grad=False) for k, p in parameters.items()},
            age={k: torch.zeros(p.shape, dtype=torch.int32, device=p.device) for k, p in parameters.items()},
            scale={k: torch.ones_like(p, requires_grad=False) for k, p in parameters.items()},
            origin={k: torch.zeros(p.shape, dtype=torch.int8, device=p.device) for k, p in parameters.items()},
        )

    def parts(self) -> dict[str, tuple[dict[str, Tensor], float]]:
        """Each part by its name with the value that a fresh element takes."""
        return {
            "first": (self.first, 0.0),
            "second": (self.second, 0.0),
            "age": (self.age, 0),
            "scale": (self.scale, 1.0),
            "origin": (self.origin, 0),
        }


PARTS = tuple(field.name for field in dataclasses.fields(OptimizerState))
