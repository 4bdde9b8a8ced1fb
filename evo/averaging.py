"""The average of a run's last weights, which is what a fork is judged by where `tournament.average` asks for it.

At a rate that still falls, the last weights of a fork wander about where it is going, and two forks wander apart: that
is most of the noise between seeds. The average over the later steps does not (Polyak & Juditsky 1992).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from search_spaces.network import Network

STRIDE = 5
"""Steps between two weights that enter the average: neighbours say almost the same."""


class Average:
    """share: of so many steps, the last of them, that enter; 0 for none. stops: after how many steps one is due."""

    def __init__(self, steps: int, share: float) -> None:
        self.stops = tuple(range(steps, int(steps * (1 - share)), -STRIDE))[::-1] if share > 0 else ()
        self.total: dict[str, Tensor] = {}

    def look(self, done: int, parameters: Mapping[str, Tensor]) -> None:
        """Take the weights in that are due after so many steps, if any are."""
        if done in self.stops:
            for name, p in parameters.items():
                value = p.detach()
                self.total[name] = self.total[name] + value if name in self.total else value.clone()

    def weights(self) -> dict[str, Tensor] | None:
        """By parameter name, in its shape; None where nothing was asked for."""
        return {name: total / len(self.stops) for name, total in self.total.items()} if self.total else None


@torch.no_grad()
def put(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Give the network these weights. Running statistics of a normalisation stay those of the last step."""
    for name, p in network.named_parameters():
        p.copy_(weights[name])
