# ruff: noqa: E501
"""How a pool scales to 64 workers whose trials only sleep, what a candidate costs its driver, and where that ends.

    python benchmarks/scaling.py [--seconds 2] [--workers 1 2 4 8 16 32 64] [--write]

Workers are actors that do not import torch, so that neither cores nor memory limit: Ray is told of more CPUs than there
are. What is sent and answered has the size of a trial on digits. Prints JSON; --write makes docs/benchmarks/scaling.md
and docs/images/scaling.png of it, with the simulation of sizes that no single machine can hold.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from evo.crew import Crew
from evo.placement import WORKER_CPUS
from search_spaces.randomness import keyed

SEED = 4
PARAMETERS, HELD_OUT = 2_000, 270
ROUNDS = 4
HERE = Path(__file__).resolve().parent.parent / "docs"
GOALS = {16: 0.95, 64: 0.90}
DRIVER_MS = 5.0


class Sleeper:
    """A worker that sleeps as long as each request says, and answers as much as a trial would."""

    def run(self, shared: Any, requests: list[Any]) -> list[Any]:
        answers = []
        for request in requests:
            time.sleep(request["seconds"])
            answers.append({"growth": request["body"][:HELD_OUT], "body": request["body"], "arm": request["arm"]})
        return answers

    def pid(self) -> int:
        return os.getpid()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="that each trial sleeps")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    told: dict[str, Any] = {
        "seconds": args.seconds, "rounds": ROUNDS, "parameters": PARAMETERS, "seed": SEED,
        "versions": {"python": platform.python_version(), "ray": ray.__version__}, "machine": _machine(),
        "pool": _pool(args.workers, args.seconds), "shipping_ms": _shipping(), "tune": _tune(),
    }  # fmt: skip
    told["load"] = round(os.getloadavg()[0], 1)
    told["saturates"] = saturation(told)
    print(json.dumps(told, indent=2))
    if args.write:
        _draw(told, HERE / "images" / "scaling.png")
        (HERE / "benchmarks" / "scaling.md").write_text(_page(told), encoding="utf-8")


def _pool(counts: list[int], seconds: float) -> list[dict[str, float]]:
    """Efficiency and the driver's time a candidate, for each number of workers in one placement group."""
    temporary = tempfile.mkdtemp(prefix="evo-", dir="/tmp")
    most = max(counts)
    ray.init(
        address="local", num_cpus=most + 1, include_dashboard=False, log_to_driver=False, _temp_dir=temporary,
        object_store_memory=200 * 2**20,
    )  # fmt: skip
    found = []
    try:
        draw = keyed(SEED, "scaling")
        body = draw.normal(size=4 * PARAMETERS).astype(np.float32)
        for workers in counts:
            group = placement_group([{"CPU": WORKER_CPUS}] * workers, strategy="PACK")
            assert group.wait(60)

            def start(index: int, group: Any = group) -> Any:
                within = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
                return ray.remote(Sleeper).options(num_cpus=WORKER_CPUS, scheduling_strategy=within).remote()

            crew = Crew(start, workers)
            shared = ray.put(body)
            crew.pids()
            crew.run(shared, [{"arm": i, "seconds": 0.0, "body": body} for i in range(4 * workers)], _never)
            requests = [{"arm": i, "seconds": seconds, "body": body} for i in range(ROUNDS * workers)]
            began, cpu, whole = time.perf_counter(), time.thread_time(), time.process_time()
            answers = crew.run(shared, requests, _never)
            wall, cpu, whole = time.perf_counter() - began, time.thread_time() - cpu, time.process_time() - whole
            assert [answer["arm"] for answer in answers] == list(range(len(requests)))
            crew.close()
            remove_placement_group(group)
            number = len(requests)
            found.append(
                {
                    "workers": workers, "candidates": number, "wall_s": round(wall, 3),
                    "efficiency": round(number * seconds / (workers * wall), 4),
                    "driver_ms": round(1000 * cpu / number, 3), "process_ms": round(1000 * whole / number, 3),
                }
            )  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
    finally:
        ray.shutdown()
    return found


def _never(number: int) -> Any:
    raise AssertionError("a worker was missing")


def _shipping() -> float:
    """Milliseconds of the driver's, a candidate, to make arrays of a request and tensors of its answer."""
    import torch

    from evo.config import TrainingConfig
    from evo.shipping import ShippedBody, ShippedRequest, ShippedResult
    from evo.trials import Body, TrialRequest, TrialResult

    torch.set_num_threads(1)
    part = {f"layer{i}.weight": torch.zeros(PARAMETERS // 4) for i in range(4)}
    body = Body("{}", part, {f"{kind}/{k}": t for kind in ("first", "second", "age") for k, t in part.items()})
    request = TrialRequest(
        key=(SEED, "n000", 1), arm=1, seed=0, rung=1, actions="", start=body, step=0, steps=40, total=1000, rate=1.0,
        jitter=0.1, training=TrainingConfig(),
    )  # fmt: skip
    held = np.zeros(HELD_OUT)
    answer = ShippedResult.of(TrialResult(1, 0, held, held, held, body, 0.0, 0.0, False, 0.0))
    cpu = torch.device("cpu")
    times = 300
    began = time.thread_time()
    for i in range(times):
        ShippedRequest.of(request)
        answer.unpacked(cpu)
        if i % 8 == 0:
            ShippedBody.of(body)  # the parent, once a round of eight forks
    return round(1000 * (time.thread_time() - began) / times, 3)


# --- Tune's own loop


class QuickLife:
    """A network's life whose cycles take no time: what is measured is how fast they can be told."""

    cycles = 150

    def __init__(
        self, config: Any, task: Any, folder: Path, network: str, generation: int, parent: Any, _: Any
    ) -> None:
        from evo import events
        from evo.recorder import Recorder

        self.folder, self.network, self.cycle, self.done = folder, network, 0, False
        self.recorder = Recorder(folder, network)
        row = events.row("started", cycle=0, parent=parent, config=config.model_dump_json())
        self.recorder.commit([{**row, "generation": generation}])

    def advance(self) -> dict[str, Any]:
        from evo import events

        self.cycle += 1
        self.done = self.cycle == self.cycles
        if self.done:
            place = self.folder / "snapshots" / self.network / "000001"
            place.mkdir(parents=True)
            (place / "blueprint.json").write_text("{}")
            found = {"validation_information_nats": 0.5, "active_parameters": 9}
            rows = [
                events.row("snapshot", cycle=self.cycle, snapshot=place.name, **found),
                events.row("finished", cycle=self.cycle, reason="lived its whole life"),
            ]  # fmt: skip
            self.recorder.commit(rows)
        return {"cycle": self.cycle, "done": self.done, "validation_information_nats": 0.5, "active_parameters": 9}

    def close(self) -> None:
        pass


def _tune() -> dict[str, float]:
    """Reports a second that two networks which do nothing else make, and the driver's time for each."""
    import torch

    from evo.settings import build
    from evo.sweep import run_search
    from evo.task import Split, Task

    data = Split(torch.zeros(200, 6), torch.zeros(200, dtype=torch.int64))
    names = dict.fromkeys(("train", "growth", "audit", "validation", "test"), data)
    task = Task("tiny", "classification", (6,), 2, names, 0.69, {})
    settings = {"search.networks": 2, "search.population": 2, "search.at_once": 2, "seed": SEED, "device": "cpu"}
    heard: list[tuple[float, float]] = []

    def listen(update: Any) -> None:
        if update["stage"] == "cycle":
            heard.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        run_search(build(settings), task, Path(folder), listen, begin=QuickLife)
    # The first reports come while the second network still starts.
    late = heard[len(heard) // 2 :]
    reports = len(late) - 1
    wall, cpu = late[-1][0] - late[0][0], late[-1][1] - late[0][1]
    return {
        "reports": reports,
        "reports_a_second": round(reports / wall, 1),
        "report_ms": round(1000 * cpu / reports, 3),
    }


# --- by simulation


def simulated(workers: int, seconds: float, driver: float, rounds: int = 8) -> float:
    """Efficiency of a pool whose driver takes `driver` seconds for each answer and next request, one at a time."""
    finishes = [(driver * (i + 1) + seconds, i) for i in range(workers)]
    free = driver * workers
    heapq.heapify(finishes)
    left = (rounds - 1) * workers
    last = 0.0
    while finishes:
        at, worker = heapq.heappop(finishes)
        free = max(free, at) + driver
        last = free
        if left:
            left -= 1
            heapq.heappush(finishes, (free + seconds, worker))
    return rounds * seconds / last


def saturation(told: dict[str, Any]) -> dict[str, float]:
    """Workers at which one pool's efficiency falls below .9 and its driver is busy all the time; networks likewise."""
    # Of the largest pool: in a small one Ray's own idling, which is there without any candidate, counts for much.
    cost = (told["pool"][-1]["process_ms"] + told["shipping_ms"]) / 1000
    seconds = told["seconds"]
    sizes = [2**k for k in range(15)]
    good = [size for size in sizes if simulated(size, seconds, cost) >= 0.9]
    return {
        "pool_cost_ms": round(1000 * cost, 3), "pool_workers_at_90": max(good), "pool_workers": round(seconds / cost),
        "networks_at_10_s": round(10_000 / told["tune"]["report_ms"]),
    }  # fmt: skip


def _draw(told: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cost = told["saturates"]["pool_cost_ms"] / 1000
    sizes = [2**k for k in range(14)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for seconds, shade in ((0.5, "#c6dbef"), (told["seconds"], "#3182bd"), (10.0, "#08306b")):
        values = [simulated(size, seconds, cost) for size in sizes]
        left.plot(sizes, values, color=shade, label=f"simulated, trials of {seconds:g} s")
    rows = told["pool"]
    left.plot(
        [r["workers"] for r in rows], [r["efficiency"] for r in rows], "o", color="#e6550d", ms=6, zorder=3,
        label=f"measured, trials of {told['seconds']:g} s",
    )  # fmt: skip
    left.axhline(0.9, color="#999999", lw=0.8, ls="--")
    left.set(
        xscale="log", xlabel="workers of one pool", ylabel="efficiency", ylim=(0, 1.05), title="One network's pool"
    )
    left.set_xscale("log", base=2)
    left.legend(loc="lower left", frameon=False)
    each = told["tune"]["report_ms"] / 1000
    networks = [2**k for k in range(17)]
    for cycle, shade in ((2.0, "#c7e9c0"), (10.0, "#31a354"), (60.0, "#00441b")):
        right.plot(
            networks, [min(1.0, n * each / cycle) for n in networks], color=shade, label=f"cycles of {cycle:g} s"
        )
    right.set_xscale("log", base=2)
    right.set(
        xlabel="networks at once", ylabel="share of the driver's time", ylim=(0, 1.05), title="The search's driver"
    )
    right.legend(loc="upper left", frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _page(told: dict[str, Any]) -> str:
    pool, tune, ends, seconds = told["pool"], told["tune"], told["saturates"], f"{told['seconds']:g}"
    rows = "\n".join(
        f"| {r['workers']} | {r['candidates']} | {r['wall_s']:.2f} | {100 * r['efficiency']:.1f}% "
        f"| {r['driver_ms']:.2f} | {r['process_ms']:.2f} |"
        for r in pool
    )
    by = {r["workers"]: r["efficiency"] for r in pool}
    verdicts = [
        f"{100 * by[n]:.1f}% at {n} workers (goal {100 * goal:.0f}%: {_verdict(by[n] >= goal)})"
        for n, goal in GOALS.items()
        if n in by
    ]
    driver = max(r["driver_ms"] for r in pool) + told["shipping_ms"]
    verdicts.append(
        f"at most {driver:.2f} ms of the driver's thread a candidate, shipping included "
        f"(goal {DRIVER_MS:g} ms: {_verdict(driver <= DRIVER_MS)})"
    )
    listed = "\n".join(f"- {verdict}" for verdict in verdicts)
    return f"""# Scaling

`python benchmarks/scaling.py --write`, {told["machine"]}, Ray {told["versions"]["ray"]},
Python {told["versions"]["python"]}, seed {told["seed"]}, {date.today()}; load average {told["load"]} at the end.

Trials only sleep for {seconds} s, {told["rounds"]} a worker, in actors that do not import torch; Ray is told of more CPUs
than the machine has, so that its cores do not limit. Requests and answers carry the arrays of a fork of
{told["parameters"]:,} parameters with its optimiser state. All workers are one network's pool, in one placement group:
the loop that shares out the leases (`evo/crew.py`) is the one that a search runs.

{listed}

| workers | candidates | seconds | efficiency | driver's thread, ms a candidate | its process, ms a candidate |
|---|---|---|---|---|---|
{rows}

Efficiency is the time slept over workers × seconds. The driver's thread is its loop's CPU time; its process includes
Ray's threads, which send and receive, and which idle at a cost that counts for much where candidates are few. To make
arrays of a request and tensors of an answer takes {told["shipping_ms"]:.2f} ms more,
measured apart, since these sleepers do without torch.

## Where the driver saturates

![Efficiency of a pool, and the share of the driver's time](../images/scaling.png)

Simulated with the measured costs: the pool's driver serves one worker at a time, and a candidate takes it
{ends["pool_cost_ms"]:.2f} ms, its whole process with 64 workers and the shipping. With trials of {seconds} s it is busy all the
time at {ends["pool_workers"]:,} workers of **one** network; efficiency is still above 90% at {ends["pool_workers_at_90"]:,}.

A search's own driver hears one report a cycle of each network, whoever ran the candidates. {tune["reports"]} reports of
two networks that did nothing else came at {tune["reports_a_second"]:.0f} a second and took {tune["report_ms"]:.1f} ms of its
process each; with cycles of 10 s it is busy all the time at about {ends["networks_at_10_s"]:,} networks. That is an extrapolation from two: what
Tune's loop does for each of its trials in every turn, which so few do not show, will make it less.

What to change there:

- One network with more workers than that: more requests a lease. `Crew` shares out two leases a worker and round, so a
  round of more than four candidates a worker already costs fewer messages than candidates; the next step is one actor a
  node that shares out to the workers of its own, which divides the driver's messages by the workers a node.
- More networks than that: several searches over one cluster (`evo queue`), or longer cycles (`growth.cycles`); the loop
  is Tune's, which handles one event at a time.
"""


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**not reached**"


def _machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores, {model}"


if __name__ == "__main__":
    main()
