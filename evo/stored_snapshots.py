"""Snapshots of a run in a bucket: put there before their event, fetched when somebody asks for one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

from evo import replica
from evo.recorder import networks, read_table
from evo.replica import Replica
from evo.replica_lock import told
from search_spaces.checkpoint import LONGEST

ORIGIN = "origin"
"""The attempt of a snapshot that was brought from another run."""

HEAD = "blueprint.json"
"""Says which other files count, so it is written last and read first."""


def push(folder: Path, network: str, snapshot: str, between: Callable[[str], None]) -> str | None:
    """Puts a snapshot that stands in a replica into its store and returns where, for `stored`; None elsewhere."""
    found = replica.of(folder)
    if found is None:
        return None
    attempt = uuid.uuid4().hex[:16]
    home = folder / "snapshots" / network / snapshot
    for path in _files(home):
        found.store.replace(f"snapshots/{network}/{snapshot}/{attempt}/{path.name}", path.read_bytes())
        between(f"stored.{path.stem}")
    return attempt


def push_origin(folder: Path, network: str, snapshot: str) -> None:
    """Puts into the store what a run goes on from: it came from another run, so no event of this one says where."""
    found = replica.of(folder)
    if found is None:
        return
    prefix = f"snapshots/{network}/{snapshot}/{ORIGIN}/"
    if f"{prefix}{HEAD}" not in found.store.names(prefix):
        for path in _files(folder / "snapshots" / network / snapshot):
            found.store.replace(f"{prefix}{path.name}", path.read_bytes())


def drop(folder: Path, network: str, snapshot: str, attempt: str | None) -> None:
    """Takes out of the store, and out of the replica, what was put there for an event that another writer committed."""
    found = replica.of(folder)
    if found is not None and attempt is not None:
        for name in found.store.names(f"snapshots/{network}/{snapshot}/{attempt}/"):
            found.store.remove(name)
        shutil.rmtree(folder / "snapshots" / network / snapshot, ignore_errors=True)


def kept(folder: Path) -> set[tuple[str, str]]:
    """(network, snapshot) of all that a run still has: in its store, where it has one, else in its folder."""
    found, prefix = replica.of(folder), "snapshots/"
    if found is None:
        return {(home.parent.name, home.name) for home in (folder / "snapshots").glob("*/*")}
    parts = (name.removeprefix(prefix).split("/") for name in found.store.names(prefix))
    return {(part[0], part[1]) for part in parts if part[-1] == HEAD}


def fetch(folder: Path, network: str, snapshot: str) -> None:
    """Has a replica hold a committed snapshot with all that it builds on, as the store has them.

    One of the same number may lie here already that was never committed: its process was killed before, and another
    machine has committed its own. What the store lacks stays as it is, for whoever reads it to tell of. Raises
    StorageError.
    """
    found = replica.of(folder)
    home = folder / "snapshots" / network
    if found is None:
        return
    stored = _stored(folder, network)
    if snapshot not in stored:
        replica.refresh(folder, network)
        stored = _stored(folder, network)
    wanted: str | None = snapshot
    for _ in range(LONGEST):
        if wanted is None:
            return
        if not _is_stored(found, home / wanted, stored.get(wanted, ORIGIN)):
            _fetch(found, network, wanted, stored.get(wanted, ORIGIN))
        wanted = _base(home / wanted) if (home / wanted).is_dir() else None


def _is_stored(found: Replica, home: Path, attempt: str) -> bool:
    """Whether the snapshot here is that of the store, or the store has none. Its head has digests of all its files."""
    if not home.is_dir():
        return False
    try:
        head = found.store.read(f"snapshots/{home.parent.name}/{home.name}/{attempt}/{HEAD}")
    except FileNotFoundError:
        return True
    with contextlib.suppress(OSError):
        return (home / HEAD).read_bytes() == head
    return False


def _fetch(found: Replica, network: str, snapshot: str, attempt: str) -> None:
    place = found.folder / "snapshots" / network / snapshot
    prefix = f"snapshots/{network}/{snapshot}/{attempt}/"
    files = {name.removeprefix(prefix): found.store.read(name) for name in found.store.names(prefix)}
    if HEAD not in files or any("/" in name for name in files):
        return
    draft = place.with_name(f".{snapshot}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        draft.mkdir(parents=True)
        for name, data in files.items():
            (draft / name).write_bytes(data)
        with contextlib.suppress(FileNotFoundError):
            place.rename(stale := draft.with_name(f"{draft.name}.stale"))
            shutil.rmtree(stale, ignore_errors=True)
        draft.rename(place)
    except OSError as error:
        if not place.is_dir():
            raise told(place, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def tidy(folder: Path, stay: Collection[tuple[str, str]]) -> None:
    """Has the store hold the snapshots that stay, as the replica has them if it does, and no others.

    Nobody may be writing any more; of networks that the replica's events do not know, nothing is touched. Killed
    anywhere, it may be done again.
    """
    found = replica.of(folder)
    if found is None:
        return
    stored, stays = found.store.names("snapshots/"), dict[str, Path]()
    for network in sorted({network for network, _ in stay}):
        for snapshot, attempt in _stored(folder, network).items():
            if (network, snapshot) in stay:
                stays[f"snapshots/{network}/{snapshot}/{attempt}/"] = folder / "snapshots" / network / snapshot
    kept = {name for name in stored if name.rpartition("/")[0] + "/" in stays or f"/{ORIGIN}/" in name}
    for prefix, home in stays.items():
        if not home.is_dir():
            continue  # as it was put there
        kept = {name for name in kept if not name.startswith(prefix)}
        for path in _files(home):
            name = f"{prefix}{path.name}"
            kept.add(name)
            if name not in stored or (path.name == HEAD and found.store.read(name) != path.read_bytes()):
                found.store.replace(name, path.read_bytes())
    known = {*networks(folder), *(network for network, _ in stay)}
    for name in stored:
        if name not in kept and name.split("/")[1] in known:
            found.store.remove(name)


def _files(home: Path) -> list[Path]:
    found = (path for path in home.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(found, key=lambda path: (path.name == HEAD, path.name))


def _stored(folder: Path, network: str) -> dict[str, str]:
    """Where each committed snapshot of a network lies."""
    rows = read_table(folder, network).select(["kind", "snapshot", "stored"]).to_pylist()
    named = {r["snapshot"]: r["stored"] for r in rows if r["kind"] == "snapshot" and r["stored"]}
    plain = "0123456789abcdef"
    return {str(name): str(place) for name, place in named.items() if set(str(place)) <= set(plain)}


def _base(home: Path) -> str | None:
    try:
        base = json.loads((home / HEAD).read_text(encoding="utf-8")).get("base")
    except (OSError, ValueError, AttributeError):
        return None  # a damaged one is told of when somebody reads it
    return base if isinstance(base, str) else None
