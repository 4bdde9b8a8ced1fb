"""A runner: takes jobs from a queue, highest priority first, and runs each as a process of its own.

What it does can be broken off anywhere. A job's run is in its folder, decision by decision; who has the job is in the
queue. A runner that is killed takes its processes with it, and the next one resumes their runs where they stood.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from evo import faults
from evo.complaints import LATER, os_error
from evo.job_process import SAFE_ENDS, Running, busy, evo_command, how
from evo.job_queue import LEASE, Job, Leases, Queue, Standing
from evo.machine import HOST, gone
from evo.stopping import Interrupted, Stop
from evo.storage import StorageError, is_remote
from evo.transient import transient

CRASHES = 3
"""Attempts that a job may lose to a death of its own process before it is called failed."""

POLL, REMOTE_POLL = 1.0, 5.0
"""Seconds between two looks at the queue."""

SHORTEST, LONGEST = 10.0, 600.0
"""Seconds until a job is tried again that met what may be over later; each time in a row twice as long."""

Command = Callable[[Job, Path, float | None], list[str]]


@dataclass(frozen=True)
class Pause:
    """For a job that met what may be over later. until: by time.monotonic()."""

    seconds: float
    until: float


class Runner:
    """Runs the jobs of one queue, `at_once` side by side.

    say: told what happens, a line each. command: what to run for (job, its config file, seconds that are left of its
    budget); `evo` itself where none is given.
    """

    def __init__(
        self,
        queue: Queue,
        at_once: int = 1,
        say: Callable[[str], None] = lambda line: None,
        lease: float = LEASE,
        poll: float | None = None,
        command: Command | None = None,
    ) -> None:
        self.queue, self.at_once, self.say, self.lease = queue, at_once, say, lease
        self.name = uuid.uuid4().hex
        self.poll = poll or min(REMOTE_POLL if is_remote(queue.store.uri) else POLL, lease / 10)
        self._command = command or evo_command
        self._leases = Leases()
        self._in_hand: dict[str, Running] = {}
        self._damaged: set[str] = set()
        self._pauses: dict[str, Pause] = {}

    def run(self, until_empty: bool, stop: Stop) -> None:
        """Until every job is over, or for ever. Raises Interrupted once a stop was asked for and all jobs stand still.

        At a second Ctrl-C its processes are killed, which loses them no decision, and KeyboardInterrupt is raised.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="evo-queue-") as scratch:
                self._scratch = Path(scratch)
                while self._round(until_empty, stop):
                    time.sleep(self.poll)
        except BaseException:
            self._drop_all()
            raise
        if stop.asked is not None:
            raise Interrupted(f"stopped; `evo queue run --queue {self.queue.store.uri}` goes on", stop.asked)

    # --- one round

    def _round(self, until_empty: bool, stop: Stop) -> bool:
        """Whether there is anything left to do."""
        try:
            self._reap()
            self._renew()
            if stop.asked is not None:
                self._wind_up()
                return bool(self._in_hand)
            standings = self.queue.standings()
            for job in self.queue.damaged.keys() - self._damaged:
                self.say(f"{job} is left out: {self.queue.damaged[job]}")
                self._damaged.add(job)
            self._heed(standings)
            self._take(standings)
            self._start()
            return not until_empty or bool(self._in_hand) or any(not s.final for s in standings)
        except StorageError as error:
            # A queue that does not answer is asked again, until the leases are lost by which its jobs are held.
            self.say(f"queue: {error}")
            for running in list(self._in_hand.values()):
                if time.monotonic() - running.renewed > 0.8 * self.lease:
                    self._abandon(running, "its lease could not be renewed")
            return True

    def _take(self, standings: list[Standing]) -> None:
        """Claims what there is room for, and what is worth a stop of something lower."""
        for standing in standings:
            if standing.job.id in self._in_hand or (why := self._free(standing)) is None:
                continue
            victim = None
            if len(self._in_hand) - self._leaving() >= self.at_once:
                victim = self._lowest_below(standing.job.priority)
                if victim is None:
                    return
            if standing.state == "running":
                # Of a runner that died nobody else will say how long it had been at work.
                standing = replace(standing, seconds=standing.seconds + self.queue.told_seconds(standing))
            attempt = self.queue.claim(standing, self.name, HOST, os.getpid(), self.lease)
            if attempt is None:
                continue
            if why:
                self.say(f"{standing.job.id}: {why}")
            self._in_hand[standing.job.id] = Running(standing, attempt, renewed=time.monotonic())
            if victim is not None:
                self.say(f"{victim.job.id} makes way for {standing.job.id} at its next snapshot")
                victim.ask("yielded")

    def _free(self, standing: Standing) -> str | None:
        """Why a job may be claimed, "" where it simply waits; None where it may not."""
        if standing.state == "waiting":
            pause = self._pauses.get(standing.job.id)
            return "" if pause is None or time.monotonic() >= pause.until else None
        attempt = standing.attempt
        if standing.final or attempt is None:
            return None
        if attempt.runner != self.name and gone(attempt.host, attempt.space, attempt.pid):
            return f"the runner that had it is gone (pid {attempt.pid})"
        if self._leases.run_out(standing.job.id, attempt, self.queue.sign(standing)):
            return f"its runner on {attempt.host} has been silent for {attempt.lease:g} s"
        return None

    def _leaving(self) -> int:
        return sum(bool(r.wish) for r in self._in_hand.values())

    def _lowest_below(self, priority: int) -> Running | None:
        """The job in hand of the lowest priority, the youngest of such, that has not been asked to stop."""
        staying = [r for r in self._in_hand.values() if not r.wish and r.process is not None]
        lower = [r for r in staying if r.job.priority < priority]
        return min(lower, key=lambda r: (r.job.priority, -int(r.job.id.lstrip("j") or 0)), default=None)

    def _start(self) -> None:
        waiting = [r for r in self._in_hand.values() if r.process is None]
        for running in sorted(waiting, key=lambda r: (-r.job.priority, r.job.id)):
            if sum(r.process is not None for r in self._in_hand.values()) >= self.at_once:
                return
            left = None if running.job.budget is None else running.job.budget - running.standing.seconds
            if left is not None and left <= 0:
                self._settle(running, "done", "its budget is spent")
                continue
            try:
                words = self._words(running, left)
            except (ValueError, OSError) as error:
                # What lies in one job's run is no reason to end the others.
                said = os_error(error) if isinstance(error, OSError) else str(error)
                # What is gone was there a moment ago: somebody tidies, or reads a run of a bucket, beside us.
                if transient(error) or isinstance(error, FileNotFoundError):
                    self._put_off(running, said, 0.0)
                else:
                    self._settle(running, "failed", said)
                continue
            if words is not None:
                self._launch(running, words)

    def _words(self, running: Running, left: float | None) -> list[str] | None:
        """The job's command; None while another process is at work on its run."""
        job = running.job
        if busy(job):
            # The process of an earlier attempt has not ended yet, or somebody resumed the run by hand.
            if not running.told_busy:
                self.say(f"{job.id} waits: another process is at work on {job.run}")
            running.told_busy = True
            return None
        config = self._scratch / f"{job.id}.yaml"
        config.write_text(json.dumps({**job.config, "job": job.token}), encoding="utf-8")
        return self._command(job, config, left)

    def _launch(self, running: Running, words: list[str]) -> None:
        job = running.job
        # Behind its own user's PYTHONPATH, in which plug-ins may lie.
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        for name in ("MERISTEM_FAULT", "MERISTEM_FAULT_ONCE"):  # it is the runner that is to die there
            environment.pop(name, None)
        with self._opened_log(running) as log:
            try:
                running.process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                    start_new_session=True,  # Ctrl-C is for the runner, which asks each of its jobs to stop
                )  # fmt: skip
            except OSError as error:  # the machine has no room for another process
                self._put_off(running, os_error(error), 0.0)
                return
        running.began = time.monotonic()
        faults.point("queue.started")
        again = f", attempt {running.attempt.number}" if running.attempt.number > 1 else ""
        self.say(f"{job.id} runs {job.kind} {job.config['task']} in {job.run}{again}")

    def _opened_log(self, running: Running) -> BinaryIO:
        """Raises StorageError: the queue cannot be used, and it is no fault of the job."""
        home = self._scratch if is_remote(self.queue.store.uri) else Path(self.queue.store.uri) / "logs"
        running.log = home / f"{running.job.id}-{running.attempt.number:06d}.txt"
        try:
            home.mkdir(parents=True, exist_ok=True)
            return running.log.open("wb")
        except OSError as error:
            raise StorageError(f"{running.log}: cannot be written ({error.strerror or error})") from error

    # --- what became of them

    def _reap(self) -> None:
        for running in list(self._in_hand.values()):
            if running.process is not None and (code := running.process.poll()) is not None:
                self._ended(running, code)

    def _ended(self, running: Running, code: int) -> None:
        job, seconds = running.job, running.seconds(time.monotonic())
        faults.point("queue.ended")
        said = self._keep_log(running)
        if running.wish and code in (*SAFE_ENDS, LATER):
            self._release(running, running.wish, seconds)
        elif code == 0:
            self._settle(running, "done", "", seconds)
        elif code in SAFE_ENDS:
            self._release(running, "stopped", seconds)
        elif code == LATER:
            self._put_off(running, said or f"it ended with code {code}", seconds)
        elif code == 2:
            self._settle(running, "failed", said or "it ended with code 2", seconds)
        elif running.standing.crashes + 1 >= CRASHES:
            self._settle(running, "failed", f"its process died {CRASHES} times, at last {how(code, said)}", seconds)
        else:
            self.queue.release(job.id, running.attempt, "crashed", how(code, said), seconds)
            self.say(f"{job.id} crashed, {how(code, said)}; it will be resumed")
            del self._in_hand[job.id]

    def _release(self, running: Running, how: str, seconds: float) -> None:
        self.queue.release(running.job.id, running.attempt, how, "", seconds)
        del self._in_hand[running.job.id]
        self.say(f"{running.job.id} {how}" + ("" if how == "cancelled" else ", to be resumed"))

    def _put_off(self, running: Running, cause: str, seconds: float) -> None:
        """The job waits again, here for a while: what it met may be over then."""
        job, before = running.job.id, self._pauses.get(running.job.id)
        # One that had been at work for long meets something new.
        pause = SHORTEST if before is None or seconds > LONGEST else min(2 * before.seconds, LONGEST)
        self.queue.release(job, running.attempt, "stopped", cause, seconds)
        del self._in_hand[job]
        self._pauses[job] = Pause(pause, time.monotonic() + pause)
        self.say(f"{job} stopped, to be resumed in {pause:g} s: {cause}")

    def _settle(self, running: Running, state: str, cause: str, seconds: float = 0.0) -> None:
        self.queue.settle(running.job.id, state, cause, running.standing.seconds + seconds)
        del self._in_hand[running.job.id]
        self._pauses.pop(running.job.id, None)
        self.say(f"{running.job.id} {state}" + (f": {cause}" if cause else ""))

    def _renew(self) -> None:
        now = time.monotonic()
        for running in list(self._in_hand.values()):
            if now - running.renewed >= self.lease / 4:
                if self.queue.renew(running.job.id, running.attempt, running.seconds(now)):
                    running.renewed = now
                else:
                    self._abandon(running, "another runner has taken it over")

    def _heed(self, standings: list[Standing]) -> None:
        """Stops what was cancelled, and what somebody else has settled."""
        for running in [self._in_hand[s.job.id] for s in standings if s.final and s.job.id in self._in_hand]:
            if running.process is None:
                del self._in_hand[running.job.id]
            elif running.wish != "cancelled":
                self.say(f"{running.job.id} is over by another's word, and stops at its next snapshot")
                running.ask("cancelled")

    def _abandon(self, running: Running, why: str) -> None:
        """Kills what is no longer this runner's to run, and leaves the queue as it is."""
        self.say(f"{running.job.id} is let go: {why}")
        running.kill()
        self._in_hand.pop(running.job.id, None)

    def _wind_up(self) -> None:
        """Has everything stop at the next safe point."""
        for running in list(self._in_hand.values()):
            if running.process is None:
                self._release(running, "stopped", 0.0)
            elif not running.wish:
                running.ask("stopped")

    def _drop_all(self) -> None:
        """At once; what the runs have committed is safe."""
        for running in list(self._in_hand.values()):
            seconds = running.seconds(time.monotonic())
            running.kill()
            with contextlib.suppress(StorageError, OSError):
                self.queue.release(running.job.id, running.attempt, "stopped", "", seconds)
        self._in_hand.clear()

    def _keep_log(self, running: Running) -> str:
        """The last line that the job wrote. A bucket gets the end of its log."""
        with contextlib.suppress(OSError):
            text, said = running.said()
            if is_remote(self.queue.store.uri):
                assert running.log is not None
                self.queue.store.replace(f"logs/{running.log.name}", text)
            return said
        return ""
