"""The fault table's own instruments: each kind of fault strikes, a resume mends it, and real damage is seen."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("MERISTEM_")}
NONE = {"lost": 0, "doubled": 0, "unequal": 0, "drafts": 0}


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `striking` tells."""
    words = [str(Path(__file__).with_name("striking.py")), str(ROOT / "benchmarks"), str(tmp_path_factory.mktemp("f"))]
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=240,
        env={**CLEAN, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("where", ["snapshot", "retention"])
def test_whatever_strikes_a_resume_mends(struck: dict[str, Any], where: str) -> None:
    for mode, told in struck[where].items():
        if mode == "passed":
            continue
        assert told["found"] == NONE, mode
        assert told["again"]["how"] == "done", mode
        assert told["first"]["ours"], (mode, told["first"])


def test_every_kind_strikes(struck: dict[str, Any]) -> None:
    how = {mode: told["first"] for mode, told in struck["snapshot"].items() if mode != "passed"}
    assert how["SIGKILL"]["how"] == "killed"
    assert how["SIGTERM"]["error"].startswith("stopped, and kept everything")
    assert all(how[mode]["how"] == "raised" for mode in how if mode != "SIGKILL")
    assert "no space left" in how["disk full"]["error"].lower()
    assert "permission denied" in how["permission denied"]["error"].lower()


def test_what_is_wrong_is_seen(struck: dict[str, Any]) -> None:
    assert struck["spoilt"] == {
        "event": {**NONE, "lost": 2},
        "draft": {**NONE, "drafts": 1},
        "weight": {**NONE, "unequal": 1},
        "gone": {**NONE, "unequal": 1},
    }


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("fault_plan")


def test_points_kinds_and_modes_share_the_faults_evenly(plan: Any) -> None:
    names = ["a", "operation", "b", "operation", "a", "operation", "c"]
    traces = {(life, seed): names if life == "one" else names[2:4] for life in ("one", "two") for seed in plan.SEEDS}
    strikes = plan.strikes(traces)
    assert [s.number for s in strikes] == list(range(plan.IN_PROCESS))
    assert {s.fault.point for s in strikes} == {"a", "b", "c"}
    assert {s.life for s in strikes if s.fault.point == "b"} == {"one", "two"}
    assert {s.fault.passing for s in strikes if s.fault.point == "a"} == {1, 2}
    modes = [s.fault.mode for s in strikes]
    assert {mode: modes.count(mode) for mode in plan.SHARES if mode in ("KeyboardInterrupt", "SIGTERM")} == {
        "KeyboardInterrupt": plan.SHARES["KeyboardInterrupt"], "SIGTERM": plan.SHARES["SIGTERM"],
    }  # fmt: skip
    # After c nothing is written that could fail.
    assert {s.fault.mode for s in strikes if s.fault.point == "c"} <= {"SIGKILL", "SIGTERM", "KeyboardInterrupt"}
    assert plan.strikes(traces) == strikes
