"""The queue in a bucket: the same promises, and a server that is away for a while is waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import queue_jobs
from bucket_server import S3, bucket

from evo import live
from evo.job_queue import Queue
from evo.queue_runner import Runner
from evo.vitals import Vitals


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with bucket() as server:
        yield server


def empty(queue: Queue, say: Any = lambda line: None) -> None:
    runner = Runner(queue, say=say, lease=30.0, poll=0.05, command=queue_jobs.command(0.3))
    runner.run(until_empty=True, stop=SimpleNamespace(asked=None))  # type: ignore[arg-type]


def config(tmp_path: Path) -> dict[str, Any]:
    return {"task": "digits", "out": str(tmp_path / "runs"), "name": None, "budget": None}


def test_jobs_in_a_bucket_make_way_and_are_run_once(s3: S3, tmp_path: Path) -> None:
    queue = Queue(s3.uri("/first"))
    low = queue.add("grow", config(tmp_path))
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            Queue(s3.uri("/first")).add("grow", config(tmp_path), 1)

    empty(queue, say)
    assert "j0001 makes way for j0002 at its next snapshot" in said
    assert queue.standing(low.id).attempt.number == 2  # type: ignore[union-attr]
    for standing in queue.standings():
        assert standing.state == "done"
        assert queue_jobs.lines(Path(standing.job.run)) == [str(i) for i in range(queue_jobs.STEPS)]
    assert queue.store.names("logs/") == ["logs/j0001-000001.txt", "logs/j0001-000002.txt", "logs/j0002-000001.txt"]


def test_of_two_runners_at_one_bucket_each_job_has_one(s3: S3, tmp_path: Path) -> None:
    queue = Queue(s3.uri("/second"))
    job = queue.add("grow", config(tmp_path))
    seen, taken = queue.standing(job.id), []

    def claim(name: str) -> None:
        taken.append(Queue(s3.uri("/second")).claim(seen, name, "elsewhere", 1))

    threads = [threading.Thread(target=claim, args=(f"r{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(attempt is not None for attempt in taken) == 1


def test_a_store_that_is_away_for_a_while_costs_nothing_but_time(s3: S3, tmp_path: Path) -> None:
    queue = Queue(s3.uri("/third"))
    job = queue.add("grow", config(tmp_path))

    def say(line: str) -> None:
        if " runs " in line:
            s3.stop()
            threading.Timer(2.0, s3.start).start()

    empty(queue, say)
    assert queue.final(job.id) == "done"
    assert queue_jobs.lines(Path(job.run)) == [str(i) for i in range(queue_jobs.STEPS)]


def test_signs_of_life_and_failures_in_a_bucket(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "REMOTE_LEAST", 0.2)
    monkeypatch.setattr(live, "FIRST", 0.0)
    folder, heard = s3.uri("/run"), threading.Event()
    beat = live.of_network(folder, Vitals("n000", 0, 5), 0.2, lambda told: heard.set())
    assert beat is not None
    assert heard.wait(20)
    assert live.beats(folder)["n000"]["cycles"] == 5
    beat.close()
    assert live.beats(folder) == {}
    live.failure(folder, "n000", "killed", "goes on")
    assert [told["cause"] for told in live.failures(folder).values()] == ["killed"]
