"""Origins: a snapshot of an earlier run that a new one goes on from, copied into the new run's folder.

The setting `network.parent` names it as RUN, whose best network is meant, or RUN:NETWORK/SNAPSHOT. The copy needs no
other file and lies among the new run's own snapshots, under a network called RUN.NETWORK: whatever may start from a
snapshot of its own run may start from it, and the old run may be removed.

It differs from `network.start` in what is taken: here the network itself, with its shape, masks, optimiser state and
peak of parameters; there weights alone, by matching names, into a seed of the shape that the config says.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo import run_folder, stored_snapshots
from evo.config import Config, ConfigError
from evo.storage import is_remote

if TYPE_CHECKING:
    from evo.run import Run
    from evo.task import Task
    from search_spaces.checkpoint import Checkpoint

_NAME = r"[A-Za-z_][A-Za-z0-9_.\-]*"
_WRITTEN = re.compile(rf"(?P<run>.+?)(?::(?P<network>{_NAME})/(?P<snapshot>[A-Za-z0-9_][A-Za-z0-9_.\-]*))?")


@dataclass(frozen=True)
class Origin:
    """run: a folder, a name, or the URI of a store. network, snapshot: empty for the run's best."""

    run: str
    network: str
    snapshot: str

    @staticmethod
    def read(written: str) -> Origin:
        """Raises ConfigError where it names no run."""
        match = _WRITTEN.fullmatch(written)
        if match is None:
            raise ConfigError(
                f"network.parent: expected RUN or RUN:NETWORK/SNAPSHOT, got {written!r}; write for example "
                "first:n003/000012"
            )
        return Origin(match["run"], match["network"] or "", match["snapshot"] or "")

    @property
    def name(self) -> str:
        """Of the run, as part of a network's name."""
        last = self.run.partition("?")[0].rstrip("/").rpartition("/")[2]
        return re.sub(r"[^A-Za-z0-9_.\-]", "-", last).lstrip(".-") or "run"

    @property
    def place(self) -> str:
        """NETWORK/SNAPSHOT of the copy, under the new run's snapshots."""
        return f"{self.name}.{self.network}/{self.snapshot}"


def place_of(settled: str | None) -> str | None:
    """Where the copy of a settled `network.parent` lies, as a child names its parent; None without one."""
    return None if settled is None else Origin.read(settled).place


def settled(config: Config, task: Task, digest: str) -> tuple[Config, str]:
    """The config with the snapshot that `network.parent` means written out, from whatever folder it is read again, and
    what is to be said of it (empty: nothing). digest: of the task's data, as run.json has it.

    Raises ConfigError or RunError where there is no such snapshot, it does not fit the task, or this run's held-out
    data would hold samples that it has learned from.
    """
    written = config.network.parent
    if written is None:
        return config, ""
    from evo.run import Run

    origin = Origin.read(written)
    run = Run.open(run_folder.find(origin.run, config.out))
    if not origin.network:
        best = run.best
        origin = Origin(origin.run, best.network, best.snapshot)
    shots = run.events[run.events["kind"] == "snapshot"]
    if not ((shots["network"] == origin.network) & (shots["snapshot"] == origin.snapshot)).any():
        raise ConfigError(
            f"network.parent: run {run.name} has no snapshot {origin.network}/{origin.snapshot}; write one of "
            f"{_some(shots)}, or {origin.run} alone for its best"
        )
    place = run.address if is_remote(run.address) else _absolute(run.folder)
    origin = Origin(place, origin.network, origin.snapshot)
    check_fit(_load(origin), origin, task, config)
    said = _check_splits(run, config, digest)
    written = f"{origin.run}:{origin.network}/{origin.snapshot}"
    return config.model_copy(update={"network": config.network.model_copy(update={"parent": written})}), said


def bring(folder: Path, config: Config) -> None:
    """Copies the snapshot of a settled `network.parent` into the new run, unless it is there. Whole or not at all."""
    if config.network.parent is None:
        return
    from search_spaces import checkpoint

    origin = Origin.read(config.network.parent)
    network, _, snapshot = origin.place.partition("/")
    stored_snapshots.fetch(folder, network, snapshot)
    target = Path(folder) / "snapshots" / origin.place
    if target.is_dir():
        stored_snapshots.push_origin(folder, network, snapshot)
        return
    found = _load(origin)
    lineage = [entry if "." in entry.partition("/")[0] else f"{origin.name}.{entry}" for entry in found.lineage]
    checkpoint.save(target, found.network, found.state, found.extra, lineage, packed=True)
    stored_snapshots.push_origin(folder, network, snapshot)


def check_fit(found: Checkpoint, origin: Origin, task: Task, config: Config) -> None:
    """Raises ConfigError where the network does not fit the task, or is larger than one may get."""
    network = found.network
    inputs, outputs = math.prod(network.input_shape()), network.axis_sizes()["output"]
    kind: Any = found.extra.get("task", {}).get("kind", task.kind)
    has = (inputs, outputs, kind)
    wanted = (math.prod(task.shape), task.outputs, task.kind)
    where = f"network.parent: {origin.run}:{origin.network}/{origin.snapshot}"
    if has != wanted:
        raise ConfigError(
            f"{where}: expected {wanted[0]} inputs and {wanted[1]} outputs of a {wanted[2]}, as task {task.name} has, "
            f"got {has[0]} and {has[1]} of a {has[2]}; name a run on such data, or leave it out"
        )
    if network.count() > config.growth.max_parameters:
        raise ConfigError(
            f"{where}: expected at most growth.max_parameters = {config.growth.max_parameters:,} active parameters, "
            f"got {network.count():,}; write a higher growth.max_parameters, or a smaller snapshot"
        )


def _check_splits(run: Run, config: Config, digest: str) -> str:
    """Other splits of the same data would put samples that the network has learned from into the test set."""
    if run.info.get("data_sha256") == digest:
        return ""
    seed, path = run.info.get("seed"), config.data.path and str(Path(config.data.path).absolute())
    data = {**config.data.model_dump(mode="json"), "path": path}
    same = run.info.get("task") == config.task and run.setting("data") == data
    if same and seed != config.seed:
        raise ConfigError(
            f"network.parent: run {run.name} learned from the same data split by seed {seed}, so this run's test set "
            f"would hold samples that its network has learned from; write seed: {seed}"
        )
    return (
        f"{run.name} learned from other data: where it shares samples with this run's held-out data, its figures are "
        "too good"
    )


def _load(origin: Origin) -> Checkpoint:
    from evo.front import snapshot_folder
    from search_spaces import checkpoint

    home = run_folder.find(origin.run) if is_remote(origin.run) else Path(origin.run)
    try:
        return checkpoint.load(snapshot_folder(home, origin.network, origin.snapshot))
    except checkpoint.CheckpointError as err:
        raise ConfigError(f"network.parent: {err}") from err


def _absolute(folder: Path) -> str:
    return str(Path(folder).absolute())


def _some(shots: Any) -> str:
    names = [f"{n}/{s}" for n, s in zip(shots["network"], shots["snapshot"], strict=True)]
    return ", ".join(names[-3:]) or "none, it has no snapshot yet"
