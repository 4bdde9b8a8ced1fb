"""Signs of life: `live/NAME.json` in a run's folder, for whoever watches, and failures that a run survived.

A running process says every few seconds what it is at. These files are replaced, not kept, and are no part of the
record: nothing that is computed reads them, and a run without them is whole. A process that ends takes its own away, so
one that is there and grows old tells of a death. `failures/*.json` stay: what was retried, and why.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from evo.machine import HOST, SPACE, Machine
from evo.storage import Store, abandoned, is_remote, open_store
from evo.vitals import Vitals

LEAST = 2.0
"""Seconds between two signs of life, at least."""

REMOTE_LEAST = 10.0
"""The same where each is a request to a store that counts them."""

FIRST = 1.0
"""Seconds before the first: what is over sooner needs none."""

DRIVER = "driver"

_WORDS = frozenset(("network", "phase", "stage", "host", "kind", "task", "action", "cause", "then", "space"))
_SECTIONS = frozenset(("trials", "process", "machine"))
_COUNTS = frozenset((
    "beat", "pid", "generation", "cycle", "cycles", "networks", "active_parameters", "step", "stopping",
    "in_flight", "waiting", "done", "cpus", "index",
))  # fmt: skip
_NUMBERS = frozenset((
    "time", "began", "since", "every", "until", "cpu_percent", "memory_bytes", "gpu_bytes", "memory_used_bytes",
    "memory_total_bytes", "utilization_percent", "power_watts", "information_nats", "validation_information_nats",
))  # fmt: skip

log = logging.getLogger("evo.live")


class Beat:
    """A thread that replaces `live/NAME.json` until it is closed. Never raises: nobody's work hangs on being watched.

    tell: what to say beside host, pid, time and what the process uses. also: told the same, for other listeners.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str,
        tell: Callable[[], Mapping[str, Any]],
        every: float,
        also: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._store, self._name, self._tell, self._also = open_store(folder), f"live/{name}.json", tell, also
        self._every = max(every, REMOTE_LEAST if is_remote(folder) else LEAST)
        self._over = threading.Event()
        self._number = 0
        self._began = time.time()
        self._thread = threading.Thread(target=self._run, name=f"evo-live-{name}", daemon=True)
        self._thread.start()

    def close(self, patience: float = 5.0) -> None:
        """Takes the sign of life away."""
        self._over.set()
        self._thread.join(patience)

    def _run(self) -> None:
        # In two halves: percentages are since the reading before.
        if self._over.wait(min(FIRST, self._every) / 2):
            return
        machine: Machine | None = None
        try:
            machine = Machine()
        except Exception as error:  # a machine that hides its figures is watched without them
            log.info("no figures of this machine: %s", error)
        if self._over.wait(min(FIRST, self._every) / 2):
            return
        self._sweep()
        while True:
            self._say(machine)
            if self._over.wait(self._every):
                break
        with contextlib.suppress(Exception):
            self._store.remove(self._name)

    def _say(self, machine: Machine | None) -> None:
        try:
            self._number += 1
            told = {
                **self._tell(), "beat": self._number, "every": self._every, "time": time.time(), "began": self._began,
                "host": HOST, "space": SPACE, "pid": os.getpid(), **(machine.figures() if machine else {}),
            }  # fmt: skip
            self._store.replace(self._name, json.dumps(_finite(told), allow_nan=False).encode())
            if self._also is not None:
                self._also(told)
        except Exception as error:  # a full disk, a store that is gone: the run itself will notice, or need not
            log.info("no sign of life: %s", error)

    def _sweep(self) -> None:
        """Drafts that a killed process left."""
        home = Path(self._store.uri) / "live"
        if not is_remote(self._store.uri) and home.is_dir():
            for draft in home.glob(f".{Path(self._name).name}.*"):
                if abandoned(draft):
                    draft.unlink(missing_ok=True)


@contextlib.contextmanager
def beating(
    folder: str | os.PathLike[str], name: str, tell: Callable[[], Mapping[str, Any]], every: float
) -> Iterator[None]:
    """Signs of life while the block runs; none where `every` is 0."""
    beat = Beat(folder, name, tell, every) if every > 0 else None
    try:
        yield
    finally:
        if beat is not None:
            beat.close()


def of_network(
    folder: str | os.PathLike[str],
    vitals: Vitals,
    every: float,
    also: Callable[[Mapping[str, Any]], None] | None = None,
    lost: Callable[[], None] | None = None,
) -> Beat | None:
    """A network's signs of life, and the record of workers that it lost; no signs where `every` is 0."""

    def failed(cause: str) -> None:
        failure(folder, vitals.network, cause, "its trials run again")
        if lost is not None:
            lost()

    vitals.trials.failed = failed
    return Beat(folder, vitals.network, vitals.told, every, also) if every > 0 else None


def clear(folder: str | os.PathLike[str]) -> None:
    """Takes away what the dead left, where no other process is at work on the run. Never raises."""
    with contextlib.suppress(Exception):
        store = open_store(folder)
        for name in store.names("live/"):
            store.remove(name)


def beats(folder: str | os.PathLike[str] | Store) -> dict[str, dict[str, Any]]:
    """The latest sign of life of each process, by name; one that cannot be read is passed over."""
    return {Path(name).stem: told for name, told in _documents(folder, "live/")}


def failure(folder: str | os.PathLike[str], network: str, cause: str, then: str) -> None:
    """Puts on record what went wrong and what was done about it. Never raises."""
    told = {"time": time.time(), "network": network, "cause": cause, "then": then, "host": HOST, "pid": os.getpid()}
    name = f"failures/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    try:
        open_store(folder).create(name, json.dumps(told).encode())
    except Exception as error:  # as above
        log.warning("%s: %s (not put on record: %s)", network, cause, error)


def failures(folder: str | os.PathLike[str] | Store, known: frozenset[str] = frozenset()) -> dict[str, dict[str, Any]]:
    """What the run survived, oldest first, by the names of the files; without those known already."""
    return dict(_documents(folder, "failures/", known))


def _documents(
    folder: str | os.PathLike[str] | Store, prefix: str, known: frozenset[str] = frozenset()
) -> Iterator[tuple[str, dict[str, Any]]]:
    store = open_store(folder) if isinstance(folder, (str, os.PathLike)) else folder
    for name in store.names(prefix):
        if name in known or not name.endswith(".json"):
            continue
        with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
            told = json.loads(store.read(name))
            if isinstance(told, dict):
                yield name, _sound(told)


def _sound(told: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """What of a file that anybody may have written is of the kind that we write: finite numbers and printable words
    under names of ours, whole numbers where they count.
    """
    kept: dict[str, Any] = {}
    for name, value in told.items():
        if name in _WORDS and isinstance(value, str):
            kept[name] = printable(value)
        elif name in _SECTIONS and isinstance(value, dict) and depth == 0:
            kept[name] = _sound(value, 1)
        elif name == "gpus" and isinstance(value, list) and depth == 0:
            kept[name] = [_sound(gpu, 1) for gpu in value[:64] if isinstance(gpu, dict)]
        elif name in _COUNTS and isinstance(value, int) and 0 <= value < 2**53:
            kept[name] = value
        elif name in _NUMBERS and isinstance(value, (int, float)) and abs(value) < 1e18:
            kept[name] = float(value)
    return kept


def printable(text: str) -> str:
    """In one line of at most 300 characters, and nothing that commands a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:300])


def _finite(value: Any) -> Any:
    """Without what JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
