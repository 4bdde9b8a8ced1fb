"""A job's process as its runner sees it: what it is to run, whether it may begin, how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from evo.config import ConfigError, UnavailableError
from evo.job_queue import Attempt, Job, Standing
from evo.storage import is_remote

LOG_BYTES = 64_000
SAFE_ENDS = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)


@dataclass
class Running:
    """A job in hand. process: None while it waits for one of lower priority to stop. wish: why it was asked to stop."""

    standing: Standing
    attempt: Attempt
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    began: float = 0.0
    renewed: float = 0.0
    wish: str = ""
    told_busy: bool = False

    @property
    def job(self) -> Job:
        return self.standing.job

    def seconds(self, now: float) -> float:
        return now - self.began if self.process is not None else 0.0

    def ask(self, wish: str) -> None:
        """Has it stop at its next safe point."""
        self.wish = wish
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """At once; what its run has committed is safe."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def said(self) -> tuple[bytes, str]:
        """The end of its log, and the last line there; our own, if it wrote any."""
        assert self.log is not None
        text = self.log.read_bytes()[-LOG_BYTES:]
        found = [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]
        own = [line.removeprefix("evo: ") for line in found if line.startswith("evo: ")]
        return text, (own or found or [""])[-1][:400]


def evo_command(job: Job, config: Path, left: float | None) -> list[str]:
    """`evo resume` where an earlier attempt at this very job has begun its run, else `evo search` or `evo grow`."""
    words = [sys.executable, "-m", "evo.queue_child", str(os.getpid())]
    if not begun(job):
        return [*words, job.kind, "--config", str(config)]
    budget = [] if left is None else ["--budget", f"{left:.3f}s"]
    # Where it runs is a command's to say, as its budget is, and no part of the run.
    address = job.config.get("address")
    # The job is the user's own word for what its run names: plug-ins, servers, files.
    return [*words, "resume", job.run, "--trust", *budget, *(["--address", str(address)] if address else [])]


def begun(job: Job) -> bool:
    """Whether there is a run of this job's; one of the same name that is somebody else's is none."""
    from evo import run_folder
    from evo.run import Run, RunError

    try:
        return bool(Run.open(run_folder.find(job.run)).setting("job") == job.token)
    except (ConfigError, RunError):
        return False


def busy(job: Job) -> bool:
    """Whether a process on this machine is at work on the job's run."""
    from evo import run_folder

    if is_remote(job.run) or not Path(job.run).is_dir():
        return False
    try:
        with run_folder.locked(Path(job.run)):
            return False
    except UnavailableError:
        return True


def how(code: int, said: str) -> str:
    """It ended, in words."""
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    return f"{how} ({said})" if said else how
