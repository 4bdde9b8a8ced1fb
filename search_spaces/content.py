"""The content of a snapshot: every bit of its tensors, and along which axes they run."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces import surgery
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState

Bits = NDArray[Any]
TRAINED = ("parameters", "first", "second", "age")
"""Groups of tensors that training moves where a mask lets it."""

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Layout:
    """The tensors of a snapshot by key, "weights/NAME" or "first/NAME", "age/NAME" ..., in their order.

    shapes, dtypes, axes: of each. sizes: slots of each axis. masks: key of a tensor that a mask rules, and the mask's.
    groups: keys whose differences are stored together, masks before what they rule. weights, optimizer: their types
    of floating-point numbers; no optimizer: a snapshot without its state.
    """

    weights: torch.dtype
    optimizer: torch.dtype | None
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    axes: dict[str, str]
    sizes: dict[str, int]
    masks: dict[str, str]
    groups: dict[str, list[str]]

    @staticmethod
    def of(network: Network, weights: torch.dtype, optimizer: torch.dtype | None) -> Layout:
        parameters = dict(network.named_parameters())
        blank = torch.empty((), dtype=optimizer, device="meta")
        kinds = {"first": blank, "second": blank, "age": blank.int(), "scale": blank, "origin": blank.to(torch.int8)}
        expressions, masks = network.axes(), network.masks()
        layout = Layout(weights, optimizer, {}, {}, {}, dict(network.axis_sizes()), {}, {})
        found = [
            *(("buffers", "weights", name, b, b.dtype) for name, b in network.named_buffers()),
            *(("parameters", "weights", name, p, p.dtype) for name, p in parameters.items()),
            *((k, k, n, p, v.dtype) for k, v in kinds.items() if optimizer is not None for n, p in parameters.items()),
        ]
        for group, part, name, tensor, dtype in found:
            key = f"{part}/{name}"
            dtype = weights if part == "weights" and dtype.is_floating_point else dtype
            layout.shapes[key], layout.dtypes[key] = tuple(tensor.shape), dtype
            layout.axes[key] = expressions[name]
            layout.groups.setdefault(f"{group}.{_named(dtype)}", []).append(key)
            if name in masks and group in TRAINED:
                layout.masks[key] = f"weights/{masks[name]}"
        return layout

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


@dataclass(frozen=True)
class Content:
    """Every bit of a snapshot's tensors, as unsigned whole numbers of their shapes."""

    layout: Layout
    bits: dict[str, Bits]

    @staticmethod
    def of(network: Network, state: OptimizerState | None) -> Content:
        """A copy: what becomes of the network later does not show."""
        found = {f"weights/{name}": t for name, t in surgery.tensors(network).items()}
        for part, (values, _) in state.parts().items() if state is not None else ():
            found |= {f"{part}/{name}": t for name, t in values.items()}
        optimizer = None if state is None else next(iter(state.first.values())).dtype
        layout = Layout.of(network, next(network.parameters()).dtype, optimizer)
        assert {k: t.dtype for k, t in found.items()} == layout.dtypes, "tensors of several floating-point types"
        return Content(layout, {key: bits_of(found[key]) for key in layout.shapes})

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of "weights", "first" ..., by name."""
        return {
            key.partition("/")[2]: tensor_of(bits, self.layout.dtypes[key])
            for key, bits in self.bits.items()
            if key.startswith(f"{part}/")
        }

    def digest(self) -> str:
        """sha256 of every bit, in order of the keys."""
        digest = hashlib.sha256()
        for key in self.layout.shapes:
            digest.update(f"{key} {self.layout.shapes[key]} ".encode())
            digest.update(np.ascontiguousarray(self.bits[key].astype(little(self.bits[key].dtype), copy=False)).data)
        return digest.hexdigest()


def bits_of(tensor: Tensor) -> Bits:
    """A copy of the tensor's bits as unsigned whole numbers."""
    whole = tensor.detach().cpu().contiguous().view(_WHOLE[tensor.element_size()])
    return whole.numpy().copy().view(np.dtype(f"u{tensor.element_size()}"))


def tensor_of(bits: Bits, dtype: torch.dtype) -> Tensor:
    """A copy, which lies where tensors lie: the last bits of a product depend on where its factors begin."""
    signed = np.dtype(f"i{bits.itemsize}") if bits.itemsize > 1 else bits.dtype
    return torch.from_numpy(bits.copy().view(signed)).view(dtype).clone()


def little(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<")


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
