"""Steps a second of one network on 1, 2, ... ranks: the same batches, each rank on its share; beside PyTorch's own.

    python benchmarks/ranks.py [--device cuda] [--ranks 1,2] [--steps 200] [--rounds 5] [--write]

Ranks are processes, over gloo on CPUs and NCCL on GPUs, a GPU each. Every batch is split among them, so a step is the
same work whatever their number. `ddp` is a hand-written loop of the same dense shape in DistributedDataParallel with
clipping and fused AdamW. Medians of rounds, both kinds by turns; after them the ranks' digests are compared. --write
puts the table into docs/benchmarks/ranks.md, in the place of that for the same kind of device.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from evo.batches import batch_orders, cosine_rates
from evo.config import TrainingConfig
from evo.ranks import Address, Meeting, Ranks
from evo.segments import digests
from evo.task import Split
from evo.training import Session
from evo.trials import pack
from search_spaces.families import Convnet, Mlp
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import connect

HOME, SAMPLES = "127.0.0.1", 10_000
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "ranks.md"
HEAD = """# One network on several ranks

What `benchmarks/ranks.py` printed; its docstring says what is measured. Steps a second, medians; "×" is against one
rank of the same kind of steps. The batch is the same for every number of ranks, and is split among them.
"""


@dataclass(frozen=True)
class Model:
    """units: of the layers between input and output, channels of 3 × 3 kernels first where there are any."""

    family: str
    units: tuple[int, ...]
    batch: int
    channels: int = 0

    def __str__(self) -> str:
        return f"{self.family} {'-'.join(map(str, self.units))}, batch {self.batch}"

    def network(self) -> Network:
        network: Network
        if self.family == "mlp":
            layers = [("input", 784), *((f"hidden{i}", n) for i, n in enumerate(self.units, 1)), ("output", 10)]
            network = Mlp(layers, [(a, b) for (a, _), (b, _) in itertools.pairwise(layers)], "relu")
        else:
            channels, dense = self.units[: self.channels], self.units[self.channels :]
            named = [
                *((f"channel{i}", n) for i, n in enumerate(channels, 1)),
                *((f"hidden{i}", n) for i, n in enumerate(dense, 1)),
            ]
            network = Convnet((1, 28, 28), [("input", 1), *named, ("output", 10)], "relu")
        connect(network, 1.0, keyed(0, "ranks"))
        return network

    def plain(self) -> nn.Module:
        """The same shape, as one would write it."""
        parts: list[nn.Module] = []
        width, side = (784, 0) if self.family == "mlp" else (1, 28)
        for i, n in enumerate(self.units):
            if i < self.channels:
                parts += [nn.Conv2d(width, n, 3, padding=1, bias=False), nn.BatchNorm2d(n), nn.ReLU(), nn.MaxPool2d(2)]
                width, side = n, side // 2
                continue
            if side:
                parts.append(nn.Flatten())
                width, side = width * side * side, 0
            parts += [nn.Linear(width, n), nn.ReLU()]
            width = n
        return nn.Sequential(*parts, nn.Linear(width, 10))


SMALL = (
    Model("mlp", (300, 100), 128),
    Model("mlp", (1024, 1024), 512),
    Model("convnet", (16, 32, 64), 128, channels=2),
    Model("convnet", (16, 32, 64), 512, channels=2),
)
LARGE = (
    Model("convnet", (32, 64, 128), 512, channels=2),
    Model("mlp", (4096, 4096), 8192),
    Model("convnet", (64, 128, 256), 2048, channels=2),
)


def rank(
    number: int, size: int, asked: str, models: tuple[Model, ...], at: list[list[Address]], steps: int, rounds: int
) -> list[Any]:
    """One process: seconds of every round, by model and kind of steps, and digests at the end."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if asked == "cuda":
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    found = []
    for model, addresses in zip(models, at, strict=True):
        rng = keyed(0, "noise")
        x = torch.from_numpy(rng.standard_normal((SAMPLES, 784))).float().to(device)
        y = torch.from_numpy(rng.integers(0, 10, SAMPLES)).to(device)
        data = Split(x, y)
        kinds: dict[str, Callable[[], object]] = {}
        held: list[tuple[Network, Session]] = []
        captures = (False, True) if asked == "cuda" else (False,)
        for capture, address in zip(captures, addresses, strict=False):
            ranks = None if size == 1 else Ranks.join(address, number, size, device, HOME)
            kinds["captured" if capture else "eager"] = ours(model, data, ranks, capture, steps, held)
        kinds["ddp"] = theirs(model, data, number, size, addresses[-1], steps)
        times: dict[str, list[float]] = {}
        for round_ in range(rounds + 1):
            for kind, run in kinds.items():
                wait(device)
                began = time.perf_counter()
                run()
                wait(device)
                if round_:
                    times.setdefault(kind, []).append(time.perf_counter() - began)
        ended = [digests(pack(network, session.close())) for network, session in held]
        found.append((times, ended))
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return found


def ours(
    model: Model, data: Split, ranks: Ranks | None, capture: bool, steps: int, held: list[Any]
) -> Callable[[], object]:
    config = TrainingConfig(batch_size=model.batch, weight_decay=1e-4)
    network = model.network().to(data.x.device)
    state = OptimizerState.fresh(network)
    for age in state.age.values():
        age.fill_(10_000)  # no element young: what a network is for most of its life
    session = Session(network, state, data, "classification", config, capture=capture, ranks=ranks)
    held.append((network, session))
    orders = batch_orders(SAMPLES, steps, model.batch, keyed(0, "orders"))
    rates = cosine_rates(config, 0, steps, 100_000)
    return lambda: session.run(orders, rates)


def theirs(model: Model, data: Split, number: int, size: int, address: Address, steps: int) -> Callable[[], object]:
    device, config = data.x.device, TrainingConfig(batch_size=model.batch, weight_decay=1e-4)
    torch.manual_seed(0)
    module: nn.Module = model.plain().to(device)
    if size > 1:
        store = distributed.TCPStore(address.host, address.port, is_master=False, wait_for_workers=False)  # type: ignore[attr-defined]
        store = distributed.PrefixStore(f"{address.name}/ddp", store)  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, store=store, rank=number, world_size=size)
        if device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        # On CPUs PyTorch has no batch norm over ranks: each normalises its share by itself.
        module = DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    orders = torch.from_numpy(batch_orders(SAMPLES, steps, model.batch, keyed(0, "orders"))).to(device)
    begin, end = number * model.batch // size, (number + 1) * model.batch // size

    def run() -> None:
        for order in orders[:, begin:end]:
            x: Tensor = data.x[order]
            loss = functional.cross_entropy(module(x.view(-1, 1, 28, 28) if model.channels else x), data.y[order])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm)
            optimizer.step()

    return run


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(device: str, sizes: list[int], models: tuple[Model, ...], steps: int, rounds: int) -> dict[str, Any]:
    """Steps a second by model, kind of steps and number of ranks."""
    rows: dict[str, Any] = {}
    for size in sizes:
        meeting = Meeting(HOME)
        at = [[meeting.convene(), meeting.convene()] for _ in models]
        with ProcessPoolExecutor(size, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(rank, i, size, device, models, at, steps, rounds) for i in range(size)]
            answers = [future.result() for future in futures]
        for i, model in enumerate(models):
            assert all(answer[i][1] == answers[0][i][1] for answer in answers), f"{model}: ranks hold other bits"
            for kind, times in answers[0][i][0].items():
                rows.setdefault(str(model), {}).setdefault(kind, {})[size] = round(steps / statistics.median(times), 1)
        print(f"{size} ranks measured", flush=True)
    return rows


def table(rows: dict[str, Any], sizes: list[int]) -> str:
    lines = [
        "| network | steps | " + " | ".join(f"{n} rank{'s' * (n > 1)}" for n in sizes) + " |",
        "|---" * (2 + len(sizes)) + "|",
    ]
    for model, kinds in rows.items():
        for kind, found in kinds.items():
            first = found[sizes[0]]
            cells = [f"{found[n]:,.0f}" + (f" ({found[n] / first:.2f} ×)" if n != sizes[0] else "") for n in sizes]
            lines.append(f"| {model} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(section: str, text: str) -> None:
    """The page with this section in the place of the one of its name."""
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    head, *parts = old.split("\n## ")
    kept = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts}
    kept[section] = text
    PAGE.write_text(
        head.rstrip() + "\n" + "".join(f"\n## {name}\n\n{body}\n" for name, body in kept.items()), encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    sizes = [int(n) for n in args.ranks.split(",")]
    models = SMALL + (LARGE if args.device == "cuda" else ())
    cuda = args.device == "cuda"
    began, load = time.perf_counter(), os.getloadavg()[0]
    rows = measured(args.device, sizes, models, args.steps, args.rounds)
    device = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}" if cuda else f"{os.cpu_count()} CPUs"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    if cuda:
        versions += f", NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    options = f"--device {args.device} --ranks {args.ranks} --steps {args.steps} --rounds {args.rounds}"
    about = f"`python benchmarks/ranks.py {options} --write`, {device}, {versions}, {datetime.date.today()}; "
    about += f"load of the machine {load:.1f} when it began, {os.getloadavg()[0]:.1f} when it ended"
    print(json.dumps({"about": about, "steps_per_s": rows, "seconds": round(time.perf_counter() - began)}, indent=1))
    print(table(rows, sizes))
    if args.write:
        write(
            "GPUs" if cuda else "CPUs",
            f"{about}.\nAll ranks held the same bits after every measurement.\n\n{table(rows, sizes)}",
        )


if __name__ == "__main__":
    main()
