"""Ablation: what each mechanism adds, alone, left out, or in another's place, at equal work.

    python benchmarks/ablation.py [--data FOLDER_OF_IDX_FILES] [--processes 16] [--budget 570] [--full]

Rows: every proposer alone, and left out of the full set of all; every update scale, trigger and economy policy; a few
options. Each row is lived in the same seeds, on the same splits, for the same work: training steps of the network's own
line and of all its trials together are the same number to the step. What is compared is validation information per
parameter, and information itself, paired by seeds with Student's 95% intervals, alone and for all rows at once
(Bonferroni); p-values are corrected over all rows of a task, each figure a family of its own (Holm). Test accuracy
stands beside and decides nothing.

Every finished life is appended to OUT/jobs.jsonl at once, and the same command goes on from there: run it again, with
any --budget, until it says that it is done. The table is written after each call, from whatever there is:
OUT/ablation.json, and --markdown. --full lives the most telling rows (the smallest p-values of information per
parameter so far, at most 5) and what they are compared with on all of MNIST.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ablation_table import markdown
from scipy import stats

from evo import device, run_folder
from evo.instruments.comparisons import Estimate, estimate, holm, paired
from evo.instruments.crew import Crew, OutOfTimeError
from evo.instruments.jobs import Job, Outcome
from evo.instruments.shelf import JOBS, Shelf
from evo.learning_rates import RATES
from evo.settings import build
from evo.stopping import Stop
from tournaments.proposals import PROPOSERS
from tournaments.triggers import TRIGGERS

TASKS: Mapping[str, Mapping[str, Any]] = {
    "digits": {"task": "digits"},
    "mnist-10k": {"task": "mnist", "data.limit": 10_000},
    "mnist": {"task": "mnist"},
}
NAMES = {
    "digits": "digits",
    "mnist-10k": "10,000 images of MNIST",
    "mnist": "MNIST",
}
TRIALS = 1 / 3
"""Work beyond the planned line: about what a default life spends in trials."""

APART: Mapping[str, Mapping[str, Any]] = {"schedule": {"growth.every": 2}}
"""What a trigger needs beside its name to differ from the default's."""

TELLING = 5
MARKDOWN = Path(__file__).parents[1] / "docs" / "benchmarks" / "ablation.md"


@dataclass(frozen=True)
class Row:
    """against: the row that it is compared with, the same but for what the row is about."""

    name: str
    group: str
    change: Mapping[str, Any]
    against: str | None = "default"


def rows() -> dict[str, Row]:
    """All of them by name, those that others are compared with first."""
    proposers = list(PROPOSERS)
    others = {name: [other for other in proposers if other != name] for name in proposers}
    made = [
        Row("default", "base", {}, None),
        Row("full", "base", {"growth.proposers": proposers}),
        Row("no growth", "base", {"growth.settle": 1.0}),
        *(Row(f"alone {name}", "alone", {"growth.proposers": [name]}) for name in proposers),
        *(Row(f"without {name}", "without", {"growth.proposers": others[name]}, "full") for name in proposers),
        *(Row(f"rates {name}", "rates", {"training.rates": name}) for name in RATES if name != "uniform"),
        *(Row(f"trigger {name}", "triggers", {"growth.triggers": name, **APART.get(name, {})}) for name in TRIGGERS),
        *(Row(f"policy {name}", "policies", {"economy.policy": name}) for name in ("spike", "correct", "proportional")),
        Row("caps 10, 50, 200", "policies", {"economy.caps": [10, 50, 200]}),
        Row("quantised every 4 steps", "options", {"training.quantise_every": 4}),
        Row("quantised every step", "options", {"training.quantise_every": 1}),
        Row("initial lsuv", "options", {"network.initial": "lsuv"}),
        Row("judged on averages", "options", {"tournament.average": 0.5}),
    ]  # fmt: skip
    return {row.name: row for row in made}


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    shelf = Shelf(args.out / JOBS)
    place = device.resolve(args.device)
    known = rows()
    chosen = _chosen(args, known)
    wanted = [job for task in args.tasks for job in _jobs(args, task, chosen)]
    told = _Teller()
    deadline = time.monotonic() + args.budget if args.budget else math.inf
    finished = True
    if not args.table_only:
        with Stop(lambda: told("stopping ...")) as stop, run_folder.locked(args.out):

            def pulse() -> None:
                stop.check()
                if time.monotonic() > deadline:
                    raise OutOfTimeError

            crew = Crew(shelf, args.processes, place, told, pulse)
            try:
                crew.run(wanted)
                if args.full:
                    telling = _telling(_table(args, shelf, "mnist-10k", known), known)
                    told(f"most telling: {', '.join(row.name for row in telling)}")
                    crew.run(_jobs(args, "mnist", telling))
            except (OutOfTimeError, KeyboardInterrupt) as stopped:
                finished = False
                told(f"{'out of time' if isinstance(stopped, OutOfTimeError) else 'stopped'}; the same command goes on")
            finally:
                crew.close()
            if crew.mixed:
                told(crew.mixed)
    tables = {task: _table(args, shelf, task, known) for task in TASKS}
    tables = {task: lines for task, lines in tables.items() if lines}
    about = {
        "steps": args.steps, "work": _work(args), "seeds": args.seeds, "lives": len(shelf), "finished": finished,
        "versions": run_folder.versions(), "processor": run_folder.processor(), "git": run_folder.git_revision(),
    }  # fmt: skip
    text = json.dumps({**about, "tasks": tables}, indent=1, allow_nan=False) + "\n"
    (args.out / "ablation.json").write_text(text, encoding="utf-8")
    titled = {NAMES[task]: lines for task, lines in tables.items()}
    args.markdown.parent.mkdir(parents=True, exist_ok=True)
    args.markdown.write_text(markdown(about, titled), encoding="utf-8")
    told(f"{len(shelf)} lives in {args.out / JOBS}; table in {args.markdown}")
    return 0 if finished else 3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words = lambda text: [word.strip() for word in text.split(",") if word.strip()]  # noqa: E731
    parser.add_argument("--tasks", type=words, default=["digits", "mnist-10k"], help="of digits, mnist-10k, mnist")
    parser.add_argument("--rows", type=words, help="names or groups: base, alone, without, rates, triggers, ...")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=18_000, help="planned line of a life; a third more is the work")
    parser.add_argument("--processes", type=int, default=0, help="lives side by side, on Ray; 0: in this process")
    parser.add_argument("--budget", type=float, help="seconds after which to stop")
    parser.add_argument("--data", help="folder of MNIST's IDX files")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every row")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--markdown", type=Path, default=MARKDOWN)
    parser.add_argument("--full", action="store_true", help="then the most telling rows on all of MNIST")
    parser.add_argument("--table-only", action="store_true", help="live nothing, write the table")
    args = parser.parse_args()
    if strange := [task for task in args.tasks if task not in TASKS]:
        parser.error(f"--tasks: expected some of {', '.join(TASKS)}, got {strange[0]!r}")
    return args


def _chosen(args: argparse.Namespace, known: Mapping[str, Row]) -> list[Row]:
    """The rows asked for, and those that they are compared with."""
    if args.rows is None:
        return list(known.values())
    groups = {row.group for row in known.values()}
    if strange := [word for word in args.rows if word not in known and word not in groups]:
        raise SystemExit(f"--rows: expected names or groups ({', '.join(sorted(groups))}), got {strange[0]!r}")
    asked = [row for row in known.values() if row.name in args.rows or row.group in args.rows]
    return _with_bases(asked, known)


def _with_bases(asked: Sequence[Row], known: Mapping[str, Row]) -> list[Row]:
    names = {row.name for row in asked} | {row.against for row in asked if row.against is not None}
    return [row for row in known.values() if row.name in names]


def _work(args: argparse.Namespace) -> int:
    return round(args.steps * (1 + TRIALS))


def _jobs(args: argparse.Namespace, task: str, chosen: Sequence[Row]) -> list[Job]:
    """Seed by seed, so that an unfinished table has whole rows of fewer seeds."""
    import yaml

    base: dict[str, Any] = {**TASKS[task], "device": args.device, "training.steps": args.steps}
    if args.data and task != "digits":
        base["data.path"] = str(Path(args.data).absolute())
    base |= {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in args.set)}
    config = build(base)
    return [
        Job.of(f"{task}: {row.name}", seed, config, row.change, work=_work(args))
        for seed in range(args.seeds)
        for row in chosen
    ]


def _table(args: argparse.Namespace, shelf: Shelf, task: str, known: Mapping[str, Row]) -> list[dict[str, Any]]:
    """A line a row that has been lived, with its differences to the row that it is compared with."""
    lived: dict[str, dict[int, Outcome]] = {}
    for job in _jobs(args, task, list(known.values())):
        outcome = shelf.get(job.key)
        if outcome is not None:
            lived.setdefault(job.label.partition(": ")[2], {})[job.seed] = outcome
    lines = []
    for name, outcomes in lived.items():
        row = known[name]
        line: dict[str, Any] = {"row": name, "group": row.group, "against": row.against, **_means(outcomes)}
        shared = sorted(outcomes.keys() & lived.get(row.against or "", {}).keys())
        if row.against is not None and shared:
            for figure in ("per_parameter", "validation_information", "active_parameters"):
                ours = [float(getattr(outcomes[seed], figure)) for seed in shared]
                theirs = [float(getattr(lived[row.against][seed], figure)) for seed in shared]
                line[f"{figure}_gain"] = paired(ours, theirs).to_json()
        lines.append(line)
    for figure in ("per_parameter", "validation_information"):
        compared = [line for line in lines if f"{figure}_gain" in line]
        ps = [line[f"{figure}_gain"]["p"] for line in compared]
        for line, p in zip(compared, holm([math.nan if p is None else p for p in ps]), strict=True):
            line[f"{figure}_gain"]["holm"] = None if math.isnan(p) else p
            line[f"{figure}_gain"]["reach_all"] = _simultaneous(
                line[f"{figure}_gain"], len(line["seeds"]), len(compared)
            )
    return lines


def _simultaneous(gain: Mapping[str, Any], seeds: int, comparisons: int) -> float | None:
    """Half the width of the interval that holds for all comparisons at once with 95% (Bonferroni)."""
    if gain["high"] is None:
        return None
    wider = stats.t.ppf(1 - 0.025 / comparisons, seeds - 1) / stats.t.ppf(0.975, seeds - 1)
    return float((gain["high"] - gain["mean"]) * wider)


def _means(outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    every = list(outcomes.values())
    figures = ("per_parameter", "validation_information", "active_parameters", "test_accuracy", "work", "tournaments")
    adopted: dict[str, int] = {}
    for outcome in every:
        for proposer, count in outcome.adopted.items():
            adopted[proposer] = adopted.get(proposer, 0) + count
    means = {figure: _mean([float(getattr(o, figure)) for o in every]).mean for figure in figures}
    return {"seeds": sorted(outcomes), **means, "adopted": adopted, "works": sorted({o.work for o in every})}


def _mean(values: Sequence[float]) -> Estimate:
    return estimate(values)


def _telling(lines: Sequence[Mapping[str, Any]], known: Mapping[str, Row]) -> list[Row]:
    """The rows whose information per parameter is the least likely to differ by chance, and their bases."""
    compared = [line for line in lines if line.get("per_parameter_gain", {}).get("p") is not None]
    compared.sort(key=lambda line: (line["per_parameter_gain"]["p"], line["row"]))
    return _with_bases([known[line["row"]] for line in compared[:TELLING]], known)


class _Teller:
    """Progress with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
