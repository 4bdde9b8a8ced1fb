"""What a process and its machine use: CPU, memory, GPUs. Percentages are since the figure was last asked for."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

HOST = socket.gethostname()


def _space() -> str:
    """In which process numbers count. Two machines may have one name, and so may two containers of one machine.

    The first namespace of processes has the same number under every kernel: only together with this start of the
    kernel does it tell one from another. "" where the system says nothing of either.
    """
    told = []
    with contextlib.suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        told.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(told)


SPACE = _space()


class Machine:
    """Reads the figures; the first reading of a percentage is 0. Costs about a millisecond a reading."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._process = psutil.Process()
        self._gpus = _handles()
        self.figures()

    def figures(self) -> dict[str, Any]:
        """process, machine: cpu_percent (100: one core, resp. all cores), memory in bytes. gpus: one entry each.

        gpu_bytes: what PyTorch holds on GPUs in this process; absent where it holds none.
        """
        with self._process.oneshot():
            process = {"cpu_percent": self._process.cpu_percent(), "memory_bytes": self._process.memory_info().rss}
        memory = self._psutil.virtual_memory()
        machine = {
            "cpu_percent": self._psutil.cpu_percent(), "cpus": os.cpu_count(),
            "memory_used_bytes": memory.total - memory.available, "memory_total_bytes": memory.total,
        }  # fmt: skip
        held = _held_on_gpus()
        if held:
            process["gpu_bytes"] = held
        return {"process": process, "machine": machine, "gpus": [_gpu(i, h) for i, h in enumerate(self._gpus)]}


def gone(host: object, space: object, pid: object) -> bool:
    """Whether that process is surely dead: it was one of this machine's, and is there no more."""
    return host == HOST and space == SPACE and isinstance(pid, int) and not alive(pid)


def alive(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _handles() -> list[Any]:
    """NVML's handles of all GPUs of the machine; none where there is no driver."""
    with contextlib.suppress(Exception):  # NVML has an exception of its own for everything, the missing library too
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return []


def _gpu(index: int, handle: Any) -> dict[str, Any]:
    """A figure that the driver does not give (MIG slices have no utilization) is left out."""
    import pynvml

    told: dict[str, Any] = {"index": index}
    with contextlib.suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        told |= {"memory_used_bytes": int(memory.used), "memory_total_bytes": int(memory.total)}
    with contextlib.suppress(pynvml.NVMLError):
        told["utilization_percent"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with contextlib.suppress(pynvml.NVMLError):
        told["power_watts"] = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
    return told


def _held_on_gpus() -> int:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(int(torch.cuda.memory_reserved(i)) for i in range(torch.cuda.device_count()))
