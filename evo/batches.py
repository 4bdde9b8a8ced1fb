"""Which samples a training step sees, and at what learning rate: shuffled epochs and a cosine.

n samples, b batch, k steps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evo.config import TrainingConfig


def batch_orders(n: int, steps: int, batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(k, b): shuffled epochs end to end. A batch larger than the data is cut to the data."""
    batch = min(batch, n)
    epochs = math.ceil(steps * batch / n)
    order = np.concatenate([rng.permutation(n) for _ in range(max(epochs, 1))])
    return order[: steps * batch].reshape(steps, batch)


def jittered(orders: NDArray[np.int64], n: int, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The same batches with `share` of their places drawn anew."""
    swap = rng.random(orders.shape) < share
    return np.where(swap, rng.integers(0, n, orders.shape), orders)


def cosine_rates(config: TrainingConfig, start: int, steps: int, total: int) -> NDArray[np.float64]:
    """(k,): the learning rate at steps start … start+k−1 of a life of `total`."""
    progress = np.minimum(np.arange(start, start + steps) / max(total, 1), 1.0)
    floor = config.final_rate
    return np.asarray(config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * progress))))
