"""The search: a population of networks under Ray Tune, one trial a network.

Tune's own files are scratch. How far a search has come is in the events, and resuming is running it again on the same
folder: networks that have ended are told of at once, the others take up their lives.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from evo import causes, cluster, footprint, live, placement, ray_metrics, replica, schedulers
from evo.algorithms import ALGORITHMS
from evo.census import Census
from evo.config import Config, ConfigError, UnavailableError
from evo.losses import Losses
from evo.network_trial import Begin, Common, NetworkTrial, grower
from evo.placement import Plan
from evo.pool import NOTICE_SECONDS, full, gave_up
from evo.population import name_of
from evo.progress import Progress
from evo.shipping import ShippedTask
from evo.task import Task
from evo.workers import device_of
from tournaments import economy

CREATION_FAILED = "error raised in its creation task"
"""What Ray says where an actor could not even be made, which is a fault of the installation, not of a network."""

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one is not silent when told to be
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "1e9",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def run_search(
    config: Config,
    task: Task,
    folder: Path,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    begin: Begin = grower,
) -> None:
    """Runs or resumes the search in `folder` until its networks are done or `stop` says so; what is done is kept.

    An exception from `progress` stops it as cleanly, and is raised again. Raises ConfigError where the machine is too
    small for what is asked, and ValueError or OSError for what a network met and no second try would mend.
    """
    # Unless one GPU was asked for by its number, networks are spread over all of them.
    device = torch.device(config.device if config.device.startswith("cuda") else device_of(task).type)
    census = Census(Path(folder).absolute(), progress)
    if not census.complete(config.search.networks):
        if not ray.is_initialized():
            progress({"stage": "note", "text": "starting Ray ..."})
        with cluster.session(device):
            nodes = cluster.nodes(device)
            need = footprint.settled(config, task, nodes, census.folder)
            plan = placement.plan(nodes, config, device.type, need, begun=bool(census.begun()))
            with _environment(plan):
                _run(config, task, device, plan, census, stop, begin)
    if census.broken is not None:
        raise census.broken


def _run(
    config: Config,
    task: Task,
    device: torch.device,
    room: Plan,
    census: Census,
    stop: Callable[[], bool],
    begin: Begin,
) -> None:
    price = economy.price(1.0, len(task.splits["train"]), config.economy.price, config.economy.final_price)
    data = (ray.put(ShippedTask.of(task)),)
    found = replica.of(census.folder)
    common = Common(
        config, census.folder, data, device.type, room.processes, room.ranks, room.bundle(), price, begin,
        None if found is None else found.store.uri,
    )  # fmt: skip
    claim = tune.PlacementGroupFactory(room.bundles(), strategy=room.strategy)
    trainable = tune.with_resources(tune.with_parameters(NetworkTrial, common=common), claim)
    for last in (*[False] * schedulers.MAX_FAILURES, True):
        plan = schedulers.plan(config, task, census, price)
        _fit(trainable, plan, config, room, census, stop, last)
        if plan.searcher is not None or census.broken is not None or stop():
            return
        # PBT has no searcher that could ask again for a network whose trial Tune gave up.
        known = {name_of(number) for number in range(config.search.networks)} | census.begun().keys()
        if all(census.life(network) is not None for network in known):
            return


def _fit(
    trainable: Any, plan: schedulers.Plan, config: Config, room: Plan, census: Census, stop: Callable[[], bool],
    last: bool,
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory(**_scratch(config, census.folder)) as scratch:
        tune.Tuner(
            trainable,
            param_space=plan.space,
            tune_config=tune.TuneConfig(
                search_alg=plan.searcher, scheduler=plan.scheduler, num_samples=plan.samples, reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
                max_concurrent_trials=room.at_once if room.limited else None,
            ),
            run_config=tune.RunConfig(
                name="search", storage_path=scratch, verbose=0,
                # By itself Tune would have every network leave a copy at its end, where its own node alone sees it.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[Listener(census, plan.searcher, last), Waiter(census, room, config.wait)],
                failure_config=tune.FailureConfig(max_failures=schedulers.MAX_FAILURES),
                stop=UntilStopped(census, stop),
            ),
        ).fit()  # fmt: skip


def _scratch(config: Config, folder: Path) -> dict[str, Any]:
    """Where Tune may write. What passes from network to network (PBT's copies) must be read on other nodes, so it lies
    where the runs do.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if ALGORITHMS[config.search.algorithm].scheduler != "pbt" or len(alive) == 1:
        return {"prefix": "evo-tune-"}
    if replica.of(folder) is not None:
        raise ConfigError(
            f"search.algorithm: {config.search.algorithm} passes copies between {len(alive)} nodes, which takes a "
            "folder that all of them see, got a bucket; write --out with a mounted folder, or another algorithm"
        )
    return {"prefix": ".tune-", "dir": folder.parent}


class Listener(tune.Callback):
    """Hears what trials report."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()  # Tune pickles it into its scratch folder, where nobody looks for it

    def __init__(self, census: Census, asker: schedulers.Asker | None, last: bool) -> None:
        """last: what Tune gives up now is not tried once more."""
        self._census, self._asker, self._last = census, asker, last
        self._networks: dict[str, str] = {}
        self._losses = Losses()

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        for network in self._losses.look():
            self._census.note(f"{network}'s process could not be reached: {causes.MACHINE_LOST}; it is not held to it")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if result.get("mistake") is not None:
            self._census.broken = self._census.broken or result["mistake"]
            return
        update = result["update"]
        now, before = update["network"], self._networks.get(trial.trial_id)
        if before not in (None, now) and self._census.life(before) is None:
            self._census.end(before, "finished", f"gave way to {now}, which goes on from {update['parent']}")
        self._networks[trial.trial_id] = now
        self._census.tell({**update, "done": result["done"]})

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        network = trial.config["birth"]["network"]
        cause = causes.of(_last_error(trial))
        self._losses.died(trial, network, cause)
        live.failure(replica.address(self._census.folder), network, cause, "it goes on from its last commit")
        ray_metrics.failed(Path(self._census.folder).name, network)
        self._census.note(f"{network}'s process died ({cause}); it goes on from its last commit")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Where Tune tries no more."""
        told = Path(trial.error_file).read_text(encoding="utf-8")
        if CREATION_FAILED in told:
            self._census.broken = self._census.broken or RuntimeError(told)
            return
        network, cause = trial.config["birth"]["network"], causes.of(_last_error(trial))
        over = self._census.life(network) is not None
        for_good = trial.num_failures > schedulers.MAX_FAILURES
        if self._asker is None:
            again = not (for_good or self._last)
        else:
            again = self._asker.broken_off(for_good, causes.machines(cause), over)
        then = "its life was over" if over else "it is started again" if again else "given up"
        live.failure(replica.address(self._census.folder), network, cause, then)
        if over:
            return
        if again:
            self._census.note(f"{network}'s process died ({cause}) before it was at work; it is started again")
            return
        self._census.end(network, "failed", f"its process died {trial.num_failures} times")


class Waiter(tune.Callback):
    """Says once that a cluster is full of others' work, and gives up after `wait` seconds without a network at work."""

    def __init__(self, census: Census, plan: Plan, wait: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._census, self._plan, self._wait, self._clock = census, plan, wait, clock
        self._since: float | None = None
        self._said = False
        self._before = _placed()

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()  # as above

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        states = {trial.status for trial in trials}
        if "PENDING" not in states or "RUNNING" in states:
            self._since, self._said = None, False
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        waited = now - self._since
        if waited >= self._wait:
            self._census.broken = self._census.broken or UnavailableError(gave_up(self._plan, self._wait))
        elif waited >= NOTICE_SECONDS and not self._said and not _placed() - self._before:
            # What has its place is only slow to start.
            self._said = True
            self._census.note(full(self._plan))


def _placed() -> set[str]:
    """Ids of the placement groups that have their resources."""
    table: dict[str, dict[str, Any]] = ray.util.placement_group_table()
    return {key for key, group in table.items() if group["state"] == "CREATED"}


class UntilStopped(tune.Stopper):
    """Ends all trials, each between two cycles, once a stop is asked for or the search is broken."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()  # as above

    def __init__(self, census: Census, stop: Callable[[], bool]) -> None:
        self._census, self._stop = census, stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._census.broken is not None or self._stop()


def _last_error(trial: Any) -> str:
    """What Tune wrote of the latest death."""
    try:
        told = Path(trial.error_file).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return "no cause was told"
    return told.rpartition("Failure # ")[2]


@contextmanager
def _environment(plan: Plan) -> Iterator[None]:
    # As many trials may be on their way as can run: else each would wait for the one before it to have started.
    wanted = {**_ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(plan.at_once)}
    wanted = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name, None)
