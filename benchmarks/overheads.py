"""What growth costs beside training, each as a ratio within one run.

    python benchmarks/overheads.py --data FOLDER_OF_IDX_FILES [--device cpu]

Prints JSON: screening of at least 32 candidates on MNIST against half an epoch; one surgery against a hundredth of an
epoch; tournaments' share of a default run's steps; recording's share of its time; Ray's start-up, and how often it was
paid. The ratio of a training step to a hand-written one is `benchmarks/steps.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import evo
from evo import grower as grower_module
from evo.batches import batch_orders, cosine_rates
from evo.config import Config
from evo.data import load_task
from evo.settings import build
from evo.surroundings import Surroundings, resolved
from evo.task import Task
from evo.training import Session
from search_spaces import checkpoint, surgery
from search_spaces.actions import Spoke, Unit, Widen
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import seed
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.place import GramCache
from tournaments.proposals import PROPOSERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = build({}, {"task": "mnist", "data.path": args.data, "device": args.device, "record.mlflow": False})
    task = load_task(config).to(args.device)
    settings = {"family": "mlp", "hidden": (32, 24, 16), "density": 0.02, "activation": "relu"}
    network = seed(settings, task.shape, task.picture, task.outputs, keyed(0, "overheads")).to(args.device)
    epoch = _epoch(config, task, network)
    print(
        json.dumps(
            {
                "device": args.device,
                "torch": torch.__version__,
                "epoch_s": round(epoch, 3),
                "screening": _screening(config, task, network, epoch),
                "surgery": _surgery(network, epoch),
                "default run on digits": _run(),
                "ray": _ray(),
            },
            indent=1,
        )
    )


def _epoch(config: Config, task: Task, network: Network) -> float:
    """Seconds of one epoch at the default batch, by the median of 300-step stretches."""
    train = task.splits["train"]
    training = resolved(config.training, len(train.x))
    orders = batch_orders(len(train.x), 300, training.batch_size, keyed(0))
    session = Session(network, OptimizerState.fresh(network), train, task.kind, training)
    seconds = [_timed(lambda: session.run(orders, cosine_rates(training, 0, 300, 10_000))) for _ in range(6)][1:]
    return statistics.median(seconds) / 300 * len(train.x) / training.batch_size


def _screening(config: Config, task: Task, network: Network, epoch: float) -> dict[str, Any]:
    """Evidence, statistics, all proposers. The input's Gram matrix is cached over a life, so the first is apart."""
    around = Surroundings.of(config, task, "n000", lambda parent, requests: [])
    cache, proposed = GramCache(), 0

    def screen() -> None:
        nonlocal proposed
        evidence = collect(network, around.evidence.x, around.evidence.y, task.kind, keyed(0, "fisher"))
        count = network.count()
        findings = Findings(network, evidence, count // 2, count // 8, lambda p: keyed(0, p), cache)
        proposed = sum(len(propose(findings)) for propose in PROPOSERS.values())

    first = _timed(screen)
    later = statistics.median(_timed(screen) for _ in range(5))
    assert proposed >= 32, f"{proposed} candidates were proposed, the claim is about 32"
    return {
        "candidates": proposed,
        "samples": len(around.evidence.x),
        "first_s": round(first, 3),
        "later_s": round(later, 3),
        "first_in_epochs": round(first / epoch, 3),
        "in_epochs_of_32": round(later / epoch * 32 / proposed, 3),
        "bound": 0.5,
    }


def _surgery(network: Network, epoch: float) -> dict[str, float]:
    """One Widen of four units with the optimiser's state, against a hundredth of an epoch."""
    state = OptimizerState.fresh(network)
    unit = Unit(tuple(Spoke("input", j, 0.1) for j in range(20)), (Spoke("hidden2", 0, 0.0),))
    seconds = statistics.median(
        _timed(lambda: surgery.apply(network, (Widen("hidden1", (unit,) * 4),), state)) for _ in range(20)
    )
    return {"seconds": round(seconds, 5), "in_hundredths_of_an_epoch": round(100 * seconds / epoch, 3), "bound": 1.0}


def _run() -> dict[str, Any]:
    """A default life on digits: which share of its steps went to losing trials, which of its time to recording."""
    spent = {"save": 0.0, "commit": 0.0}

    def clocked(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = call(*args, **kwargs)
            spent[name] += time.perf_counter() - began
            return result

        return run

    plain_save, plain_commit = checkpoint.save, grower_module.Recorder.commit
    checkpoint.save = clocked("save", plain_save)
    grower_module.Recorder.commit = clocked("commit", plain_commit)  # type: ignore[method-assign]
    try:
        began = time.perf_counter()
        run = evo.grow("digits", out=tempfile.mkdtemp(), record={"mlflow": False})
        whole = time.perf_counter() - began
    finally:
        checkpoint.save, grower_module.Recorder.commit = plain_save, plain_commit  # type: ignore[method-assign]
    events = run.events
    trials = float(events[events.kind == "decision"].trial_steps.sum())
    life = float(events[events.kind == "finished"].step.iloc[0])
    config = Config()
    return {
        "seconds": round(whole, 2),
        "life_steps": life,
        "losing_trial_steps": trials,
        "tournament_share_of_steps": round(trials / (trials + life), 3),
        "bound": 0.3,
        "buys": {
            "tournaments": int((events[events.kind == "decision"].trial_steps > 0).sum()),
            "candidates": config.tournament.candidates,
            "seeds": config.tournament.seeds,
            "rungs": list(config.tournament.rungs),
        },
        "recording_share_of_time": round(sum(spent.values()) / whole, 4),
        "recording_bound": 0.01,
    }


def _ray() -> dict[str, float]:
    """How often a search of two networks starts Ray, and what one start takes."""
    starts: list[float] = []
    plain = ray.init

    def counted(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return plain(*args, **kwargs)
        finally:
            starts.append(time.perf_counter() - began)

    ray.init = counted
    try:
        evo.search(
            "digits",
            out=str(Path(tempfile.mkdtemp())),
            search={"networks": 2, "population": 2},
            training={"steps": 400},
            record={"mlflow": False},
        )
    finally:
        ray.init = plain
    return {"starts": len(starts), "seconds": round(float(np.sum(starts)), 2)}


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
