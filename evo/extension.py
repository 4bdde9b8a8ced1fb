"""Extension: more budget for a run, also one that has ended. What is done stays as it is; run.json says what was added.

A search is given more networks: it goes on as if it had been asked for so many at first. The one network of `evo grow`
is given another life: a network of its own, which goes on from the last snapshot of the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from evo import stored_snapshots
from evo.config import Config, ConfigError
from evo.life import Plan, length
from evo.population import name_of
from evo.settings import build

if TYPE_CHECKING:
    from evo.run import Run


@dataclass(frozen=True)
class More:
    """networks: of a search, in all. steps or epochs, and cycles: of another life."""

    networks: int | None = None
    steps: int | None = None
    epochs: float | None = None
    cycles: int | None = None

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())

    @property
    def life(self) -> bool:
        """Whether another life is asked for."""
        return any(value is not None for value in (self.steps, self.epochs, self.cycles))


def extended(run: Run, config: Config, samples: int, more: More) -> dict[str, Any]:
    """The run.json that is to be. samples: in the training split. Raises ConfigError for what cannot be added."""
    if run.info["kind"] == "search":
        return _more_networks(run, config, more)
    return _another_life(run, config, samples, more)


def lives(info: Mapping[str, Any], config: Config) -> list[tuple[str, Config]]:
    """The lives of a run of one network, each with its name and its config, in order. Raises ConfigError."""
    found = [(name_of(0), config)]
    for extension in extensions(info):
        found.append((name_of(len(found)), build(config.model_dump(), extension.get("settings") or {})))
    return found


def extensions(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What was added to a run, in order. Raises ConfigError where run.json is damaged there."""
    found = info.get("extensions", [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ConfigError(
            f"run.json: expected a list of objects as extensions, got {found!r:.60}; put the file back from a copy of "
            "the run"
        )
    return found


def _more_networks(run: Run, config: Config, more: More) -> dict[str, Any]:
    from evo.algorithms import ALGORITHMS

    asked, before, algorithm = more.networks, config.search.networks, ALGORITHMS[config.search.algorithm]
    if more.life or asked is None:
        raise ConfigError(
            f"run: {run.name} is a search, whose lives are as long as they were begun; write --networks {2 * before}"
        )
    if asked < before:
        raise ConfigError(
            f"--networks: expected at least the {before} that {run.name} was asked for, got {asked}; "
            f"write --networks {2 * before}"
        )
    if asked == before:
        return dict(run.info)
    if algorithm.scheduler == "pbt":
        raise ConfigError(
            f"--networks: {run.name} is a population of pbt, all born at once, whose copies bear the names that more "
            f"networks would; start another search from it: evo search --from {run.name}"
        )
    if algorithm.parents == "any snapshot" and (gone := _gone(run)):
        raise ConfigError(
            f"--networks: children may start from any snapshot, and record.keep has removed {gone} of {run.name}'s at "
            f"its end; start another search from it: evo search --from {run.name}"
        )
    build(config.model_dump(), {"search.networks": asked})
    stored = run.info["config"]
    wanted = {**stored, "search": {**stored.get("search", {}), "networks": asked}}
    return {**run.info, "config": wanted, **_noted(run, {"networks": asked, "before": before})}


def _another_life(run: Run, config: Config, samples: int, more: More) -> dict[str, Any]:
    if more.networks is not None:
        raise ConfigError(
            f"run: {run.name} is one network, with no more beside it; write --cycles, --steps or --epochs for another "
            f"life, or evo search --from {run.name}"
        )
    if more.steps is not None and more.epochs is not None:
        raise ConfigError(f"--steps, --epochs: expected one of them, got {more.steps} and {more.epochs:g}")
    if more.steps is None and more.epochs is None:
        assert more.cycles is not None
        build({"growth.cycles": more.cycles})
        settings = length(config, more.cycles)
    else:
        wanted = {"training.steps": more.steps or 1, "training.epochs": more.epochs}
        share = Plan.of(build(config.model_dump(), wanted), samples).total / Plan.of(config, samples).total
        cycles = max(1, round(config.growth.cycles * share)) if more.cycles is None else more.cycles
        settings = {**wanted, "growth.cycles": cycles}
    build(config.model_dump(), settings)
    name = name_of(1 + len(extensions(run.info)))
    return {**run.info, **_noted(run, {"network": name, "settings": settings})}


def _noted(run: Run, what: Mapping[str, Any]) -> dict[str, Any]:
    told = {**what, "asked": datetime.now(UTC).isoformat(timespec="seconds")}
    return {"extensions": [*extensions(run.info), told]}


def _gone(run: Run) -> int:
    """Snapshots on record that are not there any more."""
    shots, kept = run.events[run.events["kind"] == "snapshot"], stored_snapshots.kept(run.folder)
    return sum((str(n), str(s)) not in kept for n, s in zip(shots["network"], shots["snapshot"], strict=True))
