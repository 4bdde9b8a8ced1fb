"""Birth: the seed that a config asks for, checked before it takes memory, with weights from elsewhere if it says so."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

from torch import Tensor

from evo import resolution
from evo.config import Config, ConfigError
from evo.task import Task
from search_spaces import transfer
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import seed


def seeded(config: Config, task: Task, network: str, x: Tensor) -> tuple[Network, str]:
    """The seed of a network of this name, and what is to be said of it (empty: nothing), also on standard error.

    x: training samples, for what measures them: in the blocks in which the network will see them first. Raises
    ValueError naming the setting that cannot be.
    """
    _check_size(config, task)
    side = resolution.scale(config.training.scales, 0, 1)
    if task.picture is not None and side > 1:
        x = resolution.block_means(x, task.picture, side)
    rng = keyed(config.seed, network, "seed")
    body = seed(config.network.model_dump(), task.shape, task.picture, task.outputs, rng, x.cpu())
    start, most = config.network.start, config.growth.max_parameters
    if start is None:
        return body, ""
    said = f"began with weights from {start}: {transfer.start(body, Path(start))}"
    if body.count() > most:
        raise ConfigError(
            f"network.start: {start} makes a seed of {body.count():,} active parameters, growth.max_parameters allows "
            f"{most:,}; write a higher growth.max_parameters, or a smaller source"
        )
    print(f"evo: {network} {said}", file=sys.stderr, flush=True)
    return body, said


def _check_size(config: Config, task: Task) -> None:
    """A seed that is larger than a network may ever get is refused before memory is taken for it."""
    if config.network.family != "mlp":
        return
    sizes = [math.prod(task.shape), *config.network.hidden, task.outputs]
    wanted = config.network.density * sum(p * q for p, q in itertools.pairwise(sizes))
    if wanted > config.growth.max_parameters:
        raise ConfigError(
            f"network.hidden: {list(config.network.hidden)} at density {config.network.density:g} makes a seed of "
            f"about {wanted:,.0f} parameters, growth.max_parameters allows {config.growth.max_parameters:,}; "
            "write fewer units, a lower network.density, or a higher growth.max_parameters"
        )
