"""Data: a named task, a table or arrays made into a Task, and its preprocessing replayed on new rows."""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo import arrays, sources, splits, tables, targets
from evo.arrays import Scaling
from evo.config import Config
from evo.task import SPLITS, DataError, Split, Task
from search_spaces.randomness import keyed

__all__ = ["SPLITS", "DataError", "Split", "Task", "decode", "from_arrays", "load_task", "replay"]

TASKS = ("digits", "mnist", "parity:N", "spirals", "table")
BITS = range(2, 17)
FEWEST = 20
"""Samples that a regression needs; a classification needs one of each class for each split."""

Picture = tuple[int, int, int]


def load_task(config: Config) -> Task:
    """The task that `config.task` names. Raises DataError, naming the field and the cure, where it cannot be had."""
    check_name(config)
    name, _, size = config.task.partition(":")
    if config.task == "table":
        return _table(config)
    loaders = {"digits": _digits, "mnist": _mnist, "spirals": _spirals}
    return _parity(config, size) if name == "parity" else loaders[name](config)


def check_name(config: Config) -> None:
    """Raises DataError where no such task is known, or where it takes no data of one's own; reads nothing."""
    name, known = config.task.partition(":")[0], [task.partition(":")[0] for task in TASKS]
    if config.task == "table":
        return
    if config.task not in known and name != "parity":
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "write one of those, or --data FILE --target COLUMN"
        raise DataError(f"task: expected one of {', '.join(TASKS)}, got {config.task!r}; {hint}")
    for field in ("path", "target"):
        if getattr(config.data, field) is not None and (name, field) != ("mnist", "path"):
            raise DataError(
                f"data.{field}: task {config.task!r} takes none, got {getattr(config.data, field)!r}; "
                "leave it out, or write task table"
            )
    if config.data.kind == "regression":
        raise DataError(f"data.kind: task {config.task!r} is a classification, got 'regression'; write auto")


def from_arrays(X: Any, y: Any, config: Config) -> Task:
    """A task from Python objects.

    X: (n, inputs), pictures (n, h, w) or (n, channels, h, w), as array or tensor, or a pandas frame with columns of
    any kind. y: (n,) labels or values, (n, q) values, or the name of a column of the frame. With y None, X is a pair
    (X, y) or a torch Dataset of such pairs.
    """
    if y is None:
        X, y = sources.pair(X)
    if isinstance(X, pd.DataFrame):
        table = tables.from_frame(X)
        if isinstance(y, str):
            column = tables.column(table, y, "y")
            return _from_table("arrays", table.drop_columns([y]), column, config, f"column {y!r}")
        if isinstance(y, (pd.Series, pd.DataFrame)) and not y.index.equals(X.index):
            raise DataError("y: expected the same index as X, got another; write y.loc[X.index]")
        return _from_table("arrays", table, sources.plain(y), config, "y")
    raw = arrays.check(sources.plain(X), "X")
    shape = raw.shape[1:]
    scaling: Scaling = "columns" if len(shape) == 1 else "all"
    return _assemble("arrays", raw, sources.plain(y), config, "y", scaling, picture=arrays.picture(shape))


def replay(preprocessing: dict[str, Any], raw: Any) -> Tensor:
    """New raw rows as the network's inputs, (n, inputs) float32, bit for bit as for the samples it learned from.

    raw: what the task was made from, less its target: an array or tensor, or a frame, or the path of a table's file.
    """
    recipe = preprocessing["inputs"]
    if recipe["kind"] == "array":
        return torch.from_numpy(arrays.transform(recipe, sources.plain(raw)))
    if isinstance(raw, (str, Path)):
        text = [entry["name"] for entry in recipe["columns"] if entry["sort"] == "text"]
        raw = tables.read(Path(raw), text)
    elif isinstance(raw, pd.DataFrame):
        raw = tables.from_frame(raw)
    elif not isinstance(raw, pa.Table):
        wanted = [entry["name"] for entry in recipe["columns"]]
        raise DataError(f"X: expected a pandas DataFrame with the columns {wanted}, got {type(raw).__name__}; make one")
    return torch.from_numpy(tables.transform(recipe["columns"], raw))


def decode(preprocessing: dict[str, Any], outputs: Tensor) -> NDArray[Any]:
    """outputs: (n, q) of the network -> (n,) labels as the user wrote them, or (n, q) values in the user's units."""
    return targets.decode(preprocessing["target"], outputs.detach().cpu().numpy())


def _digits(config: Config) -> Task:
    images, labels = sources.digits()
    return _assemble("digits", images, labels, config, "digits", "all", picture=(1, 8, 8))


def _mnist(config: Config) -> Task:
    images, labels, count = sources.mnist(config.data)
    held = np.arange(count, len(labels))
    flat = images.reshape(len(images), -1)
    return _assemble("mnist", flat, labels, config, "mnist", "all", picture=arrays.picture(images.shape[1:]), held=held)


def _parity(config: Config, size: str) -> Task:
    if not size.isascii() or not size.isdigit() or int(size) not in BITS:
        raise DataError(
            f"task: expected parity:N with {BITS[0]} to {BITS[-1]} bits, got {config.task!r}; write parity:4, say"
        )
    bits = int(size)
    if config.data.limit is not None and config.data.limit < 2**bits:
        raise DataError(
            f"data.limit: {config.task} is a whole table of {2**bits:,} rows, got {config.data.limit}; leave it out"
        )
    rows, odd = sources.parity(bits)
    whole = Split(torch.from_numpy(rows).float(), torch.from_numpy(odd))
    preprocessing = {
        "task": config.task,
        "inputs": {"kind": "array", "shape": [bits], "mean": 0.0, "scale": 1.0},
        "target": {"kind": "classification", "field": "parity", "labels": [0, 1]},
    }
    return Task(
        name=config.task,
        kind="classification",
        shape=(bits,),
        outputs=2,
        splits=dict.fromkeys(SPLITS, whole),
        entropy=math.log(2),
        preprocessing=preprocessing,
        enumerated=True,
    )


def _spirals(config: Config) -> Task:
    points, arm = sources.spirals(config.seed)
    return _assemble("spirals", points, arm, config, "spirals", "columns")


def _table(config: Config) -> Task:
    if config.data.path is None:
        raise DataError("data.path: task table expects a .parquet or .csv file, got none; pass --data FILE")
    if config.data.target is None:
        raise DataError("data.target: task table expects the name of a column, got none; pass --target COLUMN")
    table = tables.read(Path(config.data.path))
    column = tables.column(table, config.data.target, "data.target (--target)")
    rest = table.drop_columns([config.data.target])
    return _from_table("table", rest, column, config, f"data.target: column {config.data.target!r}")


def _from_table(name: str, table: pa.Table, column: Any, config: Config, field: str) -> Task:
    if table.num_columns == 0:
        raise DataError(f"{field}: expected columns beside the target to learn from, got none; add one")
    return _assemble(name, table, column, config, field, "columns")


def _assemble(
    name: str,
    raw: NDArray[Any] | pa.Table,
    y: Any,
    config: Config,
    field: str,
    scaling: Scaling,
    picture: Picture | None = None,
    held: NDArray[np.int64] | None = None,
) -> Task:
    """raw: (n, ...) or a table of n rows. held: rows that are the test split by decree."""
    target = targets.read(y, config.data.kind, field)
    count = len(target.classes)
    if len(raw) != count:
        raise DataError(f"{field}: expected {len(raw):,} targets, one a row of the inputs, got {count:,}; match them")
    pool = np.arange(count) if held is None else np.setdiff1d(np.arange(count), held)
    if config.data.limit is not None:
        pool = keyed("limit", config.seed).permutation(pool)[: config.data.limit]
    parts = splits.shares(config.data, held=held is not None)
    _check_counts(target, pool, len(parts), config.data.limit)
    dealt = splits.deal(target.classes, pool, parts, config.seed)
    if held is not None:
        dealt["test"] = held
    recipe = targets.fit(target, dealt["train"])
    inputs = _fit(raw, dealt["train"], scaling)
    preprocessing = _json({"task": name, "inputs": inputs, "target": recipe})
    made = {}
    for part, rows in dealt.items():
        x = replay(preprocessing, raw.take(rows) if isinstance(raw, pa.Table) else raw[rows])
        made[part] = Split(x, torch.from_numpy(targets.encode(target, preprocessing["target"], rows)))
    classes = target.kind == "classification"
    outputs = len(target.labels) if classes else target.values.shape[1]
    return Task(
        name=name,
        kind=target.kind,
        shape=tuple(made["train"].x.shape[1:]),
        outputs=outputs,
        splits=made,
        entropy=_entropy(target.classes[dealt["train"]]) if classes else 0.5 * outputs,
        preprocessing=preprocessing,
        picture=picture,
    )


def _fit(raw: NDArray[Any] | pa.Table, train: NDArray[np.int64], scaling: Scaling) -> dict[str, Any]:
    if not isinstance(raw, pa.Table):
        return {"kind": "array", **arrays.fit(raw, train, scaling)}
    columns = tables.fit(raw.take(train))
    if not tables.names(columns):
        raise DataError("data: expected a column with values beside the target, got only empty ones; fill one")
    return {"kind": "table", "columns": columns, "names": tables.names(columns)}


def _check_counts(target: targets.Target, pool: NDArray[np.int64], parts: int, limit: int | None) -> None:
    after = "" if limit is None else f" among the first {limit} (data.limit)"
    if target.kind == "regression":
        if len(pool) < FEWEST:
            raise DataError(f"{target.field}: expected at least {FEWEST} samples, got {len(pool)}{after}; add some")
        return
    counts = np.bincount(target.classes[pool], minlength=len(target.labels))
    if counts.min() < parts:
        label, rare = target.labels[int(counts.argmin())], int((counts < parts).sum())
        more = f" ({rare} such classes; were numbers meant, write data.kind=regression)" if rare > 1 else ""
        raise DataError(
            f"{target.field}: expected at least {parts} samples of each class, one for each split, got "
            f"{counts.min()} of {label!r}{after}{more}; add samples, merge it with another class, or leave it out"
        )


def _entropy(classes: NDArray[np.int64]) -> float:
    shares = np.bincount(classes) / len(classes)
    return float(-np.sum(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares))))


def _json(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe as a checkpoint will hold it, so that training sees exactly what a replay will."""
    return cast("dict[str, Any]", json.loads(json.dumps(recipe, allow_nan=False)))
