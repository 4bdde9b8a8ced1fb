"""Tables: named columns of numbers, dates, true/false or text, read from a file and turned into inputs.

The recipe is a list with one entry a column, plain JSON. Every input is computed element by element in float64 from
that list alone, so that the same row gives the same bits with whatever rows it comes.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from evo.targets import line
from evo.task import DataError

Recipe = list[dict[str, Any]]

MOST_CATEGORIES = 100
"""Inputs that one text column may become; its rarer categories count as unseen."""


def read(path: Path, text: Collection[str] = ()) -> pa.Table:
    """The table in a .parquet or .csv file. text: CSV columns that are text whatever they look like ("007")."""
    if not path.exists():
        near = difflib.get_close_matches(path.name, _names(path.parent), n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "check the path"
        raise DataError(f"data.path (--data): expected a file, but {path} does not exist; {hint}")
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".parquet", ".csv"):
        raise DataError(f"data.path (--data): expected a .parquet or .csv file, got {path}; convert it to one of those")
    try:
        table = _parquet(path) if suffix == ".parquet" else _csv(path, text)
        names = list(table.column_names)
    except (pa.ArrowException, OSError, ValueError) as err:
        raise DataError(
            f"data.path (--data): expected a whole {suffix} file, but {path} cannot be read ({line(err)}); "
            "write or copy the file again"
        ) from err
    _check_names(names, str(path))
    return table


def from_frame(frame: pd.DataFrame) -> pa.Table:
    """A pandas frame as a table, without its index."""
    named = frame.rename(columns=str)
    _check_names([str(name) for name in named.columns], "the frame")
    columns: dict[str, pa.Array] = {}
    for name, series in named.items():
        if isinstance(series.dtype, pd.DatetimeTZDtype):
            series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        try:
            columns[str(name)] = pa.array(series, from_pandas=True)
        except (pa.ArrowException, TypeError) as err:
            raise DataError(
                f"column {name!r}: expected values of one type, got a mixture ({line(err)}); convert the column"
            ) from err
    return pa.table(columns)


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _check_names(names: list[str], where: str) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{where}: expected column names to differ, got {twice[0]!r} more than once; rename one")


def _parquet(path: Path) -> pa.Table:
    with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read()


def _csv(path: Path, text: Collection[str]) -> pa.Table:
    with path.open("rb") as file:
        header = file.readline(1 << 20)
    delimiter = max(",;\t", key=lambda mark: header.count(mark.encode()))
    # One block, so that a column's type is inferred from all of its rows and not from the first megabyte.
    block = min(max(path.stat().st_size + 1, 1 << 16), 2**31 - 1)
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False, block_size=block),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(strings_can_be_null=True, column_types=dict.fromkeys(text, pa.string())),
    )


def column(table: pa.Table, name: str, field: str) -> pa.ChunkedArray:
    """One column. Raises DataError, in the name of `field`, where there is none of that name."""
    if name not in table.column_names:
        near = difflib.get_close_matches(name, table.column_names, n=1)
        shown = ", ".join(table.column_names[:12]) + (", ..." if table.num_columns > 12 else "")
        hint = f"did you mean {near[0]!r}?" if near else "write one of those"
        raise DataError(f"{field}: expected a column of the table ({shown}), got {name!r}; {hint}")
    return table[name]


def _sort(name: str, kind: pa.DataType) -> str:
    """What a column of this Arrow type is treated as: number, time or text."""
    if pa.types.is_dictionary(kind):
        return "text"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    if pa.types.is_binary(kind):
        raise DataError(f"column {name!r}: expected UTF-8 text, got other bytes; save the file as UTF-8")
    raise DataError(
        f"column {name!r}: expected numbers, text, true/false or dates, got {kind}; convert or drop the column"
    )


def _numbers(name: str, sort: str, values: pa.ChunkedArray) -> NDArray[np.float64]:
    """(n,) float64, NaN where missing; dates as seconds since 1970."""
    if pa.types.is_null(values.type):
        return np.full(len(values), np.nan)
    if _sort(name, values.type) != sort:
        kind = "dates" if sort == "time" else "numbers"
        raise DataError(f"column {name!r}: expected {kind}, as in the training data, got {values.type}; convert it")
    if sort == "time":
        micro = values.cast(pa.timestamp("us", tz=getattr(values.type, "tz", None)), safe=False).cast(pa.int64())
        return np.asarray(micro.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64) / 1e6
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    numbers = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    if np.isinf(numbers).any():
        row = int(np.flatnonzero(np.isinf(numbers))[0])
        raise DataError(f"column {name!r}: expected finite numbers, got infinity in row {row}; leave that cell empty")
    return numbers


def _text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.cast(pa.string())


def fit(table: pa.Table) -> Recipe:
    """The recipe, from training rows alone: medians, means, scales, categories, and where values are missing."""
    recipe: Recipe = []
    for name in table.column_names:
        if pa.types.is_null(table[name].type):
            continue  # a column without any value says nothing, and has no type
        sort = _sort(name, table[name].type)
        entry: dict[str, Any] = {"name": name, "sort": sort}
        if sort == "text":
            seen = Counter(value for value in _text(table[name]).to_pylist() if value is not None)
            most = sorted(seen, key=lambda value: (-seen[value], value))[:MOST_CATEGORIES]
            entry |= {"categories": sorted(most), "missing": table[name].null_count > 0}
        else:
            entry |= _moments(name, _numbers(name, sort, table[name]))
        recipe.append(entry)
    return recipe


def _moments(name: str, numbers: NDArray[np.float64]) -> dict[str, Any]:
    absent = np.isnan(numbers)
    median = float(np.median(numbers[~absent])) if not absent.all() else 0.0
    filled = np.where(absent, median, numbers)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = float(filled.mean()), float(filled.std())
    if not (np.isfinite(mean) and np.isfinite(scale)):
        raise DataError(f"column {name!r}: expected numbers that float64 can square, got larger; rescale the column")
    if scale <= 1e-12 * abs(mean) or scale == 0.0:
        scale = 1.0
    return {"median": median, "mean": mean, "scale": scale, "missing": bool(absent.any())}


def names(recipe: Recipe) -> list[str]:
    """What each input is, in order: "age", "age is missing", "colour = red"."""
    out: list[str] = []
    for entry in recipe:
        name = entry["name"]
        out += [f"{name} = {c}" for c in entry["categories"]] if entry["sort"] == "text" else [name]
        out += [f"{name} is missing"] if entry["missing"] else []
    return out


def transform(recipe: Recipe, table: pa.Table) -> NDArray[np.float32]:
    """(n, inputs) float32. A category not in the recipe gives zeros; a missing value its indicator, if there is one."""
    x = np.zeros((table.num_rows, len(names(recipe))), dtype=np.float32)
    at = 0
    for entry in recipe:
        values = column(table, entry["name"], "table")
        if entry["sort"] == "text":
            categories: list[str] = entry["categories"]
            if categories and not pa.types.is_null(values.type):
                found = pc.index_in(_text(values), value_set=pa.array(categories, pa.string()))
                place = np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)
                rows = np.flatnonzero(place >= 0)
                x[rows, at + place[rows]] = 1.0
            at += len(categories)
            absent = np.asarray(values.is_null().to_numpy(), dtype=bool)
        else:
            numbers = _numbers(entry["name"], entry["sort"], values)
            absent = np.isnan(numbers)
            x[:, at] = _scaled(entry, np.where(absent, entry["median"], numbers))
            at += 1
        if entry["missing"]:
            x[:, at] = absent
            at += 1
    return x


def _scaled(entry: Mapping[str, Any], numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        scaled = ((numbers - entry["mean"]) / entry["scale"]).astype(np.float32)
    if not np.isfinite(scaled).all():
        row = int(np.flatnonzero(~np.isfinite(scaled))[0])
        raise DataError(
            f"column {entry['name']!r}: expected numbers of the training data's size, about {entry['mean']:.3g}, "
            f"got {numbers[row]:.3g} in row {row}; leave that cell empty"
        )
    return cast("NDArray[np.float32]", scaled)
