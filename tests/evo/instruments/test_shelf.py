"""The shelf keeps every finished job, through kills in the middle of a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_jobs import job, outcome

from evo import run_folder
from evo.config import ConfigError
from evo.instruments import shelf as shelf_module
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


def test_a_result_that_rests_on_jobs_of_other_code_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, keys = tmp_path / "jobs.jsonl", [job(seed=seed).key for seed in range(4)]
    for seed, code in enumerate(("a" * 40, "b" * 40 + "+", None)):
        monkeypatch.setattr(shelf_module, "revision", lambda code=code: code)
        Shelf(path).put(job(seed=seed), outcome(), {})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["revision"] for line in lines] == ["a" * 40, "b" * 40 + "+", None]
    del lines[2]["revision"]  # as lines once were
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(shelf_module, "revision", lambda: "a" * 40)
    shelf = Shelf(path)
    shelf.put(job(seed=3), outcome(), {})
    assert shelf.mixed([keys[0], keys[3]]) is None
    assert shelf.mixed([]) is None
    assert shelf.mixed([*keys, keys[1]]) == (
        "2 of 4 jobs were lived by other revisions of the code than this one, aaaaaaaaaa: 1 by bbbbbbbbbb+, "
        "1 by an unknown one; another --name lives all of them anew"
    )


def test_outside_of_a_repository_the_version_says_which_code_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "git_revision", lambda: None)
    monkeypatch.setattr(run_folder, "versions", lambda: {"meristem": "1.2.3"})
    assert shelf_module.revision.__wrapped__() == "version 1.2.3"
    monkeypatch.setattr(run_folder, "versions", dict)
    assert shelf_module.revision.__wrapped__() == "unknown"


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
