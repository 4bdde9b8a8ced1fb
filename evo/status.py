"""How a run is doing, from its folder alone, on any machine: its events, its signs of life, its failures.

Events say what is certain; signs of life (`live`) say what its processes are at, how they die and how long it may take.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evo import live, machine, replica
from evo.population import name_of
from evo.progress import spoken
from evo.recorder import networks, read_table
from evo.run import Run

SILENT = 30.0
"""Seconds without a sign of life after which a process is called silent, at least; else six of its intervals."""

MOST = 1_000_000
"""Networks or cycles that are counted through."""

RECENT = 5
"""Cycles over which the time of one is averaged."""

_READ = (
    "seq", "kind", "generation", "cycle", "active_parameters", "information_nats", "validation_information_nats",
    "validation_accuracy", "validation_r2", "action", "reason", "seconds", "time",
)  # fmt: skip


@dataclass(frozen=True)
class NetworkState:
    """state: waiting (not born yet), alive, silent, stopped, finished, failed. said: why, or what it is at.

    information: validation nats. beat_age: seconds since the last sign of life. left: seconds, None where unknown.
    """

    network: str
    state: str
    said: str = ""
    generation: int | None = None
    cycle: int = 0
    cycles: int = 0
    information: float | None = None
    accuracy: float | None = None
    r2: float | None = None
    parameters: int | None = None
    action: str = ""
    host: str = ""
    pid: int | None = None
    beat_age: float | None = None
    in_flight: int = 0
    waiting: int = 0
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    gpu_bytes: int | None = None
    cycle_seconds: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class HostState:
    """A machine, as the newest sign of life from it tells. gpus: index, utilization_percent, memory in bytes, watts."""

    host: str
    cpu_percent: float | None
    cpus: int | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    gpus: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Failure:
    """Something that went wrong. then: what was done about it. time: seconds since 1970."""

    time: float
    network: str
    cause: str
    then: str
    host: str = ""


@dataclass(frozen=True)
class Status:
    """state: running, stopping, silent, stopped, finished, unknown. left: seconds; None: left_said says why not."""

    run: str
    name: str
    kind: str
    task: str
    seed: int
    state: str
    said: str
    networks: tuple[NetworkState, ...]
    wanted: int
    hosts: tuple[HostState, ...]
    failures: tuple[Failure, ...]
    left: float | None
    left_said: str
    time: float = field(default_factory=time.time)

    @property
    def over(self) -> bool:
        return self.state == "finished"

    def counts(self) -> dict[str, int]:
        """How many networks are in which state; such as there are none of left out."""
        states = [n.state for n in self.networks]
        return {
            s: states.count(s) for s in ("alive", "silent", "stopped", "waiting", "finished", "failed") if s in states
        }


@dataclass
class _Known:
    """What the events have said of a network so far. seconds: of its latest cycles."""

    next_seq: int = 0
    generation: int = 0
    cycle: int = 0
    parameters: int | None = None
    information: float | None = None
    accuracy: float | None = None
    r2: float | None = None
    action: str = ""
    ended: str = ""
    reason: str = ""
    seconds: list[float] = field(default_factory=list)

    def hear(self, row: Mapping[str, Any]) -> None:
        if row["kind"] in ("candidate", "analysis", "choice"):
            return
        self.generation = row["generation"] if row["generation"] is not None else self.generation
        self.cycle = row["cycle"] if row["cycle"] is not None else self.cycle
        if row["active_parameters"] is not None:
            self.parameters = int(row["active_parameters"])
        if row["kind"] == "decision":
            self.action = live.printable(row["action"] or "")
        if row["kind"] == "snapshot":
            self.information = _plain(row["validation_information_nats"])
            self.accuracy, self.r2 = _plain(row["validation_accuracy"]), _plain(row["validation_r2"])
            if self.cycle and row["seconds"]:
                self.seconds = [*self.seconds[1 - RECENT :], float(row["seconds"])]
        if row["kind"] in ("finished", "failed"):
            self.ended, self.reason = row["kind"], live.printable(row["reason"] or "")


class Watcher:
    """Looks at one run again and again, and reads only what is new each time.

    wall, monotonic: clocks in seconds, for tests. How old a sign of life is goes by this machine's clock alone once a
    second one has been seen, so that clocks which differ between machines do not matter to who watches.
    """

    def __init__(
        self, run: Run, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._run, self._wall, self._monotonic = run, wall, monotonic
        self._known: dict[str, _Known] = {}
        self._failures: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, tuple[Any, float, float]] = {}  # (which sign, age when first seen, when that was)

    def look(self) -> Status:
        """Raises RecordError or StorageError where the run cannot be read."""
        folder, run = self._run.folder, self._run
        place = replica.address(folder)
        beats = live.beats(place)
        replica.refresh(folder)
        for network in networks(folder):
            known = self._known.setdefault(network, _Known())
            for row in read_table(folder, network, known.next_seq).select(_READ).to_pylist():
                known.hear(row)
                known.next_seq = int(row["seq"]) + 1
        self._failures |= live.failures(place, frozenset(self._failures))
        ages = {name: self._age(name, beat) for name, beat in beats.items()}
        driver = beats.get(live.DRIVER, {})
        wanted = _count(run.setting("search", "networks"), 1) if run.info["kind"] == "search" else 1
        planned = int(driver.get("cycles") or _count(run.setting("growth", "cycles"), 0) + 1)
        names = sorted({name_of(i) for i in range(wanted)} | set(self._known))
        found = tuple(self._network(name, beats.get(name), ages.get(name), planned) for name in names)
        state, said = self._state(found, driver, ages.get(live.DRIVER))
        left, left_said = time_left(found, state, driver, self._wall())
        return Status(
            run=place, name=live.printable(run.name), kind=str(run.info["kind"]),
            task=live.printable(str(run.info.get("task", ""))),
            seed=int(run.info.get("seed") or 0), state=state, said=said, networks=found, wanted=wanted,
            hosts=_hosts(beats, ages), failures=self._told_failures(), left=left, left_said=left_said,
            time=self._wall(),
        )  # fmt: skip

    def _age(self, name: str, beat: Mapping[str, Any]) -> float:
        """Seconds since the process said this, as far as can be told."""
        which, now = (beat.get("pid"), beat.get("beat"), beat.get("time")), self._monotonic()
        before = self._seen.get(name)
        if before is None:
            told = _plain(beat.get("time"))
            self._seen[name] = (which, max(0.0, self._wall() - (self._wall() if told is None else told)), now)
        elif before[0] != which:
            self._seen[name] = (which, 0.0, now)
        _, first, since = self._seen[name]
        return first + now - since

    def _network(self, name: str, beat: Mapping[str, Any] | None, age: float | None, planned: int) -> NetworkState:
        known = self._known.get(name)
        if known is None and beat is None:
            return NetworkState(name, "waiting", cycles=planned)
        known = known or _Known()
        figures: dict[str, Any] = {
            "network": live.printable(name), "generation": known.generation, "cycle": known.cycle, "cycles": planned,
            "information": known.information, "accuracy": known.accuracy, "r2": known.r2,
            "parameters": known.parameters, "action": known.action,
            "cycle_seconds": statistics.fmean(known.seconds) if known.seconds else None,
        }  # fmt: skip
        if known.ended:
            return NetworkState(**{**figures, "cycles": known.cycle}, state=known.ended, said=known.reason)
        if beat is None or age is None:
            return NetworkState(**figures, state="stopped")
        cycles = int(beat.get("cycles") or planned)
        figures |= {"cycles": cycles, "host": str(beat.get("host", "")), "pid": beat.get("pid"), "beat_age": age}
        if (gone := silence(beat, age)) is not None:
            return NetworkState(**figures, state="silent", said=gone)
        trials, process = beat.get("trials") or {}, beat.get("process") or {}
        figures |= {
            "in_flight": int(trials.get("in_flight") or 0), "waiting": int(trials.get("waiting") or 0),
            "cpu_percent": process.get("cpu_percent"), "memory_bytes": process.get("memory_bytes"),
            "gpu_bytes": process.get("gpu_bytes"),
        }  # fmt: skip
        left = None
        if figures["cycle_seconds"] is not None:
            left = max(0.0, (cycles - known.cycle) * figures["cycle_seconds"])
        return NetworkState(**figures, state="alive", said=str(beat.get("phase", "")), left=left)

    def _state(self, found: tuple[NetworkState, ...], driver: Mapping[str, Any], age: float | None) -> tuple[str, str]:
        resume = f"`evo resume {self._run.address}` goes on"
        if age is not None and driver:
            if (gone := silence(driver, age)) is not None:
                return "silent", f"{gone}; {resume}"
            if driver.get("stopping"):
                return "stopping", "at the next safe point"
            return "running", "writing the report" if driver.get("stage") == "report" else ""
        if all(n.state in ("finished", "failed") for n in found):
            return "finished", ""
        if any(n.state == "alive" for n in found):
            return "running", "its driver has not been heard yet"
        if self._run.setting("record", "heartbeat") in (None, 0, 0.0):
            return "unknown", "it gives no signs of life (record.heartbeat: 0); see whether its events grow"
        return "stopped", resume

    def _told_failures(self) -> tuple[Failure, ...]:
        found = [
            Failure(_plain(told.get("time")) or 0.0, str(told.get("network", "")), str(told.get("cause", "")),
                    str(told.get("then", "")), str(told.get("host", "")))
            for told in self._failures.values()
        ]  # fmt: skip
        found += [Failure(0.0, name, known.reason, "failed") for name, known in self._known.items()
                  if known.ended == "failed"]  # fmt: skip
        return tuple(found)


def silence(beat: Mapping[str, Any], age: float) -> str | None:
    """Why the process is to be thought dead; None where it is not."""
    host, pid = beat.get("host"), beat.get("pid")
    where = f"on {host} (pid {pid})"
    if machine.gone(host, beat.get("space"), pid):
        return f"its process {where} is gone, last heard {spoken(age)} ago"
    if age > max(SILENT, 6 * float(beat.get("every") or 0)):
        return f"silent for {spoken(age)} {where}"
    return None


def time_left(
    found: tuple[NetworkState, ...], state: str, driver: Mapping[str, Any], now: float
) -> tuple[float | None, str]:
    """Seconds that the networks' lives will still take at the pace of their latest cycles, or why that is not known.

    Networks that wait are counted at the mean pace, in as many lanes as there are networks at work. A budget ends the
    run sooner.
    """
    if state == "finished":
        return 0.0, ""
    if state not in ("running", "stopping"):
        return None, "nothing is at work on it" if state != "unknown" else "it gives no signs of life"
    paces = [n.cycle_seconds for n in found if n.cycle_seconds is not None]
    until = _plain(driver.get("until"))
    budget = None if until is None else max(0.0, until - now)
    if not paces:
        return budget, "no cycle has been measured yet" + ("" if budget is None else "; its budget ends it then")
    pace = statistics.fmean(paces)
    rest = [
        (n.cycles - n.cycle) * (n.cycle_seconds if n.cycle_seconds is not None else pace)
        for n in found
        if n.state not in ("finished", "failed")
    ]
    if not rest:
        return 0.0, "its networks are done, its report is being written"
    lanes = max(1, sum(n.state == "alive" for n in found))
    estimate = max(sum(rest) / lanes, *rest)
    if budget is not None and budget < estimate:
        return budget, "its budget ends it before its networks are done"
    return estimate, "at the pace of the latest cycles; lives may end earlier"


def _hosts(beats: Mapping[str, Mapping[str, Any]], ages: Mapping[str, float]) -> tuple[HostState, ...]:
    newest: dict[str, Mapping[str, Any]] = {}
    for name in sorted(beats, key=lambda n: -ages[n]):
        beat = beats[name]
        if silence(beat, ages[name]) is None and beat.get("host"):
            newest[str(beat["host"])] = beat
    found = []
    for host, beat in sorted(newest.items()):
        figures = beat.get("machine") or {}
        found.append(
            HostState(
                host, figures.get("cpu_percent"), figures.get("cpus"), figures.get("memory_used_bytes"),
                figures.get("memory_total_bytes"), tuple(g for g in beat.get("gpus") or () if isinstance(g, dict)),
            )
        )  # fmt: skip
    return tuple(found)


def _count(value: Any, otherwise: int) -> int:
    """A number of run.json as far as it is one that a run can have."""
    return value if isinstance(value, int) and 0 < value <= MOST else otherwise


def _plain(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
