"""Checkpoints: a folder of JSON and safetensors from which a network is rebuilt. Nothing is ever unpickled.

Plain:

    blueprint.json          {"version": 1, "blueprint", "lineage", "sha256" of the other files}
    weights.safetensors     parameters and buffers
    optimizer.safetensors   "first/NAME", "second/NAME", "age/NAME", "scale/NAME", "origin/NAME" (absent: a fresh state)
    state.json              whatever the owner keeps beside: counters, ledger, preprocessing

Packed (see `deltas`), a tenth of that and less:

    blueprint.json          version 2, also "base": the folder beside this one that it builds on, or null;
                            "packed": {"weights", "optimizer": types of their numbers, "sha256" of all their bits}
    packed.safetensors      where there is no base: everything, state.json too
    delta.safetensors       where there is one: what differs from it

The folder is written under a dot-name and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_bytes
from torch import Tensor

from search_spaces.checkpoint_files import (
    CURE,
    check_bytes,
    check_fit,
    headed,
    plain,
    read_json,
    read_tensors,
    sync_folder,
    write,
)
from search_spaces.checkpoint_files import CheckpointError as CheckpointError
from search_spaces.content import Content
from search_spaces.deltas import MOST, Base
from search_spaces.families import FAMILIES
from search_spaces.network import Network
from search_spaces.optimizer_state import PARTS, OptimizerState
from search_spaces.packed import DELTA_FILE, PACKED, WHOLE_FILE, from_packed, packed_files
from search_spaces.surgery import tensors

VERSION = 1
PLAIN_FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
LONGEST = 64
"""Deltas that may build on one another; a longer chain is no work of ours."""


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
    packed: bool = False,
    base: Base | None = None,
) -> Content | None:
    """Write a checkpoint, whole or not at all; one that stands there is replaced, unless it is the same.

    packed: in less room, told from `base` where one is given, which must stay beside this folder; returns what another
    delta may build on. between: called with a name between durable operations (tests kill the process there), and with
    "checkpoint.replacing" before another one is replaced. Raises OSError.
    """
    content = Content.of(network, state) if packed else None
    if content is None or content.layout.elements > MOST:
        files = to_files(network, state, extra, lineage)
    else:
        files = packed_files(network, content, extra, lineage, base)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    lock = os.open(draft, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)  # as long as its writer lives, nobody takes it for a dead one's
        for name, data in files.items():
            write(draft / name, data)
            between(f"checkpoint.{name.partition('.')[0]}")
        sync_folder(draft)
        _put(draft, folder, files, between)
    finally:
        os.close(lock)
        shutil.rmtree(draft, ignore_errors=True)
    sync_folder(folder.parent)
    between("checkpoint.renamed")
    return content


def _put(draft: Path, folder: Path, files: Mapping[str, bytes], between: Callable[[str], None]) -> None:
    """Gives the draft its name; where a checkpoint of the same bytes has it, that one stays."""
    for last in (*[False] * 9, True):
        try:
            os.rename(draft, folder)
            return
        except OSError as error:
            # A folder cannot be renamed over one that holds files.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or last:
                raise
        if _holds(folder, files):
            return
        between("checkpoint.replacing")
        aside = draft.with_name(f"{draft.name}.old")
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, aside)
        try:
            os.rename(draft, folder)
            return
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                continue  # somebody else put one there in between
            if aside.exists() and not folder.exists():
                os.rename(aside, folder)
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    try:
        names = {entry.name for entry in os.scandir(folder)}
        return names == files.keys() and all((folder / name).read_bytes() == files[name] for name in names)
    except OSError:
        return False


def to_files(
    network: Network,
    state: OptimizerState | None = None,
    extra: Mapping[str, Any] | None = None,
    lineage: list[str] | None = None,
) -> dict[str, bytes]:
    """A plain checkpoint's files by name."""
    files = {"weights.safetensors": save_bytes(plain(tensors(network)))}
    if state is not None:
        flat = {f"{part}/{k}": t for part, (values, _) in state.parts().items() for k, t in values.items()}
        files["optimizer.safetensors"] = save_bytes(plain(flat))
    files["state.json"] = json.dumps(dict(extra or {}), indent=1).encode()
    return headed({"version": VERSION, "blueprint": network.blueprint(), "lineage": lineage or []}, files)


def load(folder: Path) -> Checkpoint:
    """Read what `save` wrote, with all that it builds on.

    Raises CheckpointError for a file that is missing, damaged or does not fit.
    """
    chain: list[tuple[Path, dict[str, bytes]]] = []
    here: Path | None = folder
    while here is not None:
        if len(chain) >= LONGEST:
            raise CheckpointError(f"{folder}/blueprint.json: builds on more than {LONGEST} checkpoints; {CURE}")
        files = _read(here)
        chain.append((here, files))
        base = _base_of(files, here)
        here = None if base is None else here.parent / base
    content: Content | None = None
    while len(chain) > 1:
        place, files = chain.pop()
        found = from_files(files, str(place), content)
        content = Content.of(found.network, found.state)
    place, files = chain.pop()
    return from_files(files, str(place), content)


def from_files(files: Mapping[str, bytes], where: str = "checkpoint", base: Content | None = None) -> Checkpoint:
    """The checkpoint that these files make, on its base if it has one.

    Shapes are compared before any memory is taken for them.
    """
    head = read_json(files, "blueprint.json", where)
    version = head.get("version")
    if version not in (VERSION, PACKED) or not isinstance(version, int):
        raise CheckpointError(
            f"{where}/blueprint.json: version {version!r}, but this program reads {VERSION} and {PACKED}"
        )
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
    read = _from_plain if version == VERSION else from_packed
    state, extra = read(files, head, network, where, base)
    check_bytes(files, head, where)
    return Checkpoint(network, state, extra, [str(x) for x in lineage])


def copy(folder: Path, target: Path) -> None:
    """A copy that needs no other folder, into `target`, which may exist already."""
    files = _read(folder)
    if _base_of(files, folder) is not None:
        found = load(folder)
        files = packed_files(found.network, Content.of(found.network, found.state), found.extra, found.lineage)
    target.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write(target / name, data)


def stand_alone(folder: Path, between: Callable[[str], None] = lambda name: None) -> None:
    """Rewrites a checkpoint, in place, so that it needs no base: one that builds on another may lose it then.

    Killed at any moment the checkpoint is as it was or as it should be: its blueprint.json says which file counts.
    """
    draft, head = folder / f".{WHOLE_FILE}", folder / ".blueprint.json"
    if _base_of(_read(folder, head_alone=True), folder) is not None:
        found = load(folder)
        whole = packed_files(found.network, Content.of(found.network, found.state), found.extra, found.lineage)
        for place, name in ((draft, WHOLE_FILE), (head, "blueprint.json")):
            write(place, whole[name])
            between(f"checkpoint.{name.partition('.')[0]}")
            os.rename(place, folder / name)
            sync_folder(folder)
    for leftover in (draft, head, folder / DELTA_FILE):
        leftover.unlink(missing_ok=True)


def _read(folder: Path, head_alone: bool = False) -> dict[str, bytes]:
    """The files of one checkpoint that count, or its blueprint.json alone."""
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {folder}: no such folder; write the folder of a snapshot")
    try:
        if (head_file := folder / "blueprint.json").exists() and not head_file.is_file():
            raise CheckpointError(f"{head_file}: expected a file, got a pipe or device; {CURE}")
        files = {"blueprint.json": (folder / "blueprint.json").read_bytes()}
        names: tuple[str, ...] = () if head_alone else PLAIN_FILES
        if (head := read_json(files, "blueprint.json", str(folder))).get("version") == PACKED and names:
            names = (WHOLE_FILE if head.get("base") is None else DELTA_FILE,)
        return {**files, **{name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}}
    except FileNotFoundError as err:
        raise CheckpointError(f"{folder}/blueprint.json: missing; {CURE}") from err
    except OSError as err:
        raise CheckpointError(f"checkpoint {folder}: cannot be read ({err.strerror}); check its permissions") from err


def _base_of(files: Mapping[str, bytes], folder: Path) -> str | None:
    """Name of the folder beside this one on which it builds. Raises CheckpointError where it would lie elsewhere."""
    head = read_json(files, "blueprint.json", str(folder))
    base = head.get("base")
    if head.get("version") != PACKED or base is None:
        return None
    if not isinstance(base, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", base) or base == folder.name:
        raise CheckpointError(f"{folder}/blueprint.json: base {str(base)[:40]!r} is no name of a folder beside it")
    place = folder.parent / base
    if not place.is_dir() or place.is_symlink():
        raise CheckpointError(f"{folder}: builds on {base!r}, and there is no such folder beside it; {CURE}")
    return base


def _from_plain(
    files: Mapping[str, bytes], head: Mapping[str, Any], network: Network, where: str, base: Content | None
) -> tuple[OptimizerState | None, dict[str, Any]]:
    weights = read_tensors(files, "weights.safetensors", where)
    check_fit(weights, tensors(network), f"{where}/weights.safetensors")
    blank = OptimizerState.fresh(network)  # on the meta device, as the network still is: shapes without memory
    network.load_state_dict(weights, assign=True)
    state = None
    if "optimizer.safetensors" in files:
        flat = read_tensors(files, "optimizer.safetensors", where)
        wanted = {f"{part}/{k}": t for part, (values, _) in blank.parts().items() for k, t in values.items()}
        if not any(key.startswith("origin/") for key in flat):
            # Snapshots from before there were origins: all of it counts as the seed's.
            flat |= {f"origin/{k}": torch.zeros(t.shape, dtype=t.dtype) for k, t in blank.origin.items()}
        check_fit(flat, wanted, f"{where}/optimizer.safetensors")
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        for key in wanted:
            part, _, name = key.partition("/")
            parts[part][name] = flat[key]
        state = OptimizerState(**parts)
    return state, read_json(files, "state.json", where)
