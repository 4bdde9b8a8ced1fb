"""Mending a run of which a file was damaged after it was written: by a failing disk, or a hand."""

from __future__ import annotations

import os
from pathlib import Path

from evo.config import ConfigError
from search_spaces.checkpoint_files import sync_folder

ASIDE = "aside"


def set_aside(folder: Path, network: str) -> Path:
    """Takes a network's newest file of events out of the record and returns where it lies now, in the run's `aside`.

    A life is deterministic: what the file held is lived again when the run is resumed, from the snapshot that was
    committed before it, and comes out the same. A snapshot that is damaged is then saved anew. No process may be at
    work on the run. Raises ConfigError for a network without events, and OSError.
    """
    files = sorted((folder / "events").glob("[!.]*-*.parquet"))
    found = [path for path in files if _of(path) == network]
    if not found:
        known = sorted({_of(path) for path in files})
        told = f"one of {', '.join(known[:12])}" if known else "none: no network has events yet"
        raise ConfigError(f"--set-aside: expected a network of this run, {told}, got {network[:40]!r}")
    home = folder / ASIDE
    home.mkdir(exist_ok=True)
    number = 1
    while (target := home / f"{found[-1].name}.{number}").exists():
        number += 1
    os.rename(found[-1], target)
    for touched in (home, found[-1].parent, folder):
        sync_folder(touched)
    return target


def _of(path: Path) -> str:
    """The network whose events a file holds."""
    return path.stem.rpartition("-")[0]
