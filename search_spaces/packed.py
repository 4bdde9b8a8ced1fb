"""Packed checkpoints: the files that hold a snapshot in little room, by itself or from the one before it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_bytes
from torch import Tensor

from search_spaces import deltas
from search_spaces.checkpoint_files import CURE, CheckpointError, headed, read_json, read_tensors
from search_spaces.content import Content, Layout
from search_spaces.deltas import Base
from search_spaces.network import Network
from search_spaces.optimizer_state import PARTS, OptimizerState

PACKED = 2
WHOLE_FILE, DELTA_FILE = "packed.safetensors", "delta.safetensors"
STATE, NUMBERS, LARGEST_STATE = "state", "numbers", 2**26
MARK, LONG = "[numbers]", 16
FLOATS = {
    str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
}


def packed_files(
    network: Network,
    content: Content,
    extra: Mapping[str, Any] | None = None,
    lineage: list[str] | None = None,
    base: Base | None = None,
) -> dict[str, bytes]:
    """A packed checkpoint's files by name. content: of this network."""
    kinds = {"weights": content.layout.weights, "optimizer": content.layout.optimizer}
    told = {part: kind and str(kind).removeprefix("torch.") for part, kind in kinds.items()}
    told["sha256"] = content.digest()
    head = {"version": PACKED, "blueprint": network.blueprint(), "lineage": lineage or [], "packed": told}
    parts = {**deltas.pack(content, base), **_pressed(dict(extra or {}))}
    name = WHOLE_FILE if base is None else DELTA_FILE
    return headed({**head, "base": None if base is None else base.name}, {name: save_bytes(parts)})


def from_packed(
    files: Mapping[str, bytes], head: Mapping[str, Any], network: Network, where: str, base: Content | None
) -> tuple[OptimizerState | None, dict[str, Any]]:
    name = WHOLE_FILE if head.get("base") is None else DELTA_FILE
    parts = read_tensors(files, name, where)
    told = head.get("packed")
    kinds = [told.get(part) if isinstance(told, dict) else None for part in ("weights", "optimizer")]
    known = [kind is None or (isinstance(kind, str) and kind in FLOATS) for kind in kinds]
    if not isinstance(told, dict) or kinds[0] is None or not all(known):
        raise CheckpointError(
            f"{where}/blueprint.json: packed: expected the types of numbers, got {told!r:.80}; {CURE}"
        )
    state: OptimizerState | None = None
    try:
        text = deltas.inflated(parts.pop(STATE, None), LARGEST_STATE)
        numbers = deltas.inflated(parts.pop(NUMBERS), LARGEST_STATE) if NUMBERS in parts else None
        layout = Layout.of(network, FLOATS[kinds[0]], FLOATS[kinds[1]] if kinds[1] else None)
        content = deltas.unpack(parts, layout, base)
    except deltas.DeltaError as err:
        other = "" if base is None else ", or its base is another one than it was made from"
        raise CheckpointError(f"{where}/{name}: {err}{other}; {CURE}") from err
    if content.digest() != told.get("sha256"):
        raise CheckpointError(f"{where}/{name}: damaged, or its base is another one than it was made from; {CURE}")
    network.load_state_dict(content.tensors("weights"), assign=True)
    if kinds[1]:
        state = OptimizerState(**{part: content.tensors(part) for part in PARTS})
    extra = read_json({"state.json": text}, "state.json", where)
    try:
        return state, extra if numbers is None else _restored(extra, memoryview(numbers), [0])
    except (ValueError, TypeError) as err:
        raise CheckpointError(f"{where}/{name}: its numbers are damaged ({err}); {CURE}") from err


def _pressed(extra: dict[str, Any]) -> dict[str, Tensor]:
    """The owner's state: JSON, and the numbers of its long lists, whose digits would take twice the room."""
    lists: list[bytes] = []
    text = json.dumps(extra)
    told = {STATE: text.encode()}
    if MARK not in text:
        told = {STATE: json.dumps(_shortened(extra, lists)).encode(), NUMBERS: b"".join(lists)}
    told = {name: zlib.compress(data) for name, data in told.items()}
    return {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in told.items()}


def _shortened(value: Any, lists: list[bytes]) -> Any:
    """The value with {MARK: [type, count]} for every long list of floats; their bytes, place by place, into `lists`."""
    if isinstance(value, Mapping):
        return {key: _shortened(v, lists) for key, v in value.items()}
    if not isinstance(value, list | tuple):
        return value
    if len(value) < LONG or not all(type(v) is float for v in value):
        return [_shortened(v, lists) for v in value]
    exact = np.array(value, dtype="<f8")
    with np.errstate(over="ignore"):
        single = exact.astype("<f4")
    kind = "<f4" if single.astype("<f8").tobytes() == exact.tobytes() else "<f8"
    told = single if kind == "<f4" else exact
    lists.append(told.view(np.uint8).reshape(-1, told.itemsize).T.tobytes())
    return {MARK: [kind, len(value)]}


def _restored(value: Any, numbers: memoryview, at: list[int]) -> Any:
    """What `_shortened` shortened. at: how many bytes have been read."""
    if isinstance(value, list):
        return [_restored(v, numbers, at) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {MARK}:
        return {key: _restored(v, numbers, at) for key, v in value.items()}
    kind, count = value[MARK]
    if kind not in ("<f4", "<f8") or not isinstance(count, int) or count < 0:
        raise ValueError(f"unknown list {value[MARK]!r:.40}")
    width = int(kind[-1])
    planes = np.frombuffer(numbers[at[0] : at[0] + count * width], dtype=np.uint8).reshape(width, count)
    at[0] += count * width
    return np.ascontiguousarray(planes.T).reshape(-1).view(kind).astype(np.float64).tolist()
