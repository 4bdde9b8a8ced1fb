"""Faults: runs are struck and taken up again, and must end as if nothing had happened.

    python benchmarks/faults.py --work FOLDER [--from 0] [--to 200] [--jobs N]
    python benchmarks/faults.py --work FOLDER --table

Numbers 0–159 strike short runs in process, at the named points between durable operations (evo.faults.POINTS): SIGKILL,
SIGTERM and KeyboardInterrupt there, or a disk that is full, broken or forbidden from there on. Numbers 160–199 strike
searches on real Ray processes at moments drawn by key. After each, the run is taken up by what a user would do (`evo
resume`, or the same command again where no run was there yet), and compared with an unbroken twin: events lost, events
doubled, snapshots of which any tensor, moment or state differs, files left over, and seconds lost.

Every fault appends one line to FOLDER/faults.jsonl, and those that are there are not done again: run it in pieces, as
often as you like. --jobs: so many at once. --table writes docs/benchmarks/faults.md from what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fault_forks as forks
import fault_lives as lives
import fault_plan as plan
from fault_table import machine, revision, write_table

RESULTS = "faults.jsonl"
TOTAL = 200


def recorded(work: Path) -> dict[int, dict[str, Any]]:
    """What was done already, by number; the last word counts."""
    path = work / RESULTS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line["number"]: line for line in map(json.loads, lines)}


def record(work: Path, line: dict[str, Any]) -> None:
    """One line, whole, also where several processes write."""
    with (work / RESULTS).open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({**line, **machine()}) + "\n")
    if "skipped" in line:
        print(f"{line['number']:3} {line['kind']}: not struck, {line['skipped']}", flush=True)
        return
    marks = {k: line[k] for k in ("lost", "doubled", "unequal", "drafts") if line.get(k)}
    print(f"{line['number']:3} {line['life']}: {line['kind']} at {line['where']}: {line['outcome']}"
          f"{f', {marks}' if marks else ''}{'' if line['clear'] else ', UNCLEAR'}", flush=True)  # fmt: skip


def in_process(work: Path, numbers: Sequence[int]) -> None:
    """The faults of these numbers, one after another."""
    store = work / "empty.db"
    wanted = plan.strikes(traces(work))
    lives.quick()
    for number in numbers:
        strike = wanted[number]
        out, scratch = work / f"at-{number:03d}", work / f"told-{number:03d}.json"
        whole = work / "unbroken" / revision() / f"{strike.life}-{strike.seed}"
        lives.furnish(out, strike.life, store)
        life = lives.LIVES[strike.life]
        went = lambda: life(strike.seed, out)  # noqa: E731, B023
        first = forks.attempt(went, scratch, strike.fault)
        again = forks.attempt(went, scratch)
        found: dict[str, Any] = {"lost": None, "doubled": None, "unequal": None, "drafts": None}
        if again.how == "done":
            found = vars(lives.difference(whole, out))
        unbroken = json.loads((whole / "seconds.json").read_text())
        record(work, {
            "number": number, "half": "in process", "life": strike.life, "seed": strike.seed, "kind": strike.fault.mode,
            "where": f"{strike.fault.point}:{strike.fault.passing}", "outcome": f"{first.how} {first.error}".strip(),
            "resumed": f"{again.how} {again.error}".strip(), "clear": first.ours and again.how == "done", **found,
            "seconds_unbroken": unbroken, "seconds_lost": first.seconds + again.seconds - unbroken,
        })  # fmt: skip
        scratch.unlink(missing_ok=True)
        if again.how == "done" and not any(found.values()):
            lives.furnish(out, "", store)
            out.rmdir()


def traces(work: Path) -> dict[tuple[str, int], list[str]]:
    """What each kind and seed of run passes; the unbroken twins are lived on the way. Done once a folder."""
    store, home = work / "empty.db", work / "unbroken" / revision()
    home.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, int], list[str]] = {}
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for life in lives.prepared(store):
            for seed in plan.SEEDS:
                whole = home / f"{life}-{seed}"
                if not (whole / "trace.json").exists():
                    _live_whole(life, seed, whole, store)
                found[life, seed] = json.loads((whole / "trace.json").read_text())
    return found


def _live_whole(life: str, seed: int, whole: Path, store: Path) -> None:
    scratch = whole.with_suffix(".told")
    work = lambda: lives.LIVES[life](seed, whole)  # noqa: E731
    lives.furnish(whole, life, store)
    names = forks.traced(work, scratch)
    lives.furnish(whole, life, store)
    outcome = forks.attempt(work, scratch)
    assert outcome.how == "done", outcome
    (whole / "seconds.json").write_text(json.dumps(outcome.seconds))
    (whole / "trace.json").write_text(json.dumps(names))


def on_ray(work: Path, numbers: Sequence[int]) -> None:
    import fault_cluster

    for number in numbers:
        record(work, fault_cluster.struck(work, number))


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


@contextlib.contextmanager
def shares(jobs: int) -> Iterator[int]:
    """This process as job 0, and so many more as forks; waits for them. Yields the number of the job."""
    children = []
    mine = 0
    for job in range(1, jobs):
        pid = os.fork()
        if pid == 0:
            mine, children = job, []
            break
        children.append(pid)
    try:
        yield mine
    finally:
        if mine:
            failed_here = sys.exc_info()[0] is not None
            if failed_here:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(failed_here))
        failed = [pid for pid in children if os.waitpid(pid, 0)[1]]
    if failed:
        sys.exit(f"{len(failed)} of {jobs} jobs failed; what they did is recorded: run the command again")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--to", dest="last", type=int, default=TOTAL, help="one beyond the last number")
    parser.add_argument("--only", type=_numbers, help="these numbers, as 160,164,170")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no further fault after so long")
    parser.add_argument("--again", action="store_true", help="also those that are recorded")
    parser.add_argument("--table", action="store_true", help="write the table of what is recorded, and nothing else")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/faults.md"), help="of the table")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    asked.work = asked.work.resolve()
    if asked.table:
        write_table(recorded(asked.work), asked.out)
        return
    began = time.monotonic()
    done = {} if asked.again else recorded(asked.work)
    wanted = asked.only or range(asked.first, min(asked.last, TOTAL))
    left = [n for n in wanted if n not in done]
    inside = [n for n in left if n < plan.IN_PROCESS]
    if inside:
        traces(asked.work)
    with shares(asked.jobs) as job:
        for number in left[job :: asked.jobs]:
            if time.monotonic() - began > asked.seconds:
                break
            (in_process if number < plan.IN_PROCESS else on_ray)(asked.work, [number])


if __name__ == "__main__":
    main()
