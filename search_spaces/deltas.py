"""Deltas: the tensors of a snapshot as the difference from those of an earlier one, bit for bit, shapes changed or not.

An element's earlier bits are found by its slots: an axis may say where each of its slots was before, else slots keep
their numbers. What is stored are the differences of the elements that differ: XOR of floating-point bits, subtraction
of whole numbers, byte by byte of their places (the first bytes of all, then the second ...), which zlib then presses.
Which elements differ is stored as bits; where a mask is known, only where that deviates from it. Nothing depends on
how good a guess the earlier bits are: slots that were followed wrongly make a larger file, never another content.

Without an earlier snapshot the difference is from a fresh state, and the file needs no other.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces import axes, surgery
from search_spaces.actions import Action
from search_spaces.content import TRAINED, Bits, Content, Layout, bits_of, little
from search_spaces.edits import FRESH, IndexMap
from search_spaces.network import Network

MOST = 2**28
"""Elements of all tensors together beyond which nothing is packed: a small file must not ask for all memory."""

Slots = Mapping[str, NDArray[np.int64]]
"""By axis: for each slot now, the slot that it was, or -1 where it is fresh."""


class DeltaError(ValueError):
    """A packed file that cannot be unpacked: what was expected of it."""


@dataclass(frozen=True)
class Base:
    """The snapshot that a delta builds on: its name, its content, and where each slot of an axis was in it."""

    name: str
    content: Content
    slots: Slots = field(default_factory=dict)


def pack(content: Content, base: Base | None = None) -> dict[str, Tensor]:
    """The content as tensors of a file: "slots/AXIS" int32 where slots moved, and pressed bytes for each group.

    A group is stored from the base as "delta/GROUP" or from a fresh state as "whole/GROUP", whichever is shorter:
    Adam's moments are forgotten within a few steps, so what they were is often no help.
    """
    layout, files = content.layout, dict[str, Tensor]()
    slots: dict[str, NDArray[np.int64]] = {}
    if base is not None:
        old = base.content.layout.sizes
        slots = {axis: s for axis, s in base.slots.items() if _fits(s, layout.sizes.get(axis), old.get(axis))}
        files = {f"slots/{axis}": torch.from_numpy(source.astype(np.int32)) for axis, source in slots.items()}
    for group, keys in layout.groups.items():
        told = {f"whole/{group}": _press(content, group, keys, _blanks(layout, keys))}
        if base is not None:
            earlier = _earlier(layout, keys, base.content, slots)
            told[f"delta/{group}"] = _press(content, group, keys, earlier)
        name = min(told, key=lambda n: len(told[n]))
        files[name] = torch.frombuffer(bytearray(told[name]), dtype=torch.uint8)
    return files


def unpack(files: Mapping[str, Tensor], layout: Layout, base: Content | None = None) -> Content:
    """What `pack` packed. Raises DeltaError where the files do not fit the layout or the base."""
    if layout.elements > MOST:
        raise DeltaError(f"expected at most {MOST:,} elements, the blueprint says {layout.elements:,}")
    slots: dict[str, NDArray[np.int64]] = {}
    for name, tensor in files.items():
        kind, _, axis = name.partition("/")
        if kind == "slots":
            if tensor.dtype != torch.int32:
                raise DeltaError(f"{name} holds {tensor.dtype}, expected torch.int32")
            source = tensor.numpy().astype(np.int64)
            if base is None or not _fits(source, layout.sizes.get(axis), base.layout.sizes.get(axis)):
                raise DeltaError(f"{name} does not fit the axis {axis!r}")
            slots[axis] = source
        elif kind not in ("whole", "delta") or axis not in layout.groups:
            raise DeltaError(f"tensor {name!r} is unknown to the blueprint")
    content = Content(layout, {})
    for group, keys in layout.groups.items():
        data = files.get(f"delta/{group}", files.get(f"whole/{group}"))
        alone = f"delta/{group}" not in files
        if not alone and base is None:
            raise DeltaError(f"the tensors {group} need a base, and there is none")
        most = sum(math.prod(layout.shapes[key]) for key in keys)
        raw = inflated(data, (most + 7) // 8 + most * layout.dtypes[keys[0]].itemsize)
        then = _blanks(layout, keys) if alone or base is None else _earlier(layout, keys, base, slots)
        _put(raw, content, group, keys, then)
    return Content(layout, {key: content.bits[key] for key in layout.shapes})


def followed(network: Network, actions: Sequence[Action]) -> dict[str, NDArray[np.int64]]:
    """Where each slot of the axes that `actions` change was in `network`. Raises ValueError where one is not legal."""
    slots: dict[str, NDArray[np.int64]] = {}
    for action in actions:
        for axis, index in network.edit(action).maps.items():
            known = slots.get(axis)
            at = np.maximum(index.source, 0)
            slots[axis] = index.source if known is None else np.where(index.source == FRESH, FRESH, known[at])
        network, _ = surgery.apply(network, [action])
    return slots


# --- differences


def _press(content: Content, group: str, keys: Sequence[str], then: Sequence[Bits]) -> bytes:
    """Pressed: a bit an element, whether it differs from `then` otherwise than expected; the differences' bytes."""
    now, before = _joined([content.bits[key] for key in keys]), _joined(then)
    difference = now ^ before if content.layout.dtypes[keys[0]].is_floating_point else now - before
    differs = difference != 0
    deviates = np.packbits(differs ^ _expected(content, group, keys))
    planes = difference[differs].astype(little(difference.dtype)).view(np.uint8).reshape(-1, difference.itemsize).T
    return zlib.compress(deviates.tobytes() + planes.tobytes(), 6)


def inflated(data: Tensor | None, most: int) -> bytes:
    """The bytes that zlib pressed into these. Raises DeltaError unless there are at most so many."""
    if data is None or data.dtype != torch.uint8:
        raise DeltaError("expected pressed bytes, found none")
    engine = zlib.decompressobj()
    try:
        raw = engine.decompress(data.numpy().tobytes(), most + 1)
    except zlib.error as err:
        raise DeltaError(f"pressed bytes are damaged ({err})") from err
    if len(raw) > most or not engine.eof:
        raise DeltaError(f"pressed bytes are damaged, or more than {most}")
    return raw


def _put(raw: bytes, content: Content, group: str, keys: Sequence[str], then: Sequence[Bits]) -> None:
    """Gives the content the bits of these keys; raw: what `_press` pressed."""
    shapes, dtype = content.layout.shapes, content.layout.dtypes[keys[0]]
    ends = list(itertools.accumulate((math.prod(shapes[key]) for key in keys), initial=0))
    head = (ends[-1] + 7) // 8
    if len(raw) < head:
        raise DeltaError(f"the tensors {group} hold {len(raw)} bytes, expected {head} or more")
    flags = np.unpackbits(np.frombuffer(raw[:head], dtype=np.uint8), count=ends[-1]).astype(bool)
    differs = flags ^ _expected(content, group, keys)
    now, changed = _joined(then), int(differs.sum())
    if len(raw) != head + changed * now.itemsize:
        raise DeltaError(f"the tensors {group} hold {len(raw)} bytes, expected {head + changed * now.itemsize}")
    planes = np.frombuffer(raw[head:], dtype=np.uint8).reshape(now.itemsize, changed)
    difference = np.ascontiguousarray(planes.T).reshape(-1).view(little(now.dtype)).astype(now.dtype)
    now[differs] = now[differs] ^ difference if dtype.is_floating_point else now[differs] + difference
    for key, (start, end) in zip(keys, itertools.pairwise(ends), strict=True):
        content.bits[key] = now[start:end].reshape(shapes[key])


def _expected(content: Content, group: str, keys: Sequence[str]) -> NDArray[np.bool_]:
    """Which elements may be expected to differ: active ones, of what training moves; of the rest, none."""
    trained = group.partition(".")[0] in TRAINED
    parts = []
    for key in keys:
        shape, mask = content.layout.shapes[key], content.layout.masks.get(key)
        parts.append(np.full(shape, trained) if mask is None else content.bits[mask] != 0)
    return np.concatenate([part.reshape(-1) for part in parts])


def _earlier(layout: Layout, keys: Sequence[str], base: Content, slots: Slots) -> list[Bits]:
    """The bits that these tensors had in the base, each element found by its slots; blank where it had none."""
    maps = {axis: IndexMap(_positions(layout.sizes[axis], base.layout.sizes.get(axis, 0), slots.get(axis)))
            for axis in layout.sizes if axis in base.layout.sizes}  # fmt: skip
    moved = {a: m for a, m in maps.items() if not np.array_equal(m.source, np.arange(base.layout.sizes[a]))}
    return [_gathered(layout, key, base, moved) for key in keys]


def _gathered(layout: Layout, key: str, base: Content, moved: Mapping[str, IndexMap]) -> Bits:
    blank = _blanks(layout, [key])[0]
    if base.layout.dtypes.get(key) != layout.dtypes[key] or base.layout.axes[key] != layout.axes[key]:
        return blank
    result, fresh = base.bits[key], np.zeros((1,) * blank.ndim, dtype=bool)
    for dim, dimension in enumerate(axes.parse(layout.axes[key])):
        index = axes.index_map(dimension, base.layout.sizes, moved)
        if index is not None:
            result = result.take(np.maximum(index.source, 0), axis=dim)
            fresh = fresh | (index.source == FRESH).reshape(-1, *[1] * (blank.ndim - dim - 1))
    if result.shape != blank.shape:
        return blank
    return np.where(fresh, blank, result) if fresh.any() else result


def _positions(now: int, before: int, known: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Where slots were: as told, or where they are, those beyond the end fresh."""
    if known is not None:
        return known
    places = np.arange(now, dtype=np.int64)
    return np.where(places < before, places, FRESH)


def _fits(source: NDArray[np.int64], now: int | None, before: int | None) -> bool:
    """Whether this can be a map from `before` slots to `now`."""
    if now is None or before is None or source.shape != (now,):
        return False
    return bool(((source >= FRESH) & (source < before)).all())


def _blanks(layout: Layout, keys: Sequence[str]) -> list[Bits]:
    """The bits of a fresh state: update scales 1, all else 0."""
    made = []
    for key in keys:
        value = float(key.startswith("scale/"))
        made.append(np.broadcast_to(bits_of(torch.full((), value, dtype=layout.dtypes[key])), layout.shapes[key]))
    return made


def _joined(parts: Sequence[Bits]) -> Bits:
    return np.concatenate([part.reshape(-1) for part in parts])
