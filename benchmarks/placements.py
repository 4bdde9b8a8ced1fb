# ruff: noqa: E501
"""Random placements on real local Ray clusters: does each search end, within what there is, inside its groups?

    python benchmarks/placements.py --from 0 --to 100 [--file build/placements.jsonl]     (goes on where it was stopped)
    python benchmarks/placements.py --write [--file build/placements.jsonl]               (writes docs/benchmarks/placements.md)

Each placement draws networks, workers, networks at once and what others hold of the cluster; every tenth also the nodes
and their CPUs. Plan (`evo/placement.py`), Tune and pool (`evo/crew.py`) are those of a search; trials only sleep, in
actors that do not import torch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0",
    "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_WARN_THRESHOLD_S": "1e9",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9", "RAY_DISABLE_IMPORT_WARNING": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1",
}  # fmt: skip
os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})

import ray  # noqa: E402
import torch  # noqa: E402
from ray import tune  # noqa: E402
from ray._private import state  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.core.generated import gcs_pb2  # noqa: E402
from ray.util.placement_group import placement_group, remove_placement_group  # noqa: E402
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: E402

from evo import cluster as clusters  # noqa: E402
from evo import placement  # noqa: E402
from evo.config import ConfigError  # noqa: E402
from evo.crew import Crew  # noqa: E402
from evo.settings import build  # noqa: E402
from search_spaces.randomness import keyed  # noqa: E402

SEED = 4
A_CLUSTER = 10
"""Placements on one cluster, since starting nodes takes longer than a placement."""

TIMEOUT = 120.0
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "placements.md"


@dataclass(frozen=True)
class Case:
    """cpus: of each node, the head first. held: CPUs that others hold for the first seconds."""

    number: int
    cpus: tuple[int, ...]
    networks: int
    workers: int
    at_once: int | None
    held: int


def drawn(number: int) -> Case:
    """The placement of this number, whatever was drawn before it."""
    nodes = keyed(SEED, "cluster", number // A_CLUSTER)
    cpus = (int(nodes.integers(0, 3)), *(int(c) for c in nodes.integers(1, 4, int(nodes.integers(1, 4)))))
    draw = keyed(SEED, "placement", number)
    asked = int(draw.integers(1, 4)) if draw.random() < 0.4 else None
    held = int(draw.integers(1, sum(cpus) + 1)) if draw.random() < 0.3 else 0
    return Case(number, cpus, int(draw.integers(1, 5)), int(draw.integers(0, 5)), asked, held)


class Sleeper:
    """A candidate's worker. It says in which placement group it is."""

    def run(self, shared: Any, requests: list[Any]) -> list[Any]:
        time.sleep(0.02 * len(requests))
        group = ray.util.get_current_placement_group()
        return [None if group is None else group.id.hex()] * len(requests)

    def pid(self) -> int:
        return os.getpid()


class Network(tune.Trainable):
    """A network's life: two cycles, each with a tournament on the workers of its own group."""

    def setup(self, config: dict[str, Any], workers: int = 0, claim: dict[str, float] | None = None) -> None:
        group = ray.util.get_current_placement_group()
        assert group is not None
        assert claim is not None
        self.group, self.crew = group.id.hex(), None
        if workers:

            def start(index: int) -> Any:
                within = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1 + index)
                return ray.remote(Sleeper).options(num_cpus=claim["CPU"], scheduling_strategy=within).remote()

            self.crew = Crew(start, workers, lease_seconds=30.0)

    def step(self) -> dict[str, Any]:
        time.sleep(0.05)
        answers = [] if self.crew is None else self.crew.run(ray.put(None), list(range(6)), lambda _: self.group)
        return {"inside": all(answer == self.group for answer in answers), "done": self.iteration >= 1}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def cleanup(self) -> None:
        if self.crew is not None:
            self.crew.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass


class Sampler(threading.Thread):
    """Looks at the cluster until told to stop: what is claimed, by how many groups, and who is outside of any."""

    def __init__(self, bundles: list[dict[str, float]]) -> None:
        super().__init__(daemon=True)
        self.over, self.groups, self.outside, self.looks = 0, 0, set[str](), 0
        self._bundles, self._stopped = bundles, threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.1):
            self.look()

    def look(self) -> None:
        total = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]}
        claimed = dict.fromkeys(total, 0.0)
        groups = [group for group in ray.util.placement_group_table().values() if group["state"] == "CREATED"]
        for group in groups:
            for index, bundle in group["bundles"].items():
                node = group["bundles_to_node_id"][index]
                claimed[node] = claimed.get(node, 0.0) + bundle.get("CPU", 0.0)
        free = state.available_resources_per_node()
        self.over += any(claimed[node] > total.get(node, 0.0) + 1e-6 for node in claimed)
        self.over += any(free[node].get("CPU", 0.0) < -1e-6 for node in free)
        ours = [g for g in groups if list(g["bundles"].values()) == self._bundles]
        self.groups = max(self.groups, len(ours))
        self.outside |= {
            actor.class_name
            for actor in _actors()
            if actor.state in (0, 1, 2) and not actor.HasField("placement_group_id")
        }
        self.looks += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        self.look()


def _actors() -> list[Any]:
    accessor = state.state._connect_and_get_accessor()
    return [gcs_pb2.ActorTableData.FromString(raw) for raw in accessor.get_actor_table(None, None)]


@contextlib.contextmanager
def cluster_of(cpus: tuple[int, ...]) -> Iterator[None]:
    """Real nodes on this machine, each a raylet of its own."""
    memory = {"object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "include_dashboard": False, **memory})
    try:
        for count in cpus[1:]:
            made.add_node(num_cpus=count, wait=False, **memory)
        made.wait_for_nodes()
        ray.init(address=made.address, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        made.shutdown()


def tried(case: Case) -> dict[str, Any]:
    """One placement on the cluster that runs, from plan to end."""
    device = torch.device("cpu")
    settings = {"workers": case.workers, "search.at_once": case.at_once, "search.networks": case.networks}
    told: dict[str, Any] = {**asdict(case), "refused": "", "ended": False}
    began = time.monotonic()
    try:
        plan = placement.plan(clusters.nodes(device), build(settings), "cpu")
    except ConfigError as err:
        return {**told, "refused": str(err), "seconds": 0.0}
    others = [placement_group([{"CPU": 1.0}]) for _ in range(case.held)]
    assert all(group.wait(30) for group in others)
    sampler = Sampler(plan.bundles())
    sampler.start()
    threading.Timer(2.0, lambda: [remove_placement_group(group) for group in others]).start()
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(plan.at_once)
    overdue, counter = threading.Event(), _Counter()
    with tempfile.TemporaryDirectory(prefix="evo-tune-") as scratch:
        results = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Network, workers=case.workers, claim=plan.bundle()),
                tune.PlacementGroupFactory(plan.bundles(), strategy=plan.strategy),
            ),
            param_space={"network": tune.grid_search(list(range(case.networks)))},
            tune_config=tune.TuneConfig(
                reuse_actors=True, max_concurrent_trials=plan.at_once if plan.limited else None
            ),
            run_config=tune.RunConfig(
                name="search", storage_path=scratch, verbose=0, callbacks=[counter],
                stop=_Until(time.monotonic() + TIMEOUT, overdue),
            ),
        ).fit()  # fmt: skip
    sampler.stop()
    ends = [result.metrics or {} for result in results]
    return {
        **told, "at_once_planned": plan.at_once, "spread": plan.spread,
        "ended": not overdue.is_set() and len(ends) == case.networks and all(e.get("done") for e in ends),
        "inside": all(e.get("inside") for e in ends), "outside": sorted(sampler.outside), "over": sampler.over,
        "groups": sampler.groups, "running": counter.most, "looks": sampler.looks, "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


class _Counter(tune.Callback):
    """The most networks that were at work at once."""

    def __init__(self) -> None:
        self.most = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        self.most = max(self.most, sum(trial.status == "RUNNING" for trial in trials))


class _Until(tune.Stopper):
    """Gives a placement up that hangs."""

    def __init__(self, deadline: float, overdue: threading.Event) -> None:
        self._deadline, self._overdue = deadline, overdue

    def __reduce__(self) -> tuple[Any, ...]:
        return object, ()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if time.monotonic() > self._deadline:
            self._overdue.set()
        return self._overdue.is_set()


def right(row: dict[str, Any]) -> bool:
    """Whether a placement went as it must: to its end, or refused before anything was claimed."""
    if row["refused"]:
        return True
    kept = not row["over"] and not row["outside"] and row["running"] <= row["at_once_planned"]
    return bool(row["ended"] and row["inside"] and kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--to", type=int, default=100)
    parser.add_argument("--file", type=Path, default=Path("build/placements.jsonl"))
    parser.add_argument("--write", action="store_true", help="the page, from what the file holds")
    args = parser.parse_args()
    if args.write:
        PAGE.write_text(_page(_rows(args.file)), encoding="utf-8")
        return
    args.file.parent.mkdir(parents=True, exist_ok=True)
    done = {row["number"] for row in _rows(args.file)}
    left = [case for case in map(drawn, range(args.first, args.to)) if case.number not in done]
    for cpus, number in dict.fromkeys((case.cpus, case.number // A_CLUSTER) for case in left):
        with cluster_of(cpus):
            for case in left:
                if case.number // A_CLUSTER == number:
                    row = tried(case)
                    with args.file.open("a", encoding="utf-8") as out:
                        out.write(json.dumps(row) + "\n")
                    print(json.dumps({**row, "right": right(row)}), flush=True)


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _page(rows: list[dict[str, Any]]) -> str:
    rows = sorted(rows, key=lambda row: row["number"])
    ran = [row for row in rows if not row["refused"]]
    seconds = sorted(row["seconds"] for row in ran)
    lines = "\n".join(
        f"| {r['number']} | {' + '.join(map(str, r['cpus']))} | {r['networks']} | {r['workers']} | {r['at_once'] or ''} "
        f"| {r['held'] or ''} | " + ("refused: " + r["refused"].split(";")[0] if r["refused"] else
        f"{r['at_once_planned']} at once{', spread' * (r['spread'] > 0)}; at most {r['running']} at work; {r['seconds']:.0f} s; "
        + ("as it must" if right(r) else "**WRONG**")) + " |"
        for r in rows
    )  # fmt: skip
    return f"""# Random placements

`python benchmarks/placements.py --from 0 --to {len(rows)}` on {os.cpu_count()} cores, Ray {ray.__version__}, Python
{platform.python_version()}, seed {SEED}, {date.today()}.

Real Ray clusters of one head and one to three more nodes on one machine (a raylet each), {A_CLUSTER} placements a cluster. Each
draws networks, workers, networks at once, and CPUs that others hold for its first two seconds. Plan, Tune and pool are
those of a search; trials only sleep. A placement that has not ended after {TIMEOUT:g} s counts as hung.

| | |
|---|---|
| placements | {len(rows)} |
| refused before anything was claimed, as they do not fit | {len(rows) - len(ran)} |
| ran to their end | {sum(row["ended"] for row in ran)} of {len(ran)} |
| looks at the cluster while they ran | {sum(row["looks"] for row in ran):,} |
| … that found more claimed on a node than it has | {sum(row["over"] for row in ran)} |
| placements with an actor outside of a placement group, of whatever class | {sum(bool(row["outside"]) for row in ran)} |
| placements whose workers were all in their own network's group | {sum(row["inside"] for row in ran)} of {len(ran)} |
| placements with more networks at work at once than planned | {sum(row["running"] > row["at_once_planned"] for row in ran)} |
| placements with more groups at once than planned: Tune asks for the next before it knows that one is to be used again | {sum(row["groups"] > row["at_once_planned"] for row in ran)} |
| of which began on a cluster that others held in part | {sum(row["held"] > 0 for row in ran)} |
| … wholly | {sum(row["held"] == sum(row["cpus"]) for row in ran)} |
| seconds, median and longest | {seconds[len(seconds) // 2] if seconds else 0:.0f}, {seconds[-1] if seconds else 0:.0f} |

| number | CPUs of the nodes | networks | workers | at_once | held by others | outcome |
|---|---|---|---|---|---|---|
{lines}
"""


if __name__ == "__main__":
    main()
