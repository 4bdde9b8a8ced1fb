"""Folders as somebody who means harm would make them: CRAFTED names what is done to a copy of a good, unfinished run.

Here: files of other kinds than what their names say, and names and links that lead elsewhere.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Craft = Callable[[Path, Path], None]
"""What is done to a run; the second folder lies outside of it and holds what must stay as it is."""

CRAFTED: dict[str, Craft] = {}
CANARY = "canary"


def crafted(name: str) -> Callable[[Craft], Craft]:
    def listed(craft: Craft) -> Craft:
        CRAFTED[name] = craft
        return craft

    return listed


class Payload:
    """Unpickled, it makes the canary."""

    def __init__(self, outside: Path) -> None:
        self.outside = outside

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.outside / CANARY}",)


def newest(run: Path) -> Path:
    return max((run / "events").glob("*.parquet"))


def snapshot(run: Path) -> Path:
    """The newest that counts."""
    rows = pq.read_table(newest(run)).to_pylist()
    name = next(row["snapshot"] for row in reversed(rows) if row["kind"] == "snapshot")
    return run / "snapshots" / "n000" / name


def pickled(outside: Path) -> bytes:
    return pickle.dumps({"weights": Payload(outside)})


@crafted("nothing")
def _nothing(run: Path, outside: Path) -> None:
    """A good folder."""


# --- pickles where files are expected

PLACES: dict[str, Callable[[Path], Path]] = {
    "run.json": lambda run: run / "run.json",
    "events": newest,
    "front.json": lambda run: run / "report" / "front.json",
    "mlflow.json": lambda run: run / "mlflow.json",
    "ensembles.json": lambda run: run / "report" / "ensembles.json",
    **{
        name: lambda run, name=name: snapshot(run) / name
        for name in ("blueprint.json", "delta.safetensors", "packed.safetensors", "weights.safetensors",
                     "optimizer.safetensors", "state.json", "pytorch_model.bin", "optimizer.pt", "data.pkl")
    },
}  # fmt: skip
for _name, _place in PLACES.items():

    @crafted(f"pickle as {_name}")
    def _pickle(run: Path, outside: Path, place: Callable[[Path], Path] = _place) -> None:
        place(run).parent.mkdir(exist_ok=True)
        place(run).write_bytes(pickled(outside))


@crafted("torch.save as weights of a plain snapshot")
def _torch_saved(run: Path, outside: Path) -> None:
    import torch

    from search_spaces import checkpoint

    found = checkpoint.load(snapshot(run))
    shutil.rmtree(snapshot(run))
    checkpoint.save(snapshot(run), found.network, found.state, found.extra, found.lineage)
    torch.save({"weights": Payload(outside)}, snapshot(run) / "weights.safetensors")


@crafted("pickle as a plug-in's folder, with the name of a plug-in")
def _entry(run: Path, outside: Path) -> None:
    (run / "plugins.pkl").write_bytes(pickled(outside))


# --- Parquet


def rewritten(run: Path, change: Callable[[pa.Table], pa.Table], **settings: Any) -> None:
    path = newest(run)
    pq.write_table(change(pq.read_table(path)), path, **settings)


def with_column(run: Path, name: str, values: Callable[[list[Any]], list[Any]]) -> None:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        return table.set_column(at, field, pa.array(values(table.column(at).to_pylist()), field.type))

    rewritten(run, change)


@crafted("an extension type that says it is a pickle")
def _extension(run: Path, outside: Path) -> None:
    told = {
        b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Payload(outside))
    }  # fmt: skip

    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("reason")
        field = table.schema.field(at).with_metadata(told)
        return table.set_column(at, field, table.column(at))

    rewritten(run, change)


@crafted("metadata of pandas that names a pickle")
def _pandas(run: Path, outside: Path) -> None:
    column = {"name": "reason", "pandas_type": "object", "numpy_type": "object", "metadata": {"encoding": "pickle"}}
    about = {"index_columns": ["reason"], "columns": [column]}
    told = {b"pandas": json.dumps(about).encode(), b"schema_version": b"2", b"pickle": pickled(outside)}
    rewritten(run, lambda table: table.replace_schema_metadata(told))


@crafted("a string of 8 MB in each of 100,000 rows, in a file of kilobytes")
def _bomb(run: Path, outside: Path) -> None:
    rows = 100_000
    table = pq.read_table(newest(run)).slice(0, 1)
    columns = {name: pa.array([table.column(name)[0].as_py()] * rows, table.schema.field(name).type)
               for name in table.column_names}  # fmt: skip
    columns["seq"] = pa.array(range(rows), pa.int64())
    large = pa.array(["x" * (8 << 20)], pa.string())
    columns["reason"] = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), large)
    told = {b"schema_version": b"2"}
    for path in (run / "events").glob("*.parquet"):
        path.unlink()
    pq.write_table(pa.table(columns).replace_schema_metadata(told), run / "events" / "n000-000000.parquet",
                   compression="zstd", dictionary_pagesize_limit=1 << 30)  # fmt: skip


@crafted("a hundred million rows")
def _rows(run: Path, outside: Path) -> None:
    table = pa.table({"seq": pa.array([0], pa.int64()), "network": ["n000"], "kind": ["segment"]})
    path = run / "events" / "n000-000000.parquet"
    for other in (run / "events").glob("*.parquet"):
        other.unlink()
    many = pa.concat_tables([table.take(pa.array([0] * 1_000_000))] * 100)
    with pq.ParquetWriter(path, many.schema.with_metadata({"schema_version": "2"}), compression="zstd") as writer:
        writer.write_table(many.replace_schema_metadata({"schema_version": "2"}), row_group_size=10_000_000)


@crafted("nested columns where text is expected")
def _nested(run: Path, outside: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("reason")
        return table.set_column(at, "reason", pa.array([[{"a": [1]}]] * table.num_rows))

    rewritten(run, change)


@crafted("figures that are none")
def _figures(run: Path, outside: Path) -> None:
    for name in ("information_nats", "validation_information_nats", "epoch", "measured_nats"):
        with_column(run, name, lambda values: [float("nan") if v is None else float("inf") for v in values])
    for name in ("active_parameters", "step", "cycle"):
        with_column(run, name, lambda values: [None if v is None else -(2**31) for v in values])


# --- names that lead elsewhere

for _told in ("../../../outside", "/etc", "..", "n000/../../../../outside", "a\0b", "\x1b]0;owned\x07", "x" * 5000):

    @crafted(f"snapshot named {_told[:30]!r}")
    def _snapshot(run: Path, outside: Path, told: str = _told) -> None:
        with_column(run, "snapshot", lambda values: [v and told for v in values])

    @crafted(f"base named {_told[:30]!r}")
    def _base(run: Path, outside: Path, told: str = _told) -> None:
        path = snapshot(run) / "blueprint.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2, "base": told}))

    @crafted(f"parent named {_told[:30]!r}")
    def _parent(run: Path, outside: Path, told: str = _told) -> None:
        path = min((run / "events").glob("*.parquet"))
        table = pq.read_table(path)
        at = table.schema.get_field_index("parent")
        values = [f"n000/{told}"] + [None] * (table.num_rows - 1)
        pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, pa.string())), path)


@crafted("a network whose file is named in escape codes")
def _escapes(run: Path, outside: Path) -> None:
    shutil.copy(newest(run), run / "events" / "\x1b[2J\x1b]0;owned\x07-000000.parquet")


# --- links, pipes, devices

_LINKS: dict[str, str] = {
    ".lock": "precious.txt", ".mlflow.lock": "precious.txt", "report": "home", "export": "home", "aside": "home",
    "snapshots/n001": "home", "events/n001-000000.parquet": "precious.txt", "report/front.json": "precious.txt",
    "mlflow.json": "precious.txt", "report/x.txt": "secret.csv", "events/n009-000000.parquet": "nothing.there",
    "live": "home", "failures": "home", "footprint.json": "precious.txt", "events/.creating": "precious.txt",
}  # fmt: skip
for _from, _to in _LINKS.items():

    @crafted(f"{_from} as a link out of the run")
    def _link(run: Path, outside: Path, name: str = _from, target: str = _to) -> None:
        place = run / name
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(outside / target)


@crafted("events as a link out of the run")
def _events_link(run: Path, outside: Path) -> None:
    shutil.move(str(run / "events"), outside / "home" / "events")
    (run / "events").symlink_to(outside / "home" / "events")


@crafted("snapshots as a link out of the run")
def _snapshots_link(run: Path, outside: Path) -> None:
    shutil.move(str(run / "snapshots"), outside / "home" / "snapshots")
    (run / "snapshots").symlink_to(outside / "home" / "snapshots")


for _name, _place in list(PLACES.items())[:6]:

    @crafted(f"a pipe as {_name}")
    def _pipe(run: Path, outside: Path, place: Callable[[Path], Path] = _place) -> None:
        target = place(run)
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        os.mkfifo(target)

    @crafted(f"/dev/zero as {_name}")
    def _device(run: Path, outside: Path, place: Callable[[Path], Path] = _place) -> None:
        target = place(run)
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to("/dev/zero")
