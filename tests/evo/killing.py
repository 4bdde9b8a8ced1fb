"""Kills small lives at their fault points and has fresh processes go on: `python killing.py FOLDER`.

Every try is a fork of this process, which has imported all but computed nothing, so that a try costs no imports.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from small_life import SHORT, SMALL, live, made

from evo import api, faults, front, report

MOST = 400


def forked(work: Callable[[], object]) -> int:
    """The process id of a fork that does it; exit code 1 where it fails."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # a fork must not go on as its parent would
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def attempt(spec: str, work: Callable[[], object]) -> bool:
    """Whether `work`, done in a fork in which the fault `spec` is armed, was killed. Raises where it failed."""

    def armed() -> None:
        os.environ["MERISTEM_FAULT"] = spec
        importlib.reload(faults)
        work()

    _, status = os.waitpid(forked(armed), 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return True
    assert os.WEXITSTATUS(status) == 0, f"failed with {spec or 'no fault'}"
    return False


def traced(path: Path, work: Callable[[], object]) -> Callable[[], object]:
    """`work`, after which the names of all points that it passed are in the file."""

    def run() -> None:
        names: list[str] = []
        faults.point = names.append  # type: ignore[assignment]
        work()
        path.write_text(json.dumps(names))

    return run


def kill_a_life_everywhere(folder: Path) -> None:
    config, task = made(**SHORT)
    unbroken = folder / "unbroken"
    attempt("", traced(folder / "points.json", lambda: live(config, task, unbroken)))
    for k in range(1, MOST):
        broken = folder / f"at-{k:03d}"
        if not attempt(f"*:{k}", lambda: live(config, task, broken)):  # noqa: B023
            return
        # A second death, in the resumed life's own first commit, must not matter either.
        if k % 7 == 0:
            attempt("*:6", lambda: live(config, task, broken))  # noqa: B023
        attempt("", lambda: live(config, task, broken))  # noqa: B023


def kill_a_life_again_and_again(folder: Path) -> None:
    config, task = made(**SHORT)
    deaths = 0
    while attempt("*:17", lambda: live(config, task, folder / "again")):
        deaths += 1
    (folder / "deaths.json").write_text(json.dumps(deaths))


def grow_or_resume(out: Path) -> None:
    """What a user does who finds the run broken off: resume it if it is there, else start it."""
    if (out / "a" / "run.json").exists():
        api.resume(out / "a")
    else:
        api.grow(config={**SMALL, **SHORT, "name": "a", "out": str(out)})


def kill_a_run(folder: Path) -> None:
    """The whole sequence of `evo grow`, its report included; drawing pictures takes time and adds nothing here."""
    report.PICTURES = {"front": lambda run: None}  # type: ignore[assignment]
    report.png = lambda figure: b"a picture"  # type: ignore[assignment]
    attempt("", traced(folder / "run-points.json", lambda: grow_or_resume(folder / "run-unbroken")))
    named = [f"{name}:1" for name in ("run.begin", "run.written", "run.finished", "events.synced", "snapshot.part")]
    for spec in [*named, "snapshot.saved:3", "events.renamed:4", "events.committed:4", "snapshot.committed:4"]:
        out = folder / f"run-{spec}"
        assert attempt(spec, lambda: grow_or_resume(out)), spec  # noqa: B023
        attempt("", lambda: grow_or_resume(out))  # noqa: B023
    for number in (1, 2, 3):
        for when in ("before", "after"):
            out = folder / f"run-report-{number}-{when}"
            assert attempt("", dying(number, when, lambda: grow_or_resume(out))), out  # noqa: B023
            attempt("", lambda: grow_or_resume(out))  # noqa: B023


def dying(number: int, when: str, work: Callable[[], object]) -> Callable[[], object]:
    """`work`, killed before or after it writes the report's file of this number."""
    left, write = [number], front.write_atomically

    def deadly(path: Path, content: str | bytes) -> None:
        left[0] -= 1
        if left[0] == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        front.write_atomically = deadly
        work()

    return run


if __name__ == "__main__":
    home = Path(sys.argv[1])
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        kill_a_life_everywhere(home)
        kill_a_life_again_and_again(home)
        kill_a_run(home)
