"""Named places at which a test kills the process, so that resuming is tested between every two durable operations.

MERISTEM_FAULT="events.renamed" dies at the first passing of that point, "events.renamed:3" at the third, "*:7" at the
seventh point passed of whatever name. With MERISTEM_FAULT_ONCE=PATH only the process that creates PATH dies, so that
restarted workers, which inherit the variables, live on.
"""

from __future__ import annotations

import os
import signal

POINTS: tuple[str, ...] = (
    # one commit of events
    "events.begin",
    "events.written",
    "events.synced",
    "events.renamed",
    "events.committed",
    # the compaction at the end
    "compact.written",
    "compact.synced",
    "compact.renamed",
    "compact.removed",
    # the mirror
    "mlflow.created",
    "mlflow.logged",
    "mlflow.cursor",
    # one snapshot
    "snapshot.begin",
    "snapshot.part",
    "snapshot.saved",
    "snapshot.committed",
    # the snapshots that are left at the end
    "retention.written",
    "retention.removed",
    # one job of a queue
    "queue.added",
    "queue.claimed",
    "queue.started",
    "queue.ended",
    "queue.released",
    "queue.settled",
    # the run as a whole
    "run.begin",
    "run.written",
    "run.amended",
    "run.finished",
)


def read(spec: str) -> tuple[str, int]:
    """'name', 'name:3' or '*:7' as (name, count). Raises ValueError for a name or count there is none of."""
    name, _, count = spec.partition(":")
    if name != "*" and name not in POINTS:
        raise ValueError(f"MERISTEM_FAULT: no fault point is named {name!r}; write '*' or one of {', '.join(POINTS)}")
    if count and not (count.isdigit() and int(count) > 0):
        raise ValueError(f"MERISTEM_FAULT: expected a count of 1 or more after ':', got {count!r}; write '{name}:1'")
    return name, int(count or 1)


# Read once: an unset variable must cost a passing point nothing but one comparison.
_armed: tuple[str, int] | None = read(os.environ["MERISTEM_FAULT"]) if os.environ.get("MERISTEM_FAULT") else None
_passed = 0


def point(name: str) -> None:
    """Dies here by SIGKILL if this is the armed point's armed passing; otherwise nothing."""
    if _armed is not None:
        _pass(name, *_armed)


def _pass(name: str, armed: str, count: int) -> None:
    global _passed
    assert name in POINTS, f"register {name!r} in evo.faults.POINTS"
    if armed not in ("*", name):
        return
    _passed += 1
    if _passed == count and _first():
        os.kill(os.getpid(), signal.SIGKILL)


def _first() -> bool:
    mark = os.environ.get("MERISTEM_FAULT_ONCE")
    if not mark:
        return True
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True
