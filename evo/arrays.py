"""Arrays: raw rows of numbers made into flat, standardised inputs, by a recipe that is plain JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from evo.targets import line
from evo.task import DataError

Scaling = Literal["none", "all", "columns"]
"""Standardise not at all, all inputs alike (pictures), or each input by itself."""

CHUNK = 8192


def check(raw: Any, field: str) -> NDArray[Any]:
    """raw: (n, ...) of real numbers, as an array. Raises DataError, in the name of `field`, for anything else."""
    try:
        array = np.asarray(raw)
    except ValueError as err:
        raise DataError(f"{field}: expected rows of one shape, got several ({line(err)}); crop or pad them") from err
    if array.dtype.kind not in "buif":
        raise DataError(
            f"{field}: expected an array of real numbers, got {array.dtype}; pass a pandas DataFrame for text, dates "
            "and missing values"
        )
    if array.ndim < 2 or 0 in array.shape:
        raise DataError(f"{field}: expected shape (samples, inputs) or (samples, ...), got {array.shape}; reshape it")
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~finite))
        raise DataError(
            f"{field}: expected finite numbers, got {(~finite).sum():,} NaN or infinite (first at {place}); fill them "
            "in, or pass a pandas DataFrame, where missing values are imputed"
        )
    return array


def picture(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(h, w) or (channels, h, w) as (channels, h, w); None where one sample is no picture."""
    if len(shape) == 2:
        return (1, shape[0], shape[1])
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else None


def fit(raw: NDArray[Any], train: NDArray[np.int64], scaling: Scaling) -> dict[str, Any]:
    """The recipe, from the training rows alone. raw: (n, ...)."""
    shape = list(raw.shape[1:])
    if scaling == "none":
        return {"shape": shape, "mean": 0.0, "scale": 1.0}
    axis = 0 if scaling == "columns" else None
    count = len(train) * (1 if scaling == "columns" else math.prod(shape))
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum(part.sum(axis=axis) for part in _parts(raw, train)) / count
        scale = np.sqrt(sum(((part - mean) ** 2).sum(axis=axis) for part in _parts(raw, train)) / count)
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        raise DataError("X: expected numbers that float64 can square, got larger; rescale them")
    scale = np.where((scale <= 1e-12 * np.abs(mean)) | (scale == 0.0), 1.0, scale)
    return {"shape": shape, "mean": np.asarray(mean).tolist(), "scale": scale.tolist()}


def _parts(raw: NDArray[Any], rows: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, len(rows), CHUNK):
        part = raw[rows[start : start + CHUNK]]
        yield part.reshape(len(part), -1).astype(np.float64)


def transform(recipe: dict[str, Any], raw: Any, field: str = "X") -> NDArray[np.float32]:
    """raw: (n, *shape) or (n, inputs) -> (n, inputs) float32, element by element in float64."""
    array = check(raw, field)
    shape, inputs = tuple(recipe["shape"]), math.prod(recipe["shape"])
    if array.shape[1:] not in (shape, (inputs,)):
        raise DataError(f"{field}: expected rows of shape {shape}, as in training, got {array.shape[1:]}; reshape them")
    mean, scale = np.asarray(recipe["mean"]), np.asarray(recipe["scale"])
    out = np.empty((len(array), inputs), dtype=np.float32)
    at = 0
    with np.errstate(over="ignore"):
        for part in _parts(array, np.arange(len(array))):
            out[at : at + len(part)] = (part - mean) / scale
            at += len(part)
    if not np.isfinite(out).all():
        raise DataError(f"{field}: expected numbers of the training data's size, got much larger; check their units")
    return cast("NDArray[np.float32]", out)
