"""Who may remove or replace the files of a replica that the processes of a machine share.

Its driver holds `.lock` in it as long as that lives, as in any run's folder. Whoever brings it up to date holds
`.NAME.update` beside it: outside, since bringing it up to date may begin with removing the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from evo.config import UnavailableError
from evo.storage import StorageError, lock_file

LOCK = ".lock"

PATIENCE_SECONDS = 10.0
"""That another process may take to bring a replica up to date before it is taken for hung."""


@contextlib.contextmanager
def updating(folder: Path, driver: bool = False) -> Iterator[bool]:
    """One process of this machine at a time; whether the replica's files may be removed and replaced meanwhile.

    They may not where a driver is at work on them, nor while another process, perhaps hung, does the same.

    driver: who wants to be it, which takes waiting until nobody does. Raises UnavailableError for it alone.
    """
    path = folder.parent / f".{folder.name}.update"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_file(path)
    except OSError as error:
        raise told(path, error) from error
    with file:
        mine, deadline = _lock(file.fileno()), time.monotonic() + PATIENCE_SECONDS
        while not mine and time.monotonic() < deadline:
            time.sleep(0.02)
            mine = _lock(file.fileno())
        if driver and not mine:
            raise busy(folder)
        yield mine and not _driven(folder)


def _driven(folder: Path) -> bool:
    try:
        handle = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _lock(handle: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether it is held now; it is, as far as can be told, where the file system has no locks."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def busy(folder: Path) -> UnavailableError:
    return UnavailableError(
        f"run: expected {folder.name} to be at rest on this machine, but another process is at work on it or on an "
        "earlier run of that name; wait for that one, or stop it with Ctrl-C"
    )


def told(path: Path, error: OSError) -> StorageError:
    """What a machine says that cannot hold a replica."""
    return StorageError(
        f"{path}: the run's files cannot be written on this machine ({error.strerror or error}); free space, or name "
        "another folder by MERISTEM_CACHE (for networks' processes TMPDIR), and resume the run"
    )
