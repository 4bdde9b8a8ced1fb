"""Ray on this machine, or as joined (`evo.attached`): what there is, what may be asked for, a quiet start and end."""

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from ray._private import ray_logging
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evo.placement import Node

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Actors without a GPU must not lose sight of it by an empty CUDA_VISIBLE_DEVICES; Ray warns of that change.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_PRIVATE = {
    # When all of a process group is told to end, Ray's control store goes before its driver does, which must not wait a
    # minute for it to come back: nobody would start it again.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
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


def nodes(device: torch.device) -> list[Node]:
    """The machines to be had: those of a running Ray that live, else this one."""
    if not ray.is_initialized():
        return [Node("this machine", cpus(), gpus(device), _memory(), _gpu_memory(device))]
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    here = ray.get_runtime_context().get_node_id()
    found = []
    for node in sorted(alive, key=lambda node: (node["NodeID"] != here, node["NodeName"], node["NodeID"])):
        held = node["Resources"]
        count = int(held.get("GPU", 0)) if device.type == "cuda" else 0
        memory = 0 if count == 0 else _gpu_memory(device) if node["NodeID"] == here else _asked(node["NodeID"])
        name = f"{node['NodeName']}/{node['NodeID'][:6]}"
        found.append(Node(name, float(held.get("CPU", 0)), count, int(held.get("memory", 0)), memory))
    return found


def _memory() -> int:
    """Bytes that processes may still take here, 0 where the system does not say."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        told = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
        found.append(1024 * int(told.split()[0]))
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        found.append(max(limit - used, 0))
    return min(found, default=0)


def _gpu_memory(device: torch.device) -> int:
    """Bytes of the smallest GPU of this machine that `device` may mean, 0 where there is none."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return 0
    numbers = range(torch.cuda.device_count()) if device.index is None else [device.index]
    return min((int(torch.cuda.get_device_properties(i).total_memory) for i in numbers), default=0)


def _asked(node: str) -> int:
    """The same of another node, which a task there looks up; 0 where it cannot within a minute."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_gpu_memory).options(num_cpus=0, num_gpus=0, scheduling_strategy=there)
    reference = task.remote(torch.device("cuda"))
    try:
        found: int = ray.get(reference, timeout=60.0)
    except ray.exceptions.RayError:
        ray.cancel(reference, force=True)
        return 0
    return found


@contextlib.contextmanager
def session(device: torch.device) -> Iterator[None]:
    """Ray, running: the one there is, left alone afterwards, or a private one that ends with the block."""
    if ray.is_initialized():
        yield
        return
    # Ray's sockets live below it, and the path of a socket holds about 100 characters.
    folder = tempfile.mkdtemp(prefix="evo-", dir="/tmp" if os.path.isdir("/tmp") else None)
    try:
        with quiet_environment(device, _PRIVATE), own_handlers():
            ray.init(
                address="local", num_cpus=cpus(), num_gpus=gpus(device), include_dashboard=False,
                log_to_driver=False, logging_level=logging.ERROR, _temp_dir=folder,
            )  # fmt: skip
        with silence():
            yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def silence() -> Iterator[None]:
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
def quiet_environment(device: torch.device | None = None, more: Mapping[str, str] | None = None) -> Iterator[None]:
    """What Ray's processes inherit: silence, and of several GPUs only the one that was asked for."""
    wanted = {k: v for k, v in {**ENVIRONMENT, **(more or {})}.items() if k not in os.environ}
    if device is not None and device.type == "cuda" and device.index is not None:
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
def own_handlers() -> Iterator[None]:
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
