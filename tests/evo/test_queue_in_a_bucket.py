"""A job whose queue and run lie in a bucket: watched, killed, and taken up by a machine that has nothing of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bucket_server import S3, bucket
from small_life import SMALL, stable

from evo import api, live
from evo.job_queue import Queue
from evo.run import Run
from evo.settings import build
from evo.status import Watcher

ROOT = Path(__file__).parents[2]
EVO = [sys.executable, "-c", "from evo.cli import main; main()"]
LONG = {**SMALL, "growth.cycles": 4, "training.steps": 2000, "record.heartbeat": 2.0}


def awaited(what: str, found: Callable[[], Any]) -> None:
    end = time.monotonic() + 90
    while not found():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def test_a_job_in_a_bucket_is_watched_and_taken_up_by_a_machine_that_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERISTEM_CACHE", str(tmp_path / "here"))
    unbroken = api.grow(config={**LONG, "name": "a", "out": str(tmp_path / "unbroken")})
    with bucket() as s3:
        queue = Queue(s3.uri("/queue"))
        job = queue.add("grow", build(LONG, {"name": "a", "out": s3.uri("/runs")}).model_dump(mode="json"))
        first = runner(s3, tmp_path / "there")
        try:
            awaited("its sign of life", lambda: "n000" in live.beats(job.run))
            awaited("its first decision", lambda: cycles(job.run) >= 1)
            watcher = Watcher(Run.open(job.run))
            assert watcher.look().state == "running"
        finally:
            first.kill()
            first.wait()
        awaited("its silence", lambda: watcher.look().state == "silent")
        assert watcher.look().said.endswith(f"`evo resume {job.run}` goes on")
        assert runner(s3, tmp_path / "elsewhere").wait(150) == 0
        assert queue.final(job.id) == "done"
        assert watcher.look().state == "finished"
        run = Run.open(job.run)
        assert stable(run.folder).equals(stable(unbroken.folder))
        assert live.beats(job.run) == {}


def cycles(uri: str) -> int:
    return Watcher(Run.open(uri)).look().networks[0].cycle


def runner(s3: S3, cache: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MERISTEM_CACHE": str(cache)}
    words = [*EVO, "queue", "run", "--until-empty", "--lease", "5", "--queue", s3.uri("/queue")]
    return subprocess.Popen(words, env=environment)
