"""The Parquet record of events: one small file a commit, never changed once it has its name.

A commit is written under a dot-name, synced, linked to its name if nothing bears it, and the folder synced: it is there
whole or not at all, and of several writers' (a process that was taken for dead, a job that was started twice) the first
one's counts. A file
`n000-000041.parquet` may also hold everything up to commit 41 (`compact`): whoever reads walks from the newest file
down and stops at row 0, so files that a compaction made superfluous but could not yet remove are never read twice.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from evo import faults, replica
from evo.events import SCHEMA, SCHEMA_VERSION
from evo.seals import broken, sealed
from evo.storage import abandoned, create_file, replace_file
from evo.transient import TransientError
from evo.unpacking import LARGEST, check_size


class RecordError(ValueError):
    """The record cannot be read or written: one line with the file, what is wrong and the cure."""


class Fenced(RecordError, TransientError):  # noqa: N818 - it is the state of the record, and no fault of the caller's
    """Another writer of this network was first with this commit; nothing of ours was written."""


class Recorder:
    """Writes a network's events in a run folder. Of several writers, each commit is one's; the others are fenced."""

    def __init__(self, folder: Path, network: str) -> None:
        if not network or "/" in network or network.startswith("."):
            raise ValueError(f"network: expected a name without '/' or a leading dot, got {network!r}; write 'n000'")
        self.events = Path(folder) / "events"
        self.network = network
        replica.refresh(Path(folder), network)
        with _disk(self.events):
            self.events.mkdir(parents=True, exist_ok=True)
            _sweep(self.events, network)
        # Another writer may commit between the two: a number without its rows would have ours numbered as its own are.
        newest, self._rows = None, 0
        while newest != (newest := self._newest()):
            self._rows = int(read_table(folder, network).num_rows)
        self._commits = newest + 1

    @property
    def last_seq(self) -> int:
        """Number of the newest committed row; −1 before the first."""
        return self._rows - 1

    def commit(self, rows: Sequence[dict[str, Any]]) -> None:
        """Makes the rows durable, all or none. Fills network, seq, schema_version, time, host and pid where empty.

        Raises Fenced where another writer has made this commit, and RecordError for rows that do not fit the schema
        and for a disk that will not take them; nothing is left behind then, and the same rows may be committed again.
        """
        if not rows:
            return
        faults.point("events.begin")
        stamp = {"time": time.time(), "host": socket.gethostname(), "pid": os.getpid()}
        table = _table([self._complete(row, self._rows + i, stamp) for i, row in enumerate(rows)])
        data = _parquet(table)
        if (found := replica.of(self.events.parent)) is not None:
            # In the bucket it counts; here it is what this process reads.
            name = f"events/{self._next.name}"
            if not found.store.create(name, data):
                raise self._fenced()
            if replica.newest(found.store, self.network) > self._commits:
                replica.refresh(self.events.parent, self.network)
                if self._compacted_without(table):
                    found.store.remove(name)
                    raise self._fenced()
            publish(self._next, data, "events")
        else:
            with _disk(self._next):
                if not create_file(self._next, data, _passing("events")):
                    raise self._fenced()
                if self._compacted_without(table):
                    self._next.unlink(missing_ok=True)
                    raise self._fenced()
        self._rows += table.num_rows
        self._commits += 1
        faults.point("events.committed")

    def check(self) -> None:
        """Raises Fenced where another writer has made the next commit already."""
        replica.refresh(self.events.parent, self.network)
        if self._newest() >= self._commits:
            raise self._fenced()

    def _newest(self) -> int:
        """Number of the newest commit, whoever made it. That the next name is free is not enough: a compaction frees
        all names but the newest.
        """
        return max(_commits(self.events, self.network), default=-1)

    def _compacted_without(self, table: pa.Table) -> bool:
        """Whether a compaction holds other rows where these, just committed, would be: its process slept through it.

        A newer file alone says nothing, as others may have gone on from this very commit.
        """
        while True:
            newest = self._newest()
            if newest <= self._commits:
                return False
            with contextlib.suppress(FileNotFoundError):  # a still newer one has taken its place
                held = _read(_commits(self.events, self.network)[newest])
                break
        first = held.column("seq")[0].as_py()
        if first > self._rows:
            return False
        signs = ["time", "host", "pid"]
        theirs = held.slice(self._rows - first, 1).select(signs).to_pylist()
        return bool(theirs != table.slice(0, 1).select(signs).to_pylist())

    @property
    def _next(self) -> Path:
        return self.events / f"{self.network}-{self._commits:06d}.parquet"

    def _fenced(self) -> Fenced:
        return Fenced(
            f"{self._next}: another process writes this network too, and was first; end one of them and resume the run"
        )

    def _complete(self, row: dict[str, Any], seq: int, stamp: dict[str, Any]) -> dict[str, Any]:
        settled = {"network": self.network, "seq": seq, "schema_version": SCHEMA_VERSION}
        for name, value in settled.items():
            if row.get(name) is not None and row[name] != value:
                raise RecordError(
                    f"event {name}: expected {value!r}, got {row[name]!r}; leave it empty, it is filled in"
                )
        stamped = {name: value for name, value in stamp.items() if row.get(name) is None}
        return {**row, **settled, **stamped}


def publish(path: Path, data: bytes, points: str | None = None) -> None:
    """Gives a file its bytes, whole and durably, whatever stood there. After a RecordError nothing is left."""
    with _disk(path):
        replace_file(path, data, _passing(points))


def _passing(points: str | None) -> Callable[[str], None]:
    return (lambda step: faults.point(f"{points}.{step}")) if points else (lambda step: None)


def networks(folder: Path) -> list[str]:
    """Names of the networks that have committed events in the run folder."""
    return sorted({path.stem.rpartition("-")[0] for path in _files(Path(folder) / "events")})


def read_events(folder: Path, network: str | None = None) -> pd.DataFrame:
    """All committed rows, by network and seq; of one network where it is named.

    Flags are nullable booleans; whole numbers are float64 with NaN in columns that have empty cells.
    """
    names = networks(folder) if network is None else [network]
    table = pa.concat_tables([SCHEMA.empty_table(), *(read_table(folder, name) for name in names)])
    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get)
    return frame


def read_table(folder: Path, network: str, since: int = 0) -> pa.Table:
    """One network's committed rows from seq `since` on; reads no more files than these rows are in.

    Raises RecordError for a file that is damaged, missing or of a newer schema.
    """
    events = Path(folder) / "events"
    while True:
        try:
            return _walk(events, network, since)
        except FileNotFoundError:
            continue  # a compaction removed the file between listing and reading: what it held is in the newest one


def _walk(events: Path, network: str, since: int) -> pa.Table:
    found = _commits(events, network)
    parts: list[pa.Table] = []
    first: int | None = None  # lowest seq in hand
    for number in sorted(found, reverse=True):
        if first is not None and first <= since:
            break
        path = found[number]
        part = _read(path)
        seqs = part.column("seq").to_pylist()
        if set(part.column("network").to_pylist()) != {network} or seqs != list(range(seqs[0], seqs[0] + len(seqs))):
            raise _damaged(path, f"it does not hold consecutive rows of network {network}")
        if first is not None and seqs[-1] + 1 != first:
            raise _damaged(path, f"rows {seqs[-1] + 1} to {first - 1} of network {network} are missing after it")
        parts.insert(0, part)
        first = seqs[0]
    if first is not None and first > since and first > 0:
        raise _damaged(found[min(found)], f"rows 0 to {first - 1} of network {network} are missing before it")
    if not parts:
        return SCHEMA.empty_table()
    whole = pa.concat_tables(parts)
    assert first is not None
    return whole.slice(max(since - first, 0))


def compact(folder: Path) -> None:
    """Leaves one file a network. Killed at any moment, it has lost and doubled nothing and may be run again."""
    events = Path(folder) / "events"
    for network in networks(folder):
        found = _commits(events, network)
        newest = max(found)
        table = read_table(folder, network)
        if len(found) > 1:
            publish(found[newest], _parquet(table, small=True), "compact")
        with _disk(events):
            for number in sorted(found)[:-1]:
                found[number].unlink(missing_ok=True)
                faults.point("compact.removed")
            _sweep(events, network)


def _sweep(events: Path, network: str) -> None:
    """Removes the drafts that killed commits and compactions of a network have left behind."""
    for torn in events.glob(f".{network}-*.parquet*"):
        if torn.name.partition(".parquet")[0].rpartition("-")[0] == f".{network}" and abandoned(torn):
            torn.unlink(missing_ok=True)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = []
    for field in SCHEMA:
        try:
            columns.append(pa.array([row.get(field.name) for row in rows], field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            values = [row.get(field.name) for row in rows]
            raise RecordError(f"event {field.name}: expected {field.type}, got one of {values!r:.200}") from error
    for row in rows:
        if len(row) > len(SCHEMA.names) or not row.keys() <= set(SCHEMA.names):
            raise RecordError(f"event {sorted(row.keys() - set(SCHEMA.names))[0]}: the schema has no such column")
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _parquet(table: pa.Table, small: bool = False) -> bytes:
    # A commit of ten rows gains nothing from dictionaries, statistics or compression, and they cost half of its time.
    settings = {"compression": "zstd"} if small else {"compression": "none", "use_dictionary": False}
    # Without checksums a flipped bit would be read as a figure.
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, write_statistics=small, write_page_checksum=True, **settings)
    return sealed(stream.getvalue().to_pybytes())


def _read(path: Path) -> pa.Table:
    """One file in the present schema: columns that it lacks are empty, a newer schema is refused."""
    try:
        if path.stat().st_size > LARGEST:
            raise _damaged(path, f"it is larger than {LARGEST >> 20:,} MB")
        data = path.read_bytes()
        if broken(data):
            raise _damaged(path, "its digest is not that of its bytes")
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            check_size(file, pa.BufferReader(data))
            version = int((file.schema_arrow.metadata or {}).get(b"schema_version", b"0"))
            table = file.read(use_threads=False) if 0 < version <= SCHEMA_VERSION else None
        if version > SCHEMA_VERSION:
            raise RecordError(
                f"{path}: expected event schema {SCHEMA_VERSION} or older, got {version}; read it with the version of "
                "meristem that wrote it (run.json names it), or a newer one"
            )
        if table is None or not table.num_rows or not {"network", "seq", "kind"} <= set(table.column_names):
            raise _damaged(path, "it is a Parquet file, but not one of events")
        have = set(table.column_names)
        columns = [
            table.column(field.name).cast(field.type) if field.name in have else pa.nulls(table.num_rows, field.type)
            for field in SCHEMA
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # pyarrow names damage by all three
        if isinstance(error, RecordError):
            raise
        raise _damaged(path, f"it cannot be read as Parquet ({' '.join(str(error).split())[:120]})") from error


def _files(events: Path) -> Iterator[Path]:
    """Committed files; raises nothing where there is no folder yet."""
    with contextlib.suppress(FileNotFoundError), os.scandir(events) as entries:
        for entry in entries:
            name, _, number = entry.name.removesuffix(".parquet").rpartition("-")
            wanted = entry.name.endswith(".parquet") and not entry.name.startswith(".") and name and number.isdigit()
            # A link that leads nowhere would be listed, and then missed, for ever.
            if wanted and not entry.is_symlink():
                yield Path(entry.path)


def _commits(events: Path, network: str) -> dict[int, Path]:
    found = ((path.stem.rpartition("-"), path) for path in _files(events))
    return {int(number): path for (name, _, number), path in found if name == network}


def _damaged(path: Path, what: str) -> RecordError:
    return RecordError(
        f"{path}: expected a whole file of events, but {what}; put the file back from a copy of the run, or "
        f"`evo resume RUN --set-aside {path.stem.rpartition('-')[0]}` lives again what that network's newest file held"
    )


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except RecordError:
        raise
    except OSError as error:
        raise RecordError(
            f"{path}: cannot be written ({error.strerror or error}); free space or make the folder writable and resume "
            "the run, or write another one with --out"
        ) from error
