"""The shelf keeps every finished job, through kills in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_jobs import job, outcome

from evo.config import ConfigError
from evo.instruments.shelf import Shelf

FILES = {"weights.safetensors": b"\x00\xff", "blueprint.json": b"{}"}


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    path, first, second = tmp_path / "new" / "jobs.jsonl", job(), job(seed=4, keeps=True)
    shelf = Shelf(path)
    shelf.put(first, outcome(), {})
    shelf.put(second, outcome(work=7), FILES)
    again = Shelf(path)
    assert again.get(first.key) == outcome()
    assert again.get(second.key) == outcome(work=7)
    assert again.files(second.key) == FILES
    assert again.files(first.key) is None
    assert len(again) == 2


def test_a_job_that_must_keep_its_network_is_not_done_without(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "jobs.jsonl")
    shelf.put(job(), outcome(), {})
    assert shelf.done(job())
    assert not shelf.done(job(keeps=True))


def test_a_torn_last_line_is_a_job_to_be_done_again(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    shelf = Shelf(path)
    shelf.put(job(), outcome(), {})
    whole = path.read_bytes()
    shelf.put(job(seed=4), outcome(), {})
    path.write_bytes(path.read_bytes()[:-9])
    again = Shelf(path)
    assert (again.done(job()), again.done(job(seed=4))) == (True, False)
    again.put(job(seed=4), outcome(), {})
    assert path.read_bytes().startswith(whole)
    assert len(Shelf(path)) == 2


@pytest.mark.parametrize("line", ["[]", '{"key": 1}', "no json", '{"key": "a", "outcome": {"work": 1}}'])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "jobs.jsonl").write_text(line + "\n")
    with pytest.raises(ConfigError, match=r"jobs\.jsonl, line 1: expected a finished job"):
        Shelf(tmp_path / "jobs.jsonl")
