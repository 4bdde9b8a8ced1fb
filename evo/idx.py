"""IDX files, as MNIST ships them: a big-endian header (type, sizes), then the numbers; plain or gzipped."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.task import DataError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
AGAIN = "download the file again"


def read_idx(path: Path, dimensions: int | None = None) -> NDArray[Any]:
    """The array in the file, in native byte order. dimensions: how many it must have."""
    content = _content(path)
    if len(content) < 4:
        raise DataError(f"{path}: expected an IDX header of at least 4 bytes, got {len(content)}; {AGAIN}")
    zeros, code, rank = struct.unpack(">HBB", content[:4])
    if zeros != 0 or code not in TYPES or rank == 0:
        raise DataError(f"{path}: expected the magic number of an IDX file, got 0x{content[:4].hex()}; {AGAIN}")
    if dimensions is not None and rank != dimensions:
        raise DataError(
            f"{path}: expected an IDX array of {dimensions} dimensions, got {rank}; images have 3 and labels 1, "
            "so check that the files have not changed names"
        )
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{path}: expected an IDX header of {start} bytes, got {len(content)} bytes in all; {AGAIN}")
    shape = struct.unpack(f">{rank}I", content[4:start])
    kind = np.dtype(TYPES[code])
    expected = start + math.prod(shape) * kind.itemsize
    if len(content) != expected:
        raise DataError(
            f"{path}: expected {expected:,} bytes for an IDX array of shape {shape}, got {len(content):,}; {AGAIN}"
        )
    return np.frombuffer(content, dtype=kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as err:
        raise DataError(f"{path}: expected a readable file, got {err.strerror or err}; check the path") from err
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error, struct.error) as err:
        raise DataError(f"{path}: expected a whole gzip file, got a damaged one ({err}); {AGAIN}") from err


def mnist_folder(folder: Path) -> Path | None:
    """The folder itself, or the one below it, that holds MNIST's four files; None where there is none."""
    for place in (folder, folder / "mnist", folder / "MNIST" / "raw"):
        if any(_find(place, part, kind) for part in ("train", "t10k") for kind in ("images", "labels")):
            return place
    return None


def read_mnist(folder: Path) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Images (n, h, w), labels (n,), and how many of the n are for training; the rest is the official test."""
    images, labels = [], []
    for part in ("train", "t10k"):
        picture, label = _named(folder, part, "images"), _named(folder, part, "labels")
        images.append(read_idx(picture, 3))
        labels.append(read_idx(label, 1))
        if len(images[-1]) != len(labels[-1]):
            raise DataError(
                f"{label}: expected {len(images[-1]):,} labels, as many as {picture.name} has images, "
                f"got {len(labels[-1]):,}; take both files from one source"
            )
    if images[0].shape[1:] != images[1].shape[1:]:
        raise DataError(
            f"{folder}: expected test images of {images[0].shape[1:]} pixels, as for training, "
            f"got {images[1].shape[1:]}; take all files from one source"
        )
    return np.concatenate(images), np.concatenate(labels), len(labels[0])


def _names(part: str, kind: str) -> list[str]:
    rank = 3 if kind == "images" else 1
    plain = [f"{part}-{kind}-idx{rank}-ubyte", f"{part}-{kind}.idx{rank}-ubyte"]
    return plain + [name + ".gz" for name in plain]


def _find(folder: Path, part: str, kind: str) -> Path | None:
    return next((folder / name for name in _names(part, kind) if (folder / name).is_file()), None)


def _named(folder: Path, part: str, kind: str) -> Path:
    path = _find(folder, part, kind)
    if path is None:
        name = _names(part, kind)[0]
        raise DataError(f"{folder}: expected the file {name} or {name}.gz, found neither; put it there")
    return path
