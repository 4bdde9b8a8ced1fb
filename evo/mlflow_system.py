"""CPU, memory and GPUs as MLflow's own system metrics are named, from the signs of life of a run's processes.

MLflow would sample by a thread of its own in every process that logs; here the processes that compute know nothing of
MLflow, and what they tell of themselves is logged for them, to a network's run and, for the driver, to the run's own.
Signs of life are replaced, not kept: those of an hour in which no server answered are lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evo import live, replica
from evo.storage import StorageError

EVERY = 10.0
"""Seconds between two points of a process, at least; MLflow's own default."""


def fresh(folder: Path, logged: Mapping[str, float]) -> bool:
    """Whether there is a sign of life that is due. logged: the time of each process's latest one in MLflow."""
    return bool(due(folder, logged))


def due(folder: Path, logged: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The signs of life that are due, by process. None where they cannot be read: they are no part of the record."""
    try:
        found = live.beats(replica.address(folder))
    except StorageError:
        return {}
    return {
        name: beat
        for name, beat in found.items()
        if isinstance(beat.get("time"), float) and beat["time"] >= logged.get(name, 0.0) + EVERY
    }


def figures(beat: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(MLflow's name, value) of everything that a sign of life tells."""
    machine, process = beat.get("machine") or {}, beat.get("process") or {}
    used, total = machine.get("memory_used_bytes"), machine.get("memory_total_bytes")
    told = {
        "cpu_utilization_percentage": machine.get("cpu_percent"),
        "system_memory_usage_megabytes": _mega(used),
        "system_memory_usage_percentage": _share(used, total),
        "process_cpu_utilization_percentage": process.get("cpu_percent"),
        "process_memory_usage_megabytes": _mega(process.get("memory_bytes")),
    }
    for gpu in beat.get("gpus") or ():
        name = f"gpu_{gpu.get('index', 0)}"
        held, whole = gpu.get("memory_used_bytes"), gpu.get("memory_total_bytes")
        told |= {
            f"{name}_utilization_percentage": gpu.get("utilization_percent"),
            f"{name}_memory_usage_megabytes": _mega(held),
            f"{name}_memory_usage_percentage": _share(held, whole),
            f"{name}_power_usage_watts": gpu.get("power_watts"),
        }
    for name, value in told.items():
        if value is not None:
            yield f"system/{name}", round(float(value), 1)


def _mega(count: float | None) -> float | None:
    return None if count is None else count / 1e6


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else 100 * part / whole
