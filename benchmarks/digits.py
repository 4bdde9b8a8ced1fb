"""Digits: what the default search finds under a limit of parameters, and magnitude pruning under the same limit.

    python benchmarks/digits.py [--seeds 5] [--limit 400] [--only search|pruning]

search: `evo search digits` with its defaults, a seed after the other; the entry of the front that has the most
validation information within the limit, and the seconds that the search took. pruning: a dense 64-32-10 on the same
splits, trained for as many steps as one network of the search lives, its smallest weights taken out gradually (cubic,
over the middle half of training; Zhu & Gupta 2017) until as many weights and biases are left as the limit allows.
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch

import evo
from evo.batches import batch_orders, cosine_rates
from evo.config import Config
from evo.data import load_task
from evo.settings import build
from evo.surroundings import resolved
from evo.training import Session, predict
from search_spaces import surgery
from search_spaces.actions import Disconnect, Edge
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import seed as seed_network
from tournaments.objective import score

ROUNDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--only", choices=["search", "pruning"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"torch": torch.__version__, "limit": args.limit}
    for name, run in (("search", _search), ("pruning", _pruning)):
        if args.only in (None, name):
            rows = []
            for seed in range(args.seeds):
                rows.append({"seed": seed, **run(seed, args.limit)})
                print(name, rows[-1], file=sys.stderr, flush=True)
            accuracy = statistics.median(row["test_accuracy"] for row in rows)
            result[name] = {"median test_accuracy": round(accuracy, 4), "rows": rows}
    print(json.dumps(result, indent=1))


def _search(seed: int, limit: int) -> dict[str, Any]:
    began = time.perf_counter()
    run = evo.search("digits", seed=seed, out=tempfile.mkdtemp())
    seconds = time.perf_counter() - began
    within = run.front[run.front.active_parameters <= limit]
    best = within.loc[within.validation_information_nats.idxmax()]
    return {
        "seconds": round(seconds, 1),
        "network": f"{best.network}/{best.snapshot}",
        "active_parameters": int(best.active_parameters),
        "peak_parameters": int(best.peak_parameters),
        "validation_information_nats": round(float(best.validation_information_nats), 4),
        "test_information_nats": round(float(best.test_information_nats), 4),
        "test_accuracy": round(float(best.test_accuracy), 4),
    }


def _pruning(seed: int, limit: int) -> dict[str, Any]:
    config = build({}, {"seed": seed})
    task = load_task(config)
    train = task.splits["train"]
    training = resolved(config.training, len(train.x))
    settings = {"family": "mlp", "hidden": (32,), "density": 1.0, "activation": "relu"}
    network: Network = seed_network(settings, task.shape, None, task.outputs, keyed(seed, "dense"))
    state = OptimizerState.fresh(network)
    whole, steps = network.count(), Config().training.steps // ROUNDS
    for round_ in range(ROUNDS):
        session = Session(network, state, train, task.kind, training)
        orders = batch_orders(len(train.x), steps, training.batch_size, keyed(seed, "batches", round_))
        session.run(orders, cosine_rates(training, round_ * steps, steps, ROUNDS * steps))
        state = session.close()
        done = min(max((round_ + 1) / ROUNDS - 0.25, 0.0) / 0.5, 1.0)
        left = round(limit + (whole - limit) * (1 - done) ** 3)
        if network.count() > left:
            grown, carried = surgery.apply(network, (_smallest(network, network.count() - left),), state)
            assert carried is not None
            network, state = grown, carried
    test = task.splits["test"]
    return {
        "active_parameters": network.count(),
        "peak_parameters": whole,
        "test_accuracy": round(score(task.kind, predict(network, test.x), test.y), 4),
    }


def _smallest(network: Network, count: int) -> Disconnect:
    """The `count` weights of least magnitude in the whole network."""
    found: list[tuple[float, Edge]] = []
    for name, mask in network.masks().items():
        weight = network.get_parameter(name).detach().abs().numpy()
        for row, column in np.argwhere(network.get_buffer(mask).numpy() > 0):
            found.append((float(weight[row, column]), Edge(name.removeprefix("links."), int(row), int(column))))
    found.sort(key=lambda item: item[0])
    return Disconnect("*", tuple(edge for _, edge in found[:count]))


if __name__ == "__main__":
    main()
