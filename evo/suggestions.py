"""Suggestions: what a search varies of a network's settings, within the ranges that the config gives."""

from __future__ import annotations

from typing import Any

import optuna

from evo.config import Config
from evo.population import Ground
from search_spaces.randomness import keyed
from search_spaces.spaces import density_for

optuna.logging.set_verbosity(optuna.logging.ERROR)

Range = optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution
Space = dict[str, Range]


def growth_space(config: Config) -> Space:
    search, float_ = config.search, optuna.distributions.FloatDistribution
    return {
        "training.learning_rate": float_(*search.learning_rate, log=True),
        "economy.final_price": float_(*search.final_price, log=True),
        "growth.stake": float_(*search.stake),
    }


def growth_settings(config: Config) -> dict[str, float]:
    """What `growth_space` ranges over, as this config has it."""
    return {
        "training.learning_rate": config.training.learning_rate,
        "economy.final_price": config.economy.final_price,
        "growth.stake": config.growth.stake,
    }


def seed_space(config: Config) -> Space:
    """What is searched of the seed's shape; nothing of it where the config settles it."""
    ranges = {"hidden": config.search.hidden, "seed_parameters": config.search.seed_parameters}
    return {name: optuna.distributions.IntDistribution(*range_) for name, range_ in ranges.items() if range_}


def suggest(ground: Ground, trial: optuna.Trial, parent: str | None) -> dict[str, Any]:
    """Settings of a network. A child has its parent's shape: only what rules its growth is left to choose."""
    settings = {name: _suggest(trial, name, space) for name, space in growth_space(ground.config).items()}
    return settings if parent is not None else settings | suggest_seed(ground, trial)


def drawn(ground: Ground, network: str) -> dict[str, Any]:
    """Settings at random, by the network's name alone."""
    sampler = optuna.samplers.RandomSampler(seed=int(keyed(ground.config.seed, "drawn", network).integers(2**31)))
    return suggest(ground, optuna.create_study(sampler=sampler).ask(), ground.parent)


def sampler_seed(config: Config) -> int:
    return int(keyed(config.seed, "optuna").integers(2**31))


def suggest_seed(ground: Ground, trial: optuna.Trial) -> dict[str, Any]:
    """Units of every hidden layer, and the density at which the seed has the parameters that were suggested; each only
    where it is searched.
    """
    config = ground.config
    found = {name: _suggest(trial, name, space) for name, space in seed_space(config).items()}
    hidden, settings = list(config.network.hidden), dict[str, Any]()
    if "hidden" in found:
        settings["network.hidden"] = hidden = [int(found["hidden"])] * len(hidden)
    if "seed_parameters" in found:
        wanted = int(found["seed_parameters"])
        settings["network.density"] = density_for(ground.inputs, tuple(hidden), ground.outputs, wanted)
    return settings


def _suggest(trial: optuna.Trial, name: str, space: Range) -> float | int:
    if isinstance(space, optuna.distributions.IntDistribution):
        return trial.suggest_int(name, space.low, space.high)
    return trial.suggest_float(name, space.low, space.high, log=space.log)
