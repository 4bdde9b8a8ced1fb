"""A few of the hundred placements of `benchmarks/placements.py`, on a real cluster of three nodes and a head."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_searches_end_within_what_there_is_and_make_nothing_outside(tmp_path: Path) -> None:
    """In a process of its own, which is ended with all of Ray if it hangs. Three of one cluster: with and without
    workers, on nodes that others hold at first, with a group that no node holds whole.
    """
    file = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "placements.py"),
        "--from",
        "0",
        "--to",
        "3",
        "--file",
        str(file),
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MERISTEM_", "PYTEST_"))}
    done = subprocess.run(
        command,
        env={**env, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["number"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert row["ended"], row
        assert row["inside"], row
        assert not row["over"], row
        assert not row["outside"], row
        assert row["looks"] > 3, row
        assert row["running"] <= row["at_once_planned"], row
    assert any(row["held"] for row in rows)
    assert any(row["spread"] for row in rows)
