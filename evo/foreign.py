"""A run's folder may come from somebody else: what is looked at before anything in it is believed.

Nothing in a folder is executed or unpickled. Beyond that, its settings can name things outside of it: modules to
import, a server to send the events to, a table to learn from. Those need the word of whoever resumes the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evo.config import Config, ConfigError
from evo.storage import is_remote

LARGEST_JSON = 64 << 20
"""Bytes of a JSON file that is read whole."""

MOST_ENTRIES = 5_000_000
"""Files of a run."""

_LOCAL = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?(/[A-Za-z0-9_./-]*)?")
"""Of a server on this machine. Written out whole: where two parsers differ on which part is the host, we would ask one
and connect by the other.
"""


class ForeignError(ValueError):
    """A folder that no run of ours has written: one line with the entry and the cure."""


def check(folder: Path) -> None:
    """Raises ForeignError where there is anything but plain files and folders inside.

    A link could have us write, or remove, elsewhere; a pipe or a device could be read for ever. The run's folder itself
    may be a link: it was named by the user.
    """
    left, seen = [folder], 0
    while left:
        for entry in _entries(left.pop()):
            seen += 1
            if entry.is_dir(follow_symlinks=False):
                left.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry.path):
                raise ForeignError(
                    f"run: expected files and folders in {str(folder)!r}, but {entry.path!r} is {_kind(entry)}; "
                    "remove it, or put what it stands for in its place"
                )
        if seen > MOST_ENTRIES:
            raise ForeignError(f"run: {str(folder)!r} holds more than {MOST_ENTRIES:,} files, so it is no run")


def read_text(path: Path) -> str:
    """A file of JSON as text. Raises FileNotFoundError, OSError, and ForeignError for one that is too large."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_size > LARGEST_JSON:
            raise ForeignError(f"{path}: expected a file of at most {LARGEST_JSON >> 20} MB; no run of ours wrote it")
        return file.read(LARGEST_JSON + 1).decode("utf-8")


def read_json(path: Path) -> Any:
    """What a file of JSON says. Raises FileNotFoundError, OSError, and ValueError for what is none."""
    try:
        return json.loads(read_text(path))
    except RecursionError as err:
        raise ForeignError(f"{path}: its JSON is nested too deeply; no run of ours wrote it") from err


def check_settings(config: Config, info: Mapping[str, Any], folder: Path) -> None:
    """Raises ConfigError for settings of a run's own config that reach outside of its folder."""
    cure = f"if the run is yours, write evo resume {folder.name} --trust"
    # What the caller has imported is the caller's word.
    if named := [name for name in config.plugins if name not in sys.modules]:
        raise ConfigError(
            f"plugins: run.json names modules to import, {', '.join(map(repr, named))[:120]}, and a folder's "
            f"word is not enough for that; {cure}"
        )
    if config.record.mlflow and not trusted_uri(config.record.tracking_uri, folder):
        raise ConfigError(
            f"record.tracking_uri: run.json sends the events to {str(config.record.tracking_uri)[:120]!r}, and a "
            f"folder's word is not enough for that; {cure}, or set MLFLOW_TRACKING_URI to it"
        )
    if config.data.path is not None and not isinstance(info.get("data_sha256"), str):
        raise ConfigError(
            f"data.path: run.json names {config.data.path[:120]!r} to learn from, without a digest of what the run "
            f"began with; {cure}"
        )
    for field in ("start", "parent"):
        place = getattr(config.network, field)
        if place is not None and is_remote(place):
            raise ConfigError(
                f"network.{field}: run.json names {place[:120]!r} to take weights from, and a folder's word is not "
                f"enough to ask a server; {cure}"
            )


def trusted_uri(uri: str | None, folder: Path) -> bool:
    """Whether MLflow's store is one of this machine's user: the folder of runs', a server here, or the one that the
    environment names.
    """
    from evo.mlflow_queue import default_uri

    if uri is None or uri in (default_uri(folder.resolve().parent), os.environ.get("MLFLOW_TRACKING_URI")):
        return True
    return _LOCAL.fullmatch(uri) is not None


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    # A run at work renames and removes drafts meanwhile: what is gone leads nowhere.
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries


def _kind(entry: os.DirEntry[str]) -> str:
    mode = entry.stat(follow_symlinks=False).st_mode
    kinds = {"a link": stat.S_ISLNK, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, test in kinds.items() if test(mode)), "a device")
