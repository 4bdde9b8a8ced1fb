"""`evo queue`: mistakes in one line, and real lives that make way, are killed and end as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Evo
from small_life import SMALL, same

from evo import api, machine
from evo.job_queue import Queue
from evo.recorder import read_table

ROOT = Path(__file__).parents[2]
EVO = [sys.executable, "-c", "from evo.cli import main; main()"]
LOW = {**SMALL, "growth.cycles": 8, "training.steps": 2400}


def test_jobs_are_added_listed_and_cancelled(evo: Evo, tmp_path: Path) -> None:
    assert (
        evo("queue", "list")[1] == "no job in runs/queue; `evo queue add search digits --queue runs/queue` adds one\n"
    )
    code, out, _ = evo("queue", "add", "grow", "digits", "--seed", "3", "--set", "growth.cycles=4")
    assert (code, out) == (0, f"j0001: grow digits, priority 0, into {tmp_path}/runs/digits-j0001\n")
    code, out, _ = evo("queue", "add", "search", "parity:3", "--priority", "2", "--name", "mine", "--json")
    assert json.loads(out) == {"job": "j0002", "run": f"{tmp_path}/runs/mine", "priority": 2}
    job = Queue(tmp_path / "runs" / "queue").standing("j0001").job
    assert (job.config["seed"], job.config["growth"]["cycles"]) == (3, 4)
    code, out, _ = evo("queue", "list", "--json")
    assert [(j["job"], j["state"], j["priority"]) for j in json.loads(out)["jobs"]] == [
        ("j0002", "waiting", 2), ("j0001", "waiting", 0)
    ]  # fmt: skip
    (tmp_path / "runs" / "old").mkdir()
    (tmp_path / "runs" / "old" / "run.json").write_text("{}")
    evo("queue", "add", "grow", "--from", "old:n000/000003")
    parent = Queue(tmp_path / "runs" / "queue").standing("j0003").job.config["network"]["parent"]
    assert parent == f"{tmp_path}/runs/old:n000/000003"
    evo("queue", "cancel", "j0003")
    assert evo("queue", "cancel", "j0001")[1] == "j0001 cancelled\n"
    assert evo("queue", "cancel", "j0001")[1] == "j0001 was cancelled already\n"
    lines = evo("queue", "list")[1].splitlines()
    found = [" ".join(line.split()[:3]) for line in lines[1:]]
    assert found == ["j0002 2 waiting", "j0001 0 cancelled", "j0003 0 cancelled"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "sweep"], "KIND: expected search or grow, got 'sweep'"),
        (["add", "grow", "nope"], "task: expected one of digits, mnist, parity:N, spirals, table, got 'nope'"),
        (["add", "grow", "--set", "growth.cycls=4"], "growth.cycls: there is no such setting; write growth.cycles"),
        (["add", "grow", "--set", "network.family=mlpp"], "network.family: expected one of mlp"),
        (["add", "grow", "--set", "growth.triggers=sometimes"], "growth.triggers"),
        (["add", "grow", "--data", "none.csv", "--target", "y"], "data.path: there is no file 'none.csv'"),
        (["add", "grow", "--address", "auto"], "address: nothing of `evo grow` runs on auto without trial workers"),
        (["add", "grow", "--from", "nowhere"], "run: there is no run 'nowhere'"),
        (["add", "grow", "--name", "queue"], "name: expected up to 100 letters"),
        (["add", "grow", "--name", "taken"], "name: expected one that is free"),
        (["cancel", "j0001", "j0009"], "job: there is no 'j0009'"),
        (["run", "--at-once", "0"], "--at-once: expected 1 or more"),
        (["run", "--lease", "nan"], "--lease: expected 5 to 86400 seconds, got nan"),
        (["list", "--queue", "runs/queue/jobs/j0001.json"], "--queue: expected a folder or an address, got the file"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_changes_nothing(evo: Evo, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    evo("queue", "add", "grow")
    code, out, err = evo("queue", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert [s.state for s in Queue("runs/queue").standings()] == ["waiting"]


def test_a_job_is_cancelled_whose_runner_is_gone(evo: Evo) -> None:
    evo("queue", "add", "grow")
    queue = Queue("runs/queue")
    ended = subprocess.Popen(["true"])
    ended.wait()
    queue.claim(queue.standing("j0001"), "r", machine.HOST, ended.pid)
    assert evo("queue", "cancel", "j0001")[1] == f"j0001 cancelled; the runner that had it is gone (pid {ended.pid})\n"


def test_a_damaged_job_is_told_of_beside_the_others(evo: Evo) -> None:
    evo("queue", "add", "grow")
    Path("runs/queue/jobs/j0000.json").write_text("{")
    code, out, err = evo("queue", "list")
    assert code == 0
    assert out.splitlines()[1].startswith("j0001")
    assert err.startswith("evo: queue: expected job j0000 in 'jobs/j0000.json'")
    told = json.loads(evo("queue", "list", "--json")[1])
    assert [job["job"] for job in told["jobs"]] == ["j0001"]
    assert list(told["damaged"]) == ["j0000"]


def awaited(what: str, found: Callable[[], Any]) -> None:
    end = time.monotonic() + 90
    while not found():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def test_lives_make_way_and_are_killed_and_end_the_same_to_the_bit(evo: Evo, tmp_path: Path) -> None:
    """A long life makes way for a short one, goes on, loses its runner to SIGKILL, and is taken up by another."""
    api.grow(config={**LOW, "name": "digits-j0001", "out": str(tmp_path / "unbroken")})
    (tmp_path / "low.yaml").write_text(yaml.safe_dump(LOW))
    evo("queue", "add", "grow", "--config", "low.yaml")
    queue, run = Queue(tmp_path / "runs" / "queue"), tmp_path / "runs" / "digits-j0001"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [*EVO, "queue", "run", "--until-empty", "--lease", "5"]

    def runner() -> subprocess.Popen[bytes]:
        return subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=log)

    def committed(cycles: int) -> bool:
        return sum(k == "decision" for k in read_table(run, "n000").column("kind").to_pylist()) >= cycles

    with (tmp_path / "log").open("wb") as log:
        first = runner()
        try:
            awaited("its first decision", lambda: committed(1))
            (tmp_path / "high.yaml").write_text(yaml.safe_dump({**SMALL, "growth.cycles": 1, "training.steps": 40}))
            evo("queue", "add", "grow", "--config", "high.yaml", "--priority", "9")
            awaited("the higher one's end", lambda: queue.final("j0002") == "done")
            awaited("the lower one's second attempt", lambda: queue.standing("j0001").attempt.number == 2)  # type: ignore[union-attr]
            before = len(read_table(run, "n000"))
            awaited("its next commit", lambda: len(read_table(run, "n000")) > before)
        finally:
            first.kill()
            first.wait()
        assert queue.standing("j0001").ended == ""
        assert runner().wait(120) == 0
    said = (tmp_path / "log").read_text()
    assert "j0001 makes way for j0002" in said
    assert "j0001: the runner that had it is gone" in said
    assert queue.final("j0001") == "done"
    assert queue.standing("j0001").attempt.number == 3  # type: ignore[union-attr]
    assert same(tmp_path / "unbroken" / "digits-j0001", run) == []
    kinds = read_table(run, "n000").column("kind").to_pylist()
    assert (kinds.count("started"), kinds.count("finished")) == (1, 1)
    assert (run / "report" / "report.html").exists()


def test_ctrl_c_leaves_the_queue_to_go_on_later(evo: Evo, tmp_path: Path) -> None:
    evo("queue", "add", "grow", *[w for k, v in LOW.items() for w in ("--set", f"{k}={json.dumps(v)}")])
    queue, run = Queue(tmp_path / "runs" / "queue"), tmp_path / "runs" / "digits-j0001"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen([*EVO, "queue", "run"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    awaited("its first decision", lambda: (run / "events").is_dir() and len(read_table(run, "n000")) > 3)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.splitlines()[-1] == "evo: stopped; `evo queue run --queue runs/queue` goes on"
    found = queue.standing("j0001")
    assert (found.state, found.ended) == ("waiting", "stopped")
    assert found.seconds > 0
    assert not list((run / "live").glob("*.json"))
