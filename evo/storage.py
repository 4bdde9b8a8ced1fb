"""Stores: where the files of runs lie, on a local folder or in a bucket, by one small seam.

A store holds named bytes. `create` is the fence: of all who create one name, at whatever moment and wherever they run,
exactly one is told True. On a folder that is a hard link, on S3 a PUT with `If-None-Match: *`, on Google's storage one
with generation 0. Nothing that was created is ever seen half.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from evo.config import ConfigError
from evo.transient import TransientError

_UNLINKABLE = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class StorageError(ValueError):
    """A store does not answer, or will not do what was asked: one line with its address, what is wrong and the cure."""


class StoreAwayError(StorageError, TransientError):
    """A store does not answer now, and refuses nothing."""


class Store(Protocol):
    """Named bytes. Names are relative paths, '/' between their parts, no part empty or begun with a dot.

    Every call raises StorageError where the store cannot be reached or used, and ValueError for what is no such name.
    """

    @property
    def uri(self) -> str:
        """What `open_store` opens this store by."""

    def create(self, name: str, data: bytes) -> bool:
        """Whether this call made it, durably; False: it stood already, and is as it was."""

    def replace(self, name: str, data: bytes) -> None:
        """Whole or not at all, whatever stood there."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def names(self, prefix: str = "") -> list[str]:
        """Names that begin so, sorted."""

    def remove(self, name: str) -> None:
        """One that is missing already is fine."""


def is_remote(uri: str | os.PathLike[str]) -> bool:
    """Whether a folder is given by an address that no plain path reaches."""
    return "://" in str(uri) and not str(uri).startswith("file://")


def open_store(uri: str | os.PathLike[str]) -> Store:
    """The store at a folder ("runs"), or at an address that pyarrow knows ("s3://bucket/prefix?region=eu-west-1").

    Touches nothing. Raises ConfigError for an address that is none, or carries credentials.
    """
    text = str(uri)
    if "://" not in text:
        return Folder(Path(text))
    parts = urllib.parse.urlsplit(text)
    if parts.scheme == "file":
        return Folder(Path(urllib.parse.unquote(parts.path)))
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"out: expected an address without credentials, got one for {parts.scheme}://{parts.hostname or ''}; they "
            "would be stored with the run: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    _check_bucket(parts, text)
    from evo.buckets import Bucket

    return Bucket(text)


def below(uri: str | os.PathLike[str], name: str) -> str:
    """The address of `name` under a store's: what an address asks ("?region=…") stays behind it.

    Raises ConfigError for an address without a bucket: put together again it would be that of a local folder.
    """
    text = str(uri)
    if "://" not in text:
        return str(Path(text) / name)
    parts = urllib.parse.urlsplit(text)
    if parts.scheme != "file":
        _check_bucket(parts, text)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{urllib.parse.quote(name)}").geturl()


def _check_bucket(parts: urllib.parse.SplitResult, text: str) -> None:
    if not parts.netloc and parts.scheme != "mock":
        raise ConfigError(f"out: expected a bucket in the address, got {text!r}; write for example s3://bucket/runs")


def checked(name: str) -> str:
    """Raises ValueError for what is no name."""
    if not name or any(not part or part.startswith(".") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise ValueError(
            f"store: expected a relative name without dot-parts, got {name!r}; write 'events/n000.parquet'"
        )
    return name


# --- a folder


@dataclass(frozen=True)
class Folder:
    """A store in a folder of this machine, or of a network file system."""

    root: Path

    @property
    def uri(self) -> str:
        return str(self.root)

    def create(self, name: str, data: bytes) -> bool:
        with self._told(name) as path:
            path.parent.mkdir(parents=True, exist_ok=True)
            return create_file(path, data)

    def replace(self, name: str, data: bytes) -> None:
        with self._told(name) as path:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)

    def read(self, name: str) -> bytes:
        with self._told(name) as path:
            return path.read_bytes()

    def names(self, prefix: str = "") -> list[str]:
        top = self.root / prefix.rpartition("/")[0]
        found = []
        for folder, folders, files in os.walk(top):
            folders[:] = [f for f in folders if not f.startswith(".")]
            found += [str(Path(folder, file).relative_to(self.root)) for file in files if not file.startswith(".")]
        return sorted(name for name in found if name.startswith(prefix))

    def remove(self, name: str) -> None:
        with self._told(name) as path:
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _told(self, name: str) -> Iterator[Path]:
        path = self.root / checked(name)
        try:
            yield path
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be used ({error.strerror or error}); free space, make the folder writable, or write "
                "another one with --out"
            ) from error


def create_file(path: Path, data: bytes, between: Callable[[str], None] = lambda step: None) -> bool:
    """Gives a file its bytes and its name, durably, if nothing has that name; whether it did. Raises OSError.

    between: called after "written", "synced" and "renamed" (tests kill the process there).
    """
    for last in (False, False, True):
        try:
            with draft_of(path, data, between) as draft:
                if not _named(draft, path):
                    return False
        except FileNotFoundError:
            if last or not path.parent.is_dir():
                raise
            continue  # somebody took the draft for a dead writer's before it was locked
        between("renamed")
        sync(path.parent)
        return True
    raise AssertionError


def replace_file(path: Path, data: bytes, between: Callable[[str], None] = lambda step: None) -> None:
    """Gives a file its bytes, durably: it is whole, or what was there before. Raises OSError; leaves no draft then."""
    with draft_of(path, data, between) as draft:
        draft.rename(path)
        between("renamed")
    sync(path.parent)


def _named(draft: Path, path: Path) -> bool:
    try:
        os.link(draft, path)
    except FileExistsError:
        # Where a network file system lost its first answer, the second is that the name is taken: by this very file.
        return os.path.samestat(os.stat(draft), os.stat(path))
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        # No hard links here (exFAT, some network shares): one at a time then, as far as locks reach.
        with lock_file(path.parent / ".creating") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return False
            draft.rename(path)
    return True


@contextlib.contextmanager
def draft_of(path: Path, data: bytes, between: Callable[[str], None] = lambda step: None) -> Iterator[Path]:
    """The bytes, on the disk, in a dot-file beside `path` that is gone afterwards; locked while its writer lives."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("xb") as file:
            _locked(file.fileno())
            file.write(data)
            file.flush()
            between("written")
            os.fsync(file.fileno())
            between("synced")
            yield draft
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def lock_file(path: Path) -> BinaryIO:
    """A file to take a lock on, made where there is none. Raises OSError.

    It is never emptied, and no link is followed: the folder may be somebody else's work, and what a link names not.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "expected a plain file to lock; remove what is there", str(path))
    return os.fdopen(handle, "r+b", buffering=0)


def abandoned(draft: Path) -> bool:
    """Whether nobody is writing this dot-file or dot-folder any more: a lock ends with its process, however that ends.

    Where the file system has no locks, whether it is a day old.
    """
    try:
        handle = os.open(draft, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(handle).st_mtime > 86_400
    finally:
        os.close(handle)


@contextlib.contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keeps others from taking a folder for abandoned while the block runs; made anew if one just did."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        _locked(handle)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                break
        os.close(handle)
    try:
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> None:
    with contextlib.suppress(OSError):  # where there are no locks, its age tells
        fcntl.flock(handle, fcntl.LOCK_SH)


def sync(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_empty(folder: Path, keep: Path) -> None:
    """Takes away the folders made on the way to `folder`, as long as they are empty."""
    folder, keep = folder.absolute(), keep.absolute()
    with contextlib.suppress(OSError):
        while folder != keep:
            folder.rmdir()
            folder = folder.parent
