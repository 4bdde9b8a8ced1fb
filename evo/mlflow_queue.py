"""What of a run's record MLflow has not seen yet. Asks the folder alone; MLflow is not even imported.

The committed events are the queue, and mlflow.json beside them remembers how far it was drained, and to where.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evo import faults
from evo.foreign import read_json
from evo.recorder import RecordError, networks, publish, read_table
from evo.storage import lock_file

CURSOR = "mlflow.json"


class TrackingDown(RuntimeError):  # noqa: N818 - it is the server's state, not a fault of the caller's
    """MLflow could not be reached or would not take the rows: they stay queued for the next drain."""


def default_uri(runs: Path) -> str:
    """The store that all runs of a folder share."""
    return f"sqlite:///{Path(runs).resolve() / 'mlflow.db'}"


@dataclass
class Cursor:
    """What was drained, and where to: next row of each network, and the report's files as they were."""

    uri: str
    parent: str = ""
    networks: dict[str, tuple[str, int]] = field(default_factory=dict)  # name -> (run id, next seq)
    report: list[list[Any]] = field(default_factory=list)
    beats: dict[str, float] = field(default_factory=dict)  # process -> time of its latest sign of life in MLflow

    @classmethod
    def read(cls, folder: Path, uri: str) -> Cursor:
        """Starts anew where there is none, where it is torn, or where another store is asked for: that is safe."""
        try:
            saved = read_json(folder / CURSOR)
            places = {name: (str(run), int(seq)) for name, (run, seq) in saved["networks"].items()}
            beats = {name: float(when) for name, when in saved.get("beats", {}).items()}
            return cls(uri, saved["parent"], places, saved["report"], beats) if saved["uri"] == uri else cls(uri)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return cls(uri)

    def write(self, folder: Path) -> None:
        text = json.dumps(self.__dict__)
        publish(folder / CURSOR, text.encode())
        faults.point("mlflow.cursor")


def pending(folder: Path, tracking_uri: str | None = None) -> bool:
    """Whether anything was committed since the last drain; asks the folder alone, not MLflow."""
    cursor = Cursor.read(folder, tracking_uri or default_uri(folder.resolve().parent))
    if report_files(folder) != cursor.report:
        return True
    places = cursor.networks
    return any(read_table(folder, n, places[n][1] if n in places else 0).num_rows for n in networks(folder))


def report_files(folder: Path) -> list[list[Any]]:
    """The report's files, with size and time: a changed report is logged again."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder / "report") as entries:
        found = [(e.name, e.stat()) for e in entries if e.is_file() and not e.name.startswith(".")]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in sorted(found, key=lambda pair: pair[0])]
    return []


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One drain of a run at a time, or two would both find no run and both make one."""
    try:
        lock = lock_file(folder / ".mlflow.lock")
    except OSError as error:
        raise RecordError(f"{folder}: cannot be written ({error.strerror}); the events stay queued") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
