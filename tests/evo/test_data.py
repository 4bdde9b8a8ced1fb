"""Tasks: what each holds, how it is scaled, and one clear line for each thing that cannot be learned from."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import torch

from evo import sources
from evo.config import Config
from evo.data import SPLITS, DataError, Task, decode, from_arrays, load_task, replay

MNIST = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"
DRAW = np.random.default_rng(5)


def config(task: str = "digits", seed: int = 0, **data: Any) -> Config:
    return Config.model_validate({"task": task, "seed": seed, "data": data})


def check(task: Task) -> None:
    """What holds for every task."""
    assert tuple(task.splits) == SPLITS
    assert json.loads(json.dumps(task.preprocessing, allow_nan=False)) == task.preprocessing
    for split in task.splits.values():
        assert split.x.dtype == torch.float32
        assert tuple(split.x.shape) == (len(split), *task.shape)
        assert torch.isfinite(split.x).all()
        if task.kind == "classification":
            assert split.y.dtype == torch.int64
            assert int(split.y.max()) < task.outputs
        else:
            assert split.y.dtype == torch.float32
            assert tuple(split.y.shape) == (len(split), task.outputs)
    if task.picture is not None:
        assert math.prod(task.picture) == math.prod(task.shape)


def test_digits() -> None:
    task = load_task(config(seed=3))
    check(task)
    assert (task.shape, task.outputs, task.picture, task.enumerated) == ((64,), 10, (1, 8, 8), False)
    assert sum(len(split) for split in task.splits.values()) == 1797
    assert task.entropy == pytest.approx(math.log(10), abs=1e-3)
    train = task.splits["train"].x
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std()) == pytest.approx(1, abs=1e-4)


def test_splits_share_no_sample_and_replay_gives_their_bits() -> None:
    images, labels = sources.digits()
    task = load_task(config(seed=3))
    x = replay(task.preprocessing, images)
    lookup = {row.numpy().tobytes(): i for i, row in enumerate(x)}
    assert len(lookup) == 1797  # no picture twice, or this test would prove less
    found = {name: [lookup[row.numpy().tobytes()] for row in s.x] for name, s in task.splits.items()}
    assert sorted(i for rows in found.values() for i in rows) == list(range(1797))
    for name, rows in found.items():
        assert labels[rows].tolist() == task.splits[name].y.tolist()
    one = replay(task.preprocessing, images[7:8].reshape(1, 64).astype(np.uint8))
    assert torch.equal(one[0], x[7])


def test_seed_decides_the_splits() -> None:
    one, again, other = (load_task(config(seed=seed)).splits["validation"].x for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_limit_takes_the_first_of_a_keyed_shuffle() -> None:
    whole = {row.numpy().tobytes() for row in replay(load_task(config()).preprocessing, sources.digits()[0])}
    task = load_task(config(limit=300))
    check(task)
    assert sum(len(split) for split in task.splits.values()) == 300
    assert len(whole) == 1797
    with pytest.raises(DataError, match=r"at least 5 samples of each class.* among the first 50 \(data.limit\)"):
        load_task(config(limit=50))


@pytest.mark.parametrize("bits", [2, 5, 16])
def test_parity_is_the_whole_table_in_every_split(bits: int) -> None:
    task = load_task(config(f"parity:{bits}"))
    check(task)
    assert task.enumerated
    assert task.entropy == math.log(2)
    split = task.splits["train"]
    assert all(other is split for other in task.splits.values())
    assert len({tuple(row) for row in split.x.tolist()}) == len(split) == 2**bits
    assert torch.equal(split.x.prod(dim=1) * (-1) ** bits < 0, split.y == 1)
    assert torch.equal(replay(task.preprocessing, split.x), split.x)


def test_spirals_are_keyed_by_the_seed_and_hold_both_arms_alike() -> None:
    one, again, other = (load_task(config("spirals", seed=seed)) for seed in (0, 0, 1))
    check(one)
    assert torch.equal(one.splits["train"].x, again.splits["train"].x)
    assert not torch.equal(one.splits["train"].x[:5], other.splits["train"].x[:5])
    assert one.entropy == pytest.approx(math.log(2), abs=1e-6)


def test_moving_keeps_shared_splits_shared_and_tasks_travel_between_processes() -> None:
    task = load_task(config("parity:3")).to("cpu")
    assert len({id(split) for split in task.splits.values()}) == 1
    copy = pickle.loads(pickle.dumps(task))
    assert torch.equal(copy.splits["test"].x, task.splits["test"].x)


@pytest.mark.skipif(not MNIST.is_dir(), reason="no MNIST files in shared/data/mnist beside the repository")
def test_real_mnist() -> None:
    task = load_task(config("mnist", path=str(MNIST)))
    check(task)
    assert (task.shape, task.outputs, task.picture) == ((784,), 10, (1, 28, 28))
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 45000, "growth": 4500, "audit": 4500, "validation": 6000, "test": 10000
    }  # fmt: skip


def test_mnist_offline_says_what_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **settings: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.delenv("MERISTEM_DATA", raising=False)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    with pytest.raises(DataError, match=r"OpenML cannot be reached .*Name or service.*pass --data FOLDER"):
        load_task(config("mnist"))


def test_mnist_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*args: Any, **settings: Any) -> tuple[Any, Any]:
        return np.zeros((70_000, 784), dtype=np.int64), np.array([str(i % 10) for i in range(70_000)], dtype=object)

    monkeypatch.delenv("MERISTEM_DATA", raising=False)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetched)
    images, labels, count = sources.mnist(config("mnist").data)
    assert (images.shape, images.dtype, labels[:3].tolist(), count) == ((70_000, 28, 28), np.uint8, [0, 1, 2], 60_000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "digit"}, "task: expected one of digits, .*got 'digit'; did you mean digits"),
        ({"task": "digits:3"}, "got 'digits:3'; did you mean digits"),
        ({"task": "imagenet"}, "got 'imagenet'; write one of those"),
        ({"task": "parity"}, "task: expected parity:N with 2 to 16 bits, got 'parity'"),
        ({"task": "parity:17"}, "2 to 16 bits"),
        ({"task": "parity:x"}, "2 to 16 bits"),
        ({"task": "parity:8", "limit": 60}, "data.limit: parity:8 is a whole table of 256 rows, got 60"),
        ({"task": "digits", "path": "x.csv"}, "data.path: task 'digits' takes none, got 'x.csv'"),
        ({"task": "mnist", "target": "y"}, "data.target: task 'mnist' takes none"),
        ({"task": "spirals", "kind": "regression"}, "data.kind: task 'spirals' is a classification"),
        ({"task": "mnist", "path": "/no/such/folder"}, r"data.path \(--data\): expected a folder of IDX files"),
        ({"task": "mnist", "path": str(Path(__file__).parent)}, "got none of them"),
    ],
)
def test_bad_settings_are_one_clear_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_task(config(**settings))
    assert "\n" not in str(caught.value)


X = DRAW.normal(3.0, 2.0, (100, 3))
Y = np.arange(100) % 3


def test_arrays_are_standardised_column_by_column_by_training_rows() -> None:
    x = np.column_stack([X, np.full(100, 7.0)])
    task = from_arrays(x, Y, config())
    check(task)
    assert task.name == "arrays"
    train = task.splits["train"].x
    assert torch.allclose(train.mean(dim=0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(train.std(dim=0, correction=0), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-6)
    assert decode(task.preprocessing, torch.eye(3)).tolist() == [0, 1, 2]


def test_every_way_of_handing_over_the_same_numbers_gives_the_same_task() -> None:
    x, y = torch.from_numpy(X).float(), torch.from_numpy(Y)
    first = from_arrays(x, y, config())
    pairs = torch.utils.data.TensorDataset(x, y)
    subset = torch.utils.data.Subset(pairs, range(100))
    for given in (
        pairs,
        subset,
        (x.numpy(), Y),
        (x.requires_grad_(), pd.Series(Y)),
        (X.astype(np.float32), Y.tolist()),
    ):
        task = from_arrays(given, None, config())
        assert all(torch.equal(task.splits[n].x, first.splits[n].x) for n in SPLITS)
        assert all(torch.equal(task.splits[n].y, first.splits[n].y) for n in SPLITS)


@pytest.mark.parametrize(("shape", "picture"), [((6, 5), (1, 6, 5)), ((3, 6, 5), (3, 6, 5)), ((2, 2, 2, 2), None)])
def test_pictures_are_flat_with_their_shape_beside(
    shape: tuple[int, ...], picture: tuple[int, int, int] | None
) -> None:
    raw = DRAW.integers(0, 256, (90, *shape)).astype(np.uint8)
    task = from_arrays(raw, Y[:90], config())
    check(task)
    assert task.picture == picture
    assert isinstance(task.preprocessing["inputs"]["mean"], float)
    flat = replay(task.preprocessing, raw.reshape(90, -1))
    assert torch.equal(replay(task.preprocessing, raw), flat)


def test_regression_is_standardised_and_decoded_in_units() -> None:
    y = np.column_stack([X[:, 0] * 1000 + 5, X[:, 1]])
    task = from_arrays(X, y, config())
    check(task)
    assert (task.kind, task.outputs, task.entropy) == ("regression", 2, 1.0)
    train = task.splits["train"].y
    assert float(0.5 * train.square().sum(dim=1).mean()) == pytest.approx(task.entropy, rel=1e-5)
    units = np.concatenate([decode(task.preprocessing, split.y) for split in task.splits.values()])
    assert np.allclose(np.sort(units, axis=0), np.sort(y, axis=0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("y", "kind", "labels"),
    [
        (np.array(["no", "yes"] * 50), "classification", ["no", "yes"]),
        (np.array([True, False] * 50), "classification", [False, True]),
        (np.array([3, 7] * 50), "classification", [3, 7]),
        (np.array([0.5, 1.5] * 50), "regression", None),
        (np.arange(100), "regression", None),
        (np.arange(100).reshape(-1, 1) % 4, "classification", [0, 1, 2, 3]),
        (pd.Series(pd.Categorical(["a", "b"] * 50)), "classification", ["a", "b"]),
    ],
)
def test_kind_by_the_targets_type(y: Any, kind: str, labels: list[Any] | None) -> None:
    task = from_arrays(X, y, config())
    check(task)
    assert task.kind == kind
    assert task.preprocessing["target"].get("labels") == labels


def test_asking_for_a_kind_overrides_the_type() -> None:
    assert from_arrays(X, Y, config(kind="regression")).kind == "regression"
    assert from_arrays(X, Y / 2, config(kind="classification")).preprocessing["target"]["labels"] == [0.0, 0.5, 1.0]


def spoilt(value: float) -> Any:
    x = X.copy()
    x[4, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (spoilt(math.nan), Y, r"X: expected finite numbers, got 1 NaN or infinite \(first at \(4, 1\)\).*DataFrame"),
        (spoilt(math.inf), Y, "X: expected finite numbers"),
        (spoilt(1e300), Y, "X: expected numbers"),
        (X, Y[:-1], "y: expected 100 targets, one a row of the inputs, got 99"),
        (X, Y * 0, "y: expected at least two different values, got only 0"),
        (
            X,
            np.where(Y == 0, math.nan, X[:, 0]),
            r"y: expected a value in every row, got 34 missing \(first in row 0\)",
        ),
        (X, [None, "a"] * 50, "y: expected a value in every row, got 50 missing"),
        (X, np.where(Y == 0, math.inf, X[:, 0]), "y: expected finite numbers"),
        (X, np.where(np.arange(100) < 4, 9, Y), "y: expected at least 5 samples of each class.* got 4 of 9;"),
        (X, [1, "a"] * 50, "y: expected values of one type"),
        (X, pd.Series([1, "a"] * 50), "y: expected values of one type"),
        (X, np.eye(3)[Y].astype(int), "y: expected one class a sample"),
        (X, np.zeros((100, 2)), "y: expected values that differ, got column 0 constant"),
        (X, np.zeros((100, 2, 2)), "y: expected one value a sample"),
        (X, [{"a": 1}] * 100, "y: expected numbers, text or true/false"),
        (X[:19], X[:19, 0], "y: expected at least 20 samples, got 19"),
        (X[:, 0], Y, r"X: expected shape \(samples, inputs\)"),
        (X.astype(complex), Y, "X: expected an array of real numbers, got complex128"),
        (X.astype(str), Y, "X: expected an array of real numbers.*DataFrame"),
        ([[1.0], [1.0, 2.0]] * 50, Y, "X: expected rows of one shape"),
        ((X, Y, Y), None, r"data: expected a pair \(X, y\), got 3 things"),
        (7, None, r"data: expected a pair \(X, y\), or a torch Dataset with a length, got int; write \(X, y\)"),
        (X, None, r"data: expected a pair \(X, y\), .*got ndarray"),
        (pd.DataFrame(X), None, r"data: expected a pair \(X, y\), .*got DataFrame"),
    ],
)
def test_bad_arrays_are_one_clear_line(x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        from_arrays(x, y, config())
    assert "\n" not in str(caught.value)


def test_replay_refuses_rows_of_another_shape() -> None:
    task = from_arrays(X, Y, config())
    with pytest.raises(DataError, match=r"expected rows of shape \(3,\), as in training, got \(2,\)"):
        replay(task.preprocessing, X[:, :2])
