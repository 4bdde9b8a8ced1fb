"""A grower's folder that is damaged or does not fit: told by name, and nothing is removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_life import cut, made, saved

from evo.front import FrontError
from evo.grower import Grower
from evo.recorder import RecordError
from search_spaces import checkpoint
from search_spaces.checkpoint import CheckpointError


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def plain(folder: Path) -> None:
    """Writes a snapshot anew as plain files."""
    found = checkpoint.load(folder)
    checkpoint.save(folder, found.network, found.state, found.extra, found.lineage)


@pytest.mark.parametrize("name", ["blueprint.json", "delta.safetensors"])
@pytest.mark.parametrize("damaged", ["000001", "000003"])
@pytest.mark.parametrize("how", [truncate, Path.unlink])
def test_a_damaged_delta_or_its_base_is_told_by_name(copy: Path, name: str, damaged: str, how: Any) -> None:
    cut(copy, 1)
    how(copy / "snapshots" / "n000" / damaged / name)
    with pytest.raises(CheckpointError, match=rf"{damaged}/{name}: ") as caught:
        Grower(*made(), copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["blueprint.json", "weights.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("how", [truncate, Path.unlink])
def test_a_damaged_snapshot_is_told_by_name(copy: Path, name: str, how: Any) -> None:
    cut(copy, 1)
    plain(copy / "snapshots" / "n000" / "000003")
    damaged = copy / "snapshots" / "n000" / "000003" / name
    how(damaged)
    # One whole optimiser file less makes a checkpoint of a network that was never trained: here it must not pass.
    with pytest.raises(CheckpointError, match=rf"000003/{name}: ") as caught:
        Grower(*made(), copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("life", [None, {}, {"cycle": 1}, {"ledger": {}}])
def test_a_snapshot_without_a_life_is_told(copy: Path, life: Any) -> None:
    plain(copy / "snapshots" / "n000" / "000004")
    path = copy / "snapshots" / "n000" / "000004" / "state.json"
    extra = json.loads(path.read_text())
    extra.pop("life")
    path.write_text(json.dumps(extra if life is None else {**extra, "life": life}))
    blueprint = path.with_name("blueprint.json")
    blueprint.write_text(json.dumps({**json.loads(blueprint.read_text()), "sha256": {}}))  # as in a foreign checkpoint
    with pytest.raises(CheckpointError, match=r"000004/state\.json: " if life is None else "000004: "):
        Grower(*made(), copy)


def test_a_snapshot_that_is_gone_is_told(copy: Path) -> None:
    shutil.rmtree(copy / "snapshots" / "n000" / "000004")
    with pytest.raises(CheckpointError, match="n000/000004: no such folder"):
        Grower(*made(), copy)


def test_a_record_that_names_a_place_outside_is_refused_and_nothing_is_removed(copy: Path) -> None:
    path = max((copy / "events").glob("n000-*.parquet"))
    table = pq.read_table(path)
    at = table.schema.get_field_index("snapshot")
    names = [name and "../../../elsewhere" for name in table.column(at).to_pylist()]
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(names, pa.string())), path)
    before = saved(copy)
    with pytest.raises(FrontError, match="no plain name"):
        Grower(*made(), copy)
    with pytest.raises(FrontError, match="no plain name"):
        Grower(*made(), copy, "n001", parent="../n000/000001")
    assert saved(copy) == before


@pytest.mark.parametrize("number", [0, 2, 4])
def test_damaged_events_are_told_by_name_and_nothing_is_removed(copy: Path, number: int) -> None:
    path = copy / "events" / f"n000-{number:06d}.parquet"
    truncate(path)
    before = saved(copy)
    with pytest.raises(RecordError, match=path.name) as caught:
        Grower(*made(), copy)
    assert "\n" not in str(caught.value)
    assert saved(copy) == before


def test_the_data_of_another_task_is_told(copy: Path) -> None:
    config, task = made(task="spirals")
    with pytest.raises(CheckpointError, match="resume with the data that the run began with"):
        Grower(config, task, copy)
