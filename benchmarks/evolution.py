"""Evolution: what each search algorithm finds on digits at the same number of training steps.

    python benchmarks/evolution.py [--seeds 3] [--budget 570] [--out FOLDER] [--table-only]

Every search is stopped once its networks' own lives have reached WORK steps together; what their trials took beside is
told. Two figures, on validation data: the information at most 200 active parameters buy, and the mean of that over all
budgets up to 500 (the area under the front). They are compared with nsga2's, paired by seeds, with Student's 95%
intervals and p-values after Holm. A search of these is short; nothing is said about long ones.

Every search that has ended is a line of OUT/jobs.jsonl, and the same command goes on from there until it says that it
is done. It writes docs/benchmarks/evolution.md after each.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from evo import books, cluster, front, run_folder
from evo.algorithms import ALGORITHMS
from evo.data import load_task
from evo.instruments.comparisons import Estimate, estimate, holm, paired
from evo.recorder import networks, read_events
from evo.settings import build
from evo.sweep import run_search

LIFE, CYCLES, FULL_LIVES = 1500, 5, 9
WORK = LIFE * FULL_LIVES
WITHIN, MOST = 200, 500
SETTINGS: Mapping[str, Any] = {
    "task": "digits", "device": "cpu", "record.mlflow": False, "training.steps": LIFE, "growth.cycles": CYCLES,
    "search.population": 3,
}  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "evolution.md"


def settings(algorithm: str) -> dict[str, Any]:
    """Enough networks for the work, where lives are short or end early; all of PBT's are born at once."""
    many = FULL_LIVES if algorithm in ("nsga2", "nsga3", "tpe", "pbt") else 4 * FULL_LIVES
    return {**SETTINGS, "search.algorithm": algorithm, "search.networks": many}


def search(algorithm: str, seed: int) -> dict[str, Any]:
    """One search, from its start to the end of its work."""
    config = build({**settings(algorithm), "seed": seed})
    task = load_task(config)
    lived: dict[str, int] = {}

    def heard(update: Mapping[str, Any]) -> None:
        if update.get("stage") == "cycle":
            lived[str(update["network"])] = int(update.get("step") or 0)

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="evolution-") as folder:
        run_search(config, task, Path(folder), heard, lambda: sum(lived.values()) >= WORK)
        events = read_events(Path(folder))
        born = len(networks(Path(folder)))
    steps, lost = books.effort(events)
    return {
        "algorithm": algorithm, "seed": seed, "steps": steps, "trials": lost, "networks": born,
        **judged(front.front(events)), "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def judged(points: pd.DataFrame) -> dict[str, float]:
    """within: nats at most WITHIN parameters buy. area: the mean of that over budgets up to MOST; 0 where none fits."""
    sizes, nats = points["active_parameters"], points["validation_information_nats"]
    buys = [
        max(float(nats[sizes <= budget].max()), 0.0) if (sizes <= budget).any() else 0.0
        for budget in range(1, MOST + 1)
    ]
    return {"within": buys[WITHIN - 1], "area": math.fsum(buys) / MOST}


def page(jobs: list[dict[str, Any]], command: str) -> str:
    by = {(job["algorithm"], job["seed"]): job for job in jobs}
    seeds = sorted({seed for _, seed in by if all((name, seed) in by for name in ALGORITHMS)})
    versions = run_folder.versions()
    population, libraries = SETTINGS["search.population"], ("torch", "ray", "optuna")
    about = [
        f"`{command}`: {len(seeds)} seeds ({', '.join(map(str, seeds))}), {WORK:,} steps of the networks' own lives a",
        f"search, a seed's life {LIFE:,} steps in {CYCLES} cycles, population {population}, other settings the",
        f"defaults. CPU ({run_folder.processor()}), {', '.join(f'{name} {versions[name]}' for name in libraries)},",
        f"revision {str(run_folder.git_revision())[:7]}, {time.strftime('%Y-%m-%d')}. Other work ran beside it, which",
        "changes times and, for `asha` and `pbt`, the order of ends.",
        "",
        "**This is small**: a life is a twelfth of the default's, a search 3 generations of 3. It shows that every",
        "algorithm runs to its end at the same work, and how wide the intervals are; not which is better on long ones.",
    ]
    within, area = f"nats at ≤ {WITHIN} parameters", f"mean nats over budgets ≤ {MOST}"
    lines = [
        "# Search algorithms on digits, at equal steps",
        "",
        *about,
        "",
        f"| algorithm | networks | steps | of trials beside | {within} | {area} | less nsga2's | p (Holm) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    if not seeds:
        return "\n".join([*lines, "", "No seed has been run with every algorithm yet.", ""])
    rows = {name: [by[name, seed] for seed in seeds] for name in ALGORITHMS}
    base = [job["area"] for job in rows["nsga2"]]
    gains = {name: paired([j["area"] for j in jobs_], base) for name, jobs_ in rows.items() if name != "nsga2"}
    corrected = dict(zip(gains, holm([g.p for g in gains.values()]), strict=True))
    for name, jobs_ in rows.items():
        mean = {key: sum(j[key] for j in jobs_) / len(jobs_) for key in ("networks", "steps", "trials")}
        cells = [
            f"`{name}`", f"{mean['networks']:.1f}", f"{mean['steps']:,.0f}", f"{mean['trials']:,.0f}",
            told(estimate([j["within"] for j in jobs_])), told(estimate([j["area"] for j in jobs_])),
            "" if name == "nsga2" else told(gains[name], sign=True),
            "" if name == "nsga2" else f"{corrected[name]:.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    better = [name for name, p in corrected.items() if p < 0.05 and gains[name].mean > 0]
    worse = [name for name, p in corrected.items() if p < 0.05 and gains[name].mean < 0]
    said = f"Better than nsga2 beyond chance: {', '.join(better) or 'none'}; worse: {', '.join(worse) or 'none'}."
    lines += ["", "Means with Student's 95% intervals; differences paired by seeds, of the mean over budgets.",
              "", f"{said} The default stays nsga2." if not better else said, ""]  # fmt: skip
    return "\n".join(lines)


def told(found: Estimate, sign: bool = False) -> str:
    mean = f"{found.mean:+.3f}" if sign else f"{found.mean:.3f}"
    return mean if math.isnan(found.low) else f"{mean} ({found.low:.3f} to {found.high:.3f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, help="seconds; no search is begun after them")
    parser.add_argument("--out", type=Path, default=Path("runs/evolution"))
    parser.add_argument("--table-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    shelf = args.out / "jobs.jsonl"
    jobs = [json.loads(line) for line in shelf.read_text().splitlines()] if shelf.exists() else []
    done = {(job["algorithm"], job["seed"]) for job in jobs}
    wanted = [(name, seed) for seed in range(args.seeds) for name in ALGORITHMS if (name, seed) not in done]
    deadline = time.monotonic() + (args.budget or math.inf)
    command = f"python benchmarks/evolution.py --seeds {args.seeds}"
    if not args.table_only and wanted:
        with cluster.session(torch.device("cpu")):
            for name, seed in wanted:
                if time.monotonic() > deadline:
                    break
                jobs.append(search(name, seed))
                print(json.dumps(jobs[-1]), flush=True)
                with shelf.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(jobs[-1]) + "\n")
    PAGE.write_text(page(jobs, command), encoding="utf-8")
    left = args.seeds * len(ALGORITHMS) - len(jobs)
    print("done" if left <= 0 else f"{left} searches left; the same command goes on", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
