"""Predictions: what a finished network says about new rows, in the user's own labels and units."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo import data, tables, training
from evo.targets import line
from search_spaces.checkpoint import Checkpoint, load

TABLES = (".parquet", ".csv")
ARRAYS = (".npy", ".npz")


class PredictionError(ValueError):
    """Rows or a checkpoint that give no predictions: one line with what was expected and the cure."""


def predict(
    source: str | os.PathLike[str], file: str | os.PathLike[str], max_parameters: int | None = None
) -> pd.DataFrame:
    """One row a sample, in the file's order.

    source: the folder of a run (its validation-best snapshot is taken, among those of at most max_parameters), or of
    one snapshot. file: .parquet or .csv with the columns that the network learned from (others are ignored), or .npy
    or .npz. Columns: for labels `prediction` and one `probability of LABEL` each; for values `prediction`, or
    `prediction 1`, ... where there are several. Raises ValueError with one line.
    """
    path = chosen(Path(source), max_parameters)
    checkpoint = load(path)
    preprocessing = preprocessing_of(checkpoint, path)
    x = data.replay(preprocessing, _raw(preprocessing, Path(file)))
    wanted = math.prod(checkpoint.network.input_shape())
    if x.shape[1] != wanted:
        raise PredictionError(
            f"{path}/state.json: the preprocessing makes {x.shape[1]} inputs, but the network takes {wanted}; the file "
            "belongs to another snapshot"
        )
    return _table(preprocessing, _outputs(checkpoint, x))


def chosen(source: Path, max_parameters: int | None = None) -> Path:
    """The folder of the snapshot that speaks for a run: the best by validation, or the newest where none is judged."""
    if (source / "blueprint.json").is_file():
        return source
    if not source.is_dir():
        raise PredictionError(f"run: there is no folder {str(source)!r}; write one that `evo runs` lists")
    if (source / "run.json").is_file() and any((source / "events").glob("*.parquet")):
        from evo.run import Run

        run = Run.open(source)
        if max_parameters is not None or len(run.front):
            return run.choose(max_parameters).folder
    snapshots = [f for f in (source / "snapshots").glob("*/*/blueprint.json") if not f.parent.name.startswith(".")]
    if not snapshots:
        raise PredictionError(f"run: {str(source)!r} holds no snapshot yet; let the run make one, then ask again")
    return max(snapshots, key=lambda f: (f.parent.name, f.stat().st_mtime_ns, f.parent.parent.name)).parent


def preprocessing_of(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    """What `data.replay` takes, out of the snapshot in `path`. Raises PredictionError where there is none."""
    found = checkpoint.extra.get("preprocessing")
    if not isinstance(found, Mapping) or not {"inputs", "target"} <= set(found):
        raise PredictionError(
            f"{path}/state.json: expected the preprocessing under the key 'preprocessing', found none; "
            "write the folder of a snapshot that a run made"
        )
    return dict(found)


def _raw(preprocessing: Mapping[str, Any], file: Path) -> Any:
    """The rows of a file in the form that the preprocessing takes."""
    kind, suffix = preprocessing["inputs"]["kind"], file.suffix.lower()
    if suffix not in TABLES + ARRAYS:
        wanted = ", ".join(TABLES + ARRAYS)
        raise PredictionError(f"data (--data): expected a file {wanted}, got {str(file)!r}; convert it")
    if kind == "table":
        if suffix in ARRAYS:
            names = ", ".join(entry["name"] for entry in preprocessing["inputs"]["columns"][:12])
            raise PredictionError(
                f"data (--data): this network learned from a table, got the array {str(file)!r}; write a .parquet or "
                f".csv file with the columns {names}"
            )
        return _columns(preprocessing["inputs"]["columns"], file)
    return _array(file) if suffix in ARRAYS else _numeric(file, int(np.prod(preprocessing["inputs"]["shape"])))


def _columns(recipe: tables.Recipe, file: Path) -> pa.Table:
    """The table in a file, with every column that the recipe asks for."""
    table = tables.read(file, [entry["name"] for entry in recipe if entry["sort"] == "text"])
    missing = [entry["name"] for entry in recipe if entry["name"] not in table.column_names]
    if missing:
        shown = ", ".join(table.column_names[:12]) + (", ..." if table.num_columns > 12 else "")
        raise PredictionError(
            f"data (--data): expected the columns that the network learned from, but {str(file)!r} has no "
            f"{', '.join(repr(name) for name in missing[:5])}{', ...' if len(missing) > 5 else ''}, only {shown}; "
            "add what is missing, with empty cells where a value is not known"
        )
    return table


def _array(file: Path) -> NDArray[Any]:
    """The array in a .npy file, the only one of a .npz, or the one that it calls X. Never unpickles."""
    if not file.is_file():
        raise PredictionError(f"data (--data): expected a file, but {str(file)!r} does not exist; check the path")
    try:
        with file.open("rb") as opened:
            content = np.load(opened, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            names = list(content.files)
            name = names[0] if len(names) == 1 else next((n for n in ("X", "x") if n in names), None)
            if name is not None:
                return np.asarray(content[name])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as err:
        raise PredictionError(
            f"data (--data): expected an array of numbers as numpy.save writes it, but {str(file)!r} cannot be read "
            f"({line(err)}); save it again"
        ) from err
    raise PredictionError(f"data (--data): {str(file)!r} holds the arrays {', '.join(names)}; call the one to use X")


def _numeric(file: Path, inputs: int) -> NDArray[np.float64]:
    """A table's columns as the inputs of a network that learned from an array, in the table's order."""
    table = tables.read(file)
    if table.num_columns != inputs:
        raise PredictionError(
            f"data (--data): this network takes {inputs} numbers a row, got {table.num_columns} columns in "
            f"{str(file)!r}; leave only the inputs, in the order of training"
        )
    columns = []
    for name in table.column_names:
        try:
            columns.append(table[name].cast(pa.float64()).to_numpy())
        except pa.ArrowException as err:
            raise PredictionError(
                f"data (--data): column {name!r}: expected numbers, got {table[name].type}; convert it"
            ) from err
    return np.stack(columns, axis=1)


def _outputs(checkpoint: Checkpoint, x: Tensor) -> Tensor:
    """(n, outputs) of the network in the mode of evaluation."""
    if len(x) == 0:
        return torch.empty(0, checkpoint.network.axis_sizes()["output"])
    return training.predict(checkpoint.network, x)


def _table(preprocessing: dict[str, Any], outputs: Tensor) -> pd.DataFrame:
    decoded = data.decode(preprocessing, outputs)
    if preprocessing["target"]["kind"] == "classification":
        probabilities = torch.softmax(outputs.double(), dim=1).numpy()
        labels = preprocessing["target"]["labels"]
        shares = {f"probability of {label}": probabilities[:, i] for i, label in enumerate(labels)}
        return pd.DataFrame({"prediction": decoded, **shares})
    count = decoded.shape[1]
    names = ["prediction"] if count == 1 else [f"prediction {i + 1}" for i in range(count)]
    return pd.DataFrame(decoded, columns=names)
