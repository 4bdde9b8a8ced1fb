"""Faults in forks of this process, which has imported everything and computed nothing: a try costs no imports.

A fault strikes at the n-th passing of a named point (evo.faults.POINTS): SIGKILL, SIGTERM or KeyboardInterrupt there,
or an errno that the next durable operation after it raises, and all later ones where the disk stays as it is.
"""

from __future__ import annotations

import errno
import io
import json
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo import complaints, faults

ERRORS = {"disk full": errno.ENOSPC, "I/O error": errno.EIO, "permission denied": errno.EACCES}
ONCE = ("I/O error",)
SIGNALS = ("SIGKILL", "SIGTERM", "KeyboardInterrupt")
DURABLE = ("fsync", "rename", "replace", "link", "mkdir", "open")
"""Of `os`: what must work for anything to stay. `io.open` for writing is one of them."""
OPERATION = "operation"
MOST_SECONDS = 120


@dataclass(frozen=True)
class Fault:
    """What strikes: `mode` at passing number `passing` (from 1) of `point`."""

    mode: str
    point: str
    passing: int


@dataclass(frozen=True)
class Outcome:
    """how: killed, raised or done. error: of what was raised, in one line. ours: whether it is an error of the run's
    that says what to do, not an accident of a library's.
    """

    how: str
    seconds: float
    error: str = ""
    ours: bool = True


def attempt(work: Callable[[], object], scratch: Path, fault: Fault | None = None) -> Outcome:
    """`work` in a fork that the fault strikes, if there is one. scratch: a file for what the fork tells."""
    scratch.unlink(missing_ok=True)
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        _child(work, scratch, fault)
    status = _wait(pid)
    seconds = time.perf_counter() - began
    if os.WIFSIGNALED(status):
        return Outcome("killed", seconds, signal.Signals(os.WTERMSIG(status)).name)
    return Outcome(seconds=seconds, **json.loads(scratch.read_text()))


def traced(work: Callable[[], object], scratch: Path) -> list[str]:
    """The names of the points that `work` passes, in order, with OPERATION for each durable operation between them."""
    seen: list[str] = []

    def run() -> None:
        faults.point = seen.append  # type: ignore[assignment]
        _intercept(lambda: seen.append(OPERATION))
        try:
            work()
        finally:
            _restore()
        scratch.with_suffix(".trace").write_text(json.dumps(seen))

    outcome = attempt(run, scratch)
    assert outcome.how == "done", outcome
    names: list[str] = json.loads(scratch.with_suffix(".trace").read_text())
    return names


def _child(work: Callable[[], object], scratch: Path, fault: Fault | None) -> None:
    """Never returns: a fork must not go on as its parent would."""
    try:
        told: dict[str, Any] = {"how": "done"}
        try:
            if fault is not None:
                _arm(fault)
            work()
        except BaseException as err:
            message = complaints.os_error(err) if isinstance(err, OSError) else str(err) or type(err).__name__
            ours = isinstance(err, KeyboardInterrupt) or complaints.ours(err)
            told = {"how": "raised", "error": " ".join(message.split())[:300], "ours": ours}
            if not ours:
                traceback.print_exc()
        _restore()
        scratch.write_text(json.dumps(told))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _wait(pid: int) -> int:
    """Its status; a fork that hangs is killed and told so."""
    until = time.monotonic() + MOST_SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.005)
    os.kill(pid, signal.SIGABRT)
    return os.waitpid(pid, 0)[1]


def _arm(fault: Fault) -> None:
    passed = 0

    def point(name: str) -> None:
        nonlocal passed
        assert name in faults.POINTS, f"register {name!r} in evo.faults.POINTS"
        passed += name == fault.point
        if name != fault.point or passed != fault.passing:
            return
        if fault.mode == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if fault.mode in SIGNALS:
            os.kill(os.getpid(), getattr(signal, fault.mode))
            return
        left = [1 if fault.mode in ONCE else 1_000_000]

        def fail() -> None:
            left[0] -= 1
            if left[0] >= 0:
                raise OSError(ERRORS[fault.mode], os.strerror(ERRORS[fault.mode]))

        _intercept(fail)

    faults.point = point


_REAL = {name: getattr(os, name) for name in DURABLE}
_REAL_OPEN = io.open


def _intercept(before: Callable[[], object]) -> None:
    """Has `before` called ahead of every durable operation of this process."""

    def passing(name: str) -> Callable[..., Any]:
        real = _REAL[name]

        def operation(*args: Any, **kwargs: Any) -> Any:
            if name != "open" or args[1] & (os.O_WRONLY | os.O_RDWR):
                before()
            return real(*args, **kwargs)

        return operation

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            before()
        return _REAL_OPEN(file, mode, *args, **kwargs)

    for name in DURABLE:
        setattr(os, name, passing(name))
    io.open = opened  # type: ignore[assignment]
    assert pathlib.io.open is opened  # type: ignore[attr-defined]


def _restore() -> None:
    for name, real in _REAL.items():
        setattr(os, name, real)
    io.open = _REAL_OPEN  # type: ignore[assignment]
