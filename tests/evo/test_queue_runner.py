"""Runners of a queue: what they take, stop, try again and give up; and that they may die at any moment."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import queue_jobs
from queue_jobs import LEASE, claimed, config

from evo import faults, job_process, machine, queue_runner
from evo.job_queue import Job, Queue
from evo.queue_runner import CRASHES, Runner

ROOT = Path(__file__).parents[2]
NEVER = SimpleNamespace(asked=None)


def runner(queue: Queue, pause: float = 0.01, **options: Any) -> Runner:
    options = {"lease": LEASE, "poll": 0.02, "command": queue_jobs.command(pause), **options}
    return Runner(queue, options.pop("at_once", 1), **options)


def test_a_runner_empties_the_queue_in_order(queue: Queue, tmp_path: Path) -> None:
    jobs = [queue.add("grow", config(tmp_path), priority) for priority in (0, 2, 1)]
    said: list[str] = []
    runner(queue, say=said.append).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert [line.split()[0] for line in said if " runs " in line] == ["j0002", "j0003", "j0001"]
    assert [queue.final(job.id) for job in jobs] == ["done"] * 3
    assert all(queue_jobs.lines(Path(job.run)) == [str(i) for i in range(queue_jobs.STEPS)] for job in jobs)


def test_a_damaged_job_is_told_of_once_and_the_others_run(queue: Queue, tmp_path: Path) -> None:
    jobs = [queue.add("grow", config(tmp_path)).id for _ in range(3)]
    queue.store.replace(f"jobs/{jobs[0]}.json", b"{")
    said: list[str] = []
    runner(queue, say=said.append).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert [line.split()[0] for line in said if " runs " in line] == jobs[1:]
    assert sum(line.startswith("j0001 is left out: queue: expected job j0001") for line in said) == 1


def test_a_higher_job_stops_a_lower_one_which_goes_on_later(queue: Queue, tmp_path: Path) -> None:
    low = queue.add("grow", config(tmp_path), 0)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith(f"{low.id} runs") and len(said) == 1:
            queue.add("grow", config(tmp_path), 1)

    runner(queue, pause=0.1, say=say).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    story = [" ".join(line.split()[:2]).rstrip(",") for line in said]
    assert story == [
        "j0001 runs",
        "j0001 makes",
        "j0001 yielded",
        "j0002 runs",
        "j0002 done",
        "j0001 runs",
        "j0001 done",
    ]
    assert queue.standing(low.id).attempt.number == 2  # type: ignore[union-attr]
    assert queue_jobs.lines(Path(low.run)) == [str(i) for i in range(queue_jobs.STEPS)]


def test_equal_jobs_do_not_stop_each_other_and_room_is_used(queue: Queue, tmp_path: Path) -> None:
    for _ in range(3):
        queue.add("grow", config(tmp_path))
    said: list[str] = []
    runner(queue, pause=0.05, say=said.append, at_once=2).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert not any("makes way" in line for line in said)
    assert [line.split()[1] for line in said[:2]] == ["runs", "runs"]


def test_a_cancelled_job_stops_and_is_never_taken_again(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path))
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if " runs " in line:
            queue.cancel(job.id)

    runner(queue, pause=0.2, say=say).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert said[-1] == "j0001 cancelled"
    assert len(queue_jobs.lines(Path(job.run))) < queue_jobs.STEPS
    assert queue.standing(job.id).state == "cancelled"


def test_a_stop_leaves_every_job_to_be_resumed(queue: Queue, tmp_path: Path) -> None:
    job, stop = queue.add("grow", config(tmp_path)), SimpleNamespace(asked=None)
    waits = queue.add("grow", config(tmp_path))

    def say(line: str) -> None:
        stop.asked = signal.SIGINT

    with pytest.raises(KeyboardInterrupt, match="stopped; `evo queue run"):
        runner(queue, pause=0.1, say=say).run(until_empty=True, stop=stop)  # type: ignore[arg-type]
    assert [queue.standing(j.id).state for j in (job, waits)] == ["waiting", "waiting"]
    assert queue.standing(job.id).ended == "stopped"
    runner(queue).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert queue_jobs.lines(Path(job.run)) == [str(i) for i in range(queue_jobs.STEPS)]


def test_a_mistake_ends_a_job_and_a_crash_is_tried_again(queue: Queue, tmp_path: Path) -> None:
    wrong, doomed = queue.add("grow", config(tmp_path)), queue.add("grow", config(tmp_path))

    def command(job: Job, _: Path, left: float | None) -> list[str]:
        words = "echo evo: data.path: there is no file >&2; exit 2" if job == wrong else "kill -9 $$"
        return ["sh", "-c", words]

    runner(queue, command=command).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    first, second = queue.standing(wrong.id), queue.standing(doomed.id)
    assert (first.state, first.cause, first.attempt.number) == ("failed", "data.path: there is no file", 1)  # type: ignore[union-attr]
    assert (second.state, second.crashes) == ("failed", CRASHES - 1)
    assert "died 3 times, at last killed by SIGKILL" in second.cause


def test_what_may_be_over_later_is_tried_again_after_a_pause_while_others_run(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_runner, "SHORTEST", 0.4)
    monkeypatch.setattr(queue_runner, "LONGEST", 0.6)
    away = queue.add("grow", config(tmp_path), 1)
    queue.add("grow", config(tmp_path))
    said: list[tuple[float, str]] = []

    def command(job: Job, _: Path, left: float | None) -> list[str]:
        tries = sum(line.startswith("j0001 runs") for _, line in said)
        lasts = "echo evo: s3://b: the store cannot be used >&2; exit 75" if tries < 3 else "true"
        return ["sh", "-c", lasts if job == away else "true"]

    def say(line: str) -> None:
        said.append((time.monotonic(), line))

    runner(queue, command=command, say=say).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert [" ".join(line.split()[:2]).rstrip(",") for _, line in said] == [
        "j0001 runs", "j0001 stopped", "j0002 runs", "j0002 done",
        *["j0001 runs", "j0001 stopped"] * 2, "j0001 runs", "j0001 done",
    ]  # fmt: skip
    assert said[1][1] == "j0001 stopped, to be resumed in 0.4 s: s3://b: the store cannot be used"
    stops = [at for at, line in said if " stopped" in line]
    starts = [at for at, line in said if line.startswith("j0001 runs")]
    pauses = [start - stop for stop, start in zip(stops, starts[1:], strict=True)]
    assert all(pause >= least for pause, least in zip(pauses, (0.4, 0.6, 0.6), strict=True))
    assert queue.standing(away.id).crashes == 0


def test_who_was_overtaken_leaves_the_job_to_who_has_it(queue: Queue, tmp_path: Path) -> None:
    """A run's lease may be lost before the job's: the old process says so, and the new attempt goes on."""
    job, stop = queue.add("grow", config(tmp_path)), SimpleNamespace(asked=None)

    def say(line: str) -> None:
        if " runs " in line:
            claimed(queue, job, "quick")
        else:
            stop.asked = signal.SIGINT

    overtaken = runner(queue, say=say, command=lambda *_: ["sh", "-c", "exit 75"])
    with pytest.raises(KeyboardInterrupt):
        overtaken.run(until_empty=True, stop=stop)  # type: ignore[arg-type]
    found = queue.standing(job.id)
    assert (found.state, found.attempt.runner) == ("running", "quick")  # type: ignore[union-attr]


@pytest.mark.parametrize("craft", ["link", "pipe", "lock"])
@pytest.mark.timeout(60)
def test_what_lies_in_one_jobs_run_ends_that_job_alone(queue: Queue, tmp_path: Path, craft: str) -> None:
    bad, good = queue.add("grow", config(tmp_path), 1), queue.add("grow", config(tmp_path))
    run = Path(bad.run)
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"kind": "grow", "config": {}}')
    if craft == "link":
        (run / "events").symlink_to(tmp_path)
    else:
        os.mkfifo(run / (".lock" if craft == "lock" else "pipe"))

    def command(job: Job, given: Path, left: float | None) -> list[str]:
        job_process.evo_command(job, given, left)
        return ["true"]

    runner(queue, command=command).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert [queue.final(job.id) for job in (bad, good)] == ["failed", "done"]
    told = {"link": "is a link; remove it", "pipe": "is a pipe; remove it", "lock": ".lock: "}
    assert told[craft] in queue.standing(bad.id).cause


def test_what_vanishes_while_it_is_looked_at_is_looked_at_again(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_runner, "SHORTEST", 0.1)
    job, tries = queue.add("grow", config(tmp_path)), []

    def command(job: Job, _: Path, left: float | None) -> list[str]:
        tries.append(job.id)
        if len(tries) == 1:
            raise FileNotFoundError(2, "No such file or directory", job.run)
        return ["true"]

    runner(queue, command=command).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert (queue.final(job.id), len(tries)) == ("done", 2)


def test_a_runner_without_room_says_nothing_of_jobs_that_it_cannot_take(queue: Queue, tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    first, left = queue.add("grow", config(tmp_path), 1), queue.add("grow", config(tmp_path))
    assert queue.claim(queue.standing(left.id), "r", machine.HOST, ended.pid, 600.0)
    said: list[str] = []
    runner(queue, pause=0.1, say=said.append).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert [" ".join(line.split()[:2]) for line in said] == [
        f"{first.id} runs", f"{first.id} done", f"{left.id}: the", f"{left.id} runs", f"{left.id} done"
    ]  # fmt: skip


def test_the_time_of_a_runner_that_died_is_off_the_budget(queue: Queue, tmp_path: Path) -> None:
    job, given = queue.add("grow", config(tmp_path, budget=100.0)), []
    ended = subprocess.Popen(["true"])
    ended.wait()
    queue.release(job.id, claimed(queue, job), "yielded", "", 10.0)
    died = queue.claim(queue.standing(job.id), "r", machine.HOST, ended.pid, 600.0)
    assert died is not None
    queue.renew(job.id, died, 50.0)

    def command(job: Job, _: Path, left: float | None) -> list[str]:
        given.append(left)
        return ["true"]

    runner(queue, command=command).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert given == [40.0]
    assert queue.standing(job.id).seconds == pytest.approx(60.0, abs=5.0)


def test_what_is_left_of_a_budget_goes_to_the_next_attempt(queue: Queue, tmp_path: Path) -> None:
    job, given = queue.add("grow", config(tmp_path, budget=100.0)), []

    def command(job: Job, _: Path, left: float | None) -> list[str]:
        given.append(left)
        return ["true"]

    queue.release(job.id, claimed(queue, job), "yielded", "", 40.0)
    runner(queue, command=command).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert given == [60.0]
    spent = queue.add("grow", config(tmp_path, budget=10.0))
    queue.release(spent.id, claimed(queue, spent), "yielded", "", 11.0)
    runner(queue, command=command).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]
    assert given == [60.0]
    assert (queue.final(spent.id), queue.standing(spent.id).cause) == ("done", "its budget is spent")


# --- runners that die


@contextlib.contextmanager
def killed_at(spec: str) -> Iterator[None]:
    os.environ["MERISTEM_FAULT"] = spec
    importlib.reload(faults)
    yield


def forked(work: Any, spec: str = "") -> int:
    """What `work` in a fork ended with: 0, or the signal that killed it as the fault said."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with killed_at(spec):
                work()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def settled(queue: Queue, jobs: list[Job]) -> None:
    """Each job was run to its end, each of its lines was written once, and no two processes met."""
    for job in jobs:
        assert queue.final(job.id) == "done"
        assert queue_jobs.lines(Path(job.run)) == [str(i) for i in range(queue_jobs.STEPS)]
        assert not (Path(job.run) / "doubled").exists()


def test_a_runner_killed_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    points = [name for name in faults.POINTS if name.startswith("queue.") and name != "queue.added"]
    died = set()
    for number, spec in enumerate(f"{name}:{count}" for name in points for count in (1, 2, 3)):
        home = tmp_path / f"{number:02d}"
        queue = Queue(home / "queue")
        jobs = [queue.add("grow", config(home), priority) for priority in (0, 0)]

        def work(queue: Queue = queue, home: Path = home) -> None:
            def say(line: str) -> None:
                if line.startswith("j0001 runs") and len(queue.standings()) == 2:
                    queue.add("grow", config(home), 1)

            runner(queue, pause=0.02, say=say).run(until_empty=True, stop=NEVER)  # type: ignore[arg-type]

        if forked(work, spec) == signal.SIGKILL:
            died.add(spec.partition(":")[0])
            assert forked(work) == 0, spec
        jobs = [s.job for s in queue.standings()]
        assert len(jobs) == 3
        settled(queue, jobs)
    assert died == set(points)


def test_runners_killed_at_random_moments_lose_and_double_nothing(tmp_path: Path) -> None:
    """Two at a time on one queue, each killed again and again; what one leaves behind the other may take up."""
    draw = random.Random(4)
    queue = Queue(tmp_path / "queue")
    jobs = [queue.add("grow", config(tmp_path), draw.randrange(3)) for _ in range(8)]
    words = [sys.executable, queue_jobs.__file__, "run", str(tmp_path / "queue"), "2", "1.0", "0.3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    kills, end = 0, time.monotonic() + 60
    running: list[subprocess.Popen[bytes]] = []
    try:
        while any(not s.final for s in queue.standings()) and time.monotonic() < end:
            running = [r for r in running if r.poll() is None]
            while len(running) < 2:
                running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment))
            time.sleep(draw.uniform(0.8, 2.0))
            if kills < 10:
                running[draw.randrange(2)].kill()
                kills += 1
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert kills >= 4
    settled(queue, jobs)
