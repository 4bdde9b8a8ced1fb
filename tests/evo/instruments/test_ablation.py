"""The ablation: every mechanism has its rows, all at equal work, and the table says what the numbers do."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from small_jobs import outcome

from evo.instruments.shelf import Shelf
from evo.learning_rates import RATES
from evo.settings import build
from tournaments.proposals import PROPOSERS
from tournaments.triggers import TRIGGERS

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def ablation(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ablation

    return ablation


def arguments(**more: object) -> argparse.Namespace:
    usual = {"seeds": 3, "steps": 900, "device": "cpu", "data": None, "set": [], "rows": None}
    return argparse.Namespace(**{**usual, **more})


def test_every_mechanism_has_its_rows_and_all_are_settings_that_can_be(ablation: ModuleType) -> None:
    known = ablation.rows()
    wanted = {f"alone {name}" for name in PROPOSERS} | {f"without {name}" for name in PROPOSERS}
    wanted |= {f"rates {name}" for name in RATES if name != "uniform"} | {f"trigger {name}" for name in TRIGGERS}
    assert wanted <= set(known)
    for row in known.values():
        assert build(row.change)
        assert row.against is None or row.against in known
        assert ("growth.proposers" in row.change) == (row.group in ("alone", "without") or row.name == "full")


def test_all_jobs_of_a_task_work_equally(ablation: ModuleType) -> None:
    args = arguments()
    jobs = ablation._jobs(args, "mnist-10k", list(ablation.rows().values()))
    assert {job.work for job in jobs} == {1200}
    assert len({job.key for job in jobs}) == len(jobs) == 3 * len(ablation.rows())
    assert jobs[0].settings["data"]["limit"] == 10_000


def test_rows_bring_what_they_are_compared_with(ablation: ModuleType) -> None:
    chosen = ablation._chosen(arguments(rows=["without skip", "rates"]), ablation.rows())
    names = [row.name for row in chosen]
    assert names[:2] == ["default", "full"]
    assert set(names) == {"default", "full", "without skip", *(f"rates {n}" for n in RATES if n != "uniform")}


def test_the_table_finds_the_effect_that_was_put_in(ablation: ModuleType, tmp_path: Path) -> None:
    """`rates age` gains .2 nats in every seed, give or take a little; `rates trust` nothing."""
    args, known = arguments(rows=["rates age", "rates trust"]), ablation.rows()
    shelf = Shelf(tmp_path / "jobs.jsonl")
    for job in ablation._jobs(args, "digits", ablation._chosen(args, known)):
        name, wobble = job.label.partition(": ")[2], 0.01 * (job.seed - 1)
        gain = 0.2 + wobble if name == "rates age" else wobble if name == "rates trust" else 0.0
        shelf.put(job, outcome(validation_information=1.0 + 0.1 * job.seed + gain, adopted={"skip": 1}), {})
    lines = {line["row"]: line for line in ablation._table(args, shelf, "digits", known)}
    assert set(lines) == {"default", "rates age", "rates trust"}
    gain = lines["rates age"]["validation_information_gain"]
    assert gain["mean"] == pytest.approx(0.2)
    assert gain["low"] < 0.2 < gain["high"]
    assert gain["holm"] == pytest.approx(2 * gain["p"])
    assert lines["rates age"]["per_parameter_gain"]["mean"] == pytest.approx(2.0)
    assert [row.name for row in ablation._telling(list(lines.values()), known)][1] == "rates age"
    about = {"seeds": 3, "work": 1200, "steps": 900, "processor": "x", "versions": {}, "git": None, "finished": False}
    page = ablation.markdown(about, {"digits": list(lines.values())})
    assert "| rates age | 3 | 13.00 | **+2.00 ± 0.25 (all: 0.36)** | 0.002 | 1.300 |" in page
    assert "| **+0.200 ± 0.025 (all: 0.036)** |" in page
    assert "- More information, beyond chance: rates age." in page
    assert "**Unfinished.**" in page


def test_it_stops_in_time_and_goes_on(tmp_path: Path) -> None:
    words = [
        sys.executable,
        str(BENCHMARKS / "ablation.py"),
        "--tasks",
        "digits",
        "--rows",
        "rates age",
        "--seeds",
        "1",
    ]
    words += ["--steps", "120", "--set", "data.limit=300", "--set", "tournament.rungs=[3, 5]", "--set"]
    words += ["tournament.evidence_samples=64", "--out", str(tmp_path), "--markdown", str(tmp_path / "t.md")]
    env = {"PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1", "PATH": ""}
    first = subprocess.run([*words, "--budget", "0.001"], env=env, capture_output=True, text=True, timeout=200)
    assert first.returncode == 3, first.stderr
    assert "out of time; the same command goes on" in first.stderr
    second = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200)
    assert second.returncode == 0, second.stderr
    assert "| rates age | 1 |" in (tmp_path / "t.md").read_text()
    third = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200)
    assert "nats" not in third.stderr
    assert len((tmp_path / "jobs.jsonl").read_text().splitlines()) == 2
