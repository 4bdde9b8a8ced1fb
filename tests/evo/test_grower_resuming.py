"""A grower's life taken up again, to the bit; and passed on to children."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_life import cut, live, made, same, stable

from evo import books
from evo.grower import Grower
from evo.recorder import read_events
from evo.trials import Body, TrialRequest, TrialResult, run_trial
from search_spaces import checkpoint
from search_spaces.checkpoint import CheckpointError

# --- determinism and resuming


def test_the_same_seed_lives_the_same_life_whoever_runs_its_trials(unbroken: Path, tmp_path: Path) -> None:
    config, task = made()
    asked: list[int] = []

    def runner(parent: Body, requests: Any) -> list[TrialResult]:
        wanted: list[TrialRequest] = list(requests)
        asked.append(len(wanted))
        backwards = {i: run_trial(task, parent, wanted[i]) for i in reversed(range(len(wanted)))}
        return [backwards[i] for i in range(len(wanted))]

    torch.manual_seed(99)
    np.random.seed(99)
    live(config, task, tmp_path, runner)
    assert len(asked) == 6
    assert same(unbroken, tmp_path) == []


def test_another_seed_or_name_lives_another_life(unbroken: Path, tmp_path: Path) -> None:
    first = stable(unbroken)["information_nats"].iloc[0]
    other_seed = Grower(*made(seed=8), tmp_path / "seed").life.information
    other_name = Grower(*made(), tmp_path / "name", "n001").life.information
    assert len({first, other_seed, other_name}) == 3


def test_a_new_process_at_every_cycle_makes_no_difference(unbroken: Path, tmp_path: Path) -> None:
    grower = Grower(*made(), tmp_path)
    while not grower.done:
        grower.advance()
        grower = Grower(*made(), tmp_path)
    assert same(unbroken, tmp_path) == []


@pytest.mark.parametrize("commits", [1, 2, 5])
def test_what_was_saved_beyond_the_events_is_done_again(unbroken: Path, copy: Path, commits: int) -> None:
    cut(copy, commits)
    draft = copy / "snapshots" / "n000" / ".000003.4711"
    draft.mkdir()
    (draft / "blueprint.json").write_text("{")
    live(*made(), copy)
    assert same(unbroken, copy) == []
    assert not draft.exists()


def test_a_finished_life_stays_finished(unbroken: Path, copy: Path) -> None:
    grower = Grower(*made(), copy)
    assert grower.done
    assert grower.cycle == 4
    grower.close()
    assert same(unbroken, copy) == []


@pytest.mark.parametrize("write", [1, 4])
def test_a_full_disk_costs_one_cycle_and_leaves_nothing_torn(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    grower = Grower(*made(), tmp_path)
    grower.advance()
    left, fsync = [write], os.fsync

    def full(handle: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        grower.advance()
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".lock"]
    live(*made(), tmp_path)
    assert same(unbroken, tmp_path) == []


# --- children


def test_a_child_starts_where_its_parent_stood(copy: Path) -> None:
    parent = checkpoint.load(copy / "snapshots" / "n000" / "000002")
    rows = read_events(copy)
    shot = rows[(rows["kind"] == "snapshot") & (rows["snapshot"] == "000002")].iloc[0]
    config, task = made(**{"training.learning_rate": 0.005, "growth.cycles": 2})
    child = Grower(config, task, copy, "n001", generation=1, parent="n000/000002")
    assert child.life.information == pytest.approx(shot["information_nats"], abs=1e-6)
    assert child.life.step == child.life.cycle == 0
    assert child.life.peak == shot["peak_parameters"]
    for name, p in child.body.named_parameters():
        assert torch.equal(p, parent.network.get_parameter(name))
    assert parent.state is not None
    assert all(torch.equal(t, parent.state.age[k]) for k, t in child.state.age.items())
    while not child.done:
        child.advance()

    grandchild = live(config, task, copy, network="n002", generation=2, parent="n001/000001")
    born = read_events(copy, "n002").iloc[0]
    assert (born["parent"], born["generation"], born["step"]) == ("n001/000001", 2, 0)
    assert grandchild.life.peak >= shot["peak_parameters"]
    last = checkpoint.load(copy / "snapshots" / "n002" / "000003")
    assert last.lineage == ["n000/000002", "n001/000001"]
    table = books.books(read_events(copy)).set_index("network")
    assert list(table.index) == ["n000", "n001", "n002"]
    assert table["residual"].abs().max() < 1e-6
    past = books.history(read_events(copy), "n002")
    assert list(dict.fromkeys(past["network"])) == ["n000", "n001", "n002"]


def test_a_child_resumes_with_its_lineage(copy: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(copy, tmp_path / "again"))
    live(*made(), copy, network="n001", generation=1, parent="n000/000001")
    grower = Grower(*made(), again, "n001", generation=1, parent="n000/000001")
    while not grower.done:
        grower.advance()
        grower = Grower(*made(), again, "n001", generation=1, parent="n000/000001")
    assert same(copy, again) == []


def test_a_parent_that_is_missing_or_does_not_fit_is_told(copy: Path) -> None:
    with pytest.raises(CheckpointError, match=r"n000/000077: no such folder"):
        Grower(*made(), copy, "n001", parent="n000/000077")
    config, task = made(task="parity:4", **{"data.limit": None})
    with pytest.raises(CheckpointError, match="the network has 64 inputs and 10 outputs, task parity:4 has 4 and 2"):
        Grower(config, task, copy, "n001", parent="n000/000001")
    assert not list((copy / "events").glob("n001*"))
