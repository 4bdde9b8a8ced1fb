"""Edits: what an action means for one network, as index maps and writes.

For each axis that is touched, a map *new slot -> old slot, -1 = fresh*, with multipliers where what a slot consumes or
sends on is scaled. `surgery.apply` is the only reader, and the only code that changes a tensor's shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FRESH = -1


@dataclass(frozen=True)
class IndexMap:
    """source: (new size,) int64, old slot or -1. consume: (new size,) float64 factor of weights that read this slot."""

    source: NDArray[np.int64]
    consume: NDArray[np.float64] | None = None

    @staticmethod
    def keep(size: int, drop: tuple[int, ...] = (), fresh: int = 0) -> IndexMap:
        """All `size` old slots in order less `drop`, then `fresh` new ones."""
        kept = np.setdiff1d(np.arange(size, dtype=np.int64), np.asarray(drop, dtype=np.int64))
        return IndexMap(np.concatenate([kept, np.full(fresh, FRESH, dtype=np.int64)]))


@dataclass(frozen=True)
class Write:
    """Values set after the gather, at flat positions of the new tensor.

    position: (m,) int64, value: (m,). fresh: whether these elements start anew (moments zero, age 0); a bias that takes
    over a folded constant keeps its moments.
    """

    position: NDArray[np.int64]
    value: NDArray[np.float64]
    fresh: bool = True


@dataclass(frozen=True)
class Edit:
    """blueprint: of the network after. maps: by axis, only those that change. writes: by tensor name, in order."""

    blueprint: dict[str, Any]
    maps: Mapping[str, IndexMap] = field(default_factory=dict)
    writes: Mapping[str, tuple[Write, ...]] = field(default_factory=dict)
