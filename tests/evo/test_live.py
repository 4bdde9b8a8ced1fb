"""Signs of life: told while a process works, gone when it has ended, and never in its way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from small_life import made

from evo import live
from evo.grower import Grower
from evo.machine import HOST, Machine
from evo.trials import Body, TrialRequest, TrialResult
from evo.vitals import Trials, Vitals, Watched
from evo.workers import InProcess


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LEAST", 0.05)
    monkeypatch.setattr(live, "FIRST", 0.0)


def awaited(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + 20
    while not (value := found()) and time.monotonic() < end:
        time.sleep(0.02)
    assert value
    return value


@pytest.mark.usefixtures("quick")
def test_a_process_tells_what_it_is_at_and_takes_its_sign_away(tmp_path: Path) -> None:
    vitals = Vitals("n000", 2, 7)
    heard: list[Mapping[str, Any]] = []
    beat = live.of_network(tmp_path, vitals, 0.05, heard.append)
    assert beat is not None
    first = awaited(lambda: live.beats(tmp_path).get("n000"))
    assert (first["host"], first["pid"], first["phase"], first["cycles"]) == (HOST, os.getpid(), "starting", 7)
    assert first["process"]["memory_bytes"] > 1e6
    assert first["machine"]["memory_total_bytes"] > first["machine"]["memory_used_bytes"] > 0
    vitals.enter("tournament")
    vitals.trials.in_flight, vitals.trials.waiting = 2, 5
    vitals.lived({"cycle": 3, "information_nats": float("nan"), "train_loss": 1.0})
    told = awaited(lambda: (b := live.beats(tmp_path)["n000"])["phase"] == "tournament" and b)
    assert told["trials"] == {"in_flight": 2, "waiting": 5, "done": 0}
    assert told["cycle"] == 3
    assert "information_nats" not in told
    assert told["beat"] > first["beat"]
    assert heard[-1]["network"] == "n000"
    beat.close()
    assert live.beats(tmp_path) == {}
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.usefixtures("quick")
def test_a_disk_that_refuses_is_nobodys_trouble(tmp_path: Path) -> None:
    (tmp_path / "live").write_text("a file where a folder should be")
    with live.beating(tmp_path, "driver", dict, 0.05):
        time.sleep(0.3)
    live.failure(tmp_path / "live", "n000", "killed", "goes on")
    assert (tmp_path / "live").read_text() == "a file where a folder should be"


def test_what_is_over_at_once_and_what_is_switched_off_leaves_nothing(tmp_path: Path) -> None:
    with live.beating(tmp_path, "driver", dict, 5.0):
        pass
    assert live.of_network(tmp_path, Vitals("n000"), 0.0) is None
    assert list(tmp_path.iterdir()) == []


def test_failures_stay_in_order_and_are_read_once(tmp_path: Path) -> None:
    for number in range(3):
        live.failure(tmp_path, f"n{number:03d}", f"cause {number}", "goes on")
    found = live.failures(tmp_path)
    assert [told["cause"] for told in found.values()] == ["cause 0", "cause 1", "cause 2"]
    assert live.failures(tmp_path, frozenset(list(found)[:2])) == dict(list(found.items())[2:])
    live.clear(tmp_path)
    assert live.failures(tmp_path) == found


def test_what_is_no_sign_of_life_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    for name, text in {"torn": '{"beat": ', "list": "[]", "deep": "[" * 100_000, "good": '{"beat": 1}'}.items():
        (tmp_path / "live" / f"{name}.json").write_text(text)
    found = live.beats(tmp_path)
    assert found.pop("good") == {"beat": 1}
    assert found == {}


def test_what_somebody_else_wrote_is_taken_for_no_more_than_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    hostile = {
        "beat": "1", "pid": -1, "host": "a\x1b[2Jb", "time": 1e300, "every": "5", "cycles": [4], "network": {"a": 1},
        "trials": {"in_flight": 2.5, "waiting": 7, "done": None, "more": 1}, "process": 3, "phase": "x" * 1000,
        "gpus": [{"index": 1, "power_watts": "much"}, 7], "unknown": 1,
    }  # fmt: skip
    (tmp_path / "live" / "n000.json").write_text(json.dumps(hostile))
    found = live.beats(tmp_path)["n000"]
    assert found == {"host": "a [2Jb", "trials": {"waiting": 7}, "phase": "x" * 300, "gpus": [{"index": 1}]}


def test_a_runners_queue_is_seen_while_it_works(tmp_path: Path) -> None:
    config, task = made()
    seen: list[tuple[str, int, int]] = []

    class Looking(InProcess):
        def __call__(self, parent: Body, requests: Any) -> list[TrialResult]:
            wanted: list[TrialRequest] = list(requests)
            results = []
            for request in wanted:
                results += super().__call__(parent, [request])
                seen.append((grower.vitals.phase, self.queue.in_flight, self.queue.done))
            return results

    grower = Grower(config, task, tmp_path, runner=Looking(task))
    assert grower.vitals.cycles == 4
    grower.advance()
    assert {phase for phase, _, _ in seen} == {"tournament"}
    assert [done for _, _, done in seen] == list(range(1, len(seen) + 1))
    assert (grower.vitals.phase, grower.vitals.trials.in_flight) == ("saving", 0)
    assert grower.vitals.figures["cycle"] == 1
    json.dumps(grower.vitals.told(), allow_nan=False)


def test_a_runner_without_a_queue_is_watched_all_the_same() -> None:
    vitals = Vitals("n000")
    phases: list[str] = []

    def run(parent: Body, requests: Any) -> list[TrialResult]:
        phases.append(vitals.phase)
        return []

    assert Watched.over(run, vitals)(Body("{}", {}, {}), []) == []
    assert phases == ["tournament"]
    assert vitals.trials == Trials()


def test_a_sign_of_life_costs_less_than_a_hundredth_of_the_time_between_two(tmp_path: Path) -> None:
    """In CPU time, which is all that it can take from a run: the waiting for the disk is its thread's own."""
    machine, vitals = Machine(), Vitals("n000")
    store = live.open_store(tmp_path)
    began = time.process_time()
    for _ in range(50):
        store.replace("live/n000.json", json.dumps({**vitals.told(), **machine.figures()}).encode())
    assert (time.process_time() - began) / 50 < 0.01 * live.LEAST
