"""A job: one network's whole life, from a config to a few figures. It leaves no run folder behind.

The life is the one that `evo grow` would run, in a folder that is thrown away; the test set is read when it is over,
for the table alone: nothing is chosen by it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evo import data, device
from evo.config import Config, ConfigError
from evo.data import Task
from evo.grower import Grower
from evo.life import Plan
from evo.recorder import read_table
from evo.settings import build
from evo.training import held_out_losses, predict
from evo.workers import make_runner
from search_spaces import checkpoint
from search_spaces.families import FAMILIES
from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments.objective import score

STATIC: Mapping[str, Any] = {"growth.settle": 1.0, "growth.max_parameters": 10**9}
"""Settings of a life without a tournament: plain training from birth to end."""

APART = ("seed", "device", "workers", "out", "name", "budget", "search", "record")
"""Settings that a job's key leaves out: what a life comes to does not depend on them, or they are told apart."""

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Job:
    """settings: a config as JSON. work: steps in all, those of trials included, or None for the config's plan.

    shape_of: key of a finished job whose last network lends its wiring, with weights drawn anew. keeps: whether the
    last network is to be kept, for a job of that kind. label: what tables call it; no part of the key.
    """

    label: str
    seed: int
    settings: Mapping[str, Any]
    work: int | None = None
    shape_of: str | None = None
    keeps: bool = False

    @staticmethod
    def of(label: str, seed: int, config: Config, change: Mapping[str, Any] | None = None, **more: Any) -> Job:
        """The job of `config` with some settings changed. Raises ConfigError for settings that cannot be."""
        settings = build(config.model_dump(), {"seed": seed, "workers": 0, "record.mlflow": False}, change or {})
        return Job(label, seed, settings.model_dump(mode="json"), **more)

    @functools.cached_property
    def key(self) -> str:
        """Says what is computed: jobs of one key come to the same."""
        settings = {name: value for name, value in self.settings.items() if name not in APART}
        settings["data"] = {k: v for k, v in settings["data"].items() if k != "path"}
        told = [settings, self.seed, self.work, self.shape_of]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Outcome:
    """What a life came to, at its end. Information in nats a sample; `accuracy` is R² for a regression.

    validation_se: of the validation information, over its samples. density: active weights as a share of all cells of
    the config's layers. work: training steps of its own line and of its trials. adopted: how often each
    proposer won.
    """

    validation_information: float
    validation_se: float
    validation_accuracy: float
    test_information: float
    test_accuracy: float
    active_parameters: int
    active_weights: int
    born_parameters: int
    density: float
    line_steps: int
    work: int
    tournaments: int
    reason: str
    seconds: float
    adopted: Mapping[str, int] = field(default_factory=dict)

    @property
    def per_parameter(self) -> float:
        """Validation information, millinats for each active parameter."""
        return 1000.0 * self.validation_information / max(self.active_parameters, 1)

    @staticmethod
    def from_json(fields: Mapping[str, Any]) -> Outcome:
        """Raises TypeError where the fields are not those of an outcome."""
        return Outcome(**fields)


def run_job(job: Job, shape: Files | None = None, pulse: Callable[[], None] = lambda: None) -> tuple[Outcome, Files]:
    """Lives it. shape: the files of the network that `job.shape_of` names. pulse: called between cycles; may raise.

    Returns the last network's files too, where the job keeps it. Raises ValueError and OSError, as growing does.
    """
    began = time.perf_counter()
    config = build(job.settings)
    task = task_of(config)
    with tempfile.TemporaryDirectory(prefix="evo-job-") as home, make_runner(0, task) as runner:
        folder = Path(home)
        parent = None
        if job.shape_of is not None:
            assert shape is not None, f"{job.label}: the network of {job.shape_of} is missing"
            parent = "shape/000000"
            network = checkpoint.from_files(dict(shape)).network
            draw_anew(network, keyed(config.seed, "drawn anew"))
            checkpoint.save(folder / "snapshots" / parent, network)
        grower = MeteredGrower(config, task, folder, parent=parent, runner=runner)
        grower.work = job.work
        born, cells = grower.body.count(), _cells(config, task, grower.body)
        while not grower.done:
            grower.advance()
            pulse()
        grower.close()
        outcome = _outcome(task, grower, born, cells, _adopted(folder, grower.network), time.perf_counter() - began)
        files = checkpoint.to_files(grower.body) if job.keeps else {}
    return outcome, files


class MeteredGrower(Grower):
    """Lives exactly `work` steps, those of trials included: what its tournaments cost is taken off the length of its
    own line, which the learning rate's cosine follows. Only a last stretch that diverges and is run again goes beyond
    it, and is counted. None: as the config plans it.
    """

    work: int | None = None

    def advance(self) -> dict[str, float | int | str | bool]:
        if self.work is not None:
            self._around = dataclasses.replace(self._around, plan=self._within(self.work))
        return super().advance()

    def _within(self, work: int) -> Plan:
        """The plan that the next cycle follows."""
        life, plan, tournament = self.life, self._around.plan, self.config.tournament
        arms = tournament.candidates + 2  # the control, and a placebo now and then
        most = arms * tournament.seeds * sum(tournament.rungs)
        left, remaining = max(work - life.step - life.spent, 0), plan.cycles - life.cycle
        if remaining > 0 and left >= plan.segment + most:
            expected = remaining * life.spent // max(life.cycle, 1)
            return dataclasses.replace(plan, total=life.step + max(left - expected, plan.segment))
        return Plan(life.step + left, min(plan.cycles, life.cycle), plan.segment, plan.trial, left)


def draw_anew(network: Network, rng: np.random.Generator) -> None:
    """The same wiring with fresh weights: He's for the fan-in that each unit really has over all of its links."""
    masks = network.masks()
    fan_in: dict[str, Any] = {}
    for name, mask in masks.items():
        target = name.rpartition(">")[2]
        fan_in[target] = fan_in.get(target, 0) + network.get_buffer(mask).flatten(1).sum(dim=1).double()
    with torch.no_grad():
        for name, p in network.named_parameters():
            if name in masks:
                target = name.rpartition(">")[2]
                gain = 1.0 if target == "output" else 2.0
                scale = torch.sqrt(gain / fan_in[target].clamp(min=1)).view(-1, *[1] * (p.dim() - 1))
                drawn = torch.from_numpy(rng.standard_normal(tuple(p.shape))).to(scale)
                p.copy_(drawn * scale * network.get_buffer(masks[name]))
            elif name.endswith("bias"):
                p.zero_()


def task_of(config: Config) -> Task:
    """The config's data on its device; the latest is kept, as jobs often share it."""
    return _task(config.task, json.dumps(config.data.model_dump()), config.seed, config.device)


@functools.lru_cache(maxsize=1)
def _task(name: str, section: str, seed: int, place: str) -> Task:
    config = build({"task": name, "data": json.loads(section), "seed": seed, "device": place})
    return data.load_task(config).to(device.resolve(place))


def check(config: Config) -> Task:
    """Whether jobs of this config can be run here at all; its data. Raises ConfigError and DataError."""
    if config.network.family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ConfigError(f"network.family: expected one of {known}, got {config.network.family!r}; write mlp, say")
    return task_of(config)


def _outcome(task: Task, grower: Grower, born: int, cells: int, adopted: Mapping[str, int], seconds: float) -> Outcome:
    network, life = grower.body, grower.life
    figures: dict[str, float] = {}
    for part in ("validation", "test"):
        held = task.splits[part]
        lost = held_out_losses(network, held, task.kind)
        figures[f"{part}_information"] = task.entropy - float(lost.mean())
        figures[f"{part}_accuracy"] = float(score(task.kind, predict(network, held.x), held.y))
        if part == "validation":
            figures["validation_se"] = float(lost.std(ddof=1) / math.sqrt(len(lost))) if len(lost) > 1 else math.inf
    weights = _weights(network)
    return Outcome(
        **figures,
        active_parameters=network.count(),
        active_weights=weights,
        born_parameters=born,
        density=weights / cells,
        line_steps=life.step,
        work=life.step + life.spent,
        tournaments=life.tournaments,
        reason=life.reason,
        seconds=round(seconds, 3),
        adopted=adopted,
    )


def _adopted(folder: Path, network: str) -> dict[str, int]:
    rows = read_table(folder, network).select(["kind", "proposer", "selected"]).to_pylist()
    won = [str(row["proposer"]) for row in rows if row["kind"] == "candidate" and row["selected"] and row["proposer"]]
    return {name: won.count(name) for name in sorted(set(won))}


def _cells(config: Config, task: Task, born: Network) -> int:
    """Places for a weight in the layers of the config, masked or not; a convnet's are those that it is born with."""
    if config.network.family == "mlp":
        sizes = [math.prod(task.shape), *config.network.hidden, task.outputs]
        return sum(p * q for p, q in itertools.pairwise(sizes))
    return sum(born.get_buffer(mask).numel() for mask in born.masks().values())


def _weights(network: Network) -> int:
    return sum(int(network.get_buffer(mask).sum()) for mask in network.masks().values())
