"""Footprint: what a network takes in time and memory, measured on a few steps of its seed and of the largest it can be.

Nothing that is measured here changes what a life computes: it only says how many lives fit side by side, and for how
long they will be at it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from evo import memory, replica
from evo.batches import batch_orders, cosine_rates
from evo.birth import seeded
from evo.config import Config
from evo.cycle import born, run_cycle
from evo.life import Plan
from evo.placement import Need, Node
from evo.settings import build
from evo.storage import open_store
from evo.surroundings import Surroundings, resolved
from evo.task import Task
from evo.training import Moment, Session
from evo.trials import TrialRequest, pack
from evo.workers import InProcess, attempt
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from tournaments import economy

PROCESS_BYTES = 450 * 2**20
"""Of a trial's or worker's process before it holds a network: Python, PyTorch for the CPU and Ray."""

CONTEXT_BYTES = 600 * 2**20
"""Of a GPU, for the CUDA context and the libraries' workspaces of one process, which PyTorch does not count."""

WARM, TIMED = 4, 24

FILE = "footprint.json"
"""In a run's folder: what was measured when it began."""


@dataclass(frozen=True)
class Shape:
    """What one shape takes. step, fork, decision: seconds of a training step, of a fork of the first rung with its
    measurement, of a decision beside its forks. host, gpu: bytes beyond the data and what any process takes.
    """

    parameters: int
    step: float
    fork: float
    decision: float
    host: int
    gpu: int


@dataclass(frozen=True)
class Footprint:
    """seed, grown: what a life begins with, and the most that its settings let it become. data: bytes."""

    seed: Shape
    grown: Shape
    data: int

    def need(self) -> Need:
        """Of one process, at its largest."""
        gpu = self.grown.gpu + self.data + CONTEXT_BYTES if self.grown.gpu else 0
        data = 0 if gpu else self.data
        said = f"measured on a network of {self.grown.parameters:,} parameters"
        return Need(PROCESS_BYTES + data + self.grown.host, gpu, said)


def measured(config: Config, task: Task) -> Footprint:
    """Raises MemoryError where the largest shape does not fit even one sample at a time."""
    training = resolved(config.training, len(task.splits["train"]), task.enumerated)
    config = config.model_copy(update={"training": training})
    network = _seed(config, task)
    first = network.count()
    seed = _shape(config, task, network)
    grown = seed
    wanted = reachable(config, first, Plan.of(config, len(task.splits["train"])))
    if wanted > first:
        grown = _shape(config, task, _widened(config, task, first, wanted))
    held = {id(t): t.numel() * t.element_size() for s in task.splits.values() for t in (s.x, s.y)}
    return Footprint(seed, grown, sum(held.values()))


def reachable(config: Config, count: int, plan: Plan) -> int:
    """The most parameters that growth can come to: the stake, the limits of each phase, and the largest allowed."""
    stake = max(config.growth.stake, config.search.stake[1])
    for cycle in range(plan.cycles):
        phase = economy.phase(cycle / max(plan.cycles, 1))
        allowed = economy.limit(phase, count, config.economy.limits, config.economy.caps)
        count += max(min(round(stake * count), allowed, config.growth.max_parameters - count), 0)
    return count


def _seed(config: Config, task: Task) -> Network:
    train = task.splits["train"]
    network, _ = seeded(config, task, "footprint", train.x[: min(64, len(train.x))])
    return network.to(train.x.device)


def _widened(config: Config, task: Task, first: int, wanted: int) -> Network:
    """A seed of the same make with about so many parameters."""
    factor = wanted / first
    free = {"growth.max_parameters": 2**40, "network.start": None}
    for _ in range(3):
        hidden = [max(1, round(units * factor)) for units in config.network.hidden]
        network = _seed(build(config.model_dump(), {"network.hidden": hidden, **free}), task)
        if 0.8 <= network.count() / wanted <= 1.25:
            break
        factor *= wanted / network.count()
    return network


def _shape(config: Config, task: Task, network: Network) -> Shape:
    train, batch = task.splits["train"], config.training.batch_size
    device = train.x.device
    body = pack(network, OptimizerState.fresh(network))
    rungs = config.tournament.rungs
    request = TrialRequest(
        key=("footprint",), arm=0, seed=0, rung=0, actions="", start=None, step=0, steps=rungs[0], total=sum(rungs),
        rate=1.0, jitter=config.tournament.jitter, training=config.training,
    )  # fmt: skip
    orders = batch_orders(len(train), WARM + TIMED, batch, keyed("footprint"))
    rates = np.zeros(WARM + TIMED) + cosine_rates(config.training, 0, 1, 1)

    def steps(parts: memory.Parts) -> float:
        with memory.needed("training"):
            session = Session(
                network, OptimizerState.fresh(network), train, task.kind, config.training, at=Moment(0, WARM + TIMED),
                parts=parts.training,
            )  # fmt: skip
            session.run(orders[:WARM], rates[:WARM])
            seconds = _timed(lambda: session.run(orders[WARM:], rates[WARM:]), device)
            session.close()
        return seconds

    with _Peak(device) as peak:
        step, _ = memory.fitted(memory.WHOLE, batch, steps)
        decision = _decision(config, task, network)
        fork = _timed(lambda: attempt(task, body, request), device)
    return Shape(network.count(), step / TIMED, fork, decision, peak.host, peak.gpu)


def _decision(config: Config, task: Task, network: Network) -> float:
    """Seconds of the first decision of a life, less those of its forks; 0 where it has none."""
    alone = config.model_copy(update={"training": config.training.model_copy(update={"ranks": 1})})
    around = Surroundings.of(alone, task, "footprint", InProcess(task))
    if not around.plan.cycles:
        return 0.0
    around = dataclasses.replace(around, plan=dataclasses.replace(around.plan, segment=1))
    _, _, _, rows = run_cycle(around, born(around, network), network, OptimizerState.fresh(network))
    whole, forks = (
        float(sum(row["seconds"] for row in rows if row["kind"] == kind)) for kind in ("decision", "candidate")
    )
    return max(0.0, whole - forks)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


class _Peak:
    """The most memory that was held within a block beyond what was before it: host and gpu, bytes."""

    def __init__(self, device: torch.device) -> None:
        self.host = self.gpu = 0
        self._device, self._stopped = device, threading.Event()

    def __enter__(self) -> _Peak:
        self._before = _resident()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._held = torch.cuda.memory_allocated(self._device)
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._watch.join()
        if self._device.type == "cuda":
            self.gpu = max(torch.cuda.max_memory_allocated(self._device) - self._held, 1)

    def _look(self) -> None:
        while True:
            self.host = max(self.host, _resident() - self._before)
            if self._stopped.wait(0.002):
                return


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096


def settled(config: Config, task: Task, nodes: Sequence[Node], folder: Path) -> Need:
    """What a process of this run needs, measured where it may matter, once in the run's life: a resume, and whoever
    else runs it, goes by what the run's folder says.

    It may matter on a GPU, or where a rough guess is more than a node's memory divided among its CPUs.
    """
    found = replica.of(folder)
    store = open_store(folder) if found is None else found.store
    with contextlib.suppress(FileNotFoundError):
        return _read(store.read(FILE))
    room = min((node.memory / max(node.cpus, 1.0) for node in nodes if node.memory and node.cpus), default=math.inf)
    if task.splits["train"].x.device.type != "cuda" and _guess(config, task) <= room:
        need = Need(0, 0, "not measured: far below what there is")
    else:
        need = _measured_need(config, task)
    text = json.dumps(dataclasses.asdict(need)).encode()
    return need if store.create(FILE, text) else _read(store.read(FILE))


def _measured_need(config: Config, task: Task) -> Need:
    """What cannot be measured is no bound, and says why."""
    try:
        return measured(config, task).need()
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
        return Need(0, 0, f"not measured: {error}")


def _read(text: bytes) -> Need:
    """Raises ValueError where the file does not hold a need."""
    try:
        found = json.loads(text)
        return Need(int(found["memory"]), int(found["gpu_memory"]), str(found["source"]))
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(
            f"{FILE}: expected memory, gpu_memory and source, got {text[:60]!r}; remove the file, and it is made again"
        ) from err


def _guess(config: Config, task: Task) -> int:
    """Bytes that no process of a network should exceed: data, a dense network at its largest, its evidence."""
    held = {id(t): t.numel() * t.element_size() for s in task.splits.values() for t in (s.x, s.y)}
    parameters = config.growth.max_parameters / config.network.density
    units = sum(config.network.hidden) + sum(task.shape) + task.outputs
    samples = max(config.tournament.evidence_samples, memory.ROWS, config.training.batch_size)
    return int(PROCESS_BYTES + sum(held.values()) + 64 * parameters + 64 * samples * units)
