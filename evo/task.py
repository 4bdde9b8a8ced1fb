"""What a network is asked to learn: inputs and targets in five splits, on one device."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

SPLITS = ("train", "growth", "audit", "validation", "test")

Kind = Literal["classification", "regression"]


class DataError(ValueError):
    """Data that cannot be learned from: one line with the field, what was expected, what came, and the cure."""


ALIGNMENT = 64


def aligned(tensor: Tensor) -> Tensor:
    """The same numbers where a vector unit likes them: a copy if they lie elsewhere.

    The last bits of a product depend on where its factors begin in memory, and arrays that come from NumPy, a file or
    another process may begin anywhere.
    """
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


@dataclass(frozen=True, eq=False)
class Split:
    """x: (n, *shape) float32. y: (n,) int64 classes, or (n, outputs) float32 standardised by the training split."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return int(self.y.shape[0])


@dataclass(frozen=True, eq=False)
class Task:
    """Data with its name and all that its figures mean.

    shape: of one input, flat. picture: (channels, height, width) of the same numbers where they are one.
    splits: train teaches, growth decides, audit checks the decisions, validation judges the front, test is for the
    report alone. entropy: nats, H(Y) of the training labels; for regression ½ an output, the loss ½Σ(y−f)² of the
    best constant. preprocessing: JSON, enough for `data.replay` on new raw rows and `data.decode` of outputs.
    enumerated: every split is the whole table.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    outputs: int
    splits: Mapping[str, Split]
    entropy: float
    preprocessing: dict[str, Any]
    enumerated: bool = False
    picture: tuple[int, int, int] | None = None

    def to(self, device: Any) -> Task:
        """The same task with every split on `device`; splits that share their samples go on sharing them."""
        moved: dict[int, Split] = {}
        for split in self.splits.values():
            if id(split) not in moved:
                moved[id(split)] = Split(aligned(split.x.to(device)), aligned(split.y.to(device)))
        return dataclasses.replace(self, splits={name: moved[id(s)] for name, s in self.splits.items()})


def fingerprint(task: Task) -> str:
    """A digest of what is learned from, so that a resumed run can tell that it goes on with the same."""
    digest = hashlib.sha256()
    for name in sorted(task.splits):
        for tensor in (task.splits[name].x, task.splits[name].y):
            digest.update(repr((name, tuple(tensor.shape), str(tensor.dtype))).encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
