"""Who learns from what: samples dealt out to train, growth, audit, validation and test, class by class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evo.config import DataConfig
from evo.task import SPLITS
from search_spaces.randomness import keyed

Indices = NDArray[np.int64]


def shares(config: DataConfig, held: bool) -> dict[str, float]:
    """Each split's share of the samples to be dealt, train last. held: the test split is given already."""
    parts = {"growth": config.growth / 2, "audit": config.growth / 2, "validation": config.validation}
    if not held:
        parts["test"] = config.test
    return {**parts, "train": 1.0 - sum(parts.values())}


def deal(classes: Indices, pool: Indices, parts: dict[str, float], seed: int) -> dict[str, Indices]:
    """For each split the samples dealt to it, in keyed order.

    classes: (n,) class of every sample (all 0 where there are no classes). pool: (m,) samples to deal. What rounding
    takes from one class it gives back with the next, and every split gets at least one sample of every class.
    """
    names = list(parts)
    member = np.full(classes.shape[0], -1, dtype=np.int64)
    owed = dict.fromkeys(names, 0.0)
    order = keyed("split", seed).permutation(pool)
    for label in np.unique(classes[pool]).tolist():
        mine = order[classes[order] == label]
        counts: dict[str, int] = {}
        for name in names[:-1]:
            want = parts[name] * len(mine) + owed[name]
            counts[name] = max(1, round(want))
            owed[name] = want - counts[name]
        while sum(counts.values()) >= len(mine):
            counts[max(counts, key=lambda name: counts[name])] -= 1
        counts[names[-1]] = len(mine) - sum(counts.values())
        assert min(counts.values()) >= 1, "the caller checks that every class has a sample for each split"
        member[mine] = np.repeat(np.arange(len(names)), [counts[name] for name in names])
    dealt = {name: order[member[order] == i] for i, name in enumerate(names)}
    return {name: dealt[name] for name in SPLITS if name in dealt}
