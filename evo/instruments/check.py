"""The architecture check before a long run: what would make it fail is looked for while it costs a minute.

Six questions, each answered by a line that passes or fails, with what to do:
- data: every split holds every class, and some input varies;
- chance: what guessing comes to, and that the margin over it can be seen at all in this much validation data;
- twin: the same layers, dense, learn the task in a short life;
- gradient: in the network as configured, and in its twin, it reaches every layer, neither vanishing nor exploding;
- replay: the raw rows, preprocessed again by the recipe that a checkpoint carries, are the training tensor bit for bit;
- checkpoint: the twin, saved and loaded, has the same validation information on replayed rows to the last bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo import data, sources
from evo.config import Config
from evo.instruments import pictures
from evo.instruments.comparisons import Z95
from evo.instruments.instrument import Bench, Request, Result
from evo.instruments.jobs import STATIC, Job, Outcome
from evo.instruments.tables import Column, nats, percent
from evo.life import Plan
from evo.task import Split, Task
from evo.training import held_out_losses
from search_spaces import checkpoint
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import seed as grown_seed
from tournaments.analysis import Analysis
from tournaments.analyzers import ANALYZERS
from tournaments.evidence import collect
from tournaments.findings import Findings

STEPS = 3000
"""Of the twin's life, where the config's is not shorter."""

SILENT = 0.5
"""Share of a layer's units that gradient may fail to reach."""

COLUMNS = (Column("verdict", ""), Column("name", "what"), Column("told", "found"), Column("cure", "cure"))


@dataclass(frozen=True)
class Answer:
    """cure: what to do, where it failed."""

    name: str
    passed: bool
    told: str
    cure: str = ""


def check(request: Request, bench: Bench) -> Result:
    """options: margin, in nats, that the twin must beat chance by."""
    config, task, margin = request.config, bench.task, float(request.options["margin"])
    steps = min(STEPS, Plan.of(config, len(task.splits["train"])).total)
    change = {**STATIC, "network.density": 1.0, "training.steps": steps, "training.epochs": None}
    job = request.job("dense twin", config.seed, change, keeps=True)
    [outcome] = bench.run([job])
    own, twin = _born(config, task, config.network.density), _born(config, task, 1.0)
    flows = {"as configured": _flow(own, config, task), "dense twin": _flow(twin, config, task)}
    answers = [
        _data(task), _chance(task, outcome, margin), _twin(task, outcome, steps, margin),
        *(_gradient(name, analysis, own if name == "as configured" else twin) for name, analysis in flows.items()),
        *_replay(config, task, job, bench, outcome),
    ]  # fmt: skip
    passed = all(answer.passed for answer in answers)
    rows = [{**dataclasses.asdict(a), "verdict": "pass" if a.passed else "FAIL"} for a in answers]
    summary = {"task": config.task, "passed": passed, "checks": [dataclasses.asdict(answer) for answer in answers],
               "twin": dataclasses.asdict(outcome)}  # fmt: skip
    values = {name: _gradients(analysis) for name, analysis in flows.items()}
    picture = pictures.flows(f"Gradient in a network for {config.task}", values)
    failed = [answer.name for answer in answers if not answer.passed]
    note = f"failed: {', '.join(failed)}; mend that before a long run" if failed else "all is as it should be"
    table = pd.DataFrame(rows, columns=[column.name for column in COLUMNS])
    return Result(summary, table, COLUMNS, picture, (note,), passed=passed)


def majority(task: Task, part: str = "validation") -> float:
    """Accuracy of always saying the label that is most frequent in training."""
    counts = torch.bincount(task.splits["train"].y, minlength=task.outputs)
    return float((task.splits[part].y == counts.argmax()).double().mean())


def _data(task: Task) -> Answer:
    train = task.splits["train"]
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in task.splits.items())
    varying = int((train.x.flatten(1).std(dim=0) > 0).sum())
    told = f"{sizes} samples; {varying:,} of {math.prod(task.shape):,} inputs vary"
    if task.kind == "classification":
        missing = [n for n, s in task.splits.items() if len(torch.unique(s.y)) < task.outputs]
        told += f"; {task.outputs} classes"
        if missing:
            return Answer(
                "data", False, f"{told}; {', '.join(missing)} lack some", "add samples, or merge rare classes"
            )
    finite = all(bool(torch.isfinite(split.x).all()) for split in task.splits.values())
    return Answer("data", varying > 0 and finite, told, "" if varying and finite else "give inputs that vary")


def _chance(task: Task, outcome: Outcome, margin: float) -> Answer:
    seen = Z95 * outcome.validation_se
    guess = f", {percent(majority(task))} by the most frequent label" if task.kind == "classification" else ""
    told = f"H(Y) = {nats(task.entropy)} nats{guess}; the twin is known to {nats(seen)} nats on validation data"
    cure = "a margin smaller than that cannot be seen: hold back more by --set data.validation=.2, or add samples"
    return Answer("chance", seen <= margin, told, "" if seen <= margin else cure)


def _twin(task: Task, outcome: Outcome, steps: int, margin: float) -> Answer:
    bound = outcome.validation_information - Z95 * outcome.validation_se
    name = "accuracy" if task.kind == "classification" else "R²"
    told = (
        f"{nats(outcome.validation_information)} nats (at least {nats(bound)}), {name} "
        f"{percent(outcome.validation_accuracy)} after {steps:,} steps"
    )
    cure = f"not {margin:g} nats above chance: try --set training.learning_rate=.003, more --epochs, or other --hidden"
    return Answer("dense twin learns", bound > margin, told, "" if bound > margin else cure)


def _gradient(name: str, analysis: Analysis, network: Network) -> Answer:
    layers = [place.layer for place in network.places()]
    silent = {layer: analysis.value(layer, "silent_share") for layer in layers}
    unreached = [layer for layer in layers if analysis.value(layer, "gradient") == 0 or silent[layer] > SILENT]
    ratio = analysis.value("", "ratio")
    told = f"first layer's over the output's: {ratio:.2g}; silent units: " + ", ".join(
        f"{layer} {percent(share)}" for layer, share in silent.items()
    )
    label = f"gradient, {name}"
    if unreached:
        cure = "connect more: a higher network.density, network.wiring=even, or fewer units"
        return Answer(label, False, f"{told}; hardly reaches {', '.join(unreached)}", cure)
    if analysis.value("", "vanishing") or analysis.value("", "exploding"):
        what = "vanishes" if analysis.value("", "vanishing") else "explodes"
        return Answer(label, False, f"{told}; it {what}", "network.initial=lsuv, fewer layers, or activation=relu")
    return Answer(label, True, told)


def _replay(config: Config, task: Task, job: Job, bench: Bench, outcome: Outcome) -> list[Answer]:
    replayed = data.replay(task.preprocessing, _raw(config)).to(task.splits["train"].x.device)
    at = {digest: i for i, digest in reversed(list(enumerate(_digests(replayed))))}
    found = {part: [at.get(digest) for digest in _digests(task.splits[part].x)] for part in ("train", "validation")}
    strange = sum(index is None for index in found["train"])
    count = len(found["train"])
    told = f"{count - strange:,} of {count:,} training rows are there again bit for bit"
    cure = "the data changed while they were read, or an input is not a plain number; write them to a file first"
    answers = [Answer("preprocessing replays", strange == 0, told, "" if strange == 0 else cure)]
    files = bench.crew.shelf.files(job.key)
    assert files is not None, "the twin was kept"
    known = [index for index in found["validation"] if index is not None]
    if len(known) < len(found["validation"]):
        return [*answers, Answer("checkpoint predicts the same", False, "validation rows are missing", cure)]
    loaded = checkpoint.from_files(dict(files)).network.to(replayed.device)
    held = Split(replayed[torch.tensor(known, device=replayed.device)], task.splits["validation"].y)
    now = task.entropy - float(held_out_losses(loaded, held, task.kind).mean())
    same = now == outcome.validation_information
    told = f"{now:.12f} nats loaded, {outcome.validation_information:.12f} in memory"
    cure = "another processor or library version than the twin's: take the folder away and check again"
    return [*answers, Answer("checkpoint predicts the same", same, told, "" if same else cure)]


def _raw(config: Config) -> Any:
    """All raw rows of the task, as they come in."""
    name, _, size = config.task.partition(":")
    if name == "table":
        assert config.data.path is not None
        return Path(config.data.path)
    if name == "mnist":
        images = sources.mnist(config.data)[0]
        return images.reshape(len(images), -1)
    made: Mapping[str, Any] = {
        "digits": lambda: sources.digits()[0],
        "spirals": lambda: sources.spirals(config.seed)[0],
        "parity": lambda: sources.parity(int(size))[0],
    }
    raw: NDArray[Any] = made[name]()
    return raw


def _digests(x: Tensor) -> list[bytes]:
    rows = np.ascontiguousarray(x.flatten(1).cpu().numpy())
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]


def _born(config: Config, task: Task, density: float) -> Network:
    settings = {**config.network.model_dump(), "density": density}
    rng = keyed(config.seed, "check", "seed")
    network = grown_seed(settings, task.shape, task.picture, task.outputs, rng, task.splits["train"].x[:2048].cpu())
    return network.to(task.splits["train"].x.device)


def _flow(network: Network, config: Config, task: Task) -> Analysis:
    train, rng = task.splits["train"], keyed(config.seed, "check", "samples")
    count = min(config.tournament.evidence_samples, len(train))
    index = torch.from_numpy(np.sort(rng.choice(len(train), count, replace=False))).to(train.x.device)
    evidence = collect(network, train.x[index], train.y[index], task.kind, keyed(config.seed, "check", "fisher"))
    findings = Findings(network, evidence, 0, 0, lambda purpose: keyed(config.seed, "check", purpose))
    return findings.analysis(ANALYZERS["gradients"])


def _gradients(analysis: Analysis) -> dict[str, float]:
    return {measure.site: measure.value for measure in analysis.measures if measure.name == "gradient"}
