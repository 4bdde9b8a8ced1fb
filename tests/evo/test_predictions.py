from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_run
import numpy as np
import pandas as pd
import pytest
import torch
from some_networks import filled

from evo import data, predictions
from evo.config import Config
from evo.predictions import PredictionError, chosen, predict
from evo.task import Task
from search_spaces import checkpoint
from search_spaces.families import Mlp

COLOURS = ["blue", "green", "red"]


def frame(n: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 9, n)
    age[::17] = np.nan
    return pd.DataFrame({"age": age, "colour": rng.choice(COLOURS, n), "price": rng.exponential(1e4, n)})


def saved(folder: Path, task: Task, seed: int = 0) -> Mlp:
    """A snapshot of a network with random weights, as a run saves one."""
    network = filled(Mlp([("input", task.shape[0]), ("hidden1", 6), ("output", task.outputs)],
                         [("input", "hidden1"), ("hidden1", "output")], "tanh"), 0.7, seed)  # fmt: skip
    assert isinstance(network, Mlp)
    about = {"kind": task.kind, "outputs": task.outputs, "classes": task.preprocessing["target"].get("labels")}
    checkpoint.save(folder, network, extra={"preprocessing": task.preprocessing, "task": about})
    return network


def classes(tmp_path: Path) -> tuple[pd.DataFrame, Task, Mlp, Path]:
    table = frame()
    labels = np.where(table["price"] > 7e3, "dear", "cheap")
    task = data.from_arrays(table, labels, Config())
    folder = tmp_path / "snapshot"
    return table, task, saved(folder, task), folder


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_labels_with_their_probabilities(suffix: str, tmp_path: Path) -> None:
    table, task, network, folder = classes(tmp_path)
    file = tmp_path / f"new{suffix}"
    extra = table.assign(remark="ignored")
    extra.to_parquet(file) if suffix == ".parquet" else extra.to_csv(file, index=False)
    found = predict(folder, file)
    with torch.no_grad():
        wanted = torch.softmax(network(data.replay(task.preprocessing, table)).double(), dim=1).numpy()
    assert list(found.columns) == ["prediction", "probability of cheap", "probability of dear"]
    assert len(found) == len(table)
    np.testing.assert_array_equal(found.iloc[:, 1:].to_numpy(), wanted)
    assert set(found["prediction"]) == {"cheap", "dear"}
    assert list(found["prediction"]) == [("cheap", "dear")[i] for i in wanted.argmax(axis=1)]


def test_values_in_their_own_units(tmp_path: Path) -> None:
    table = frame()
    price = table.pop("price")
    task = data.from_arrays(table, price, Config())
    network = saved(tmp_path / "s", task)
    table.to_csv(tmp_path / "new.csv", index=False)
    found = predict(tmp_path / "s", tmp_path / "new.csv")
    assert list(found.columns) == ["prediction"]
    target = task.preprocessing["target"]
    with torch.no_grad():
        outputs = network(data.replay(task.preprocessing, table)).double().numpy()
    np.testing.assert_allclose(found["prediction"], outputs[:, 0] * target["scale"][0] + target["mean"][0])


def test_several_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    saved(tmp_path / "s", data.from_arrays(x, rng.normal(size=(80, 2)), Config()))
    np.save(tmp_path / "new.npy", x[:3])
    assert list(predict(tmp_path / "s", tmp_path / "new.npy").columns) == ["prediction 1", "prediction 2"]


def pictures(folder: Path) -> tuple[np.ndarray[Any, Any], Mlp, Task]:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (90, 5, 4)).astype(np.uint8)
    task = data.from_arrays(x, np.arange(90) % 3, Config())
    return x, saved(folder, task), task


def test_arrays_and_numeric_tables_give_the_same(tmp_path: Path) -> None:
    x, network, task = pictures(tmp_path / "s")
    np.save(tmp_path / "new.npy", x)
    np.savez(tmp_path / "one.npz", anything=x)
    np.savez(tmp_path / "two.npz", X=x, y=np.zeros(90))
    flat = pd.DataFrame(x.reshape(90, -1), columns=[f"pixel{i}" for i in range(20)])
    flat.to_csv(tmp_path / "new.csv", index=False)
    found = [predict(tmp_path / "s", tmp_path / name) for name in ("new.npy", "one.npz", "two.npz", "new.csv")]
    with torch.no_grad():
        outputs = network(data.replay(task.preprocessing, x))
    assert list(found[0]["prediction"]) == outputs.argmax(dim=1).tolist()
    for other in found[1:]:
        pd.testing.assert_frame_equal(other, found[0], check_exact=True)


def test_no_rows_give_no_predictions(tmp_path: Path) -> None:
    table, _, _, folder = classes(tmp_path)
    table.iloc[:0].to_parquet(tmp_path / "none.parquet")
    found = predict(folder, tmp_path / "none.parquet")
    assert found.shape == (0, 3)


def test_a_run_speaks_through_its_best_by_validation(tmp_path: Path) -> None:
    table, task, _, _ = classes(tmp_path)
    run = tmp_path / "run"
    life = fake_run.life("n000", cycles=6)
    fake_run.write(run, [life])
    points = {r["snapshot"]: r["validation_information_nats"] for r in life if r["kind"] == "snapshot"}
    networks = {name: saved(run / "snapshots" / "n000" / name, task, seed) for seed, name in enumerate(points)}
    best = max(points, key=points.__getitem__)
    assert chosen(run) == run / "snapshots" / "n000" / best
    table.to_parquet(tmp_path / "new.parquet")
    with torch.no_grad():
        outputs = networks[best](data.replay(task.preprocessing, table))
    shares = torch.softmax(outputs.double(), dim=1)[:, 1].numpy()
    np.testing.assert_array_equal(predict(run, tmp_path / "new.parquet")["probability of dear"], shares)
    smallest = min((r for r in life if r["kind"] == "snapshot"), key=lambda r: r["active_parameters"])
    assert chosen(run, max_parameters=smallest["active_parameters"]).name == smallest["snapshot"]


def test_without_a_front_the_newest_snapshot_speaks(tmp_path: Path) -> None:
    _, task, _, _ = classes(tmp_path)
    for name in ("n000/000003", "n000/000012", "n001/000009"):
        saved(tmp_path / "run" / "snapshots" / name, task)
    (tmp_path / "run" / "snapshots" / "n000" / ".000013.7").mkdir()
    (tmp_path / "run" / "snapshots" / "n000" / ".000013.7" / "blueprint.json").touch()
    assert chosen(tmp_path / "run") == tmp_path / "run" / "snapshots" / "n000" / "000012"


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    table, _, _, folder = classes(tmp_path)

    def refused(file: Path, match: str, source: Path = folder) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            predict(source, file)
        assert "\n" not in str(caught.value)

    table.drop(columns="age").to_csv(tmp_path / "less.csv", index=False)
    refused(tmp_path / "less.csv", r"has no 'age', only colour, price; add what is missing")
    table.assign(age="forty").to_csv(tmp_path / "text.csv", index=False)
    refused(tmp_path / "text.csv", r"column 'age': expected numbers, as in the training data, got string; convert it")
    refused(tmp_path / "none.csv", r"data.path \(--data\): expected a file, but .* does not exist")
    refused(tmp_path / "rows.xlsx", r"expected a file \.parquet, \.csv, \.npy, \.npz, got")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    refused(tmp_path / "cut.parquet", "cannot be read")
    np.save(tmp_path / "rows.npy", np.zeros((3, 5)))
    refused(tmp_path / "rows.npy", "learned from a table, got the array .* columns age, colour, price")
    refused(tmp_path / "less.csv", "there is no folder", source=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "less.csv", "holds no snapshot yet", source=tmp_path / "empty")


def test_arrays_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    x, network, _ = pictures(tmp_path / "s")
    for name, content, match in (
        ("shape.npy", x[:, :4], r"X: expected rows of shape \(5, 4\), as in training, got \(4, 4\)"),
        ("text.npy", np.array([["a"] * 20]), "X: expected an array of real numbers, got <U1"),
    ):
        np.save(tmp_path / name, content)
        with pytest.raises(data.DataError, match=match):
            predict(tmp_path / "s", tmp_path / name)
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=x, b=x)
    pd.DataFrame({"a": [1.0]}).to_csv(tmp_path / "narrow.csv", index=False)
    pd.DataFrame([["x"] * 20], columns=[str(i) for i in range(20)]).to_csv(tmp_path / "text.csv", index=False)
    for name, match in (
        ("absent.npy", "does not exist; check the path"),
        ("object.npy", "cannot be read .*; save it again"),
        ("two.npz", "holds the arrays a, b; call the one to use X"),
        ("narrow.csv", "takes 20 numbers a row, got 1 columns"),
        ("text.csv", "column '0': expected numbers, got string; convert it"),
    ):
        with pytest.raises(PredictionError, match=match):
            predict(tmp_path / "s", tmp_path / name)
    checkpoint.save(tmp_path / "bare", network)
    with pytest.raises(PredictionError, match=r"state\.json: expected the preprocessing under the key"):
        predict(tmp_path / "bare", tmp_path / "shape.npy")


def test_a_snapshot_of_another_network_is_refused(tmp_path: Path) -> None:
    _, task, _, _ = classes(tmp_path)
    frame().to_csv(tmp_path / "new.csv", index=False)
    network = Mlp([("input", 2), ("output", 2)], [("input", "output")])
    checkpoint.save(tmp_path / "other", network, extra={"preprocessing": task.preprocessing})
    with pytest.raises(PredictionError, match=r"the preprocessing makes \d+ inputs, but the network takes 2"):
        predictions.predict(tmp_path / "other", tmp_path / "new.csv")
