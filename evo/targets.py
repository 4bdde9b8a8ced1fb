"""Targets: from a raw column to classes or values, and from a network's outputs back to labels or units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evo.task import DataError, Kind

FEW = 20
"""Whole numbers with at most this many different values are taken for classes."""


@dataclass(frozen=True)
class Target:
    """classes: (n,) int64, all 0 for regression. values: (n, q) float64 in the user's units, empty for classes."""

    kind: Kind
    field: str
    labels: list[Any]
    classes: NDArray[np.int64]
    values: NDArray[np.float64]


def read(raw: Any, asked: str, field: str) -> Target:
    """raw: an Arrow column, or anything array-like, (n,) or (n, q). asked: data.kind. field: what messages call it."""
    if not isinstance(raw, (pa.Array, pa.ChunkedArray)):
        array = np.asarray(raw)
        if array.ndim == 2 and array.shape[1] != 1:
            return _several(array, asked, field)
        if array.ndim not in (1, 2):
            raise DataError(f"{field}: expected one value a sample, (n,) or (n, q), got {array.shape}; flatten it")
        if isinstance(raw, (list, tuple)) and array.dtype.kind in "US":
            array = np.asarray(raw, dtype=object)  # NumPy has made text of numbers, too
        try:
            raw = pa.array(raw if isinstance(raw, pd.Series) else array.reshape(-1), from_pandas=True)
        except (pa.ArrowException, TypeError) as err:
            raise DataError(f"{field}: expected values of one type, got a mixture ({line(err)}); convert them") from err
    column = raw.combine_chunks() if isinstance(raw, pa.ChunkedArray) else raw
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py()
        raise DataError(
            f"{field}: expected a value in every row, got {column.null_count:,} missing (first in row {row}); "
            "drop those rows, or fill them in"
        )
    if not len(column):
        raise DataError(f"{field}: expected at least two different values, got no rows; write a table that holds some")
    classes = _is_classes(column, asked, field)
    if pc.count_distinct(column).as_py() < 2:
        seen = f"only {column[0].as_py()!r}"
        raise DataError(f"{field}: expected at least two different values, got {seen}; choose another target")
    if classes:
        return _classes(column, field)
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return _values(values.reshape(-1, 1), field)


def _is_classes(column: pa.Array, asked: str, field: str) -> bool:
    kind = column.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (number or text or pa.types.is_boolean(kind)):
        raise DataError(f"{field}: expected numbers, text or true/false, got {kind}; convert the column")
    if asked == "regression":
        if text:
            raise DataError(f"{field}: data.kind=regression expects numbers, got text; write data.kind=classification")
        return False
    if asked == "classification" or not number:
        return True
    if not pa.types.is_integer(kind):
        return False
    distinct = pc.count_distinct(column).as_py()
    span = pc.min_max(column).as_py()
    # 0 … K−1, each used often, is how labels are numbered; ages or counts rarely are.
    numbered = span["min"] == 0 and span["max"] == distinct - 1 and len(column) >= 20 * distinct
    return bool(distinct <= FEW or numbered)


def _classes(column: pa.Array, field: str) -> Target:
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    plain = np.asarray(column.to_pylist(), dtype=object)
    labels, classes = np.unique(plain, return_inverse=True)
    if pa.types.is_floating(column.type) and not np.isfinite(plain.astype(np.float64)).all():
        raise DataError(f"{field}: expected finite labels, got infinity; replace those rows")
    return Target(
        "classification", field, labels.tolist(), classes.astype(np.int64), np.empty((len(plain), 0), dtype=np.float64)
    )


def _values(values: NDArray[np.float64], field: str) -> Target:
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise DataError(f"{field}: expected finite numbers, got {values[row].tolist()} in row {row}; replace that row")
    return Target("regression", field, [], np.zeros(values.shape[0], dtype=np.int64), values)


def _several(array: NDArray[Any], asked: str, field: str) -> Target:
    if asked == "classification" or array.dtype.kind != "f":
        raise DataError(
            f"{field}: expected one class a sample, shape (n,), got {array.dtype} of shape {array.shape}; "
            "write y.argmax(axis=1) for one-hot classes, or floats for several values to regress"
        )
    target = _values(array.astype(np.float64), field)
    if (constant := np.flatnonzero(np.ptp(array, axis=0) == 0)).size:
        raise DataError(f"{field}: expected values that differ, got column {constant[0]} constant; leave it out")
    return target


def fit(target: Target, train: NDArray[np.int64]) -> dict[str, Any]:
    """The JSON by which outputs are read back; mean and scale are of the training samples `train` alone."""
    if target.kind == "classification":
        return {"kind": "classification", "field": target.field, "labels": target.labels}
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = target.values[train].mean(axis=0), target.values[train].std(axis=0)
    if not (np.isfinite(scale).all() and (scale > 1e-12 * np.abs(mean)).all()):
        raise DataError(
            f"{target.field}: expected values that differ within the training split, at sizes float64 can square, "
            f"got mean {mean.tolist()} and deviation {scale.tolist()}; choose another target, or rescale it"
        )
    return {"kind": "regression", "field": target.field, "mean": mean.tolist(), "scale": scale.tolist()}


def encode(target: Target, recipe: dict[str, Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """(n,) int64 classes, or (n, q) float32 standardised, of these rows."""
    if target.kind == "classification":
        return target.classes[rows]
    scaled = (target.values[rows] - np.asarray(recipe["mean"])) / np.asarray(recipe["scale"])
    return cast("NDArray[Any]", scaled.astype(np.float32))


def decode(recipe: dict[str, Any], outputs: NDArray[Any]) -> NDArray[Any]:
    """outputs: (n, q) of a network -> (n,) the user's own labels, or (n, q) values in the user's units."""
    if recipe["kind"] == "classification":
        labels = recipe["labels"]
        plain = np.asarray(labels, dtype=object if isinstance(labels[0], str) else None)
        return cast("NDArray[Any]", plain[np.asarray(outputs).argmax(axis=1)])
    return cast(
        "NDArray[Any]",
        np.asarray(outputs, dtype=np.float64) * np.asarray(recipe["scale"]) + np.asarray(recipe["mean"]),
    )


def line(err: BaseException) -> str:
    """The first line of an error, cut short, to stand in brackets behind our own."""
    first = (str(err).strip() or type(err).__name__).splitlines()[0]
    text = "".join(mark if mark.isprintable() else "?" for mark in first)
    return text if len(text) <= 160 else text[:157] + "..."
