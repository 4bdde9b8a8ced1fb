"""An instrument: a question, answered by jobs, kept in a folder of its own as numbers, a table and a picture.

instrument.json               what was asked for, on what, and once all jobs are done the result
jobs.jsonl                    every finished job (see `shelf`)
table.csv, table.parquet      the result's table
picture.png
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from evo import foreign, plugins, run_folder
from evo.config import Config, ConfigError
from evo.front import write_atomically
from evo.instruments import jobs
from evo.instruments.crew import Crew, OutOfTimeError, Told
from evo.instruments.jobs import Job
from evo.instruments.shelf import JOBS, Shelf
from evo.instruments.tables import Column
from evo.report import png
from evo.stopping import Interrupted, Stop
from evo.storage import is_remote
from evo.task import Task, fingerprint
from evo.workers import device_of

RECORD = "instrument.json"
ATTEMPTS = 1000


@dataclass(frozen=True)
class Request:
    """What is asked. options: the command's own, as JSON. seeds: how many, from the config's seed on."""

    kind: str
    config: Config
    options: Mapping[str, Any]
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"--seeds: expected a whole number ≥ 1, got {self.seeds}; write for example --seeds 3")
        margin = self.options.get("margin", 0.0)
        if not 0 <= margin < math.inf:
            raise ConfigError(f"--margin: expected nats, a number ≥ 0, got {margin:g}; write for example --margin .1")

    @property
    def each_seed(self) -> range:
        return range(self.config.seed, self.config.seed + self.seeds)

    def job(self, label: str, seed: int, change: Mapping[str, Any] | None = None, **more: Any) -> Job:
        return Job.of(label, seed, self.config, change, **more)

    def to_json(self) -> dict[str, Any]:
        """What must agree for two commands to share a folder: all but how many seeds there are."""
        settings = self.config.model_dump(mode="json")
        settings = {name: value for name, value in settings.items() if name not in jobs.APART}
        told = {"kind": self.kind, "task": self.config.task, "seed": self.config.seed, "options": dict(self.options)}
        return _json({**told, "config": settings})


@dataclass(frozen=True)
class Result:
    """summary: JSON. table: what is printed and kept, by `columns`. notes: lines under the table. files: more of them,
    by name. passed: whether what was examined is as it should be.
    """

    summary: dict[str, Any]
    table: pd.DataFrame
    columns: Sequence[Column]
    picture: Figure
    notes: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    passed: bool = True


@dataclass(frozen=True)
class Bench:
    """Where jobs are lived, with the first seed's data. run: outcomes in the order of the jobs."""

    task: Task
    crew: Crew

    def run(self, wanted: Sequence[Job]) -> list[jobs.Outcome]:
        return self.crew.run(wanted)


def conduct(
    request: Request, measure: Callable[[Request, Bench], Result], told: Told, seconds: float | None = None
) -> tuple[Path, Result]:
    """Lives the jobs that `measure` asks for, or takes them up where an earlier command stopped, and keeps the result.

    seconds: after which to stop. Raises ConfigError, DataError and JobError, Interrupted and OutOfTimeError.
    """
    config = request.config
    plugins.load(config)
    plugins.check(config, elsewhere=config.workers > 0)
    task = jobs.check(config)
    folder = _folder(request, task)
    deadline = None if seconds is None else time.monotonic() + seconds
    with run_folder.locked(folder), Stop(lambda: told("stopping ...")) as stop:

        def pulse() -> None:
            stop.check()
            if deadline is not None and time.monotonic() > deadline:
                raise OutOfTimeError(f"out of time, with every finished job kept in {folder}")

        try:
            with _crew(folder, config.workers, device_of(task), told, pulse) as crew:
                result = measure(request, Bench(task, crew))
                result = dataclasses.replace(result, notes=(*result.notes, *filter(None, [crew.mixed])))
        except Interrupted as stopped:
            raise Interrupted(f"stopped, and kept every finished job in {folder}", stopped.signum) from None
        _keep(folder, result)
    return folder, result


@contextlib.contextmanager
def _crew(folder: Path, workers: int, device: torch.device, told: Told, pulse: Callable[[], None]) -> Iterator[Crew]:
    crew = Crew(Shelf(folder / JOBS), workers, device, told, pulse)
    try:
        yield crew
    finally:
        crew.close()


def _folder(request: Request, task: Task) -> Path:
    """A folder that holds this request, new or as an earlier command left it."""
    config, asked = request.config, request.to_json()
    if is_remote(config.out):
        raise ConfigError(f"out: expected a folder of this machine, got {config.out!r}; write --out DIR")
    out = Path(config.out)
    words = [request.kind, str(request.options.get("group", "")), config.task]
    usual = re.sub(r"[^A-Za-z0-9]+", "-", "-".join(filter(None, words))).strip("-")
    wanted = usual if config.name is None else run_folder.checked_name(config.name)
    for attempt in range(1, ATTEMPTS if config.name is None else 2):
        folder = out / (wanted if attempt == 1 else f"{wanted}-{attempt}")
        if not folder.exists():
            fresh = {
                **asked, "data_sha256": fingerprint(task), "versions": run_folder.versions(),
                "processor": run_folder.processor(), "device": str(device_of(task)), "git": run_folder.git_revision(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"), "result": None,
            }  # fmt: skip
            _write_json(folder / RECORD, fresh)
            return folder
        found = _record(folder)
        if found is not None and {name: found.get(name) for name in asked} == asked:
            if found.get("data_sha256") != fingerprint(task):
                raise ConfigError(
                    f"data: {folder} began with other data than {task.name} holds now; restore them, "
                    "or write another --name"
                )
            return folder
    raise ConfigError(
        f"name: {str(out / wanted)!r} holds something else, or the same under other settings; write another --name"
    )


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        # Jobs would be written into it: through a link they would be written elsewhere.
        foreign.check(folder)
        found = foreign.read_json(folder / RECORD)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _keep(folder: Path, result: Result) -> None:
    write_atomically(folder / "table.csv", result.table.to_csv(index=False))
    buffer = io.BytesIO()
    result.table.to_parquet(buffer, index=False)
    write_atomically(folder / "table.parquet", buffer.getvalue())
    write_atomically(folder / "picture.png", png(result.picture))
    for name, content in result.files.items():
        write_atomically(folder / name, content)
    record = _record(folder)
    assert record is not None, f"{folder / RECORD} was written by this command"
    _write_json(folder / RECORD, {**record, "result": _json(result.summary)})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _json(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read back, so that what is compared and printed is what is on disk."""
    back: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    return back
