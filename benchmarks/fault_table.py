"""The fault table as Markdown, from the lines that were recorded."""

from __future__ import annotations

import functools
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evo import faults, run_folder

Line = dict[str, Any]
HALVES = ("in process", "on Ray")
COLUMNS = (
    "faults", "events lost", "events doubled", "snapshots unequal", "files left", "unclear", "median s lost",
    "largest s lost",
)  # fmt: skip
HEAD = """# Faults

Runs are struck and taken up again, and must end as if nothing had happened. Made by `benchmarks/faults.py`:

    python benchmarks/faults.py --work FOLDER [--from 0] [--to 200] [--jobs N]
    python benchmarks/faults.py --work FOLDER --table

A run that was struck is taken up as a user would: `evo resume`, or the same command again where there was no run yet.
It is compared with a twin of the same seed that nothing struck: **events lost** and **doubled** are rows missing or too
many, by all columns that may not differ (where MLflow is in play, points in its store are counted too); **snapshots
unequal**: any tensor, optimiser moment, age, blueprint or state that differs by a bit, or a snapshot that only one of
the two has; **files left**: drafts that nobody cleared away; **unclear**: errors that were not one line of our
own, and runs that hung or could not be taken up. **Seconds lost**: over those of the twin, taken while the machine does
other work as well, so a little below zero is noise.
"""
SETTINGS = """
In process (numbers 0–159): digits, 300 samples, 60 steps in 2 cycles (retention: 120 in 4; search: 4 networks in 2
generations, 40 steps each), density .15, 2 candidates, rungs 2 and 3; seeds 7, 11, 13; runs `grow`, the same without
deltas, with retention (`record.keep: front`), with MLflow's store drained after it, and a search of two generations one
network after another. Faults at every passing of every named point between durable operations, drawn by key: SIGKILL,
SIGTERM, KeyboardInterrupt; or every durable operation (open for writing, fsync, rename, link, mkdir) after the point
fails with ENOSPC or EACCES until the process ends, or one of them with EIO. Pictures of the report are not drawn.
"""
RAY = """
On Ray (160–199): `evo search` and `evo resume` as commands, 4 networks in 2 generations, 6 cycles, 240 steps, two at
once, seeds 7 and 11, on a private Ray or on a cluster of a head and two worker nodes (each a `ray start` of its own).
Faults strike when a number of commits, drawn by key, has been made, and a part of a second, drawn by key, has passed.
"""


def write_table(found: Mapping[int, Line], path: Path) -> None:
    """Writes the page. Raises OSError."""
    lines = [found[number] for number in sorted(found)]
    path.write_text(page(lines), encoding="utf-8")


def page(lines: Sequence[Line]) -> str:
    done = [line for line in lines if not line.get("skipped")]
    parts = [HEAD, SETTINGS, RAY, _made(done), "\n## All\n", _grouped(done, "half", lambda line: line["half"])]
    for half in HALVES:
        ours = [line for line in done if line["half"] == half]
        if ours:
            parts += [f"\n## {half[0].upper()}{half[1:]}, by kind\n", _grouped(ours, "kind", lambda line: line["kind"])]
            parts += [f"\n## {half[0].upper()}{half[1:]}, by run\n", _grouped(ours, "run", lambda line: line["life"])]
    inside = [line for line in done if line["half"] == HALVES[0]]
    parts += ["\n## In process, by point\n", _grouped(inside, "point", lambda line: line["where"].partition(":")[0])]
    parts.append(_not_passed(inside))
    return "\n".join([*parts, *_remarks(lines)]).rstrip() + "\n"


def _not_passed(lines: Sequence[Line]) -> str:
    """The points at which nothing was struck, so that nobody takes them for tested here."""
    struck = {line["where"].partition(":")[0] for line in lines}
    left = [name for name in faults.POINTS if name not in struck]
    return f"\nNo run of these passes {', '.join(left)}: their own tests strike there." if left else ""


def _made(lines: Sequence[Line]) -> str:
    versions = run_folder.versions()
    known = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "ray", "pyarrow", "mlflow", "optuna")
                      if name in versions)  # fmt: skip
    machines = sorted({line["machine"] for line in lines if line.get("machine")})
    revisions = sorted({line["revision"] for line in lines if line.get("revision")})
    return (
        f"\n{len(lines)} of 200 faults. Machine: {'; '.join(machines)}. {known} where the table was written. "
        f"Revisions: {', '.join(revisions)}."
    )


def machine() -> dict[str, str]:
    """Where and of which revision a fault was struck, for its line."""
    return {
        "machine": f"{run_folder.processor()}, {len(os.sched_getaffinity(0))} cores",
        "revision": revision(),
    }


@functools.cache
def revision() -> str:
    """Of this program, as it was when this process began; `+` where it is not as committed."""
    found = os.environ.get("FAULTS_REVISION") or run_folder.git_revision() or "unknown"
    return found[:10] + "+" * found.endswith("+")


def _grouped(lines: Sequence[Line], title: str, by: Callable[[Line], str]) -> str:
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        groups[by(line)].append(line)
    rows = [_row(name, group) for name, group in sorted(groups.items())]
    if len(rows) > 1:
        rows.append(_row("**all**", lines))
    heads = [title, *COLUMNS]
    marks = ["---", *["---:"] * len(COLUMNS)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, marks, *rows]) + "\n"


def _row(name: str, lines: Sequence[Line]) -> list[str]:
    sums = [str(sum(line[key] or 0 for line in lines)) for key in ("lost", "doubled", "unequal", "drafts")]
    unclear = sum(not line["clear"] for line in lines)
    seconds = [line["seconds_lost"] for line in lines if line["seconds_lost"] is not None]
    spent = [f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"] if seconds else ["–", "–"]
    return [name, str(len(lines)), *sums, str(unclear), *spent]


def _remarks(lines: Sequence[Line]) -> list[str]:
    """What went wrong, what was left out, and what a refusal looked like, fault by fault."""
    bad = [x for x in lines if not x.get("skipped") and (not x["clear"] or any(x[k] for k in _COUNTS))]
    left = [x for x in lines if x.get("skipped")]
    told = []
    if bad:
        told += ["\n## What went wrong\n"] + [
            f"- {x['number']}, {x['life']} seed {x['seed']}, {x['kind']} at {x['where']}: {x['outcome']}; "
            f"then {x['resumed']}; " + ", ".join(f"{k} {x[k]}" for k in _COUNTS)
            for x in bad
        ]
    if missing := sorted(set(range(200)) - {x["number"] for x in lines}):
        told.append(f"\n## Not struck yet\n\nNumbers {', '.join(map(str, missing))}.")
    if left:
        told += ["\n## Not struck\n"] + [f"- {x['number']}, {x['kind']}: {x['skipped']}" for x in left]
    return told


_COUNTS = ("lost", "doubled", "unequal", "drafts")
