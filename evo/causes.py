"""Why a process of Ray's is gone, in one line, from what Ray says of it."""

from __future__ import annotations

import re

MACHINE_LOST = "its machine was lost"
MACHINE_TAKEN = "its machine was taken back (preempted)"
UNREACHABLE = "could not be reached"

_SIGNS = (
    ("preempt", MACHINE_TAKEN),
    ("out-of-memory", "killed by Ray for memory: its machine had run out"),
    ("OutOfMemory", "killed by Ray for memory: its machine had run out"),
    ("running low on memory", "killed by Ray for memory: its machine had run out"),
    ("killed due to memory pressure", "killed by Ray for memory: its machine had run out"),
    ("node has died", MACHINE_LOST),
    ("node it was on", MACHINE_LOST),
    ("node was terminated", MACHINE_LOST),
    ("raylet died", MACHINE_LOST),
    ("GetTimeoutError", "held its lease for too long, and was replaced"),
    ("temporarily unavailable", UNREACHABLE),
    ("unavailable", UNREACHABLE),
    ("SIGKILL", "its process was killed (SIGKILL, or the kernel for memory)"),
    ("SIGSEGV", "its process crashed (SIGSEGV)"),
    ("SIGTERM", "its process was ended (SIGTERM)"),
    ("End of file", "its process was killed (SIGKILL, or the kernel for memory)"),
    ("ObjectLost", "an object in Ray's store was lost with its machine"),
    ("object has been lost", "an object in Ray's store was lost with its machine"),
    ("ray.kill", "it was ended by ray.kill"),
)
"""What Ray's messages say, most telling first, and what it means. Ray lists possible causes beside the one it knows."""


def machines(cause: str) -> bool:
    """Whether it was the machine's end, and no fault of the process's."""
    return cause.startswith((MACHINE_LOST, MACHINE_TAKEN))


def of(error: BaseException | str) -> str:
    """One line of at most 200 characters, with process and address where they are told."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    # The exit is told as "Worker exit type: …", after which Ray guesses at all that it could have been.
    told = re.split(r"There are some potential root causes|Some common causes include", text)[0]
    meaning = next((meaning for sign, meaning in _SIGNS if sign.lower() in told.lower()), None)
    if meaning is None:
        meaning = next((meaning for sign, meaning in _SIGNS if sign.lower() in text.lower()), None)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    found = meaning or (lines[-1] if lines else "no cause was told")
    where = ", ".join(f"{key} {match[1]}" for key in ("pid", "ip") if (match := re.search(rf"\b{key}: (\S+)", text)))
    return f"{found}{f' [{where}]' if where else ''}"[:200]
