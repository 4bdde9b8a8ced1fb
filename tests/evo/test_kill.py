"""Killed by SIGKILL between any two durable operations and resumed, a life ends as if nothing had happened.

No event twice, none missing, the same weights to the bit; with the whole sequence of `evo grow`, and by the command.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import killing
import pytest
from small_life import SHORT, SMALL, same, stable

from evo import faults
from evo.recorder import read_events

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("MERISTEM_")}
EVO = [sys.executable, "-c", "from evo.cli import main; main()"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `killing` has done its work."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, killing.__file__, str(folder)],
        capture_output=True, text=True, timeout=280, env={**CLEAN, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def rest(run: Path) -> list[str]:
    """Drafts that nobody cleared away."""
    return [str(path) for path in run.rglob(".*") if path.name != ".lock"]


def test_every_point_of_a_life_was_died_at(killed: Path) -> None:
    names = json.loads((killed / "points.json").read_text())
    expected = {n for n in faults.POINTS if n.startswith(("events.", "snapshot."))}
    assert set(names) == expected
    broken = sorted(killed.glob("at-*"))
    # One more was begun, passed all points and lived.
    assert len(broken) == len(names) + 1
    assert len(names) > 40


def test_wherever_it_was_killed_a_life_ends_the_same(killed: Path) -> None:
    assert len(stable(killed / "unbroken")) > 15
    differing = {folder.name: same(killed / "unbroken", folder) for folder in sorted(killed.glob("at-*"))}
    assert {name: found for name, found in differing.items() if found} == {}


def test_nothing_half_written_is_left(killed: Path) -> None:
    assert [path for folder in killed.glob("at-*") for path in rest(folder)] == []


def test_no_event_is_twice_or_missing(killed: Path) -> None:
    for folder in [*killed.glob("at-*"), killed / "again"]:
        rows = read_events(folder)
        assert list(rows["seq"]) == list(range(len(rows)))
        assert (rows["kind"] == "started").sum() == (rows["kind"] == "finished").sum() == 1
        assert rows.loc[rows["kind"] == "snapshot", "snapshot"].is_unique


def test_a_life_that_is_killed_again_and_again_comes_to_its_end(killed: Path) -> None:
    assert json.loads((killed / "deaths.json").read_text()) >= 3
    assert same(killed / "unbroken", killed / "again") == []


def test_a_run_killed_at_any_step_ends_as_an_unbroken_one_with_its_report(killed: Path) -> None:
    names = json.loads((killed / "run-points.json").read_text())
    assert names[:2] == ["run.begin", "run.written"]
    assert names[-1] == "run.finished"
    whole = killed / "run-unbroken" / "a"
    runs = [folder / "a" for folder in sorted(killed.glob("run-*")) if folder.is_dir()]
    assert len(runs) == 16
    for run in runs:
        assert same(whole, run) == [], run
        assert rest(run) == []
        assert sorted(p.name for p in (run / "report").iterdir()) == ["front.json", "front.png", "report.html"]
        assert judged(run) == judged(whole), run
        ours, theirs = (json.loads((r / "run.json").read_text()) for r in (run, whole))
        moved = {"created", "config", "git"}
        assert {k: v for k, v in ours.items() if k not in moved} == {k: v for k, v in theirs.items() if k not in moved}
        assert {**ours["config"], "out": ""} == {**theirs["config"], "out": ""}
        assert rest(run.parent) == []


def test_the_test_set_is_read_once_whatever_dies(killed: Path) -> None:
    """Killed right after the front was judged, a resumed run writes the rest of its report and judges nothing anew."""
    folder = killed / "run-report-1-after" / "a" / "report"
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert written["front.json"] < min(written["front.png"], written["report.html"])


def judged(run: Path) -> dict[str, object]:
    record = json.loads((run / "report" / "front.json").read_text())
    assert isinstance(record, dict)
    return {name: value for name, value in record.items() if name != "evaluated"}


def evo(*words: str, fault: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    armed = {"MERISTEM_FAULT": fault} if fault else {}
    return subprocess.run(
        [*EVO, *words],
        capture_output=True, text=True, timeout=120, cwd=cwd, env={**CLEAN, "PYTHONPATH": str(ROOT), **armed},
    )  # fmt: skip


def test_the_command_is_killed_and_resumed(killed: Path, tmp_path: Path) -> None:
    settings = {k: v for k, v in {**SMALL, **SHORT}.items() if k not in ("task", "seed")}
    words = [word for k, v in settings.items() for word in ("--set", f"{k}={json.dumps(v)}")]
    died = evo("grow", "digits", "--seed", "7", "--name", "a", *words, fault="events.renamed:3", cwd=tmp_path)
    assert died.returncode == -signal.SIGKILL, died.stderr
    run = tmp_path / "runs" / "a"
    assert len(list((run / "events").glob("*.parquet"))) == 3
    assert not (run / "report").exists()
    done = evo("resume", "a", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["decisions"]) == 2
    whole = killed / "run-unbroken" / "a"
    assert same(whole, run) == []
    assert judged(run) == judged(whole)
    (run / "snapshots" / "n000" / "000003" / "weights.safetensors").write_bytes(b"torn")
    for path in sorted((run / "events").glob("*.parquet"))[-1:]:
        path.write_bytes(path.read_bytes()[:100])
    refused = evo("resume", "a", "--json", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "n000-000003.parquet" in refused.stderr
