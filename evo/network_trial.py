"""One network's whole life as a trial of Ray Tune.

The life is in the run folder: a trial that is killed and started again takes it up where its last commit left it, and
Tune's own checkpoints serve only PBT, which pauses networks and has one go on from a copy of another.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray import tune

from evo import complaints, plugins, replica
from evo.config import Config, ConfigError
from evo.life import length
from evo.pool import RayPool
from evo.population import score
from evo.rank_pool import RankPool
from evo.recorder import read_table
from evo.settings import build
from evo.shipping import ShippedTask
from evo.task import Task
from evo.transient import TransientError, transient
from evo.trials import TrialRunner
from evo.workers import InProcess
from search_spaces import checkpoint

ORIGIN = "origin.json"


class Life(Protocol):
    """What a trial needs of `grower.Grower`."""

    @property
    def done(self) -> bool: ...

    def advance(self) -> dict[str, float | int | str | bool]: ...

    def close(self) -> None: ...


Begin = Callable[[Config, Task, Path, str, int, str | None, TrialRunner], Life]


def grower(
    config: Config, task: Task, folder: Path, network: str, generation: int, parent: str | None, runner: TrialRunner
) -> Life:
    from evo.grower import Grower
    from evo.ray_metrics import RayMetrics, failed

    run = Path(replica.address(folder).partition("?")[0]).name
    life = Grower(config, task, folder, network, generation, parent, runner)
    life.watch(RayMetrics(run, network), lambda: failed(run, network))
    return life


@dataclass(frozen=True)
class Common:
    """What all trials of a search share. reference: (the `ShippedTask` in the object store,), boxed so that it travels
    as a reference. workers: or ranks, where there are several. claim: of each of these. price: nats a parameter, of
    the score. store: address of the run where it is in a bucket; every process then has a folder of its own.
    """

    config: Config
    folder: Path
    reference: tuple[Any]
    device: str
    workers: int
    ranks: int
    claim: dict[str, float]
    price: float
    begin: Begin
    store: str | None = None


class NetworkTrial(tune.Trainable):
    """Its Tune config: {"birth": the fields of a `population.Birth`}."""

    def setup(self, config: dict[str, Any], common: Common | None = None) -> None:
        assert common is not None
        # Sums depend on the number of threads that share them, so it is the same everywhere.
        torch.set_num_threads(1)
        self._common, self._folder = common, common.folder
        self._opened = contextlib.ExitStack()
        if common.store is not None:
            self._folder = self._opened.enter_context(replica.temporary(common.store))
        shipped: ShippedTask = ray.get(common.reference[0])
        device = torch.device(common.device)
        self._task = shipped.unpacked(device)
        self._pool: RayPool | None = None
        if common.workers:
            kind = RankPool if common.ranks > 1 else RayPool
            self._pool = kind(self._task, common.reference[0], common.workers, device, common.claim)
        self._runner: TrialRunner = self._pool or InProcess(self._task)
        self._life: Life | None = None
        self._origin: dict[str, Any] | None = None  # where a network that goes on from a copy comes from

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._close_life()
        self._origin = None
        return True

    def step(self) -> dict[str, Any]:
        try:
            if self._life is None:
                self._life = self._open()
            update = {} if self._life.done else self._life.advance()
            done = self._life.done
        except ray.exceptions.RayError:
            raise  # lost workers or nodes: Tune tries again
        except Exception as error:  # whatever it is, a second try would come to the same: the search is to end with it
            return {"done": True, "mistake": portable(error), "clock": 0, "score": float("nan")}
        birth = self.config["birth"]
        about = {"network": birth["network"], "generation": birth["generation"], "parent": self._parent}
        return {"done": done, "update": {**about, **update}, **self._judged(update)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copies the newest snapshot, which describes itself, and says which one it is."""
        network = self._network
        newest = _snapshots(self._folder, network)[-1]
        checkpoint.copy(self._folder / "snapshots" / network / newest, Path(checkpoint_dir))
        origin = {"parent": f"{network}/{newest}", "clock": self._clock()}
        Path(checkpoint_dir, ORIGIN).write_text(json.dumps(origin), encoding="utf-8")

    def load_checkpoint(self, checkpoint_dir: Any) -> None:
        """After a pause the network goes on by itself; a network of another name begins from the copy."""
        self._close_life()
        origin = json.loads(Path(checkpoint_dir, ORIGIN).read_text(encoding="utf-8"))
        network, _, _ = str(origin["parent"]).partition("/")
        self._origin = None if network == self._network else origin
        place = self._folder / "snapshots" / str(origin["parent"])
        if not place.exists():
            shutil.copytree(checkpoint_dir, place, ignore=shutil.ignore_patterns(ORIGIN, ".*"))

    def cleanup(self) -> None:
        self._close_life()
        if self._pool is not None:
            self._pool.close()
        self._opened.close()

    # --- one life

    def _open(self) -> Life:
        birth, network = self.config["birth"], self._network
        if self._common.store is None and not self._folder.is_dir():
            # A node that joined after the others were looked over must not write a record that nobody sees.
            raise ConfigError(
                f"out: expected a folder that every node sees, but {socket.gethostname()} does not see "
                f"{str(self._common.folder)!r}; mount it there, or write --out s3://BUCKET/runs"
            )
        parent: str | None = birth["parent"]
        config = build(self._common.config.model_dump(), birth["settings"])
        if self._origin is not None:
            parent, config = str(self._origin["parent"]), _remainder(config, int(self._origin["clock"]))
        replica.refresh(self._folder, network)
        begun = read_table(self._folder, network).slice(0, 1).to_pylist()
        if begun:
            # A life that has begun keeps its settings, whoever suggested them; how it is recorded is no part of them.
            kept = Config.model_validate_json(begun[0]["config"])
            config, parent = kept.model_copy(update={"record": config.record}), begun[0]["parent"]
        plugins.check(config)
        self._config, self._parent = config, parent
        generation = int(birth["generation"])
        return self._common.begin(config, self._task, self._folder, network, generation, parent, self._runner)

    @property
    def _network(self) -> str:
        return str(self.config["birth"]["network"])

    def _clock(self) -> int:
        """Cycles behind this network and those that it was copied from, by the newest snapshot."""
        before = self._common.config.growth.cycles - self._config.growth.cycles
        return before + int(_snapshots(self._folder, self._network)[-1])

    def _judged(self, update: Mapping[str, Any]) -> dict[str, float]:
        """What ASHA and PBT go by."""
        if "validation_information_nats" not in update:
            return {"clock": self._clock(), "score": float("nan")}
        before = self._common.config.growth.cycles - self._config.growth.cycles
        information, parameters = float(update["validation_information_nats"]), int(update["active_parameters"])
        return {"clock": before + int(update["cycle"]), "score": score(information, parameters, self._common.price)}

    def _close_life(self) -> None:
        if self._life is not None:
            self._life.close()
        self._life = None


def _remainder(config: Config, clock: int) -> Config:
    """The settings of a life that goes on from a copy of one which is `clock` cycles old: what is left of the plan."""
    share = clock / config.growth.cycles
    left = max(1, config.growth.cycles - clock)
    e = config.economy
    price = e.price * (e.final_price / e.price) ** min(share, 1.0)
    return build(config.model_dump(), {**length(config, left), "economy.price": price})


def _snapshots(folder: Path, network: str) -> list[str]:
    """Names of the committed snapshots, oldest first."""
    rows = read_table(folder, network).select(["kind", "snapshot"]).to_pylist()
    return [str(row["snapshot"]) for row in rows if row["kind"] == "snapshot"]


def portable(error: Exception) -> Exception:
    """The error in a form that surely pickles: a user's mistake as one line, a fault of ours with its trace."""
    told: Exception = RuntimeError(f"{type(error).__name__}: {error}")
    if isinstance(error, OSError):
        told = OSError(*error.args)
    elif isinstance(error, ValueError):
        told = (TransientError if transient(error) else ValueError)(str(error))
    if isinstance(told, RuntimeError) or not complaints.ours(error) or os.environ.get("MERISTEM_TRACEBACK") == "1":
        told.add_note(traceback.format_exc())
    return told
