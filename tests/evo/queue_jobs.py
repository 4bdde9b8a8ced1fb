"""Jobs that take a moment and no torch, for the tests of the queue; and runners to kill: `python queue_jobs.py ...`.

A job is a run of STEPS lines in a file. Like a run of ours it goes on where it stood, writes each line once it is
durable, and stops between two lines when asked to.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo.job_queue import Attempt, Job, Queue

STEPS = 6
LEASE = 5.0


def config(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"task": "digits", "out": str(tmp_path / "runs"), "name": None, "budget": None, **more}


def claimed(queue: Queue, job: Job, runner: str = "r") -> Attempt:
    attempt = queue.claim(queue.standing(job.id), runner, "elsewhere", 1, LEASE)
    assert attempt is not None
    return attempt


def live(folder: Path, pause: float) -> int:
    """One attempt at it. Two at once would be seen in the file `doubled`."""
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (folder / "doubled").touch()
            return 3
        while (number := len(lines(folder))) < STEPS:
            if asked:
                return 143
            time.sleep(pause)
            with (folder / "lines").open("a") as file:
                file.write(f"{number}\n")
    return 0


def lines(folder: Path) -> list[str]:
    path = folder / "lines"
    return path.read_text().split() if path.exists() else []


def command(pause: float) -> Any:
    """For `Runner(command=...)`: the job as a child that dies with its runner."""

    def words(job: Any, config: Path, left: float | None) -> list[str]:
        return [sys.executable, "-S", __file__, "job", str(os.getpid()), job.run, str(pause)]

    return words


def run(queue: Path, at_once: int, lease: float, pause: float) -> None:
    """A runner until the queue is empty."""
    from evo.job_queue import Queue
    from evo.queue_runner import Runner

    def say(line: str) -> None:
        print(line, flush=True)

    runner = Runner(Queue(queue), at_once, say, lease, poll=0.03, command=command(pause))
    runner.run(until_empty=True, stop=SimpleNamespace(asked=None))  # type: ignore[arg-type]


if __name__ == "__main__":
    if sys.argv[1] == "job":
        # As `evo.queue_child` does, without the imports that Python without its site packages has not.
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == int(sys.argv[2]):
            sys.exit(live(Path(sys.argv[3]), float(sys.argv[4])))
    else:
        run(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
