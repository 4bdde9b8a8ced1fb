"""CUDA graphs without a GPU: a step's operations are recorded with the very tensors that they read and wrote, and done
again on the same memory, so that what was captured and has since moved is noticed. A host synchronisation is an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SYNCHRONISING = ("_local_scalar_dense", "nonzero", "equal", "_unique2", "is_nonzero")


class Recorder(TorchDispatchMode):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in SYNCHRONISING, f"{name} in a captured step waits for the host"
        found = func(*args, **(kwargs or {}))
        self.graph.operations.append((func, args, kwargs or {}, found))
        return found


class Graph:
    """Counts itself: made, and how often each was replayed."""

    made: list[Graph]

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        Graph.made.append(self)

    def replay(self) -> None:
        self.replays += 1
        # Unlike on a GPU, capturing has already done the step once, for which the first replay stands.
        if self.replays == 1:
            return
        with torch.no_grad():
            for func, args, kwargs, wrote in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(wrote), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Stream:
    def wait_stream(self, other: Stream) -> None:
        pass


@contextlib.contextmanager
def _on(stream: Stream) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _capturing(graph: Graph) -> Iterator[None]:
    with Recorder(graph):
        yield


def install(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Puts them in CUDA's place; the graphs that are made from now on are listed in what this returns."""
    Graph.made = []
    for name, fake in {
        "CUDAGraph": Graph,
        "graph": _capturing,
        "Stream": Stream,
        "stream": _on,
        "current_stream": Stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return Graph.made
