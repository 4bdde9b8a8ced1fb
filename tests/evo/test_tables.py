"""Tables: what the columns become, that training rows alone decide it, and that a replay gives the same bits."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evo import tables
from evo.config import Config
from evo.data import DataError, Task, decode, from_arrays, load_task, replay


def config(path: Path | None = None, target: str | None = "price", **data: Any) -> Config:
    given = None if path is None else str(path)
    return Config.model_validate({"task": "table", "data": {"path": given, "target": target, **data}})


def houses(count: int = 200) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    area = draw.normal(100.0, 30.0, count)
    frame = pd.DataFrame(
        {
            "area": np.where(draw.random(count) < 0.1, np.nan, area),
            "rooms": draw.integers(1, 7, count),
            "heat": draw.choice(["gas", "oil", "wood"], count),
            "garden": draw.random(count) < 0.5,
            "built": pd.Timestamp("1990-01-01") + pd.to_timedelta(draw.integers(0, 9000, count), unit="D"),
            "price": area * 2000 + draw.normal(0, 1e4, count),
        }
    )
    frame["heat"] = frame["heat"].where(draw.random(count) >= 0.1)
    return frame


NAMES = [
    "area", "area is missing", "rooms", "heat = gas", "heat = oil", "heat = wood", "heat is missing", "garden", "built"
]  # fmt: skip


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["houses.parquet", "houses.csv"])
def test_regression_from_a_file(tmp_path: Path, name: str) -> None:
    task = load_task(config(write(houses(), tmp_path / name)))
    assert (task.kind, task.outputs, task.entropy, task.shape) == ("regression", 1, 0.5, (9,))
    assert task.preprocessing["inputs"]["names"] == NAMES
    train = task.splits["train"].x
    assert train.isfinite().all()
    numeric = [NAMES.index(column) for column in ("area", "rooms", "garden", "built")]
    assert torch.allclose(train[:, numeric].mean(dim=0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(train[:, numeric].std(dim=0, correction=0), torch.ones(4), atol=1e-5)
    assert torch.equal(train[:, 3:7].sum(dim=1), torch.ones(len(train)))


def test_csv_and_parquet_and_frame_give_the_same_bits(tmp_path: Path) -> None:
    frame = houses()
    made = [
        load_task(config(write(frame, tmp_path / "houses.parquet"))),
        load_task(config(write(frame, tmp_path / "houses.csv"))),
        from_arrays(frame, "price", config()),
        from_arrays((frame.drop(columns="price"), frame["price"]), None, config()),
    ]
    for task in made[1:]:
        for name, split in task.splits.items():
            assert torch.equal(split.x, made[0].splits[name].x)
            assert torch.equal(split.y, made[0].splits[name].y)


def rows_of(task: Task) -> set[bytes]:
    return {row.numpy().tobytes() for split in task.splits.values() for row in split.x}


def test_replay_is_bit_exact_whatever_rows_come_along(tmp_path: Path) -> None:
    frame = houses()
    task = load_task(config(write(frame, tmp_path / "houses.parquet")))
    stored = json.loads(json.dumps(task.preprocessing))
    x = replay(stored, frame)
    assert {row.numpy().tobytes() for row in x} == rows_of(task)
    assert torch.equal(replay(stored, frame.drop(columns="price")), x)
    assert torch.equal(replay(stored, write(frame, tmp_path / "new.csv")), x)
    assert torch.equal(replay(stored, frame[list(reversed(frame.columns))]), x)
    for start in (0, 57, 199):
        assert torch.equal(replay(stored, frame.iloc[start : start + 3]), x[start : start + 3])


def test_only_training_rows_decide(tmp_path: Path) -> None:
    """Changing what is not in the training split changes nothing in the preprocessing."""
    frame = houses().astype({"heat": object})
    task = from_arrays(frame, "price", config())
    train = {row.numpy().tobytes() for row in task.splits["train"].x}
    outside = np.array([row.numpy().tobytes() not in train for row in replay(task.preprocessing, frame)])
    assert 60 <= outside.sum() <= 100
    changed = frame.copy()
    changed.loc[outside, "area"] = 1e6
    changed.loc[outside, "heat"] = "nuclear"
    changed.loc[outside, "rooms"] = 99
    again = from_arrays(changed, "price", config())
    assert again.preprocessing == task.preprocessing
    assert torch.equal(again.splits["train"].x, task.splits["train"].x)
    heat = [i for i, name in enumerate(NAMES) if name.startswith("heat")]
    assert not again.splits["test"].x[:, heat].any()


def test_unseen_and_missing_values_in_new_rows(tmp_path: Path) -> None:
    task = from_arrays(houses(), "price", config())
    new = houses(3)
    new["heat"] = ["coal", None, "oil"]
    new["area"] = [np.nan, 100.0, np.nan]
    new["rooms"] = pd.array([None, 3, 4], dtype="Int64")
    x = replay(task.preprocessing, new)
    at = {name: i for i, name in enumerate(NAMES)}
    assert x[:, [at["heat = gas"], at["heat = oil"], at["heat = wood"], at["heat is missing"]]].tolist() == [
        [0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]
    ]  # fmt: skip
    assert x[:, at["area is missing"]].tolist() == [1, 0, 1]
    entry = {e["name"]: e for e in task.preprocessing["inputs"]["columns"]}
    assert (
        x[0, at["area"]]
        == x[2, at["area"]]
        == np.float32((entry["area"]["median"] - entry["area"]["mean"]) / entry["area"]["scale"])
    )
    assert x[0, at["rooms"]] == np.float32(
        (entry["rooms"]["median"] - entry["rooms"]["mean"]) / entry["rooms"]["scale"]
    )
    nothing = replay(task.preprocessing, new.assign(heat=None, area=None))
    assert nothing[:, at["heat is missing"]].tolist() == [1, 1, 1]


def test_codes_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    count = 60
    frame = pd.DataFrame({"zip": ["007", "x12", "7"] * 20, "value": np.arange(count), "y": ["a", "b"] * 30})
    task = load_task(config(write(frame, tmp_path / "t.csv"), target="y"))
    new = tmp_path / "new.csv"
    new.write_text("zip,value\n007,1\n7,2\n")
    x = replay(task.preprocessing, new)
    names = task.preprocessing["inputs"]["names"]
    assert x[:, [names.index("zip = 007"), names.index("zip = 7")]].tolist() == [[1, 0], [0, 1]]


def test_classification_by_text_with_labels_back() -> None:
    frame = houses()
    task = from_arrays(frame.dropna(subset=["heat"]).reset_index(drop=True), "heat", config())
    assert (task.kind, task.outputs) == ("classification", 3)
    assert decode(task.preprocessing, torch.eye(3)).tolist() == ["gas", "oil", "wood"]


def test_many_categories_are_cut_to_the_most_frequent() -> None:
    count = 400
    frame = pd.DataFrame({"id": [f"c{i % 2 * i:03}" for i in range(count)], "y": np.arange(count) % 2})
    inputs = from_arrays(frame, "y", config()).preprocessing["inputs"]
    assert len(inputs["names"]) == tables.MOST_CATEGORIES
    assert "id = c000" in inputs["names"]


def test_other_column_types() -> None:
    count = 100
    frame = pd.DataFrame(
        {
            "kind": pd.Categorical(np.arange(count) % 3),
            "day": [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(count)],
            "when": pd.date_range("2020-01-01", periods=count, tz="Europe/Rome"),
            "flag": pd.array([True, False, None, True] * 25, dtype="boolean"),
            7: np.arange(count, dtype=np.uint8),
            "empty": [None] * count,
            "y": np.arange(count) % 2,
        }
    )
    task = from_arrays(frame, "y", config())
    assert task.preprocessing["inputs"]["names"] == [
        "kind = 0", "kind = 1", "kind = 2", "day", "when", "flag", "flag is missing", "7"
    ]  # fmt: skip
    entry = task.preprocessing["inputs"]["columns"][1]
    assert 1577836800 <= entry["median"] <= 1577836800 + count * 86400


def test_semicolons_and_a_type_that_shows_late(tmp_path: Path) -> None:
    path = tmp_path / "wine.csv"
    rows = [f"{i};{i % 2}" for i in range(200_000)]
    path.write_text("\n".join(["acid;quality", *rows[:-1], "0.5;1"]))
    assert tables.read(path).schema.field("acid").type == pa.float64()


def test_all_columns_missing_in_the_file(tmp_path: Path) -> None:
    task = from_arrays(houses(), "price", config())
    with pytest.raises(DataError, match=r"expected a column of the table .*got 'rooms'"):
        replay(task.preprocessing, houses().drop(columns="rooms"))
    with pytest.raises(DataError, match="column 'rooms': expected numbers, as in the training data, got"):
        replay(task.preprocessing, houses().assign(rooms="three"))
    with pytest.raises(DataError, match="expected a pandas DataFrame with the columns"):
        replay(task.preprocessing, np.zeros((3, 6)))
    with pytest.raises(DataError, match="column 'area': expected numbers of the training data's size"):
        replay(task.preprocessing, houses().assign(area=1e300))


BAD_FRAMES: list[tuple[dict[str, Any], str]] = [
    ({"area": np.inf}, "column 'area': expected finite numbers, got infinity in row 0"),
    ({"area": [1e300, 2e300] * 100}, "column 'area': expected numbers that float64 can square"),
    ({"price": 3.5}, "data.target: column 'price': expected at least two different values, got only 3.5"),
    ({"price": None}, "data.target: column 'price': expected .*; (drop|convert)"),
    ({"price": pd.Timestamp("2020-01-01")}, "data.target: column 'price': expected numbers, text or true/false"),
    ({"area": pd.Timedelta("1h")}, "column 'area': expected numbers, text, true/false or dates, got duration"),
    ({"heat": [["a"]] * 200}, "column 'heat': expected numbers, text, true/false or dates, got list"),
    ({"heat": [b"\xff"] * 200}, "column 'heat': expected UTF-8 text"),
]


@pytest.mark.parametrize(("columns", "message"), BAD_FRAMES)
def test_bad_columns_are_one_clear_line(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = write(houses().assign(**columns), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=message) as caught:
        load_task(config(path))
    assert "\n" not in str(caught.value)


def test_bad_targets(tmp_path: Path) -> None:
    path = write(houses(), tmp_path / "houses.parquet")
    with pytest.raises(
        DataError, match=r"data.target \(--target\): expected a column .*got 'prize'; did you mean 'price'"
    ):
        load_task(config(path, target="prize"))
    with pytest.raises(DataError, match=r"column 'area': expected a value in every row, got \d+ missing"):
        load_task(config(path, target="area"))
    with pytest.raises(DataError, match=r"data.kind=regression expects numbers, got text"):
        load_task(config(write(houses().fillna({"heat": "gas"}), path), target="heat", kind="regression"))
    with pytest.raises(DataError, match=r"data.target: task table expects the name of a column"):
        load_task(config(path, target=None))
    with pytest.raises(DataError, match=r"data.path: task table expects a .parquet or .csv file"):
        load_task(config())
    with pytest.raises(DataError, match="expected at least two different values, got no rows; write"):
        load_task(config(write(houses().iloc[:0], path)))
    with pytest.raises(DataError, match="expected columns beside the target"):
        load_task(config(write(houses()[["price"]], path)))
    with pytest.raises(DataError, match="y: expected the same index as X"):
        from_arrays(houses().drop(columns="price"), houses()["price"].iloc[::-1], config())


def test_bad_frames() -> None:
    with pytest.raises(DataError, match="expected column names to differ, got 'a' more than once"):
        from_arrays(pd.DataFrame(np.ones((3, 2)), columns=["a", "a"]), [0, 1, 2], config())
    with pytest.raises(DataError, match="column 'a': expected values of one type"):
        from_arrays(pd.DataFrame({"a": [1, "x"] * 10}), [0, 1] * 10, config())


def damaged_parquet(tmp_path: Path) -> dict[str, bytes]:
    whole = write(houses(), tmp_path / "whole.parquet").read_bytes()
    return {"cut": whole[:-200], "head": whole[:100], "empty": b"", "text": b"area,price\n1,2\n"}


@pytest.mark.parametrize("kind", ["cut", "head", "empty", "text"])
def test_a_damaged_parquet_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(damaged_parquet(tmp_path)[kind])
    with pytest.raises(
        DataError, match=r"data.path \(--data\): expected a whole .parquet file, but .*bad.parquet"
    ) as caught:
        load_task(config(path))
    assert "\n" not in str(caught.value)


def test_flipped_bytes_of_a_parquet_page(tmp_path: Path) -> None:
    table = pa.table({"area": np.random.default_rng(0).random(1000), "price": np.arange(1000.0)})
    path = tmp_path / "bad.parquet"
    pq.write_table(table, path, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[3000:3016] = bytes(255 - b for b in content[3000:3016])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"expected a whole .parquet file"):
        load_task(config(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a whole .csv file"),
        (b"area,price\n1,2\n3\n", "expected a whole .csv file.*Expected 2 columns"),
        (b"area,price\n", "expected at least|expected numbers|got no rows"),
        (b"area,area,price\n1,2,3\n", "expected column names to differ, got 'area'"),
        (b"\xff\xfe\x00,\x80\n1,2\n", "expected a whole .csv file|expected a column of the table"),
        (b"area,price\n" + b"\xe9t\xe9,1.5\nb,2.5\n" * 20, "column 'area': expected UTF-8 text"),
    ],
)
def test_a_damaged_csv_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_task(config(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_tables(tmp_path: Path) -> None:
    write(houses(), tmp_path / "houses.csv")
    with pytest.raises(DataError, match=r"house.csv does not exist; did you mean .*houses.csv"):
        load_task(config(tmp_path / "house.csv"))
    with pytest.raises(DataError, match=r"expected a .parquet or .csv file, got"):
        load_task(config(tmp_path))
    (tmp_path / "houses.xlsx").touch()
    with pytest.raises(DataError, match=r"expected a .parquet or .csv file, got"):
        load_task(config(tmp_path / "houses.xlsx"))
