"""Going on from a snapshot of an earlier run: what is copied, what it remembers, and what it needs no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from small_life import SMALL, same

import evo
from evo.config import ConfigError
from evo.origins import Origin, place_of
from evo.recorder import read_events
from evo.run import Run
from search_spaces import checkpoint, surgery

pytestmark = pytest.mark.usefixtures("no_pictures")


def child(first: Run | str, out: Path, **more: Any) -> Run:
    settings = {**SMALL, "growth.cycles": 2, "training.steps": 100, "out": str(out), "name": "second"}
    return evo.grow(config={**settings, **more}, start_from=first)


def test_how_an_origin_is_written() -> None:
    assert Origin.read("first") == Origin("first", "", "")
    assert Origin.read("/a/b:c/first:n003/000012") == Origin("/a/b:c/first", "n003", "000012")
    assert Origin.read("s3://bucket/runs/first?region=eu") == Origin("s3://bucket/runs/first?region=eu", "", "")
    asked = "s3://bucket/first?endpoint_override=localhost:9000&scheme=http"
    assert Origin.read(asked) == Origin(asked, "", "")
    assert Origin.read(f"{asked}:n000/000001") == Origin(asked, "n000", "000001")
    assert place_of(f"{asked}:n000/000001") == "first.n000/000001"
    assert place_of("/x/.odd name/:n000/000001") == "odd-name.n000/000001"
    assert place_of(None) is None
    with pytest.raises(ConfigError, match=r"network.parent: expected RUN or RUN:NETWORK/SNAPSHOT, got ''; write"):
        Origin.read("")


def test_a_child_goes_on_from_the_best_and_needs_nothing_of_it(first: Run, tmp_path: Path) -> None:
    old = Path(shutil.copytree(first.folder, tmp_path / "old" / "first"))
    second = child(Run.open(old), tmp_path / "runs")
    best = Run.open(old).best
    born = read_events(second.folder, "n000").iloc[0]
    assert born["parent"] == f"first.{best.network}/{best.snapshot}"
    copied = second.folder / "snapshots" / str(born["parent"])
    assert json.loads((copied / "blueprint.json").read_text())["base"] is None
    found = checkpoint.load(second.folder / "snapshots" / "n000" / "000000")
    for name, tensor in surgery.tensors(best.checkpoint.network).items():
        assert tensor.equal(surgery.tensors(found.network)[name])
    assert best.checkpoint.state is not None
    assert found.state is not None
    assert all(t.equal(found.state.first[k]) for k, t in best.checkpoint.state.first.items())
    assert found.lineage == [born["parent"]]
    assert born["peak_parameters"] >= best.peak_parameters
    assert json.loads(born["config"])["network"].get("parent") is None

    shutil.rmtree(tmp_path / "old")
    third = child(second, tmp_path / "runs", name="third")
    last = checkpoint.load(third.folder / "snapshots" / "n000" / "000001")
    assert last.lineage[0] == born["parent"]
    assert last.lineage[1].startswith("second.n000/")
    assert len(last.lineage) == 2


def test_stopped_it_goes_on_after_the_old_run_is_gone(first: Run, tmp_path: Path) -> None:
    whole = child(first, tmp_path / "whole")
    old = Path(shutil.copytree(first.folder, tmp_path / "first"))

    def stop(update: Mapping[str, Any]) -> None:
        if update["stage"] == "cycle":
            raise KeyboardInterrupt

    settings = {**SMALL, "growth.cycles": 2, "training.steps": 100, "out": str(tmp_path / "cut"), "name": "second"}
    with pytest.raises(KeyboardInterrupt):
        evo.grow(config=settings, start_from=old, progress=stop)
    shutil.rmtree(old)
    again = evo.resume(tmp_path / "cut" / "second")
    assert again.finished
    assert same(whole.folder, again.folder) == []


def test_a_snapshot_may_be_named_and_outlives_the_tidying(first: Run, tmp_path: Path) -> None:
    run = child(f"{first.folder}:n000/000001", tmp_path, **{"record.keep": "front"})
    assert read_events(run.folder, "n000").iloc[0]["parent"] == "first.n000/000001"
    assert (run.folder / "snapshots" / "first.n000" / "000001" / "blueprint.json").is_file()
    named = evo.grow(config={**SMALL, "training.steps": 20}, start_from="second:n000/000003", out=str(tmp_path))
    assert read_events(named.folder, "n000").iloc[0]["parent"] == "second.n000/000003"


def test_other_splits_of_the_same_data_are_refused_and_other_data_told_of(first: Run, tmp_path: Path) -> None:
    """Else the test set would hold samples that the network has learned from."""
    with pytest.raises(ConfigError, match=r"learned from the same data split by seed 7, so .*; write seed: 7$"):
        child(first, tmp_path, seed=8)
    assert not list(tmp_path.iterdir())
    told: list[Mapping[str, Any]] = []
    settings = {**SMALL, "data.limit": 290, "training.steps": 20, "out": str(tmp_path)}
    evo.grow(config=settings, start_from=first, progress=told.append)
    assert sum("first learned from other data: " in str(update.get("text")) for update in told) == 1
    told.clear()
    evo.grow(config={**settings, "data.limit": 300}, start_from=first, progress=told.append)
    assert not any("other data" in str(update.get("text")) for update in told)


@pytest.mark.parametrize(
    ("start", "more", "told"),
    [
        ("nowhere", {}, r"run: there is no run 'nowhere', neither as a folder nor in .*"),
        ("{}:n000/000099", {}, r"network.parent: run first has no snapshot n000/000099; write one of .*n000/000004"),
        ("{}:n001/000001", {}, r"network.parent: run first has no snapshot n001/000001; write one of .*"),
        ("{}", {"task": "parity:4", "data.limit": None},
         r"network.parent: .*first:n000/\d+: expected 4 inputs and 2 outputs of a classification, as task parity:4 "
         r"has, got 64 and 10 of a classification; name a run on such data, or leave it out"),
        ("{}", {"growth.max_parameters": 40},
         r"network.parent: .*expected at most growth.max_parameters = 40 active parameters, got \d+; write a higher"),
        ("{}", {"network.start": "elsewhere"}, r"network.start, network.parent: expected one of them, got both; write"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_before_there_is_a_folder(
    first: Run, tmp_path: Path, start: str, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        evo.grow(config={**SMALL, "out": str(tmp_path / "runs"), **more}, start_from=start.format(first.folder))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_copy_that_is_missing_is_made_again_or_told(first: Run, tmp_path: Path) -> None:
    old = Path(shutil.copytree(first.folder, tmp_path / "first"))
    run = child(Run.open(old), tmp_path / "runs")
    parent = str(read_events(run.folder, "n000").iloc[0]["parent"])
    copied = {path.name: path.read_bytes() for path in (run.folder / "snapshots" / parent).iterdir()}
    shutil.rmtree(run.folder / "snapshots" / parent)
    evo.resume(run.folder)
    assert copied == {path.name: path.read_bytes() for path in (run.folder / "snapshots" / parent).iterdir()}
    shutil.rmtree(run.folder / "snapshots" / parent)
    shutil.rmtree(old)
    with pytest.raises(ConfigError, match=r"network.parent: checkpoint .*first/snapshots.*: no such folder; "):
        evo.resume(run.folder)
