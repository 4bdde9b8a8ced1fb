"""Ray on this machine: what there is, what may be asked for, and a quiet start and end."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray._private import ray_logging

from evo.config import ConfigError
from evo.pool import WORKER_CPUS

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Actors without a GPU must not lose sight of it by an empty CUDA_VISIBLE_DEVICES; Ray warns of that change.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def cpus() -> int:
    """CPUs to be had: those of a running Ray, else of this process, by its affinity and its container's quota."""
    if ray.is_initialized():
        return int(_held().get("CPU", 1))
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)


def gpus(device: torch.device) -> int:
    """GPUs to be had for `device`: all, or the one with that number."""
    if device.type != "cuda":
        return 0
    if ray.is_initialized():
        return int(_held().get("GPU", 0))
    return torch.cuda.device_count() if device.index is None else 1


def _held() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def check_workers(workers: int, beside: float) -> None:
    """Raises ConfigError where `workers` and what runs `beside` them (in CPUs) do not fit on this machine."""
    present = cpus()
    most = int((present - beside) / WORKER_CPUS)
    if workers > most:
        cure = f"write workers: {most}" if most > 0 else "write workers: 0"
        raise ConfigError(
            f"workers: expected at most {max(most, 0)} on {present} CPU{'s' * (present > 1)} "
            f"({WORKER_CPUS:g} of a CPU each), got {workers}; {cure}"
        )


@contextlib.contextmanager
def session(device: torch.device) -> Iterator[None]:
    """Ray, running: the one there is, left alone afterwards, or a private one that ends with the block."""
    if ray.is_initialized():
        yield
        return
    # Ray's sockets live below it, and the path of a socket holds about 100 characters.
    folder = tempfile.mkdtemp(prefix="evo-", dir="/tmp" if os.path.isdir("/tmp") else None)
    try:
        with _environment(device), _handlers():
            ray.init(
                address="local", num_cpus=cpus(), num_gpus=gpus(device), include_dashboard=False,
                log_to_driver=False, logging_level=logging.ERROR, _temp_dir=folder,
            )  # fmt: skip
        with _silence():
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps Ray off standard output, where it reports each dead worker and `--json` writes its one object."""
    printers = [p for p in (ray_logging.stdout_deduplicator, ray_logging.stderr_deduplicator) if hasattr(p, "skip_re")]
    patterns = [printer.skip_re for printer in printers]
    logger = logging.getLogger("ray")
    level = logger.level
    for printer in printers:
        printer.skip_re = re.compile("")
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for printer, pattern in zip(printers, patterns, strict=True):
            printer.skip_re = pattern


@contextlib.contextmanager
def _environment(device: torch.device) -> Iterator[None]:
    """What Ray's processes inherit: silence, and of several GPUs only the one that was asked for."""
    wanted = {k: v for k, v in _ENVIRONMENT.items() if k not in os.environ}
    if device.type == "cuda" and device.index is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        wanted["CUDA_VISIBLE_DEVICES"] = names[device.index]
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _handlers() -> Iterator[None]:
    """Gives signals back to whom they belonged: Ray installs a handler of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
