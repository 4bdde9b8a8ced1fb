"""A checkpoint's files: read with errors that name the file and the cure, written so that they outlive the power."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from torch import Tensor

CURE = "put the file back from a copy, or take another snapshot"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: which file, what was expected, what to do."""


def check_bytes(files: Mapping[str, bytes], head: Mapping[str, Any], where: str) -> None:
    """A flipped bit leaves every shape as it was. Checkpoints from before there were digests pass."""
    digests = head.get("sha256", {})
    for name, content in files.items():
        wanted = digests.get(name) if isinstance(digests, dict) else None
        if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
            raise CheckpointError(f"{where}/{name}: damaged, its sha256 is not the one in blueprint.json; {CURE}")


def headed(head: dict[str, Any], files: dict[str, bytes]) -> dict[str, bytes]:
    head = {**head, "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}}
    return {"blueprint.json": json.dumps(head, indent=1).encode(), **files}


def write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def plain(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: t.detach().cpu().contiguous() for k, t in values.items()}


def read_json(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    if name not in files:
        raise CheckpointError(f"{where}/{name}: missing; {CURE}")
    try:
        value = json.loads(files[name])
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{where}/{name}: damaged, no JSON ({err}); {CURE}") from err
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}/{name}: expected a JSON object, got {type(value).__name__}")
    return value


def read_tensors(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Tensor]:
    if name not in files:
        raise CheckpointError(f"{where}/{name}: missing; {CURE}")
    try:
        # Copies, as a view into the file's bytes may begin anywhere, and the last bits of a product depend on where.
        return {key: tensor.clone() for key, tensor in load_bytes(files[name]).items()}
    except (SafetensorError, ValueError, KeyError) as err:
        raise CheckpointError(f"{where}/{name}: damaged or truncated ({err}); {CURE}") from err


def check_fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in wanted.items():
        if name not in found:
            raise CheckpointError(f"{where}: tensor {name!r} is missing; the file belongs to another blueprint")
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(found[name].shape)}, the blueprint says {tuple(tensor.shape)}"
            )
        if not _same_kind(found[name].dtype, tensor.dtype):
            raise CheckpointError(f"{where}: {name} holds {found[name].dtype}, expected {tensor.dtype}")
    spare = sorted(set(found) - set(wanted))
    if spare:
        raise CheckpointError(f"{where}: tensor {spare[0]!r} is unknown to the blueprint")
    if len({t.dtype for t in found.values() if t.is_floating_point()}) > 1:
        raise CheckpointError(f"{where}: tensors of several floating-point types; {CURE}")


def _same_kind(found: torch.dtype, wanted: torch.dtype) -> bool:
    """Whole numbers must be the same; a network may have been saved in another floating-point type."""
    return found == wanted or (found.is_floating_point and wanted.is_floating_point)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
