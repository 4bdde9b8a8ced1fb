"""Leases: which machine is at work on a run in a bucket.

A lease is a numbered file; taking a run over is creating the next number, which one taker wins. It only keeps two from
doing the same work: that nothing is written twice is the commits' own matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from evo.config import UnavailableError
from evo.machine import HOST, SPACE, gone
from evo.storage import StorageError, Store

STALE = float(os.environ.get("MERISTEM_LEASE_SECONDS", "60"))
"""Seconds without a renewal after which a lease may be taken over. Clocks must agree to within a few of them."""


class Lease:
    """Held by one process; renewed by a thread of its own."""

    def __init__(self, store: Store, name: str, owner: dict[str, Any]) -> None:
        self._store, self._name, self._owner = store, name, owner
        self._ended = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises UnavailableError where another process has taken the run over."""
        if self._lost:
            raise UnavailableError(
                f"run: another process took {self._store.uri.partition('?')[0]} over, as this one did not renew its "
                f"lease for {STALE:g} s; nothing is lost, and that one goes on"
            )

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        if not self._lost:
            with contextlib.suppress(StorageError):
                self._store.replace(self._name, _content(self._owner, time=0.0))

    def _renew(self) -> None:
        while not self._ended.wait(STALE / 4):
            try:
                if _newest(self._store) != self._name:
                    self._lost = True
                    return
                self._store.replace(self._name, _content(self._owner))
            except (StorageError, OSError):
                continue  # commits tell of a store that is gone


@contextlib.contextmanager
def held(store: Store) -> Iterator[Lease]:
    """Raises UnavailableError, with whom to wait for and how long, where another process is at work on the run."""
    owner = {"host": HOST, "space": SPACE, "pid": os.getpid(), "token": uuid.uuid4().hex}
    for _ in range(5):
        newest = _newest(store)
        if newest is not None:
            _check_stale(store, newest)
        name = f"lease/{0 if newest is None else int(newest.rpartition('/')[2]) + 1:06d}"
        if store.create(name, _content(owner)):
            break
    else:
        raise UnavailableError(f"run: several processes want {store.uri.partition('?')[0]} at once; try again")
    if newest is not None:
        store.remove(newest)
    lease = Lease(store, name, owner)
    try:
        yield lease
    finally:
        lease.release()


def _newest(store: Store) -> str | None:
    return max((name for name in store.names("lease/") if name.rpartition("/")[2].isdigit()), default=None)


def _check_stale(store: Store, name: str) -> None:
    try:
        told = json.loads(store.read(name))
        age = time.time() - float(told["time"])
        dead = gone(told["host"], told.get("space"), int(told["pid"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return  # whoever removed or tore it does not hold it
    if age < STALE and not dead:
        raise UnavailableError(
            f"run: expected {store.uri.partition('?')[0]} to be at rest, but process {told['pid']} on {told['host']} "
            f"is at work on it, last seen {max(age, 0):.0f} s ago; wait for it, or, if it is dead, for "
            f"{STALE - age:.0f} s more"
        )


def _content(owner: dict[str, Any], **changed: float) -> bytes:
    return json.dumps({**owner, "time": time.time(), **changed}).encode()
