"""Strikes small runs with every kind of fault and tells what came of it: `python striking.py BENCHMARKS FOLDER`."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, sys.argv[1])

import fault_forks as forks
import fault_lives as lives


def strike(life: Callable[[int, Path], None], home: Path, point: str, passing: int) -> dict[str, Any]:
    """Every mode at one passing of one point."""
    whole, scratch = home / "whole", home / "told.json"
    whole.mkdir(parents=True)
    found: dict[str, Any] = {"passed": forks.traced(lambda: life(7, whole), scratch)}
    for mode in (*forks.SIGNALS, *forks.ERRORS):
        out = home / mode
        first = forks.attempt(lambda: life(7, out), scratch, forks.Fault(mode, point, passing))  # noqa: B023
        again = forks.attempt(lambda: life(7, out), scratch)  # noqa: B023
        found[mode] = {"first": vars(first), "again": vars(again), "found": vars(lives.difference(whole, out))}
    return found


def spoilt(home: Path) -> dict[str, Any]:
    """A whole run, each time with one thing in it wrong, as `difference` sees it."""
    found = {}
    for name, spoil in {"event": _lose_events, "draft": _leave_draft, "weight": _change, "gone": _lose}.items():
        out = home / f"spoilt-{name}"
        shutil.copytree(home / "whole", out)
        spoil(out / "a")
        found[name] = vars(lives.difference(home / "whole", out))
    return found


def _lose_events(run: Path) -> None:
    import pyarrow.parquet as pq

    (path,) = (run / "events").glob("*.parquet")
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 2), path)


def _leave_draft(run: Path) -> None:
    (run / "snapshots" / ".draft").touch()


def _change(run: Path) -> None:
    from search_spaces import checkpoint

    home = lives._homes(run)[-1]
    found = checkpoint.load(home)
    next(iter(found.network.parameters())).data[0, 0] += 1e-6
    checkpoint.save(home, found.network, found.state, found.extra, found.lineage)


def _lose(run: Path) -> None:
    shutil.rmtree(lives._homes(run)[-1])


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    with contextlib.redirect_stdout(sys.stderr):
        lives.quick()
        told = {
            "snapshot": strike(lives.grow, folder / "snapshot", "snapshot.part", 3),
            "retention": strike(lives.kept, folder / "retention", "retention.removed", 1),
            "spoilt": spoilt(folder / "snapshot"),
        }
    print(json.dumps(told))
