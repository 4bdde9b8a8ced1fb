"""Training steps a second, against a hand-written PyTorch loop over the same masked layers with fused AdamW.

    python benchmarks/steps.py [--device cuda] [--data FOLDER] [--steps 400] [--rounds 7]

784-300-100-10 on MNIST (or on noise of its shape), batch 128, dense and at 1%. Rounds of all variants are interleaved,
and the ratio of each round is taken within it; medians are printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from evo.batches import batch_orders, cosine_rates
from evo.config import TrainingConfig
from evo.task import Split
from evo.training import Session
from search_spaces.network import Network, active
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import seed


def network(density: float, device: str) -> Network:
    """784-300-100-10 at this density of every matrix."""
    settings = {"family": "mlp", "hidden": (300, 100), "density": density, "activation": "relu"}
    return seed(settings, (784,), None, 10, keyed(0, "benchmark", str(density))).to(device)


def by_hand(like: Network, data: Split, config: TrainingConfig, masked: bool) -> Callable[[Tensor, Tensor], None]:
    """A plain loop as one would write it: weight * mask, autograd, clipping, torch.optim.AdamW(fused=True)."""
    chosen, parameters = active(like), dict(like.named_parameters())
    names = ["input", "hidden1", "hidden2", "output"]
    links = [f"links.{s}>{t}" for s, t in itertools.pairwise(names)]
    weights = [nn.Parameter(parameters[k].detach().clone()) for k in links]
    masks = [chosen[k].float() for k in links]
    biases = [nn.Parameter(parameters[f"biases.{k}"].detach().clone()) for k in names[1:]]
    optimizer = torch.optim.AdamW(
        [*weights, *biases], lr=1e-3, betas=(config.beta1, config.beta2), weight_decay=1e-4, fused=True
    )

    def run(orders: Tensor, rates: Tensor) -> None:
        for order, rate in zip(orders, rates.tolist(), strict=True):
            optimizer.param_groups[0]["lr"] = rate
            h = data.x[order]
            for i, (weight, mask, bias) in enumerate(zip(weights, masks, biases, strict=True)):
                h = functional.linear(h, weight * mask if masked else weight, bias)
                h = functional.relu(h) if i < len(weights) - 1 else h
            loss = functional.cross_entropy(h, data.y[order])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*weights, *biases], config.clip_norm)
            optimizer.step()

    return run


def ours(density: float, ages: str, data: Split, config: TrainingConfig, capture: bool) -> Callable[..., None]:
    """Our Session, at uniform ages, or with a tenth of all elements younger than the rest."""
    net = network(density, str(data.x.device))
    state = OptimizerState.fresh(net)
    for name, age in state.age.items():
        age.fill_(10_000)
        if ages == "mixed":
            young = torch.from_numpy(keyed(1, name).random(tuple(age.shape)) < 0.1)
            age[young.to(age.device)] = 50
    session = Session(net, state, data, "classification", config, capture=capture)
    assert bool(len(session.others)) == (ages == "mixed")

    def run(orders: Tensor, rates: Tensor) -> None:
        session.run(orders.cpu().numpy(), rates.double().cpu().numpy())

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = keyed(0, "noise")
    data = Split(
        torch.from_numpy(rng.standard_normal((10_000, 784))).float().to(args.device),
        torch.from_numpy(rng.integers(0, 10, 10_000)).to(args.device),
    )
    config = TrainingConfig(batch_size=args.batch, weight_decay=1e-4)
    orders = torch.from_numpy(batch_orders(10_000, args.steps, args.batch, keyed(0, "orders"))).to(args.device)
    rates = torch.from_numpy(cosine_rates(config, 0, args.steps, 100_000))
    result: dict[str, object] = {"device": _device(args.device), "torch": torch.__version__, "batch": args.batch}
    for density in (1.0, 0.01):
        variants = {"by hand": by_hand(network(density, args.device), data, config, masked=True)}
        for ages in ("uniform", "mixed"):
            variants[f"{ages} eager"] = ours(density, ages, data, config, capture=False)
            if args.device.startswith("cuda"):
                variants[f"{ages} captured"] = ours(density, ages, data, config, capture=True)
        times: dict[str, list[float]] = {name: [] for name in variants}
        for round_ in range(args.rounds + 1):
            for name, run in variants.items():
                _wait(args.device)
                began = time.perf_counter()
                run(orders, rates)
                _wait(args.device)
                if round_:
                    times[name].append(time.perf_counter() - began)
        base = times["by hand"]
        result[f"density {density:g}"] = {
            name: {
                "steps_per_s": round(args.steps / statistics.median(t)),
                "times_by_hand": round(statistics.median(a / b for a, b in zip(t, base, strict=True)), 3),
            }
            for name, t in times.items()
        }
    print(json.dumps(result, indent=1))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _device(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} thread"


if __name__ == "__main__":
    main()
