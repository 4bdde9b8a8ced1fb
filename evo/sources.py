"""Sources: raw inputs and labels, shipped, generated, fetched or handed over from Python."""

from __future__ import annotations

import os
import socket
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo import idx
from evo.config import DataConfig
from evo.targets import line
from evo.task import DataError
from search_spaces.randomness import keyed

SPIRALS = 4000


def spirals(seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two arms of one and a half turns, with noise. points: (n, 2), arm: (n,)."""
    draw = keyed("spirals", seed)
    arm = np.arange(SPIRALS) % 2
    turn = np.sqrt(draw.random(SPIRALS))
    angle = 3 * np.pi * turn + np.pi * arm
    points = turn[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(points + draw.normal(0.0, 0.02, points.shape), dtype=np.float64), arm


def parity(bits: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Every row of ±1, (2**bits, bits), and whether it has an odd number of +1."""
    table = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
    return np.asarray(2.0 * table - 1.0), np.asarray(table.sum(axis=1) % 2)


def digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """scikit-learn's 1,797 pictures (n, 64) of 8 × 8 with values 0–16, and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.asarray(bunch.data, dtype=np.float64), np.asarray(bunch.target, dtype=np.int64)


def mnist(config: DataConfig) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Images (n, h, w), labels (n,), how many are for training."""
    given = config.path or os.environ.get("MERISTEM_DATA") or None
    if given is not None:
        field = "data.path (--data)" if config.path else "MERISTEM_DATA"
        if not Path(given).is_dir():
            raise DataError(f"{field}: expected a folder of IDX files, but {given} is none; check the path")
        folder = idx.mnist_folder(Path(given))
        if folder is not None:
            return idx.read_mnist(folder)
        if config.path:
            raise DataError(
                f"{field}: expected MNIST's four IDX files (train-images-idx3-ubyte.gz, ...) in {given}, got none of "
                "them; put them there, or leave --data out to fetch them"
            )
    return _fetch()


def _fetch() -> tuple[NDArray[Any], NDArray[Any], int]:
    from sklearn.datasets import fetch_openml

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # its client sets none, and would wait for a silent network for minutes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its retries warn one by one; the error below says it all
            images, labels = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False, n_retries=1)
    except (OSError, ValueError) as err:  # URLError and HTTPError are OSErrors; ValueError: a damaged download
        raise DataError(
            f"data.path: no folder of MNIST files was given and OpenML cannot be reached ({line(err)}); "
            "pass --data FOLDER with the four IDX files (train-images-idx3-ubyte.gz, ...)"
        ) from err
    finally:
        socket.setdefaulttimeout(patience)
    return images.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.int64), 60_000


def pair(data: Any) -> tuple[Any, Any]:
    """X and y out of a pair, or out of a torch Dataset whose items are pairs."""
    if isinstance(data, (tuple, list)):
        if len(data) != 2:
            raise DataError(f"data: expected a pair (X, y), got {len(data)} things; write (X, y)")
        return data[0], data[1]
    if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) == 2:
        return data.tensors[0], data.tensors[1]
    alone = isinstance(data, (np.ndarray, Tensor, pd.DataFrame, pd.Series, dict, str, torch.utils.data.IterableDataset))
    if alone or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(
            f"data: expected a pair (X, y), or a torch Dataset with a length, got {type(data).__name__}; write (X, y)"
        )
    rows = [data[i] for i in range(len(data))]
    if not rows or any(not isinstance(row, (tuple, list)) or len(row) != 2 for row in rows):
        raise DataError("data: expected a Dataset whose items are pairs (x, y), got others or none; wrap it")
    inputs = [np.asarray(plain(x)) for x, _ in rows]
    if len({x.shape for x in inputs}) > 1:
        raise DataError("data: expected inputs of one shape, got several; crop or pad them in the Dataset's transform")
    return np.stack(inputs), np.asarray([plain(y) for _, y in rows])


def plain(data: Any) -> Any:
    """The same numbers off the device and off the graph."""
    if isinstance(data, Tensor):
        data = data.detach().cpu()
        return (data.float() if data.dtype == torch.bfloat16 else data).numpy()
    if isinstance(data, pd.DataFrame):
        return data.to_numpy()
    return data
