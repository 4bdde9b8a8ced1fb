"""IDX files: what is read, and what is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evo.config import Config, DataConfig
from evo.data import SPLITS, load_task
from evo.idx import mnist_folder, read_idx, read_mnist
from evo.task import DataError

CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx_bytes(array: NDArray[np.generic]) -> bytes:
    code = CODES[array.dtype.str[1:]]
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return struct.pack(">HBB", 0, code, array.ndim) + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_mnist(folder: Path, train: int = 200, test: int = 40) -> None:
    draw = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = draw.integers(0, 256, (count, 4, 3)).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))


@pytest.mark.parametrize("kind", sorted(CODES))
@pytest.mark.parametrize("zipped", [False, True])
def test_reads_back_every_type(tmp_path: Path, kind: str, zipped: bool) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    content = idx_bytes(array)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert np.array_equal(read_idx(path, 3), array)
    assert read_idx(path).dtype == array.dtype


GOOD = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 4 bytes, got 0"),
        (b"PAR1" + GOOD, "magic number of an IDX file, got 0x50415231"),
        (b"\0\0\7\3" + GOOD[4:], "magic number"),
        (GOOD[:9], "header of 16 bytes, got 9"),
        (GOOD[:-1], r"expected 40 bytes for an IDX array of shape \(2, 3, 4\), got 39"),
        (GOOD + b"x", "expected 40 bytes .* got 41"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "expected .* bytes for an IDX array"),
        (gzip.compress(GOOD)[:-9], "whole gzip file"),
        (gzip.compress(GOOD)[:12] + b"\xff" * 20, "whole gzip file"),
        (b"\x1f\x8b", "whole gzip file"),
        (idx_bytes(np.arange(3, dtype=np.uint8)), "3 dimensions, got 1"),
    ],
)
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_mnist_is_found_in_the_folder_or_below(tmp_path: Path) -> None:
    assert mnist_folder(tmp_path) is None
    below = tmp_path / "MNIST" / "raw"
    below.mkdir(parents=True)
    write_mnist(below)
    assert mnist_folder(tmp_path) == mnist_folder(below) == below
    images, labels, count = read_mnist(below)
    assert images.shape == (240, 4, 3)
    assert labels.shape == (240,)
    assert count == 200


def test_mnist_with_a_file_missing_or_of_another_set(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(7, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"expected 40 labels.* got 7"):
        read_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"expected the file t10k-images-idx3-ubyte or .*gz, found neither"):
        read_mnist(tmp_path)


def test_mnist_files_keep_the_official_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    write_mnist(tmp_path / "mnist")
    task = load_task(Config(task="mnist", data=DataConfig(path=str(tmp_path / "mnist"), limit=120)))
    assert (task.shape, task.picture) == ((12,), (1, 4, 3))
    assert task.splits["test"].y.tolist() == [i % 10 for i in range(40)]
    assert sum(len(task.splits[name]) for name in SPLITS if name != "test") == 120
    monkeypatch.setenv("MERISTEM_DATA", str(tmp_path))
    assert torch.equal(
        load_task(Config(task="mnist", data=DataConfig(limit=120))).splits["train"].x, task.splits["train"].x
    )
