"""A grower's life in its folder: complete, balanced, told as it goes; and lives of other kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_life import live, made, same, saved, stable

from evo import books, cycle
from evo.config import ConfigError
from evo.data import from_arrays
from evo.grower import Grower
from evo.recorder import read_events
from evo.settings import build
from search_spaces import checkpoint

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
    assert rows["stored"].isna().all()  # nothing lies in a bucket
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
