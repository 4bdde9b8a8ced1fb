"""What `evo status` says of runs in every state, from their folders alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_run
import pytest
from commands import Evo
from rich.console import Console

from evo import live, status, status_screen
from evo.machine import HOST, SPACE
from evo.progress import spoken
from evo.recorder import Recorder
from evo.run import Run
from evo.status import Status, Watcher, time_left

NOW = 1_780_000_500.0


def search(folder: Path, networks: int = 4, **config: Any) -> Path:
    """A search's folder before its first event; 3 cycles a life."""
    fake_run.write(folder, [], "search")
    info = json.loads((folder / "run.json").read_text())
    info["config"] |= {
        "search": {"networks": networks},
        "growth": {"cycles": 3},
        "record": {"heartbeat": 5.0},
        **config,
    }
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def lived(folder: Path, network: str, cycles: int, of: int = 3, seconds: float = 10.0) -> None:
    writer = Recorder(folder, network)
    for cycle in range(cycles + 1):
        rows = [r for r in fake_run.life(network, cycles=of, seed=int(network[1:])) if r["cycle"] == cycle]
        writer.commit([{**r, "seconds": seconds if r["kind"] == "snapshot" else r["seconds"]} for r in rows])


def beats(folder: Path, name: str, age: float = 1.0, **more: Any) -> None:
    told = {
        "beat": 1, "every": 5.0, "time": NOW - age, "host": "node-a", "pid": 4711, "network": name, "cycles": 4,
        "phase": "training", "trials": {"in_flight": 0, "waiting": 0, "done": 0}, "process": {"memory_bytes": 5e8},
        "machine": {"cpu_percent": 50.0, "cpus": 8, "memory_used_bytes": 4e9, "memory_total_bytes": 64e9},
        "gpus": [], **more,
    }  # fmt: skip
    (folder / "live").mkdir(exist_ok=True)
    (folder / "live" / f"{name}.json").write_text(json.dumps(told))


def driver(folder: Path, age: float = 1.0, **more: Any) -> None:
    beats(folder, live.DRIVER, age, stage="running", until=None, stopping=False, **more)


def look(folder: Path) -> Status:
    return Watcher(Run.open(folder), wall=lambda: NOW).look()


def shown(status: Status, width: int = 150) -> str:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(status_screen.screen(status))
    return console.export_text()


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """One network has ended, one trains, one holds a tournament, one is to be born."""
    folder = search(tmp_path / "a")
    lived(folder, "n000", 3)
    lived(folder, "n001", 1)
    lived(folder, "n002", 2, seconds=20.0)
    gpu = {"index": 0, "utilization_percent": 97.0, "memory_used_bytes": 3e9, "memory_total_bytes": 80e9}
    driver(folder)
    beats(folder, "n001")
    beats(
        folder, "n002", host="node-b", phase="tournament", trials={"in_flight": 2, "waiting": 6, "done": 9},
        process={"memory_bytes": 7e8, "gpu_bytes": 2e9}, gpus=[{**gpu, "power_watts": 301.4}],
    )  # fmt: skip
    return folder


def test_a_run_at_work(running: Path) -> None:
    found = look(running)
    assert (found.state, found.said, found.wanted) == ("running", "", 4)
    assert found.counts() == {"alive": 2, "waiting": 1, "finished": 1}
    states = {n.network: n for n in found.networks}
    assert [states[n].state for n in ("n000", "n001", "n002", "n003")] == ["finished", "alive", "alive", "waiting"]
    assert (states["n001"].cycle, states["n001"].said, states["n001"].host) == (1, "training", "node-a")
    assert (states["n002"].in_flight, states["n002"].waiting, states["n002"].gpu_bytes) == (2, 6, 2e9)
    events = Run.open(running).events
    last = events[(events["network"] == "n001") & (events["kind"] == "snapshot")].iloc[-1]
    assert states["n001"].information == last["validation_information_nats"]
    assert states["n001"].parameters == last["active_parameters"]
    # 3 cycles at 10 s, 2 at 20 s, and a whole life at the mean pace, on two lanes.
    assert found.left == pytest.approx((30 + 40 + 4 * 40 / 3) / 2)
    assert [h.host for h in found.hosts] == ["node-a", "node-b"]


def test_it_is_told_in_tables_in_lines_and_in_json(running: Path) -> None:
    live.failure(running, "n001", "its process was killed (SIGKILL)", "it goes on from its last commit")
    found = look(running)
    table = shown(found)
    for words in (
        "running", "2 alive, 1 waiting, 1 finished; candidates: 2 in flight, 6 waiting", "about 62 s left",
        "GPU 0: 97%, 3.0 GB of 80 GB, 301 W", "CPU", "50% of 8", "500 MB", "n002", "failures: 1",
        "n001: its process was killed (SIGKILL); it goes on from its last commit",
    ):  # fmt: skip
        assert words in table
    lines = status_screen.lines(found)
    assert any(line.startswith("n002 g0 2/4  ") and "2 in flight, 6 waiting" in line for line in lines)
    told = json.loads(json.dumps(status_screen.as_json(found), allow_nan=False))
    assert told["counts"] == {"alive": 2, "waiting": 1, "finished": 1}
    assert told["failures"][0]["cause"] == "its process was killed (SIGKILL)"
    assert max(len(line.rstrip()) for line in shown(found, 100).splitlines()) <= 100


def test_many_networks_are_cut_to_the_room_the_troubled_and_living_first(tmp_path: Path) -> None:
    folder = search(tmp_path / "a", networks=12)
    for i in range(12):
        lived(folder, f"n{i:03d}", 3 if i < 10 else 1)
    driver(folder)
    beats(folder, "n010")
    beats(folder, "n011", age=200.0)
    console = Console(width=150, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(status_screen.screen(look(folder), room=4))
    text = console.export_text()
    assert "n010" in text
    assert "silent for 3 min on node-a (pid 4711)" in " ".join(text.split())
    assert "and 9 more" in text


def test_a_dead_process_is_told_by_its_silence(running: Path) -> None:
    driver(running, age=185.0)
    beats(running, "n001", age=185.0)
    found = look(running)
    assert found.state == "silent"
    assert found.said == f"silent for 3 min on node-a (pid 4711); `evo resume {running}` goes on"
    assert next(n for n in found.networks if n.network == "n001").state == "silent"
    assert (found.left, found.left_said) == (None, "nothing is at work on it")


def test_on_its_own_machine_a_dead_process_is_known_at_once(running: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    driver(running, host=HOST, space=f"{SPACE}1", pid=gone.pid)
    assert look(running).state == "running"  # another container's process
    driver(running, host=HOST, space=SPACE, pid=gone.pid)
    assert look(running).said.startswith(f"its process on {HOST} (pid {gone.pid}) is gone, last heard 1 s ago; ")


def test_clocks_that_differ_do_not_matter_to_who_watches(running: Path) -> None:
    """The process's clock is an hour behind: it looks dead at the first look and alive from the second on."""
    clock = [0.0]
    watcher = Watcher(Run.open(running), wall=lambda: NOW, monotonic=lambda: clock[0])
    driver(running, age=3600.0)
    assert watcher.look().state == "silent"
    clock[0] = 2.0
    driver(running, age=3595.0, beat=2)
    assert watcher.look().state == "running"
    clock[0] = 40.0
    assert watcher.look().said.startswith("silent for 38 s on node-a")


def test_a_run_at_rest_and_one_that_is_over(tmp_path: Path) -> None:
    folder = search(tmp_path / "a", networks=1)
    assert look(folder).state == "stopped"
    assert "no network is born yet" in shown(look(folder))
    lived(folder, "n000", 2)
    found = look(folder)
    assert (found.state, found.said) == ("stopped", f"`evo resume {folder}` goes on")
    assert found.networks[0].state == "stopped"
    for row in fake_run.life("n000", cycles=3)[-6:]:
        if row["kind"] == "finished":
            Recorder(folder, "n000").commit([row])
    found = look(folder)
    assert (found.state, found.over, found.left) == ("finished", True, 0.0)
    assert found.networks[0].said == "the end of its epochs"


def test_a_run_without_signs_of_life_is_not_called_dead(tmp_path: Path) -> None:
    folder = search(tmp_path / "a", record={"heartbeat": 0.0})
    lived(folder, "n000", 1)
    found = look(folder)
    assert (found.state, found.left) == ("unknown", None)
    assert "record.heartbeat: 0" in found.said


def test_time_left_is_unknown_until_a_cycle_was_measured_and_a_budget_bounds_it(tmp_path: Path) -> None:
    folder = search(tmp_path / "a")
    driver(folder)
    beats(folder, "n000")
    found = look(folder)
    assert (found.left, found.left_said) == (None, "no cycle has been measured yet")
    assert "time left unknown: no cycle has been measured yet" in shown(found)
    lived(folder, "n000", 1)
    beats(folder, live.DRIVER, stage="running", until=NOW + 12.0)
    found = look(folder)
    assert found.left == pytest.approx(12.0)
    assert found.left_said == "its budget ends it before its networks are done"
    assert time_left(found.networks, "running", {}, NOW)[0] == pytest.approx(30.0 + 3 * 40.0)


@pytest.mark.parametrize("told", ["{}", '{"host": 3, "every": "x", "trials": 1}', '{"time": null, "gpus": [{}]}'])
def test_signs_that_say_little_or_nonsense_do_no_harm(running: Path, told: str) -> None:
    for name in ("driver", "n001", "n003", "x\x1b[2J"):
        (running / "live" / f"{name}.json").write_text(told)
    found = look(running)
    shown(found)
    assert all("\x1b" not in line for line in status_screen.lines(found))


def test_what_run_json_says_is_shown_without_commands_and_counted_within_reason(running: Path) -> None:
    info = json.loads((running / "run.json").read_text())
    info["name"] = info["task"] = "\x1b[2J"
    info["config"]["search"]["networks"], info["config"]["growth"] = 10**12, {"cycles": "x"}
    (running / "run.json").write_text(json.dumps(info))
    found = look(running)
    assert found.wanted == 1
    assert all("\x1b" not in line for line in [*status_screen.lines(found), found.name])


def test_a_second_look_reads_only_what_is_new(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(Run.open(running), wall=lambda: NOW)
    watcher.look()
    rows: list[int] = []
    original = status.read_table

    def counted(folder: Path, network: str, since: int = 0) -> Any:
        table = original(folder, network, since)
        rows.append(table.num_rows)
        return table

    monkeypatch.setattr(status, "read_table", counted)
    watcher.look()
    assert sum(rows) == 0
    writer = Recorder(running, "n001")
    writer.commit([r for r in fake_run.life("n001", cycles=3, seed=1) if r["cycle"] == 2])
    assert next(n for n in watcher.look().networks if n.network == "n001").cycle == 2
    assert 0 < sum(rows) < 12


def test_spoken_times() -> None:
    assert [spoken(s) for s in (0.4, 45, 185, 7500)] == ["0 s", "45 s", "3 min", "2 h 05 min"]


# --- the commands


def test_status_prints_once_as_lines_or_json(running: Path, evo: Evo) -> None:
    code, out, _ = evo("status", str(running))
    assert code == 0
    assert out.startswith(f"search digits, seed 7, {running}: ")
    code, out, _ = evo("status", str(running), "--json")
    assert json.loads(out)["wanted"] == 4
    code, _, err = evo("status", "nothing")
    assert (code, err.count("\n")) == (2, 1)


def test_watch_tells_what_changed_until_the_run_is_over(
    tmp_path: Path, evo: Evo, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = search(tmp_path / "a", networks=1)
    lived(folder, "n000", 1)
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            rows = fake_run.life("n000", cycles=3)
            writer = Recorder(folder, "n000")
            writer.commit([r for r in rows if r["cycle"] in (2, 3)])

    monkeypatch.setattr(time, "sleep", nap)
    code, out, _ = evo("watch", str(folder), "--interval", "3")
    assert code == 0
    assert naps == [3.0, 3.0]
    told = out.splitlines()
    assert [line.split()[1] for line in told if line.startswith("n000")] == ["g0", "g0"]
    assert "1/4" in told[2]
    assert told[-1].startswith("n000 g0 3/3")
    for wrong in ("0.1", "inf", "nan"):
        code, _, err = evo("watch", str(folder), "--interval", wrong)
        assert (code, f"--interval: expected 1 to 86400 seconds, got {wrong}" in err) == (2, True)
