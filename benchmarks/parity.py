"""Parity: how far growth gets on N bits, with the XOR start and without it, and with how many parameters.

    python benchmarks/parity.py [--seeds 5] [--only NAME ...] [--json FILE] [--markdown FILE]

xor 8: `evo grow parity:8 --recipe parity-xor`. plain 4, plain 8: the default tournament, which is told nothing, on
parity:4 and parity:8. plain 8 long: the same for a life three times as long. One row a seed: the most of the patterns
that a snapshot has right and the fewest parameters that any such snapshot needs, the steps lived until then, those of
all trials beside them, and the seconds of the life on one thread. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import evo
from evo import recipes
from evo.settings import build

SUBJECTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "xor 8": ("parity:8", "parity-xor", {}),
    "plain 4": ("parity:4", "tournament", {}),
    "plain 8": ("parity:8", "tournament", {}),
    "plain 8 long": ("parity:8", "tournament", {"training.steps": 54_000}),
}
"""Task, recipe, and what is changed of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--json", type=Path, help="file to write besides")
    parser.add_argument("--markdown", type=Path, help="file to write the table to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"torch": torch.__version__, "subjects": {}}
    for name in args.only:
        task, recipe, changed = SUBJECTS[name]
        rows = []
        for seed in range(args.seeds):
            rows.append(lived(task, recipe, changed, seed))
            print(name, rows[-1], file=sys.stderr, flush=True)
        result["subjects"][name] = {"task": task, "recipe": recipe, "changed": changed, "rows": rows}
    text = json.dumps(result, indent=1)
    if args.json:
        args.json.write_text(text + "\n")
    if args.markdown:
        args.markdown.write_text(table(result))
    print(text)


def lived(task: str, recipe: str, changed: dict[str, Any], seed: int) -> dict[str, Any]:
    """One life, and the best that it came to."""
    settings = build(recipes.read(recipe), {"record.mlflow": False, **changed})
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        events = evo.grow(task, config=settings, seed=seed, out=out).events
    seconds = time.perf_counter() - began
    shots = events[events["kind"] == "snapshot"]
    most = float(shots["validation_accuracy"].max())
    reached = shots[shots["validation_accuracy"] == most]
    patterns = 2 ** int(task.partition(":")[2])
    return {
        "seed": seed,
        "patterns": round(most * patterns),
        "of": patterns,
        "active_parameters": int(reached["active_parameters"].min()),
        "reached_at_step": int(reached["step"].min()),
        "seed_parameters": int(shots["active_parameters"].iloc[0]),
        "last_information_nats": round(float(shots["validation_information_nats"].iloc[-1]), 4),
        "trial_steps": int(events[events["kind"] == "finished"]["trial_steps"].iloc[0]),
        "seconds": round(seconds, 1),
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: a row a subject, the seeds side by side."""
    lines = [
        "| growth | patterns right, seed by seed | of | parameters | reached at step | seconds a life |",
        "|---|---|---|---|---|---|",
    ]
    for name, subject in result["subjects"].items():
        rows = subject["rows"]
        said = {key: ", ".join(str(row[key]) for row in rows) for key in rows[0]}
        seconds = statistics.median(row["seconds"] for row in rows)
        changed = "".join(f", {key} {value}" for key, value in subject["changed"].items())
        what = f"{name}: `evo grow {subject['task']} --recipe {subject['recipe']}`{changed}"
        lines.append(
            f"| {what} | {said['patterns']} | {rows[0]['of']} | {said['active_parameters']} "
            f"| {said['reached_at_step']} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
