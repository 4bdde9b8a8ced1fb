"""Checkpoints: a folder of JSON and safetensors from which a network is rebuilt. Nothing is ever unpickled.

    blueprint.json          {"version", "blueprint", "lineage", "sha256" of the other files}
    weights.safetensors     parameters and buffers
    optimizer.safetensors   "first/NAME", "second/NAME", "age/NAME", "scale/NAME" (absent: a fresh state)
    state.json              whatever the owner keeps beside: counters, ledger, preprocessing

The folder is written under a dot-name and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from search_spaces.families import FAMILIES
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.surgery import tensors

VERSION = 1
CURE = "put the file back from a copy, or take another snapshot"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read: which file, what was expected, what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """lineage: one entry an ancestor, oldest first. extra: the owner's state."""

    network: Network
    state: OptimizerState | None
    extra: dict[str, Any] = field(default_factory=dict)
    lineage: list[str] = field(default_factory=list)


def save(
    folder: Path,
    network: Network,
    state: OptimizerState | None = None,
    extra: Mapping[str, Any] | None = None,
    lineage: list[str] | None = None,
    between: Callable[[str], None] = lambda name: None,
) -> None:
    """Write a checkpoint, whole or not at all; one that stands there is replaced.

    between: called with a name between durable operations (tests kill the process there). Raises OSError.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    for leftover in (draft, aside):
        shutil.rmtree(leftover, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for name, content in to_files(network, state, extra, lineage).items():
            with open(draft / name, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            between(f"checkpoint.{name.partition('.')[0]}")
        _sync_folder(draft)
        # A folder cannot be renamed over one that holds files: the old checkpoint steps aside until the new one stands.
        if folder.exists():
            os.rename(folder, aside)
        os.rename(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        if aside.exists() and not folder.exists():
            os.rename(aside, folder)
        raise
    _sync_folder(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)
    between("checkpoint.renamed")


def to_files(
    network: Network,
    state: OptimizerState | None = None,
    extra: Mapping[str, Any] | None = None,
    lineage: list[str] | None = None,
) -> dict[str, bytes]:
    """A checkpoint's files by name: what `save` writes, and what travels to another process."""
    head = {"version": VERSION, "blueprint": network.blueprint(), "lineage": lineage or []}
    files = {"weights.safetensors": save_bytes(_plain(tensors(network)))}
    if state is not None:
        flat = {f"{part}/{k}": t for part, (values, _) in state.parts().items() for k, t in values.items()}
        files["optimizer.safetensors"] = save_bytes(_plain(flat))
    files["state.json"] = json.dumps(dict(extra or {}), indent=1).encode()
    head["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {"blueprint.json": json.dumps(head, indent=1).encode(), **files}


def load(folder: Path) -> Checkpoint:
    """Read what `save` wrote. Raises CheckpointError for a file that is missing, damaged or does not fit."""
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {folder}: no such folder; write the folder of a snapshot")
    names = ("blueprint.json", "weights.safetensors", "optimizer.safetensors", "state.json")
    try:
        files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    except OSError as err:
        raise CheckpointError(f"checkpoint {folder}: cannot be read ({err.strerror}); check its permissions") from err
    return from_files(files, str(folder))


def from_files(files: Mapping[str, bytes], where: str = "checkpoint") -> Checkpoint:
    """The checkpoint that these files make. Shapes are compared before any memory is taken for them."""
    head = _json(files, "blueprint.json", where)
    version = head.get("version")
    if version != VERSION:
        raise CheckpointError(f"{where}/blueprint.json: version {version!r}, but this program reads {VERSION}")
    blueprint = head.get("blueprint")
    family = blueprint.get("family") if isinstance(blueprint, dict) else None
    if not isinstance(blueprint, dict) or not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(f"{where}/blueprint.json: family {family!r}; expected one of {', '.join(FAMILIES)}")
    lineage = head.get("lineage", [])
    if not isinstance(lineage, list):
        raise CheckpointError(f"{where}/blueprint.json: lineage: expected a list, got {lineage!r}")
    try:
        with torch.device("meta"):
            network = FAMILIES[family].from_blueprint(blueprint)
    except (ValueError, TypeError, RuntimeError) as err:
        raise CheckpointError(f"{where}/blueprint.json: {err}; {CURE}") from err
    weights = _tensors(files, "weights.safetensors", where)
    _fit(weights, tensors(network), f"{where}/weights.safetensors")
    network.load_state_dict(weights, assign=True)
    state = None
    if "optimizer.safetensors" in files:
        flat = _tensors(files, "optimizer.safetensors", where)
        with torch.device("meta"):
            blank = {k: torch.empty(p.shape, dtype=p.dtype) for k, p in network.named_parameters()}
            ages = {k: torch.empty(p.shape, dtype=torch.int32) for k, p in network.named_parameters()}
        wanted = {
            f"{part}/{k}": t
            for part in ("first", "second", "age", "scale")
            for k, t in (ages if part == "age" else blank).items()
        }
        _fit(flat, wanted, f"{where}/optimizer.safetensors")
        parts: dict[str, dict[str, Tensor]] = {"first": {}, "second": {}, "age": {}, "scale": {}}
        for key in wanted:
            part, _, name = key.partition("/")
            parts[part][name] = flat[key]
        state = OptimizerState(**parts)
    extra = _json(files, "state.json", where)
    _same_bytes(files, head, where)
    return Checkpoint(network, state, extra, [str(x) for x in lineage])


def _same_bytes(files: Mapping[str, bytes], head: Mapping[str, Any], where: str) -> None:
    """A flipped bit leaves every shape as it was. Checkpoints from before there were digests pass."""
    digests = head.get("sha256", {})
    for name, content in files.items():
        wanted = digests.get(name) if isinstance(digests, dict) else None
        if wanted is not None and hashlib.sha256(content).hexdigest() != wanted:
            raise CheckpointError(f"{where}/{name}: damaged, its sha256 is not the one in blueprint.json; {CURE}")


def _plain(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: t.detach().cpu().contiguous() for k, t in values.items()}


def _json(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    if name not in files:
        raise CheckpointError(f"{where}/{name}: missing; {CURE}")
    try:
        value = json.loads(files[name])
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{where}/{name}: damaged, no JSON ({err}); {CURE}") from err
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}/{name}: expected a JSON object, got {type(value).__name__}")
    return value


def _tensors(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Tensor]:
    if name not in files:
        raise CheckpointError(f"{where}/{name}: missing; {CURE}")
    try:
        # Copies, as a view into the file's bytes may begin anywhere, and the last bits of a product depend on where.
        return {key: tensor.clone() for key, tensor in load_bytes(files[name]).items()}
    except (SafetensorError, ValueError, KeyError) as err:
        raise CheckpointError(f"{where}/{name}: damaged or truncated ({err}); {CURE}") from err


def _fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
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


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
