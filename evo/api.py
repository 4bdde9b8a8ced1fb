"""Growing and searching from Python: `run = evo.grow("digits", seed=7)`; the commands are thin over it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evo import drive, origins, replica, run_folder
from evo.config import Config, ConfigError
from evo.progress import Progress, silent
from evo.settings import build, read_yaml

if TYPE_CHECKING:
    from evo.run import Run
    from evo.task import Task

Settings = Config | Mapping[str, Any] | str | os.PathLike[str] | None
IN_MEMORY = "arrays"
ONCE = "the test set was read once, when the run first ended: what is new on the front has no test figures"


def grow(
    task: Any = None,
    *,
    config: Settings = None,
    start_from: Run | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Grows one network and gives back its run.

    task: "digits", "mnist", "parity:N", "spirals", "table" (with data={"path": ..., "target": ...}), a pair of arrays
    (X, y), a frame and its target column (frame, "y"), or a dataset of (x, y) pairs. config: a Config, a mapping or a
    YAML file. settings: any of the config's keys, nested (training={"epochs": 40}) or dotted
    (**{"training.epochs": 40}); they win over config. start_from: the network to go on from, as a Run, its folder or
    name, of which the best is meant, or as "RUN:NETWORK/SNAPSHOT" (see `evo.origins`). progress: called with a mapping
    at the start and after every decision (see `evo.progress`).
    """
    return _launch("grow", task, config, _from(start_from, settings), progress or silent)


def search(
    task: Any = None,
    *,
    config: Settings = None,
    start_from: Run | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Grows a population of networks under Ray Tune and gives back its run. Takes what `grow` takes."""
    return _launch("search", task, config, _from(start_from, settings), progress or silent)


def resume(
    run: Run | str | os.PathLike[str],
    *,
    data: Any = None,
    out: str | os.PathLike[str] = "runs",
    workers: int | None = None,
    budget: float | None = None,
    address: str | None = None,
    networks: int | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    cycles: int | None = None,
    set_aside: str | None = None,
    trust: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Goes on where a run stopped, was killed or spent its budget; ends as an unbroken run would have.

    run: a Run, its folder, or its name in `out`. data: the arrays or dataset again, where the run began with such.
    workers, budget and address replace the run's own: none of them changes what is computed. set_aside: a network whose
    newest file of events, or newest snapshot, is damaged: what it held is lived again (see `evo.mending`). trust: the
    run is yours: import the plug-ins, and use the servers and files, that its run.json names.
    networks: of a search, in all, more than it was asked for. steps or epochs, and cycles: of another life of the one
    network of `grow`, from where its last one ended. Both are for runs that have ended too (see `evo.extension`).
    """
    from evo import extension, foreign, mending
    from evo.run import Run
    from evo.task import fingerprint

    opened = run if isinstance(run, Run) else Run.open(run_folder.find(run, out))
    if set_aside is not None:
        if replica.of(opened.folder) is not None:
            raise ConfigError(
                f"--set-aside: expected a run in a folder, got {opened.address}; remove the newest object "
                f"events/{set_aside}-… there, and resume without it: that is the same"
            )
        with run_folder.locked(opened.folder):
            mending.set_aside(opened.folder, set_aside)
    folder, info = Path(opened.folder), opened.info
    # Budget and address are a command's, not a run's: one that was spent, or is gone, must not end the next at once.
    held = replica.of(folder)
    changed = {"out": str(folder.parent) if held is None else held.out, "budget": budget, "address": address}
    changed |= {} if workers is None else {"workers": workers}
    if not isinstance(info.get("config"), dict):
        raise ConfigError(
            f"run: expected a section config in {str(folder / 'run.json')!r}, got {info.get('config')!r:.60}; "
            "put the file back from a copy of the run, or start a new one"
        )
    try:
        config = build(info["config"], changed)
    except ConfigError as err:
        raise ConfigError(f"{folder / 'run.json'}: {err}; or start a new run") from err
    if not trust:
        foreign.check_settings(config, info, folder)
    if config.task == IN_MEMORY and data is None:
        raise ConfigError(
            f"data: run {opened.name} learned from arrays in memory, which are not stored; "
            f"pass them again: evo.resume({str(folder)!r}, data=(X, y))"
        )
    _plug_in(str(info["kind"]), config)
    task = _load(config, data if config.task == IN_MEMORY else None)
    if info.get("data_sha256", fingerprint(task)) != fingerprint(task):
        raise ConfigError(
            f"data: run {opened.name} began with other data than {task.name} holds now; "
            "restore the file or folder as it was, or start a new run"
        )
    progress = progress or silent
    for caution in _cautions(opened):
        progress({"stage": "note", "text": caution, "lasts": True})
    if more := extension.More(networks, steps, epochs, cycles):
        with run_folder.locked(folder):
            opened = Run.open(folder)
            amended = extension.extended(opened, config, len(task.splits["train"]), more)
            run_folder.amend(folder, amended)
        config = build(amended["config"], changed)
        if opened.test is not None:
            progress({"stage": "note", "text": ONCE, "lasts": True})
    with _joined(str(info["kind"]), config, progress):
        return _carried_out(str(info["kind"]), config, task, folder, progress)


def settings_of(config: Settings) -> Mapping[str, Any]:
    """Whatever form a config comes in, as one layer of settings."""
    if config is None:
        return {}
    if isinstance(config, Config):
        # Only what was given: a search asks whether the shape of the seed was.
        return config.model_dump(exclude_unset=True)
    return config if isinstance(config, Mapping) else read_yaml(os.fspath(config))


def _from(start: Run | str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with the network to go on from."""
    if start is None:
        return settings
    return {
        **settings,
        "network.parent": os.fspath(start) if isinstance(start, str | os.PathLike) else str(start.address),
    }


def _launch(kind: str, task: Any, config: Settings, settings: Mapping[str, Any], progress: Progress) -> Run:
    from evo.task import fingerprint

    checked, loaded = _checked(kind, task, config, settings)
    checked, caution = origins.settled(checked, loaded, fingerprint(loaded))
    if caution:
        progress({"stage": "note", "text": caution, "lasts": True})
    with _joined(kind, checked, progress):
        return _carried_out(kind, _settled(checked, loaded), loaded, None, progress)


def _checked(kind: str, task: Any, config: Settings, settings: Mapping[str, Any]) -> tuple[Config, Task]:
    """The whole config and the data that it names, with all that can be checked before a run begins."""
    in_memory = task is not None and not isinstance(task, str)
    named = {} if task is None else {"task": IN_MEMORY if in_memory else task}
    checked = build(settings_of(config), named, settings)
    if in_memory != (checked.task == IN_MEMORY):
        raise ConfigError(f"task: {IN_MEMORY!r} means data in memory, and nothing else does; leave task out of config")
    _plug_in(kind, checked)
    return checked, _load(checked, task if in_memory else None)


def foresee(
    kind: str, task: Any = None, *, config: Settings = None,
    start_from: Run | str | os.PathLike[str] | None = None, progress: Progress | None = None, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """What `grow` or `search` (kind) would claim, where, and for how long, with the same arguments.

    Nothing is started but what measures, and no folder is made. Raises ConfigError as they would.
    """
    from evo import dry_run
    from evo.task import fingerprint

    checked, loaded = _checked(kind, task, config, _from(start_from, settings))
    checked, _ = origins.settled(checked, loaded, fingerprint(loaded))
    with _joined(kind, checked, progress or silent), drive.one_thread():
        return dry_run.plan(kind, checked, loaded)


def _carried_out(kind: str, config: Config, task: Task, folder: Path | None, progress: Progress) -> Run:
    """Here, or on the head of the cluster that was joined as a client."""
    if config.address is None or not config.address.startswith("ray://"):
        return drive.carry_out(kind, config, task, folder, progress)
    from evo import remote
    from evo.run import Run

    changed: dict[str, Any] = {"address": None}
    place: str | Path | None = None
    if folder is not None:
        # The driver stands elsewhere, in a folder of its own.
        held = replica.of(folder)
        place = folder.absolute() if held is None else held.store.uri
        changed |= {} if held is not None else {"out": str(folder.absolute().parent)}
    order = remote.Order(kind, config.model_copy(update=changed), place)
    return Run.open(remote.carry_out(order, task, progress))


@contextlib.contextmanager
def _joined(kind: str, config: Config, progress: Progress) -> Iterator[None]:
    """The cluster that was asked for, its nodes looked over; nothing where none was."""
    if config.address is None:
        yield
        return
    check_address(kind, config)
    # Ray takes a second to import: only those who want it pay.
    from evo import attached

    progress({"stage": "note", "text": f"joining {config.address} ..."})
    with attached.attached(config.address):
        attached.look_over(config, progress, remote=config.address.startswith("ray://"))
        yield


def check_address(kind: str, config: Config) -> None:
    """Raises ConfigError where a cluster is named that would have nothing to do."""
    if kind == "grow" and _elsewhere(config):
        raise ConfigError(
            "device: expected a GPU in the process of `evo grow` itself, which holds the network, but PyTorch sees "
            "none here; run it on a node that has one, or write device: cpu"
        )
    alone = config.workers == 0 and config.training.ranks == 1
    if kind == "grow" and alone and config.address is not None:
        raise ConfigError(
            f"address: nothing of `evo grow` runs on {config.address} without trial workers, got workers: 0; "
            "write --workers 2"
        )


def _plug_in(kind: str, config: Config) -> None:
    """Loads the plug-ins, and checks that every mechanism that the config names is one, wherever it will be asked."""
    from evo import plugins

    if kind == "search":
        from evo import algorithms

        algorithms.objective(config)
    plugins.load(config)
    plugins.check(config, elsewhere=kind == "search" or config.workers > 0)


def _load(config: Config, in_memory: Any) -> Task:
    """The data on the device it will be learned on. Checks all that can be checked before a folder is made."""
    from evo import data, device
    from search_spaces.families import FAMILIES

    if config.network.family not in FAMILIES:
        raise ConfigError(
            f"network.family: expected one of {', '.join(FAMILIES)}, got {config.network.family!r}; "
            f"write for example network.family: {next(iter(FAMILIES))}"
        )
    place = device.resolve("cpu" if _elsewhere(config) else config.device)
    task = data.load_task(config) if in_memory is None else data.from_arrays(in_memory, None, config)
    return task.to(place)


def _elsewhere(config: Config) -> bool:
    """Whether GPUs are asked for that only other nodes of a cluster have: a head seldom has one."""
    import torch

    return config.address is not None and config.device == "cuda" and not torch.cuda.is_available()


def _settled(config: Config, task: Task) -> Config:
    """The config as it must be read again later: on the same device, from whatever folder, on whatever machine."""
    path = config.data.path and str(Path(config.data.path).absolute())
    start = config.network.start and str(Path(config.network.start).absolute())
    out = config.out
    if config.address is not None and config.address.startswith("ray://") and "://" not in out:
        out = str(Path(out).absolute())  # the driver stands elsewhere
    data, network = (
        config.data.model_copy(update={"path": path}),
        config.network.model_copy(update={"start": start}),
    )
    place = task.splits["train"].x.device
    # Which GPU the data of this process lie on is no setting: networks and ranks are spread over all, unless one was
    # asked for by its number.
    device = config.device if _elsewhere(config) or config.device[-1:].isdigit() else place.type
    return config.model_copy(update={"device": device, "data": data, "network": network, "out": out})


def _cautions(run: Run) -> Iterator[str]:
    """What the user of a resumed run should know."""
    if run.test is not None and not run.finished:
        yield "the test set was read when this run first ended; what joins the front now has no test figures"
    now = {**run_folder.versions(), "processor": run_folder.processor()}
    told = run.info.get("versions")
    then = {**(told if isinstance(told, dict) else {}), "processor": run.info.get("processor")}
    for name in ("torch", "numpy", "scipy", "processor"):
        if then.get(name) not in (None, now.get(name)):
            yield f"begun with {name} {then[name]}, goes on with {now.get(name)}: results may differ in the last bits"
