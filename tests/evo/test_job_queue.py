"""The queue: one runner a job, by priority and age, whatever dies at whatever moment."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from queue_jobs import LEASE, claimed, config

from evo.config import ConfigError
from evo.job_queue import Job, Leases, Queue

# --- what it says of itself


def test_jobs_stand_by_priority_then_age(queue: Queue, tmp_path: Path) -> None:
    for priority in (0, 5, 0, 5, -1):
        queue.add("search", config(tmp_path), priority)
    assert [s.job.id for s in queue.standings()] == ["j0002", "j0004", "j0001", "j0003", "j0005"]
    assert {s.state for s in queue.standings()} == {"waiting"}


def test_a_job_comes_back_as_it_was_and_its_run_has_a_name_of_its_own(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path, budget=60.0), 3)
    assert Job.from_json(job.to_json(), job.id, "here") == job == queue.standing(job.id).job
    assert job.run == str(tmp_path / "runs" / "digits-j0001")
    assert job.budget == 60.0
    assert queue.add("grow", config(tmp_path, name="mine")).run.endswith("/mine")


def test_runs_of_several_queues_over_one_folder_have_names_of_their_own(queue: Queue, tmp_path: Path) -> None:
    assert queue.add("grow", config(tmp_path)).run.endswith("/digits-j0001")
    assert Queue(tmp_path / "night").add("grow", config(tmp_path)).run.endswith("/digits-night-j0001")
    (tmp_path / "runs" / "digits-j0002").mkdir(parents=True)
    job = queue.add("grow", config(tmp_path))
    assert job.run.endswith(f"/digits-j0002-{job.token[:6]}")


def test_of_many_who_add_at_once_each_gets_a_number(tmp_path: Path) -> None:
    def add() -> None:
        Queue(tmp_path / "queue").add("grow", config(tmp_path))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Queue(tmp_path / "queue").standings()) == 8


def test_of_two_runners_one_gets_the_job(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path))
    seen = queue.standing(job.id)
    assert claimed(queue, job, "one").number == 1
    assert queue.claim(seen, "two", "elsewhere", 1, LEASE) is None
    assert queue.standing(job.id).state == "running"


def test_a_job_that_ended_while_a_runner_looked_elsewhere_is_not_run_again(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path))
    first = claimed(queue, job)
    queue.release(job.id, first, "yielded", "", 1.0)
    old = queue.standing(job.id)
    assert queue.settle(job.id, "done")
    assert queue.claim(old, "late", "elsewhere", 1, LEASE) is None


def test_the_first_word_on_a_jobs_end_stands(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path))
    assert queue.cancel(job.id)
    assert not queue.settle(job.id, "done")
    assert not queue.cancel(job.id)
    assert queue.final(job.id) == "cancelled"
    with pytest.raises(ConfigError, match=r"there is no 'j9999'.*evo queue list"):
        queue.cancel("j9999")


def test_a_runner_learns_that_another_has_taken_its_job_over(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path))
    mine = claimed(queue, job, "slow")
    assert queue.renew(job.id, mine, 1.0)
    assert claimed(queue, job, "quick").number == 2
    assert not queue.renew(job.id, mine, 2.0)


def test_a_lease_runs_out_by_the_clock_of_who_watches_it(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path))
    attempt, now = claimed(queue, job), [1000.0]
    leases = Leases(clock=lambda: now[0])
    for since, renewed, run_out in ((0.0, True, False), (4.9, False, False), (1.0, True, False), (5.1, False, True)):
        now[0] += since
        if renewed:
            queue.renew(job.id, attempt, now[0])
        assert leases.run_out(job.id, attempt, queue.sign(queue.standing(job.id))) is run_out


def test_the_time_of_all_attempts_counts_those_that_were_killed_too(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path, budget=100.0))
    queue.release(job.id, claimed(queue, job), "yielded", "", 10.0)
    queue.renew(job.id, claimed(queue, job), 7.0)  # killed after this
    queue.release(job.id, claimed(queue, job), "crashed", "SIGKILL", 2.0)
    found = queue.standing(job.id)
    assert (found.seconds, found.crashes, found.state) == (19.0, 1, "waiting")


def test_a_number_is_given_once_also_when_finished_jobs_were_forgotten(queue: Queue, tmp_path: Path) -> None:
    known = Queue(tmp_path / "queue")
    for _ in range(2):
        known.settle(queue.add("grow", config(tmp_path)).id, "done")
    assert [s.final for s in known.standings()] == ["done", "done"]
    for name in queue.store.names("jobs/") + queue.store.names("states/"):
        queue.store.remove(name)
    assert queue.add("grow", config(tmp_path)).id == "j0003"
    assert [(s.job.id, s.state) for s in known.standings()] == [("j0003", "waiting")]
    # A queue of before there were marks, of which only the jobs were removed.
    queue.store.replace("states/j0007/final.json", b'{"state": "done"}')
    queue.store.remove("last/j0003")
    assert queue.add("grow", config(tmp_path)).id == "j0008"
    assert queue.store.names("last/") == ["last/j0008"]


def test_nothing_is_remembered_of_a_queue_that_was_removed(queue: Queue, tmp_path: Path) -> None:
    known = Queue(tmp_path / "queue")
    known.settle(queue.add("grow", config(tmp_path)).id, "done")
    assert [s.final for s in known.standings()] == ["done"]
    shutil.rmtree(tmp_path / "queue")
    assert known.standings() == []
    again = queue.add("grow", config(tmp_path, name="other"))
    assert [(s.job, s.state) for s in known.standings()] == [(again, "waiting")]


@pytest.mark.parametrize("name", ["jobs/j0001.json", "states/j0001/attempt-000001.json", "states/j0001/final.json"])
@pytest.mark.parametrize("text", [b"[]", b"{", b'{"kind": "dance"}', b"[" * 100_000])
def test_a_file_that_is_none_of_ours_is_one_error_with_the_cure(
    queue: Queue, tmp_path: Path, name: str, text: bytes
) -> None:
    claimed(queue, queue.add("grow", config(tmp_path)))
    queue.store.replace(name, text)
    if (name, text[:5]) == ("states/j0001/final.json", b'{"kin'):
        assert Queue(tmp_path / "queue").standing("j0001").final == ""
        return
    fresh, sound = Queue(tmp_path / "queue"), queue.add("grow", config(tmp_path)).id
    with pytest.raises(ValueError, match=rf"queue: expected .*{name}.*; delete"):
        fresh.standing("j0001")
    # The others can run all the same.
    assert [s.job.id for s in fresh.standings()] == [sound]
    assert list(fresh.damaged) == ["j0001"]
    assert name in fresh.damaged["j0001"]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("priority", "high", "its priority is 'high'"),
        ("priority", 1.5, "its priority is 1.5"),
        ("added", None, "its time or budget is None"),
        ("added", math.nan, "its time or budget is nan"),
        ("added", 1e300, r"its time or budget is 1e\+300"),
        ("kind", ["grow"], r"its kind is \['grow'\]"),
        ("config", [], "list indices"),
        ("config", {"name": "a", "out": "b", "task": "digits", "budget": "5 h"}, "its time or budget is '5 h'"),
        ("config", {"name": "a", "out": 7, "task": "digits"}, "its config's out is 7"),
    ],
)
def test_a_job_that_says_what_no_job_says_is_left_out(
    queue: Queue, tmp_path: Path, key: str, value: Any, told: str
) -> None:
    job, sound = queue.add("grow", config(tmp_path)), queue.add("grow", config(tmp_path)).id
    queue.store.replace(f"jobs/{job.id}.json", json.dumps({**json.loads(job.to_json()), key: value}).encode())
    fresh = Queue(tmp_path / "queue")
    assert [s.job.id for s in fresh.standings()] == [sound]
    assert re.search(rf"expected job j0001 .*{told}.*; delete that file", fresh.damaged["j0001"])


def test_a_job_under_anothers_name_is_refused(queue: Queue, tmp_path: Path) -> None:
    job = queue.add("grow", config(tmp_path))
    queue.store.create("jobs/j0009.json", job.to_json())
    with pytest.raises(ValueError, match=r"expected job j0009 in .*its id is 'j0001'"):
        queue.standing("j0009")
    assert [s.job.id for s in queue.standings()] == ["j0001"]
