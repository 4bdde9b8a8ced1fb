"""Tensors as NumPy arrays, the form in which Ray's object store shares memory between processes.

What arrives is read-only and shared with every other reader: whoever trains copies first (`trials.unpack` does).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from evo.plugins import Carried, bring, carried
from evo.task import Split, Task, aligned
from evo.trials import Body, TrialRequest, TrialResult

Arrays = dict[str, NDArray[Any]]
_NO_BODY = Body("", {}, {})


@dataclass(frozen=True)
class ShippedTask:
    """outline: the task without its data. A pair of arrays that several splits share is held, and sent, once.

    plugins: what the process that works on it must load, as the first thing that it unpacks.
    """

    outline: Task
    pairs: tuple[tuple[NDArray[Any], NDArray[Any]], ...]
    splits: Mapping[str, int]
    plugins: Carried

    @staticmethod
    def of(task: Task) -> ShippedTask:
        seen: dict[int, int] = {}
        for split in task.splits.values():
            seen.setdefault(id(split), len(seen))
        by_id = {id(split): split for split in task.splits.values()}
        pairs = tuple((_array(by_id[key].x), _array(by_id[key].y)) for key in seen)
        places = {name: seen[id(split)] for name, split in task.splits.items()}
        return ShippedTask(dataclasses.replace(task, splits={}), pairs, places, carried())

    def unpacked(self, device: torch.device) -> Task:
        bring(self.plugins)
        made = [Split(_tensor(x, device), _tensor(y, device)) for x, y in self.pairs]
        return dataclasses.replace(self.outline, splits={name: made[at] for name, at in self.splits.items()})


@dataclass(frozen=True)
class ShippedBody:
    """A `trials.Body` in arrays."""

    blueprint: str
    weights: Arrays
    optimizer: Arrays

    @staticmethod
    def of(body: Body) -> ShippedBody:
        return ShippedBody(body.blueprint, _arrays(body.weights), _arrays(body.optimizer))

    def unpacked(self, device: torch.device) -> Body:
        weights, optimizer = (
            {name: _tensor(array, device) for name, array in part.items()} for part in (self.weights, self.optimizer)
        )
        return Body(self.blueprint, weights, optimizer)


@dataclass(frozen=True)
class ShippedRequest:
    request: TrialRequest
    start: ShippedBody | None

    @staticmethod
    def of(request: TrialRequest) -> ShippedRequest:
        start = None if request.start is None else ShippedBody.of(request.start)
        return ShippedRequest(dataclasses.replace(request, start=None), start)

    def unpacked(self, device: torch.device) -> TrialRequest:
        start = None if self.start is None else self.start.unpacked(device)
        return dataclasses.replace(self.request, start=start)


@dataclass(frozen=True)
class ShippedResult:
    result: TrialResult
    body: ShippedBody

    @staticmethod
    def of(result: TrialResult) -> ShippedResult:
        return ShippedResult(dataclasses.replace(result, body=_NO_BODY), ShippedBody.of(result.body))

    def unpacked(self, device: torch.device) -> TrialResult:
        return dataclasses.replace(self.result, body=self.body.unpacked(device))


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: _array(tensor) for name, tensor in tensors.items()}


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().contiguous().numpy()
    return array


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        # PyTorch warns that nobody must write to a read-only array; nobody does (see above).
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return aligned(torch.from_numpy(array).to(device))
