"""The queue: jobs and what became of them, as small files in a folder or bucket that come to be and never change.

    jobs/j0001.json                   what is to run, by whom it was asked, with which priority
    states/j0001/attempt-000001.json  a runner has taken it: the first to create the file has the job
    states/j0001/lease-000001.json    its sign of life, replaced every few seconds: the one file that changes
    states/j0001/ended-000001.json    how that attempt ended, where the job goes back to the queue
    states/j0001/final.json           done, failed or cancelled: the first to create it decides
    last/j0001                        the highest number that was ever given, so that none is given again

A runner that dies leaves an attempt whose lease stands still. Whoever has watched it stand still for the lease's
length, by his own clock, may take the job as the next attempt; no two machines' clocks are compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evo import faults, machine
from evo.config import ConfigError
from evo.storage import StorageError, Store, below, is_remote, open_store

FINAL = ("done", "failed", "cancelled")
LEASE = 120.0
"""Seconds for which a runner that gives no sign of life keeps its jobs."""

LATEST = 1e11
"""No time that a job tells of, in seconds, comes near this; neither infinities nor what is no number are below it."""


@dataclass(frozen=True)
class Job:
    """kind: grow or search. config: every setting, its name included. token: marks the run as this job's. priority: the
    higher goes first. budget: seconds of all attempts together, None for no limit.
    """

    id: str
    kind: str
    config: Mapping[str, Any]
    token: str
    priority: int = 0
    added: float = 0.0

    @property
    def run(self) -> str:
        """Where its run lies."""
        return below(str(self.config["out"]), str(self.config["name"]))

    @property
    def budget(self) -> float | None:
        return self.config.get("budget")

    def to_json(self) -> bytes:
        return json.dumps({**vars(self), "config": dict(self.config)}, indent=1).encode()

    @staticmethod
    def from_json(text: bytes, name: str, where: str) -> Job:
        """name: which it must say too. where: its file, for the error. Raises ValueError where it is no job."""
        try:
            told = json.loads(text)
            job = Job(**told)
            if job.kind not in ("grow", "search"):
                raise ValueError(f"its kind is {job.kind!r:.40}")
            if wrong := [key for key in ("name", "out", "task") if not isinstance(job.config[key], str)]:
                raise ValueError(f"its config's {wrong[0]} is {job.config[wrong[0]]!r:.40}")
            if type(job.priority) is not int:
                raise ValueError(f"its priority is {job.priority!r:.40}")
            if times := [x for x in (job.added, job.budget or 0.0) if not (_is_number(x) and 0 <= x < LATEST)]:
                raise ValueError(f"its time or budget is {times[0]!r:.40}")
            if job.id != name:
                raise ValueError(f"its id is {job.id!r:.40}")
            return job
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(
                f"queue: expected job {name} in {where}, as `evo queue add` writes it, got {text[:60]!r} ({error}); "
                "delete that file"
            ) from error


@dataclass(frozen=True)
class Attempt:
    """One runner's try at a job. runner: its own random name. lease, since: seconds. space: in which its pid counts."""

    number: int
    runner: str
    host: str
    pid: int
    lease: float
    since: float
    space: str | None = None


@dataclass(frozen=True)
class Standing:
    """A job and what became of it. attempt: the latest. ended: how that ended ("" while nobody has said so).

    crashes: attempts whose own process failed. seconds: that attempts took, as far as they told; without the latest one
    while nobody has said that it is over.
    """

    job: Job
    attempt: Attempt | None = None
    ended: str = ""
    cause: str = ""
    final: str = ""
    crashes: int = 0
    seconds: float = 0.0

    @property
    def state(self) -> str:
        """waiting, running, or one of `FINAL`."""
        if self.final:
            return self.final
        return "waiting" if self.attempt is None or self.ended else "running"


@dataclass
class Leases:
    """Which leases stand still, by this process's own clock."""

    clock: Callable[[], float] = time.monotonic
    _seen: dict[tuple[str, str], tuple[bytes, float]] = field(default_factory=dict)

    def run_out(self, job: str, attempt: Attempt, sign: bytes) -> bool:
        """sign: the lease's bytes now. Whether they have been the same for the length of the lease."""
        now, key = self.clock(), (job, repr(attempt))
        before = self._seen.get(key)
        if before is None or before[0] != sign:
            self._seen[key] = (sign, now)
            return False
        return now - before[1] > attempt.lease


class Queue:
    """A queue of jobs in a folder ("runs/queue") or bucket. Raises StorageError where that cannot be used."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.store: Store = open_store(uri)
        if not is_remote(uri) and Path(self.store.uri).exists() and not Path(self.store.uri).is_dir():
            raise ConfigError(
                f"--queue: expected a folder or an address, got the file {str(uri)!r}; write --queue runs/queue"
            )
        # What never changes is read once.
        self._fixed: dict[str, bytes] = {}
        self.damaged: dict[str, str] = {}
        """What is wrong with the jobs that the latest `standings` left out."""

    def add(self, kind: str, config: Mapping[str, Any], priority: int = 0) -> Job:
        """Puts a job at the end of its priority. config: checked; without a name it gets one of its own."""
        given = [name for top in ("jobs/", "states/", "last/") for name in self.store.names(top)]
        number = max(map(_number_in, given), default=0)
        while True:
            number += 1
            name = f"j{number:04d}"
            token = uuid.uuid4().hex
            named = {**config, "name": config.get("name") or self._run_name(config, name, token)}
            job = Job(name, kind, named, token, priority, time.time())
            if self.store.create(f"jobs/{name}.json", job.to_json()):
                faults.point("queue.added")
                self._mark(number)
                return job

    def _run_name(self, config: Mapping[str, Any], job: str, token: str) -> str:
        """One that the jobs of other queues over the same folder of runs do not get, and no run there has."""
        own = _plain(self.store.uri.partition("?")[0].rstrip("/").rpartition("/")[2])
        name = "-".join([_plain(str(config["task"])), *([] if own == "queue" else [own]), job])
        out = str(config["out"])
        return f"{name}-{token[:6]}" if not is_remote(out) and Path(out, name).exists() else name

    def standings(self) -> list[Standing]:
        """Every job, the next to run first: by priority, then by age; those that are over stand where they stood.

        One whose files are damaged is left out, so that the others can run, and told of in `damaged`.
        """
        files = self._listed("states/")
        found: list[Standing] = []
        self.damaged = {}
        for name in self._jobs():
            try:
                found.append(self._standing(name, files))
            except StorageError:
                raise
            except ValueError as error:
                self.damaged[name] = str(error)
        return sorted(found, key=lambda s: (-s.job.priority, s.job.id))

    def standing(self, job: str) -> Standing:
        """Raises ConfigError where there is no such job."""
        if job not in self._jobs():
            raise ConfigError(f"job: there is no {job!r} in {self.store.uri!r}; `evo queue list` lists them")
        return self._standing(job, self._listed(f"states/{job}/"))

    def claim(self, standing: Standing, runner: str, host: str, pid: int, lease: float = LEASE) -> Attempt | None:
        """The job's next attempt, if nobody else has it; None where somebody was first, or where it is over."""
        number = standing.attempt.number + 1 if standing.attempt else 1
        attempt = Attempt(number, runner, host, pid, lease, time.time(), machine.SPACE)
        job = standing.job.id
        if not self.store.create(f"states/{job}/attempt-{number:06d}.json", json.dumps(vars(attempt)).encode()):
            return None
        faults.point("queue.claimed")
        # What was read before may be old: a job that ended meanwhile stays ended.
        return None if self.final(job) else attempt

    def renew(self, job: str, attempt: Attempt, seconds: float) -> bool:
        """Another sign of life. seconds: that this attempt has taken. False: another runner has the job by now."""
        sign = {"runner": attempt.runner, "seconds": seconds, "time": time.time()}
        self.store.replace(f"states/{job}/lease-{attempt.number:06d}.json", json.dumps(sign).encode())
        following = f"states/{job}/attempt-{attempt.number + 1:06d}.json"
        return following not in self.store.names(following)

    def release(self, job: str, attempt: Attempt, how: str, cause: str, seconds: float) -> None:
        """The attempt is over and the job goes back to the queue. how: stopped, yielded or crashed."""
        told = {"how": how, "cause": cause, "seconds": seconds, "time": time.time()}
        self.store.create(f"states/{job}/ended-{attempt.number:06d}.json", json.dumps(told).encode())
        faults.point("queue.released")

    def settle(self, job: str, state: str, cause: str = "", seconds: float | None = None) -> bool:
        """The job is over; False where it was so already, and stays as it was."""
        assert state in FINAL
        told = {"state": state, "cause": cause, "seconds": seconds, "time": time.time()}
        made = self.store.create(f"states/{job}/final.json", json.dumps(told).encode())
        faults.point("queue.settled")
        return made

    def cancel(self, job: str) -> bool:
        """Also a running job: its runner stops it at the next safe point. False where it was over already."""
        return not self.standing(job).final and self.settle(job, "cancelled")

    def final(self, job: str) -> str:
        """done, failed or cancelled; "" for a job that is not over."""
        return str(self._told(f"states/{job}/final.json").get("state", ""))

    def sign(self, standing: Standing) -> bytes:
        """The lease of the latest attempt, b"" before the first."""
        assert standing.attempt is not None
        try:
            return self.store.read(f"states/{standing.job.id}/lease-{standing.attempt.number:06d}.json")
        except FileNotFoundError:
            return b""

    def heard(self, standing: Standing) -> float | None:
        """When the runner of a running job last said so, by its own clock, in seconds since 1970."""
        if standing.state != "running" or standing.attempt is None:
            return None
        try:
            return float(json.loads(self.sign(standing))["time"])
        except (ValueError, KeyError, TypeError):
            return standing.attempt.since

    def told_seconds(self, standing: Standing) -> float:
        """That the latest attempt took, as its runner said last."""
        assert standing.attempt is not None
        return self._lease_seconds(f"states/{standing.job.id}/lease-{standing.attempt.number:06d}.json")

    def _mark(self, number: int) -> None:
        """Keeps in mind that this number was given, also when the job's files have been removed."""
        self.store.create(f"last/j{number:04d}", b"")
        # Whoever removes a mark leaves a higher one: however many add at once, the highest stays.
        for name in self.store.names("last/"):
            if _number_in(name) < number:
                self.store.remove(name)

    # --- reading

    def _jobs(self) -> list[str]:
        files = sorted(self._listed("jobs/"))
        return [n.removeprefix("jobs/").removesuffix(".json") for n in files if n.endswith(".json")]

    def _listed(self, top: str) -> set[str]:
        """The files there are. Whatever is gone is forgotten: another file may come to have its name."""
        found = set(self.store.names(top))
        for name in [n for n in self._fixed if n.startswith(top) and n not in found]:
            del self._fixed[name]
        return found

    def _standing(self, name: str, files: Iterable[str]) -> Standing:
        path = f"jobs/{name}.json"
        job = Job.from_json(self._read(path), name, f"{path!r} of {self.store.uri!r}")
        attempts = sorted(f for f in files if f.startswith(f"states/{name}/attempt-"))
        ends = {f: self._told(f) for f in files if f.startswith(f"states/{name}/ended-")}
        final = self._told(f"states/{name}/final.json") if f"states/{name}/final.json" in files else {}
        attempt, last = None, {}
        if attempts:
            attempt = self._attempt(attempts[-1])
            last = ends.get(f"states/{name}/ended-{attempt.number:06d}.json", {})
        spent = sum(_number(end.get("seconds")) for end in ends.values())
        for path in attempts[: None if last or final else -1]:
            if path.replace("attempt-", "ended-") not in ends:  # its runner died: what it said last counts
                spent += self._lease_seconds(path.replace("attempt-", "lease-"))
        return Standing(
            job,
            attempt,
            ended=str(last.get("how", "")),
            cause=str(final.get("cause") or last.get("cause") or ""),
            final=str(final.get("state", "")),
            crashes=sum(end.get("how") == "crashed" for end in ends.values()),
            seconds=spent,
        )

    def _attempt(self, path: str) -> Attempt:
        told = self._told(path)
        try:
            found = Attempt(**told)
            return replace(found, number=int(found.number), pid=int(found.pid), lease=float(found.lease))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"queue: expected an attempt in {path!r} of {self.store.uri!r}, got {told!r:.60} ({error}); delete it"
            ) from error

    def _lease_seconds(self, path: str) -> float:
        try:
            return _number(json.loads(self.store.read(path))["seconds"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0.0

    def _told(self, path: str) -> dict[str, Any]:
        try:
            text = self._read(path)
        except FileNotFoundError:
            return {}
        told: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(text)
        if not isinstance(told, dict):
            raise ValueError(
                f"queue: expected an object in {path!r} of {self.store.uri!r}, got {text[:60]!r}; delete it"
            )
        return told

    def _read(self, path: str) -> bytes:
        if path not in self._fixed:
            self._fixed[path] = self.store.read(path)
        return self._fixed[path]


def _is_number(told: Any) -> bool:
    return isinstance(told, (int, float)) and not isinstance(told, bool)


def _number(told: Any) -> float:
    return float(told) if _is_number(told) and 0 <= told < LATEST else 0.0


def _number_in(path: str) -> int:
    """Of the job that a file belongs to; 0 where it belongs to none."""
    match = re.match(r"[a-z]+/j(\d+)(?:[./]|$)", path)
    return int(match[1]) if match else 0


def _plain(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", task).strip("-") or "run"
