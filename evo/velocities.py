"""The way that the weights have taken in a run, as the Gram matrix of its velocities.

W_1 … W_S: all active weights at equal distances. V_t = W_(t+1) − W_t. What is asked of a trajectory (stretch,
curvature, its subspace) depends only on the products V_s·V_t.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FEWEST = 3


class Velocities:
    """count: S snapshots of a run of so many steps, the last after the last; none where that is 0, or the run too
    short. stops: after how many steps each is due. active: boolean by parameter name.
    """

    def __init__(self, steps: int, count: int, active: Mapping[str, Tensor]) -> None:
        if count and count < FEWEST:
            raise ValueError(f"trajectory: expected at least {FEWEST} snapshots, or 0 for none, got {count}")
        stride = steps // (count - 1) if count else 0
        self.stops = tuple(steps - stride * i for i in reversed(range(count))) if stride else ()
        self.index = {name: on.reshape(-1).nonzero().view(-1) for name, on in active.items()} if stride else {}
        self.seen: list[Tensor] = []

    def look(self, done: int, parameters: Mapping[str, Tensor]) -> None:
        """Take the snapshot that is due after so many steps, if one is. A copy, as the weights go on changing."""
        if done in self.stops:
            parts = [parameters[name].detach().reshape(-1).index_select(0, at) for name, at in self.index.items()]
            self.seen.append(torch.cat(parts))

    def gram(self) -> NDArray[np.float64] | None:
        """(S−1, S−1) float64, or None where no snapshots were asked for, or the run had too few steps."""
        if not self.stops:
            return None
        velocities = torch.stack([b.double() - a.double() for a, b in zip(self.seen[:-1], self.seen[1:], strict=True)])
        return np.asarray((velocities @ velocities.T).cpu().numpy(), dtype=np.float64)
