"""Jobs come to the same in this process and on Ray, survive their workers, and are kept when the work is stopped."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path

import pytest
import ray
import torch
from small_jobs import job

from evo.config import ConfigError
from evo.instruments.crew import Crew, JobError, OutOfTimeError
from evo.instruments.jobs import STATIC, Job, Outcome
from evo.instruments.shelf import Shelf
from evo.task import DataError

CPU = torch.device("cpu")


def crew(path: Path, workers: int = 0, told: list[str] | None = None, pulse: object = None) -> Crew:
    heard = [] if told is None else told
    return Crew(Shelf(path), workers, CPU, heard.append, pulse if callable(pulse) else lambda: None)


def timeless(outcomes: list[Outcome]) -> list[Outcome]:
    return [dataclasses.replace(outcome, seconds=0.0) for outcome in outcomes]


def jobs() -> list[Job]:
    return [job("static", seed, STATIC) for seed in (3, 4)] + [job("grown")]


def test_jobs_are_done_once(tmp_path: Path) -> None:
    told: list[str] = []
    one = crew(tmp_path / "jobs.jsonl", told=told)
    first = one.run(jobs())
    assert [line.split(",")[0] for line in told] == ["1/3  static", "2/3  static", "3/3  grown"]
    told.clear()
    again = crew(tmp_path / "jobs.jsonl", told=told)
    assert again.run([*jobs(), job("the same as the first", 3, STATIC)]) == [*first, first[0]]
    assert told == []


def test_a_network_goes_from_job_to_job(tmp_path: Path) -> None:
    one = crew(tmp_path / "jobs.jsonl")
    grown = job("grown", keeps=True)
    [came] = one.run([grown])
    [regrown] = one.run([job("redrawn", change=STATIC, shape_of=grown.key)])
    assert regrown.born_parameters == came.active_parameters


def test_workers_come_to_the_same_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    here = timeless(crew(tmp_path / "here.jsonl").run(jobs()))
    killed: list[int] = []

    def kill_once() -> None:
        if one._actors and not killed:
            killed.append(ray.get(one._actors[0].pid.remote()))
            os.kill(killed[0], signal.SIGKILL)

    one = crew(tmp_path / "there.jsonl", workers=2, pulse=kill_once)
    try:
        assert timeless(one.run(jobs())) == here
        assert len(killed) == 1
        with pytest.raises(JobError, match=r"data\.path"):
            one.run([job("wrong", change={"task": "table"})])
    finally:
        one.close()
    assert not ray.is_initialized()


def test_a_mistake_in_this_process_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path"):
        crew(tmp_path / "jobs.jsonl").run([job("wrong", change={"task": "table"})])


def test_more_workers_than_cpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers: expected at most \d+, .* got 999; write --workers"):
        crew(tmp_path / "jobs.jsonl", workers=999).run([job()])


def test_when_time_is_over_what_was_done_is_kept(tmp_path: Path) -> None:
    told: list[str] = []

    def pulse() -> None:
        if told:
            raise OutOfTimeError

    one = crew(tmp_path / "jobs.jsonl", told=told, pulse=pulse)
    with pytest.raises(OutOfTimeError):
        one.run(jobs())
    assert len(Shelf(tmp_path / "jobs.jsonl")) == 1
