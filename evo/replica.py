"""Replicas: a run in a bucket is worked on in a folder of this machine, of which the bucket holds the truth.

The driver and every reader on a machine share one under the cache folder; each network's process has a temporary one.
Events and snapshots are in the bucket before they count; what a folder lacks is fetched. Everything that takes a run's
folder therefore takes a replica's; this table alone knows which are such. While a driver is at work in one, others only
add to it.

In the bucket, under OUT/NAME: run.json and every file of events by a creation that only the first writer wins; of each
snapshot, `snapshots/NETWORK/SNAPSHOT/ATTEMPT/`, where ATTEMPT is what the event of that snapshot says in `stored`, so
that no attempt ever writes over another's; `report/`; and `lease/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from evo import seals
from evo.config import ConfigError
from evo.replica_lock import busy, told, updating
from evo.storage import (
    Store,
    StoreAwayError,
    abandoned,
    below,
    create_file,
    in_use,
    is_remote,
    open_store,
    replace_file,
)

INFO = "run.json"
_PREFIX = "evo-replica-"


@dataclass(frozen=True)
class Replica:
    """out: address of the folder of runs. store: of this run alone."""

    folder: Path
    out: str
    store: Store


_attached: dict[str, Replica] = {}


def of(folder: Path) -> Replica | None:
    """What this folder is a replica of; None for a run that lies in it."""
    return _attached.get(os.path.realpath(folder)) if _attached else None


def address(folder: Path) -> str:
    """What a user writes to name the run that is worked on in this folder."""
    found = of(folder)
    return str(folder) if found is None else found.store.uri


def attach(folder: Path, uri: str) -> Replica:
    """Makes a folder the replica of the run at this address, for this process."""
    found = Replica(Path(folder), split(uri)[0], open_store(uri))
    _attached[os.path.realpath(folder)] = found
    return found


@contextlib.contextmanager
def temporary(uri: str) -> Iterator[Path]:
    """A replica for one process of a cluster, gone with the block; those that killed processes left go too."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))
    except OSError as error:
        raise told(Path(tempfile.gettempdir()), error) from error
    with in_use(draft):
        # Under its name only now that it is locked: another process would have swept it.
        folder = draft.rename(draft.with_name(draft.name.removeprefix(".")))
        attach(folder, uri)
        try:
            yield folder
        finally:
            _attached.pop(os.path.realpath(folder), None)
            shutil.rmtree(folder, ignore_errors=True)


def split(uri: str) -> tuple[str, str]:
    """The address of a run as that of its folder of runs, and its name."""
    parts = urllib.parse.urlsplit(uri)
    above, _, name = parts.path.rstrip("/").rpartition("/")
    return parts._replace(path=above).geturl(), urllib.parse.unquote(name)


def home(out: str) -> Path:
    """Where the replicas of a folder of runs lie on this machine: under MERISTEM_CACHE, or the user's cache folder."""
    given = os.environ.get("MERISTEM_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meristem"
    parts = urllib.parse.urlsplit(out)
    told = f"{parts.netloc}{parts.path}".strip("/").replace("/", "-")
    digest = hashlib.sha256(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}?{parts.query}".encode())
    return base / "runs" / f"{told[:60]}-{digest.hexdigest()[:12]}"


def claim(out: str, name: str, info: bytes) -> Path | None:
    """The replica of a new run of this name; None where one bears it already.

    Raises UnavailableError where a process of this machine is at work on an earlier run of the name.
    """
    uri, folder = below(out, name), home(out) / name
    with updating(folder) as alone:
        if not open_store(uri).create(INFO, info):
            return None
        if not alone:
            open_store(uri).remove(INFO)
            raise busy(folder)
        _fresh(folder)
        attach(folder, uri)
        _put(folder, INFO, info)
    return folder


def opened(uri: str) -> Path | None:
    """The replica of the run at an address, up to date; None where there is no run."""
    out, name = split(uri)
    if not name:
        raise ConfigError(f"run: expected the address of a run, got {uri!r}; write for example s3://bucket/runs/NAME")
    folder = home(out) / name
    try:
        info = open_store(uri).read(INFO)
    except FileNotFoundError:
        return None
    with updating(folder) as alone:
        known = (folder / INFO).is_file() and (folder / INFO).read_bytes() == info
        if alone and not known:  # another run may have borne this name before
            _fresh(folder)
        elif not known:
            raise busy(folder)
        found = attach(folder, uri)
        if not alone:
            refresh(folder)
            return folder
        _put(folder, INFO, info)
        distrust(folder)
        refresh(folder)
        for file in found.store.names("report/"):
            fetch_file(found, file)
    return folder


@contextlib.contextmanager
def settled(folder: Path) -> Iterator[None]:
    """Nobody brings the replica up to date while the block takes its lock. Raises UnavailableError."""
    if of(folder) is None:
        yield
        return
    with updating(folder, driver=True):
        yield


def distrust(folder: Path) -> None:
    """Drops the files of events that were damaged in a replica, and those of networks whose newest file is another in
    the bucket: it was removed there and lived again, or compacted. They are fetched anew.
    """
    found = of(folder)
    assert found is not None
    held: dict[str, dict[int, Path]] = {}
    for path in (folder / "events").glob("[!.]*.parquet"):
        whose, number = _commit_of(f"events/{path.name}")
        if whose is not None:
            held.setdefault(whose, {})[number] = path
    for files in held.values():
        last = files[max(files)]
        with contextlib.suppress(FileNotFoundError):  # what is not there at all, `refresh` sees to
            if found.store.read(f"events/{last.name}") != last.read_bytes():
                for path in files.values():
                    path.unlink()
        for path in files.values():
            if path.exists() and seals.broken(path.read_bytes()):
                path.unlink()


def names(out: str) -> list[str]:
    """Of the runs in a folder of runs."""
    ends = (name.partition("/") for name in open_store(out).names())
    return sorted({run for run, _, rest in ends if rest == INFO})


def refresh(folder: Path, network: str | None = None) -> None:
    """Fetches the events that a replica lacks, of one network or of all; any other folder lacks none."""
    found = of(folder)
    if found is None:
        return None
    for _ in range(10):
        try:
            return _fetch_events(found, network)
        except FileNotFoundError:
            continue  # a compaction removed it between listing and reading: what it held is in the newest one
    raise StoreAwayError(f"{found.store.uri}: its events come and go while they are read; try again")


def _fetch_events(replica: Replica, network: str | None) -> None:
    # Looked at first: what is here was in the bucket before, and what then is not there was taken out of it.
    held = _numbers([f"events/{path.name}" for path in (replica.folder / "events").glob("[!.]*.parquet")], network)
    numbers = _numbers(replica.store.names("events/" if network is None else f"events/{network}-"), network)
    for whose, here in held.items():
        for number in here:
            if number > max(numbers.get(whose, {-1})):
                (replica.folder / _event_file(whose, number)).unlink(missing_ok=True)
    for whose, stored in numbers.items():
        newest = max(stored)
        here = {number for number in held.get(whose, set()) if number <= newest}
        missing = sorted(stored - here, reverse=True)
        # Where earlier ones are in neither place, the newest one has come to hold them.
        if newest not in missing and len(stored) <= newest and len(here | stored) <= newest:
            missing.insert(0, newest)
        # The oldest first: a reader walks back from the newest, and must miss none in between.
        fetched = [(number, replica.store.read(_event_file(whose, number))) for number in missing]
        for number, data in reversed(fetched):
            if number in here:
                _put(replica.folder, _event_file(whose, number), data)
            else:
                _add(replica.folder, _event_file(whose, number), data)


def fetch_file(replica: Replica, name: str) -> None:
    """One file as it is in the store. Raises FileNotFoundError."""
    _put(replica.folder, name, replica.store.read(name))


def push(folder: Path, part: str) -> None:
    """Puts the files under `part` of a replica's folder ("report/") into the store."""
    found = of(folder)
    if found is None:
        return
    for path in sorted((folder / part).rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            found.store.replace(str(path.relative_to(folder)), path.read_bytes())


def push_compacted(folder: Path) -> None:
    """Has the store hold the same files of events as a compacted replica. Killed anywhere, it may be done again.

    Of a network whose newest file here does not hold all that came before it, nothing is touched.
    """
    found = of(folder)
    if found is None:
        return
    held = _numbers([f"events/{path.name}" for path in (folder / "events").glob("[!.]*.parquet")], None)
    stored = _numbers(found.store.names("events/"), None)
    for network, here in sorted(held.items()):
        newest = _event_file(network, max(here))
        earlier = {number for number in stored.get(network, ()) if number < max(here)}
        if not earlier:
            continue
        data = (folder / newest).read_bytes()
        if _first_seq(data) > 0:
            continue
        found.store.replace(newest, data)
        for number in sorted(earlier):
            found.store.remove(_event_file(network, number))


def _first_seq(data: bytes) -> int:
    """Of a file of events."""
    with pq.ParquetFile(io.BytesIO(data)) as file:
        return int(file.read(columns=["seq"], use_threads=False).column("seq")[0].as_py())


def discard(folder: Path) -> None:
    """Removes a run that came to nothing from its store."""
    found = of(folder)
    if found is not None and not found.store.names("events/"):
        _attached.pop(os.path.realpath(folder))
        for name in found.store.names():
            found.store.remove(name)


def newest(store: Store, network: str) -> int:
    """Number of the newest commit of a network in a run's store; −1 where there is none."""
    return max(_numbers(store.names(f"events/{network}-"), network).get(network, {-1}))


def _numbers(names: list[str], network: str | None) -> dict[str, set[int]]:
    """The numbers of the commits in files of these names, by network."""
    found: dict[str, set[int]] = {}
    for name in names:
        whose, number = _commit_of(name)
        if whose is not None and network in (None, whose):
            found.setdefault(whose, set()).add(number)
    return found


def _commit_of(name: str) -> tuple[str | None, int]:
    """Network and number of a file of events; (None, -1) for any other name."""
    network, _, number = name.removeprefix("events/").removesuffix(".parquet").rpartition("-")
    whole = name.endswith(".parquet") and network and "/" not in network and number.isdigit()
    return (network, int(number)) if whole else (None, -1)


def _event_file(network: str, number: int) -> str:
    return f"events/{network}-{number:06d}.parquet"


def _put(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
            replace_file(path, data)
    except OSError as error:
        raise told(path, error) from error


def _add(folder: Path, name: str, data: bytes) -> None:
    """Puts a file where there was none; one that came to be there since then stays: it holds as much, or more."""
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        create_file(path, data)
    except OSError as error:
        raise told(path, error) from error


def _fresh(folder: Path) -> Path:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise told(folder, error) from error
    return folder


def remote(run: str | os.PathLike[str], out: str | os.PathLike[str]) -> str | None:
    """The address of a run, given that or its name in a folder of runs; None where neither is in a bucket."""
    if is_remote(run):
        return str(run)
    return below(str(out), str(run)) if is_remote(out) else None
