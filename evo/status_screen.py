"""A run's status as a person reads it: tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from evo.progress import spoken
from evo.status import HostState, NetworkState, Status

FAILURES = 5
"""How many of the latest failures are shown; --json has all."""

_STYLES = {
    "alive": "bold",
    "silent": "bold red",
    "failed": "red",
    "finished": "dim",
    "waiting": "dim",
    "stopped": "yellow",
}
_ORDER = {"silent": 0, "alive": 1, "stopped": 2, "failed": 3, "finished": 4, "waiting": 5}


def screen(status: Status, room: int | None = None) -> RenderableType:
    """Everything, in at most so many networks' rows; the silent and the living come first where there is no room."""
    parts: list[RenderableType] = [_head(status), _networks(status, room)]
    if status.hosts:
        parts += [Text(), _hosts(status.hosts)]
    if status.failures:
        parts += [Text(), _failures(status)]
    return Group(*parts)


def lines(status: Status) -> list[str]:
    """The same, a line an item, for logs and pipes."""
    told = [headline(status), f"{summary(status)}; {left(status)}"]
    told += [_line(n) for n in status.networks if n.state != "waiting"]
    told += [f"machine {h.host}: {', '.join(_machine(h))}" for h in status.hosts]
    told += [_failure(f.time, f.network, f.cause, f.then) for f in status.failures[-FAILURES:]]
    return told


def as_json(status: Status) -> dict[str, Any]:
    told = dataclasses.asdict(status)
    told["counts"] = status.counts()
    return told


def headline(status: Status) -> str:
    said = f" ({status.said})" if status.said else ""
    return f"{status.kind} {status.task}, seed {status.seed}, {status.run}: {status.state}{said}"


def summary(status: Status) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in status.counts().items())
    waiting = sum(n.waiting for n in status.networks)
    flying = sum(n.in_flight for n in status.networks)
    queue = f"; candidates: {flying} in flight, {waiting} waiting" if flying or waiting else ""
    many = f"{status.wanted} network{'s' * (status.wanted > 1)}"
    return f"{many}: {counts}{queue}"


def left(status: Status) -> str:
    if status.over:
        return "nothing left to do"
    if status.left is None:
        return f"time left unknown: {status.left_said}"
    if status.left == 0:
        return status.left_said
    return f"about {spoken(status.left)} left ({status.left_said})"


def _head(status: Status) -> RenderableType:
    style = {"running": "bold green", "silent": "bold red", "finished": "bold", "stopped": "bold yellow"}
    first = Text.assemble(
        (f"{status.kind} {status.task}, seed {status.seed}, {status.run}  ", "bold"),
        (status.state, style.get(status.state, "bold")),
    )
    parts: list[RenderableType] = [first]
    if status.said:
        parts.append(Text(status.said, style="yellow"))
    parts += [Text(summary(status)), Text(left(status), style="cyan")]
    return Group(*parts)


def _networks(status: Status, room: int | None) -> RenderableType:
    shown = [n for n in status.networks if n.state != "waiting"]
    hidden = 0
    if room is not None and len(shown) > room:
        ranked = sorted(shown, key=lambda n: (_ORDER[n.state], -(n.information or 0.0)))[: max(1, room - 1)]
        hidden = len(shown) - len(ranked)
        shown = [n for n in shown if n in ranked]
    if not shown:
        return Text("no network is born yet", style="dim")
    best = max((n.information for n in shown if n.information is not None), default=None)
    on_gpu = any(n.gpu_bytes for n in shown)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("network", "gen", "cycle", "information", "parameters", "doing", "candidates", "memory"):
        right = name in ("gen", "parameters", "memory")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "doing", overflow="fold")
    if on_gpu:
        table.add_column("GPU", justify="right", no_wrap=True)
    table.add_column("host", no_wrap=True, overflow="ellipsis")
    for n in shown:
        cycle = Table.grid(padding=(0, 1))
        done = n.cycles if n.state == "finished" else n.cycle
        cycle.add_row(ProgressBar(total=max(1, n.cycles), completed=done, width=8), f"{n.cycle}/{n.cycles}")
        style = _STYLES[n.state]
        leading = n.information is not None and n.information == best
        table.add_row(
            Text(n.network, style="bold green" if leading else style),
            "" if n.generation is None else str(n.generation),
            cycle,
            Text(_nats(n.information), style="bold green" if leading else ""),
            "" if n.parameters is None else f"{n.parameters:,}",
            Text(_doing(n), style="red" if n.state in ("silent", "failed") else "" if n.state == "alive" else "dim"),
            _candidates(n),
            _bytes(n.memory_bytes),
            *([_bytes(n.gpu_bytes)] if on_gpu else []),
            Text(n.host, style="dim"),
        )
    return Group(table, Text(f"and {hidden} more", style="dim")) if hidden else table


def _hosts(hosts: tuple[HostState, ...]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("machine", "CPU", "memory", "GPUs"):
        table.add_column(name, no_wrap=name != "GPUs")
    for host in hosts:
        cpu, memory, gpus = _machine(host)
        table.add_row(host.host, cpu.removeprefix("CPU "), memory.removeprefix("memory "), gpus)
    return table


def _machine(host: HostState) -> tuple[str, str, str]:
    cpu = "CPU unknown" if host.cpu_percent is None else f"CPU {host.cpu_percent:.0f}% of {host.cpus}"
    memory = f"memory {_bytes(host.memory_used_bytes)} of {_bytes(host.memory_total_bytes)}"
    return cpu, memory, "; ".join(_gpu(g) for g in host.gpus) or "no GPU"


def _gpu(gpu: Mapping[str, Any]) -> str:
    busy = gpu.get("utilization_percent")
    share = "" if busy is None else f" {busy:.0f}%,"
    watts = gpu.get("power_watts")
    power = "" if watts is None else f", {watts:.0f} W"
    memory = f"{_bytes(gpu.get('memory_used_bytes'))} of {_bytes(gpu.get('memory_total_bytes'))}"
    return f"GPU {gpu.get('index')}:{share} {memory}{power}"


def _failures(status: Status) -> RenderableType:
    number = len(status.failures)
    some = f", the latest {FAILURES}" if number > FAILURES else ""
    parts = [Text(f"failures: {number}{some}", style="bold red")]
    parts += [Text(_failure(f.time, f.network, f.cause, f.then)) for f in status.failures[-FAILURES:]]
    return Group(*parts)


def _failure(when: float, network: str, cause: str, then: str) -> str:
    at = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))} " if when else ""
    return f"{at}{network}: {cause}; {then}"


def _line(n: NetworkState) -> str:
    generation = "" if n.generation is None else f" g{n.generation}"
    parts = [
        f"{n.network}{generation} {n.cycle}/{n.cycles}",
        _nats(n.information), "" if n.parameters is None else f"{n.parameters} parameters", _doing(n), _candidates(n),
        _bytes(n.memory_bytes), "" if n.gpu_bytes is None else f"{_bytes(n.gpu_bytes)} on GPU", n.host,
    ]  # fmt: skip
    return "  ".join(part for part in parts if part)


def _doing(n: NetworkState) -> str:
    if n.state == "alive":
        return n.said
    return f"{n.state}: {n.said}" if n.said else n.state


def _candidates(n: NetworkState) -> str:
    return f"{n.in_flight} in flight, {n.waiting} waiting" if n.in_flight or n.waiting else ""


def _nats(value: float | None) -> str:
    return "" if value is None else f"{value:.3f} nats"


def _bytes(value: float | None) -> str:
    """In the unit that leaves one to four digits."""
    if value is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
