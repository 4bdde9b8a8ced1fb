from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_run import life, record_test, search

from evo import events, front
from evo.run import Run
from evo.task import Split, Task
from search_spaces import checkpoint
from search_spaces.checkpoint import CheckpointError
from search_spaces.families.mlp import Mlp


def points(*pairs: tuple[float | None, int | None]) -> pd.DataFrame:
    rows = [
        events.row("snapshot", network=f"n{i:03d}", snapshot="000000", validation_information_nats=nats,
                   validation_accuracy=0.5, active_parameters=count, peak_parameters=count)
        for i, (nats, count) in enumerate(pairs)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(events.COLUMNS))


@pytest.mark.parametrize("seed", range(5))
def test_front_is_exactly_the_non_dominated_snapshots(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [
        (float(nats), int(count)) for nats, count in zip(rng.integers(0, 9, 40), rng.integers(5, 25, 40), strict=True)
    ]
    kept = front.front(points(*pairs))
    found = set(zip(kept["validation_information_nats"], kept["active_parameters"], strict=True))
    beaten = lambda p: any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in pairs)  # noqa: E731
    assert found == {p for p in pairs if not beaten(p)}
    assert len(kept) == len(found)
    assert kept["active_parameters"].is_monotonic_increasing


def test_of_equal_snapshots_the_first_stands() -> None:
    assert list(front.front(points((1.0, 10), (1.0, 10)))["network"]) == ["n000"]


def test_snapshots_without_finite_figures_are_no_points() -> None:
    kept = front.front(points((math.nan, 5), (math.inf, 5), (None, 5), (1.0, None), (0.5, 9)))
    assert list(kept["network"]) == ["n004"]


def test_no_snapshot_no_front_but_its_columns() -> None:
    empty = front.front(points())
    assert len(empty) == 0
    assert {"network", "snapshot", "validation_information_nats", "accuracy", "active_parameters"} <= set(empty.columns)


def test_a_regression_shows_r2() -> None:
    told = pd.DataFrame(life("n000", cycles=3, regression=True), columns=list(events.COLUMNS))
    assert "r2" in front.front(told)
    assert "accuracy" not in front.front(told)


@pytest.mark.parametrize("name", ["../n000", "/etc", "", ".hidden", "a/b", "n\n"])
def test_names_that_lead_out_of_the_run_are_refused(name: str) -> None:
    with pytest.raises(front.FrontError, match="no plain name"):
        front.snapshot_folder(Path("runs/x"), name, "000000")
    with pytest.raises(front.FrontError, match="no plain name"):
        front.snapshot_folder(Path("runs/x"), "n000", name)


class Counted(Mapping[str, Split]):
    """Splits that count how often the test set was asked for."""

    def __init__(self, splits: dict[str, Split]) -> None:
        self.splits, self.touched = splits, 0

    def __getitem__(self, name: str) -> Split:
        self.touched += name == "test"
        return self.splits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)


def small_task(splits: Mapping[str, Split]) -> Task:
    return Task("toy", "classification", (3,), 2, splits, math.log(2), {})


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, pd.DataFrame, Task]:
    """A run folder with one snapshot: a network that always votes for class 1 by one nat, on 3 zeros and 5 ones."""
    blueprint = {
        "family": "mlp",
        "activation": "relu",
        "layers": [["input", 3], ["output", 2]],
        "links": [["input", "output"]],
    }
    network = Mlp.from_blueprint(blueprint)
    with torch.no_grad():
        bias = next(p for n, p in network.named_parameters() if p.shape == (2,))
        bias.copy_(torch.tensor([0.0, 1.0]))
    checkpoint.save(tmp_path / "snapshots" / "n000" / "000000", network, None, {}, [])
    split = Split(torch.zeros(8, 3), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]))
    names = ("train", "growth", "audit", "validation", "test")
    return tmp_path, front.front(points((0.1, 2))), small_task(Counted(dict.fromkeys(names, split)))


def test_test_figures_are_right_and_written_once(trained: tuple[Path, pd.DataFrame, Task]) -> None:
    folder, best, task = trained
    seen = front.evaluate_test(folder, best, task)
    loss = (3 * math.log(1 + math.e) + 5 * math.log(1 + math.exp(-1))) / 8
    assert seen["test_accuracy"].iloc[0] == pytest.approx(5 / 8)
    assert seen["test_information_nats"].iloc[0] == pytest.approx(math.log(2) - loss, abs=1e-6)
    assert isinstance(task.splits, Counted)
    before, touched = (folder / front.FRONT_FILE).read_bytes(), task.splits.touched
    again = front.evaluate_test(folder, best, task)
    assert task.splits.touched == touched
    assert (folder / front.FRONT_FILE).read_bytes() == before
    pd.testing.assert_frame_equal(seen, again)
    assert json.loads(before)["samples"]["test"] == 8


def test_a_checkpoint_that_cannot_be_read_is_found_before_the_test_set_is_touched(
    trained: tuple[Path, pd.DataFrame, Task],
) -> None:
    folder, best, task = trained
    weights = folder / "snapshots" / "n000" / "000000" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(CheckpointError):
        front.evaluate_test(folder, best, task)
    assert isinstance(task.splits, Counted)
    assert task.splits.touched == 0
    assert not (folder / "report").exists()


def test_a_network_whose_outputs_are_not_finite_has_no_test_information(
    trained: tuple[Path, pd.DataFrame, Task],
) -> None:
    folder, best, task = trained
    saved = checkpoint.load(folder / "snapshots" / "n000" / "000000").network
    with torch.no_grad():
        next(p for p in saved.parameters() if p.shape == (2,)).fill_(math.nan)
    checkpoint.save(folder / "snapshots" / "n000" / "000000", saved, None, {}, [])
    assert math.isnan(front.evaluate_test(folder, best, task)["test_information_nats"].iloc[0])


def test_who_joins_the_front_after_the_test_has_no_test_figures(tmp_path: Path) -> None:
    run = Run.open(search(tmp_path / "r"))
    entries = run.front.to_dict("records")
    record_test(run.folder, entries[:-1])
    later = Run.open(run.folder).front
    assert later["test_information_nats"].isna().sum() == 1
    assert math.isnan(later["test_accuracy"].iloc[-1])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"front": [1]}', '{"front": [{"network": 3}]}', "{" * 9])
def test_a_damaged_record_of_the_test_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / front.FRONT_FILE).write_text(text)
    with pytest.raises(front.FrontError, match=r"front\.json.*move the file away") as error:
        front.read_test(tmp_path)
    assert "\n" not in str(error.value)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    front.write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        front.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
