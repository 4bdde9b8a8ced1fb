"""A grower's life in its folder: complete, balanced, resumed to the bit, passed on to children, clear about damage."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_life import live, made, same, saved, stable

from evo import books, cycle, events
from evo.config import ConfigError
from evo.data import from_arrays
from evo.front import FrontError
from evo.grower import Grower
from evo.recorder import RecordError, read_events
from evo.settings import build
from evo.trials import Body, TrialRequest, TrialResult, run_trial
from search_spaces import checkpoint
from search_spaces.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def told() -> list[dict[str, Any]]:
    """What `advance` said in the life that the others are compared with."""
    return []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, told: list[dict[str, Any]]) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    grower = Grower(*made(), folder)
    while not grower.done:
        told.append(grower.advance())
    grower.close()
    return folder


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(unbroken, tmp_path / "copy"))


def cut(folder: Path, commits: int) -> None:
    """Takes the events of the newest commits away, as if their process had been killed before it wrote them."""
    for path in sorted((folder / "events").glob("*.parquet"))[-commits:]:
        path.unlink()


# --- what is recorded


def test_the_record_is_complete(unbroken: Path) -> None:
    rows = read_events(unbroken)
    assert list(rows["seq"]) == list(range(len(rows)))
    assert rows["kind"].iloc[0] == "started"
    assert rows["kind"].iloc[-1] == "finished"
    assert rows["reason"].iloc[-1] == "lived its whole life"
    counts = rows["kind"].value_counts()
    assert (counts["segment"], counts["decision"], counts["snapshot"]) == (4, 3, 5)
    named = rows[rows["kind"].isin(["candidate", "decision", "finished"])]
    assert named["reason"].str.len().min() > 3
    assert rows[list(events.VOLATILE)[-1]].notna().all()
    for column in ("network", "generation", "cycle", "step", "time", "host", "pid"):
        assert rows[column].notna().all(), column
    assert rows.loc[rows["kind"] != "candidate", "epoch"].notna().all()
    assert rows.loc[rows["kind"] != "candidate", "step"].is_monotonic_increasing


def test_the_books_balance(unbroken: Path) -> None:
    [row] = books.books(read_events(unbroken)).to_dict("records")
    assert abs(row["residual"]) < 1e-6
    assert row["forks"] != 0
    assert row["control"] != 0


def test_parameters_are_the_seeds_and_what_events_added(unbroken: Path) -> None:
    rows = read_events(unbroken)
    counts = rows["active_parameters"]
    decided = rows.loc[rows["kind"] != "candidate", "delta_parameters"].fillna(0)
    assert decided.sum() == counts.iloc[-1] - counts.iloc[0]
    final = checkpoint.load(unbroken / "snapshots" / "n000" / "000004")
    assert final.network.count() == counts.iloc[-1]
    told_peak = rows.loc[rows["kind"] == "finished", "peak_parameters"].item()
    assert told_peak == counts[rows["kind"].isin(["started", "segment", "decision"])].max()


def test_advance_tells_what_the_record_holds(unbroken: Path, told: list[dict[str, Any]]) -> None:
    rows = read_events(unbroken)
    shots = rows[rows["kind"] == "snapshot"].iloc[1:]
    decisions = rows[rows["kind"] == "decision"]
    assert [t["cycle"] for t in told] == [1, 2, 3, 4]
    assert [t["done"] for t in told] == [False, False, False, True]
    for name in ("step", "epoch", "information_nats", "validation_information_nats", "validation_accuracy",
                 "active_parameters", "peak_parameters", "credits_nats"):  # fmt: skip
        assert [t[name] for t in told] == list(shots[name]), name
    assert [t["action"] for t in told] == [*decisions["action"], ""]
    assert [t["delta_parameters"] for t in told] == [*decisions["delta_parameters"], 0]
    assert all(t["seconds"] > 0 and t["price_nats"] > 0 and np.isfinite(t["train_loss"]) for t in told)


def test_every_snapshot_stands_for_its_row(unbroken: Path) -> None:
    _, task = made()
    rows = read_events(unbroken)
    for _, row in rows[rows["kind"] == "snapshot"].iterrows():
        found = checkpoint.load(unbroken / "snapshots" / "n000" / row["snapshot"])
        assert found.network.count() == row["active_parameters"]
        assert found.network.blueprint() == json.loads(row["blueprint"])
        assert row["bytes"] == 4 * row["active_parameters"]
        figures = cycle.figures(task, found.network)
        assert figures["validation_accuracy"] == row["validation_accuracy"]
        assert figures["validation_information_nats"] == pytest.approx(row["validation_information_nats"], abs=1e-6)
        assert found.extra["preprocessing"] == task.preprocessing
        assert found.lineage == []


def test_snapshots_are_deltas_from_the_one_before(unbroken: Path, tmp_path: Path) -> None:
    home = unbroken / "snapshots" / "n000"
    heads = {path.parent.name: json.loads(path.read_text()) for path in sorted(home.glob("*/blueprint.json"))}
    assert [head["base"] for head in heads.values()] == [None, "000000", "000001", "000002", "000003"]
    live(*made(**{"record.deltas": False}), tmp_path)
    assert stable(unbroken).drop(columns="config").equals(stable(tmp_path).drop(columns="config"))
    for name in heads:
        packed, whole = (checkpoint.load(place / "snapshots" / "n000" / name) for place in (unbroken, tmp_path))
        assert checkpoint.to_files(packed.network, packed.state, packed.extra) == checkpoint.to_files(
            whole.network, whole.state, whole.extra
        )
    sizes = [sum(len(data) for data in saved(place).values()) for place in (unbroken, tmp_path)]
    assert 3 * sizes[0] < sizes[1]


def test_a_snapshot_that_needs_no_other_comes_every_so_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo.grower.WHOLE_EVERY", 2)
    live(*made(), tmp_path)
    paths = sorted((tmp_path / "snapshots" / "n000").glob("*/blueprint.json"))
    assert [json.loads(path.read_text())["base"] for path in paths] == [None, "000000", None, "000002", None]


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


# --- damage


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


# --- births


def test_weights_of_another_run_start_a_seed_and_it_is_said(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = unbroken / "snapshots" / "n000" / "000004"
    known = checkpoint.load(source).network
    size = dict(known.axis_sizes())["hidden1"]
    grower = Grower(*made(**{"network.start": str(source), "network.hidden": [size + 2]}), tmp_path)
    taken, given = (n.get_parameter("links.input>hidden1") for n in (grower.body, known))
    assert torch.equal(taken[:size], given)
    _, task = made()
    x = task.splits["growth"].x
    assert torch.allclose(grower.body(x), known(x), atol=1e-5), "units of its own leave the function as it was"
    rows = read_events(tmp_path)
    assert list(rows["kind"]) == ["started", "choice", "snapshot"]
    assert "overlap in part" in rows["reason"].iloc[1]
    assert rows["reason"].iloc[1] in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"network\.start: .* growth\.max_parameters allows 50; write a higher"):
        Grower(
            *made(**{"network.start": str(source), "growth.max_parameters": 50, "network.density": 0.01}),
            tmp_path / "b",
        )


@pytest.mark.parametrize("initial", ["lsuv", "xor"])
def test_other_initial_weights_reach_the_life(initial: str, tmp_path: Path) -> None:
    settings = {"task": "parity:4", "data.limit": None, "network.density": 0.7, "network.hidden": [8, 4]}
    grower = Grower(*made(**settings, **{"network.initial": initial}), tmp_path / initial)
    plain = Grower(*made(**settings), tmp_path / "he")
    first = "links.input>hidden1"
    assert not torch.equal(grower.body.get_parameter(first), plain.body.get_parameter(first))
    if initial == "xor":
        with pytest.raises(ValueError, match=r"network\.initial: xor of 4 bits needs 4 units in hidden1"):
            Grower(*made(**{**settings, "network.initial": "xor", "network.hidden": [3]}), tmp_path / "small")


# --- other lives


def test_out_of_time_it_goes_straight_to_the_last_stretch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("evo.grower.time.monotonic", lambda: clock[0])
    grower = Grower(*made(**{"training.seconds": 60.0}), tmp_path)
    grower.advance()
    assert not grower.done
    clock[0] = 61.0
    lived = grower.life.step
    told = grower.advance()
    assert grower.done
    assert lived < told["step"] < 160, "only steps that were taken count"
    assert told["cycle"] == 2
    rows = read_events(tmp_path)
    last = rows[rows["kind"] == "segment"].iloc[-1]
    assert (rows["kind"] == "decision").sum() == 1
    assert last["learning_rate"] < 0.1 * rows[rows["kind"] == "segment"].iloc[0]["learning_rate"]
    assert abs(books.books(rows)["residual"].iloc[0]) < 1e-6


def test_training_that_blows_up_is_survived_and_recorded(tmp_path: Path) -> None:
    grower = live(*made(**{"training.learning_rate": 1e6, "training.weight_decay": 0.1}), tmp_path)
    rows = read_events(tmp_path)
    assert list(rows["kind"]) == ["started", "snapshot", *["choice"] * 6, "snapshot", "finished"]
    assert rows["reason"].iloc[-1] == grower.life.reason == "training diverged at every rate"
    assert rows["epoch"].notna().all()
    assert abs(books.books(rows)["residual"].iloc[0]) < 1e-6
    assert Grower(*made(), tmp_path).done


def test_values_are_learned_like_classes(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(300, 5))
    y = X[:, 0] * X[:, 1] + 0.5 * X[:, 2]
    config = build({"task": "arrays", "training.steps": 300, "growth.cycles": 2, "tournament.rungs": [3, 5],
                    "tournament.evidence_samples": 64, "tournament.candidates": 2, "network.density": 0.5})  # fmt: skip
    grower = live(config, from_arrays(X, y, config), tmp_path)
    rows = read_events(tmp_path)
    shots = rows[rows["kind"] == "snapshot"]
    assert shots["validation_accuracy"].isna().all()
    assert shots["validation_r2"].iloc[-1] > 0.2
    assert grower.life.information > grower.life.born
    assert abs(books.books(rows)["residual"].iloc[0]) < 1e-6


def test_a_picture_is_learned_by_a_convnet_which_resumes_with_its_statistics(tmp_path: Path) -> None:
    settings = {"network.family": "convnet", "network.hidden": [3], "network.density": 0.5, "growth.cycles": 2}
    live(*made(**settings), tmp_path / "one")
    grower = Grower(*made(**settings), tmp_path / "two")
    while not grower.done:
        grower.advance()
        grower = Grower(*made(**settings), tmp_path / "two")
    assert same(tmp_path / "one", tmp_path / "two") == []
    rows = read_events(tmp_path / "one")
    assert (rows["kind"] == "decision").sum() == 2
    assert abs(books.books(rows)["residual"].iloc[0]) < 1e-6


def test_a_whole_table_is_grown_on(tmp_path: Path) -> None:
    settings = {"task": "parity:4", "data.limit": None, "network.density": 0.7, "training.steps": 200}
    live(*made(**settings), tmp_path)
    rows = read_events(tmp_path)
    assert abs(books.books(rows)["residual"].iloc[0]) < 1e-6
    last = rows[rows["kind"] == "snapshot"].iloc[-1]
    assert last["validation_information_nats"] == last["information_nats"], "every split is the whole table"


def test_a_life_too_short_for_a_tournament_is_one_stretch_of_training(tmp_path: Path) -> None:
    grower = live(*made(**{"training.steps": 7}), tmp_path)
    assert list(read_events(tmp_path)["kind"]) == ["started", "snapshot", "segment", "snapshot", "finished"]
    assert grower.life.step == 7


def test_a_seed_beyond_what_a_network_may_have_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    config, task = made(**{"network.hidden": [10**8, 10**8]})
    with pytest.raises(
        ConfigError, match=r"network\.hidden: .* growth\.max_parameters allows 100,000; write fewer units"
    ):
        Grower(config, task, tmp_path)
    assert read_events(tmp_path).empty
