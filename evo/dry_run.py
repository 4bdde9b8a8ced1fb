"""A dry run: what a search or a growth would claim, where, and for how long. Nothing is started, no folder made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from evo import cluster, footprint, placement
from evo.config import Config
from evo.footprint import Shape
from evo.life import Plan
from evo.placement import Need, Node
from evo.task import Task
from evo.workers import device_of

START_SECONDS = 15.0
"""Until networks take their first step: Ray's start, and the imports of its processes (measured: 8–20 s)."""

TRIAL_SECONDS = 0.001
"""That a fork takes of whoever sends it to a worker (measured: docs/benchmarks/scaling.md)."""


def plan(kind: str, config: Config, task: Task, nodes: Sequence[Node] | None = None) -> dict[str, Any]:
    """The plan as `evo search --dry-run --json` prints it. nodes: those that Ray or this machine has, if not given.

    Raises ConfigError where it does not fit.
    """
    device = device_of(task)
    nodes = cluster.nodes(device) if nodes is None else nodes
    _placed(kind, config, device.type, nodes, Need())  # what fits nowhere need not be measured
    found = footprint.measured(config, task)
    need = found.need()
    room = _placed(kind, config, device.type, nodes, need)
    networks = config.search.networks if kind == "search" else 1
    waves = math.ceil(networks / room.at_once)
    life = Plan.of(config, len(task.splits["train"]))
    # Ranks are the trials' workers too; that they also share the steps of training is not reckoned with.
    ranks = config.training.ranks
    low, high = (_life(config, life, shape, max(config.workers, ranks)) for shape in (found.seed, found.grown))
    started = START_SECONDS if kind == "search" or config.workers or ranks > 1 else 0.0
    seconds = [started + waves * lived for lived in sorted((low, high))]
    if config.budget is not None:
        seconds = [min(s, config.budget) for s in seconds]
    return {
        "kind": kind, "task": task.name, "device": str(device), "networks": networks, "at_once": room.at_once,
        "waves": waves, "workers": config.workers, "ranks": ranks, "bundles": room.bundles(), "strategy": room.strategy,
        "gpu_fraction": room.gpus, "memory_bytes": need.memory, "gpu_memory_bytes": need.gpu_memory,
        "measured": need.source, "nodes": _nodes(nodes, room), "spread": room.spread, "why": list(room.why),
        "steps": life.total, "cycles": life.cycles, "trial_steps_a_decision": _trial_steps(config),
        "seed": dataclasses.asdict(found.seed), "grown": dataclasses.asdict(found.grown),
        "seconds": [round(s, 1) for s in seconds],
    }  # fmt: skip


def _placed(kind: str, config: Config, device: str, nodes: Sequence[Node], need: Need) -> placement.Plan:
    if kind == "search":
        return placement.plan(nodes, config, device, need)
    return placement.pool(nodes, config.workers, device, need, config.training.ranks)


def _nodes(nodes: Sequence[Node], room: placement.Plan) -> list[dict[str, Any]]:
    whole, idle = dict(room.groups), {node.name: node for node in room.idle}
    return [
        {
            "name": node.name, "cpus": node.cpus, "gpus": node.gpus, "networks": whole[node.name],
            "idle_cpus": idle[node.name].cpus, "idle_gpus": idle[node.name].gpus,
        }
        for node in nodes
    ]  # fmt: skip


def _arms(config: Config) -> list[int]:
    """Forks' arms of each rung: all candidates and the control, then half of them."""
    left, arms = config.tournament.candidates, []
    for _ in config.tournament.rungs:
        arms.append(left + 1)
        left = max(1, left // 2)
    return arms


def _trial_steps(config: Config) -> int:
    forks = zip(_arms(config), config.tournament.rungs, strict=True)
    return sum(arms * config.tournament.seeds * steps for arms, steps in forks)


def _life(config: Config, life: Plan, shape: Shape, workers: int) -> float:
    """Seconds of one life at this shape, with its trials shared by so many workers."""
    first = config.tournament.rungs[0]
    rounds = [
        math.ceil(arms * config.tournament.seeds / workers)
        * (shape.fork + max(0, steps - first) * shape.step + TRIAL_SECONDS)
        for arms, steps in zip(_arms(config), config.tournament.rungs, strict=True)
    ]
    lived = (life.total - life.cycles * life.trial) * shape.step
    lived += life.cycles * (shape.decision + sum(rounds))
    return lived if config.training.seconds is None else min(lived, config.training.seconds)


def told(found: dict[str, Any]) -> str:
    """The plan in lines."""
    bundle = found["bundles"][-1] if found["bundles"] else {}
    claim = f"{_claim(bundle)} each"
    if found["bundles"] and found["bundles"][0] != bundle:
        claim = f"{_claim(found['bundles'][0])} for itself, {_claim(bundle)} for each rank"
    lines = [f"{found['kind']} {found['task']} on {found['device']}: the plan; nothing was started"]
    if found["kind"] == "search":
        lines.append(f"networks    {found['networks']}, {found['at_once']} at once, {found['waves']} after another")
    if found["ranks"] > 1:
        lines.append(f"ranks       {found['ranks']} each, which train it together and run its trials")
    else:
        lines.append(
            f"workers     {found['workers']} each" + ("" if found["workers"] else ": trials run in its own process")
        )
    if found["bundles"]:
        many = len(found["bundles"])
        lines.append(f"a network   a placement group of {many} bundle{'s' * (many > 1)} ({found['strategy']}), {claim}")
    for node in found["nodes"]:
        gpus = f", {node['gpus']:g} GPUs ({node['idle_gpus']:g} idle)" if node["gpus"] else ""
        lines.append(
            f"node        {node['name']}: {node['cpus']:g} CPUs ({node['idle_cpus']:g} idle){gpus}: "
            f"{node['networks']} network{'s' * (node['networks'] != 1)}"
        )
    lines += [f"            {why}" for why in found["why"]]
    lines.append(f"memory      about {found['memory_bytes'] / 2**20:,.0f} MiB a process, {found['measured']}")
    if found["gpu_fraction"]:
        of = f", for {found['gpu_memory_bytes'] / 2**20:,.0f} MiB" if found["gpu_memory_bytes"] else ""
        lines.append(f"GPU         {found['gpu_fraction']:g} of one for each process{of}")
    lines.append(
        f"a life      {found['steps']:,} steps, {found['cycles']} decisions of "
        f"{found['trial_steps_a_decision']:,} trial steps"
    )
    for name in ("seed", "grown"):
        shape = found[name]
        lines.append(
            f"{name:<12}{shape['parameters']:,} parameters: {1000 * shape['step']:.2f} ms a step, "
            f"{1000 * shape['fork']:.0f} ms a fork's first rung, {1000 * shape['decision']:.0f} ms its decision's rest"
        )
    low, high = found["seconds"]
    lines.append(
        f"time        {_clock(low)} if all stay as small as their seeds, {_clock(high)} if all grow to the limit"
    )
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _claim(bundle: dict[str, float]) -> str:
    return ", ".join(f"{value:g} {name}" for name, value in bundle.items() if name != "memory")
