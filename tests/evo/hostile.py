"""Folders as somebody who means harm would make them: CRAFTED names what is done to a copy of a good, unfinished run.

`python hostile.py FOLDER [SHARE]` has every command (or, with a SHARE, some) look at each of them (or every
so-manieth), in a fork of its own, and tells what came of it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Craft = Callable[[Path, Path], None]
"""What is done to a run; the second folder lies outside of it and holds what must stay as it is."""

CRAFTED: dict[str, Craft] = {}
CANARY = "canary"
SECONDS = 40
LARGEST_RISE = 900 << 10
"""KB of memory that a command may take beyond what the process held before."""


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

_PLACES: dict[str, Callable[[Path], Path]] = {
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
for _name, _place in _PLACES.items():

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
    "mlflow.json": "precious.txt",
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


for _name, _place in list(_PLACES.items())[:6]:

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


# --- JSON

_BOMBS = {
    "nested a million times": "[" * 1_000_000,
    "an object nested a million times": '{"kind":' * 1_000_000,
    "a number of a million digits": '{"version": 1, "front": ' + "9" * 1_000_000 + "}",
    "NaN": '{"version": NaN, "kind": "grow", "front": [{"network": "n000", "snapshot": "000001", "r2": Infinity}]}',
    "not text": "\ud800",
    "a list": "[]",
}
for _what, _text in _BOMBS.items():
    for _name in ("run.json", "front.json", "mlflow.json", "blueprint.json", "ensembles.json"):

        @crafted(f"{_name}: {_what}")
        def _json_bomb(run: Path, outside: Path, name: str = _name, text: str = _text) -> None:
            _PLACES[name](run).parent.mkdir(exist_ok=True)
            _PLACES[name](run).write_bytes(text.encode("utf-8", errors="surrogatepass"))


# --- settings


def settle(run: Path, **changed: Any) -> None:
    """Changes in run.json: of the config by dotted names, of the page itself by names that begin with /."""
    page = json.loads((run / "run.json").read_text())
    for name, value in changed.items():
        *way, last = name.removeprefix("/").split(".")
        place = page if name.startswith("/") else page["config"]
        for part in way:
            place = place[part]
        place[last] = value
    (run / "run.json").write_text(json.dumps(page))


@crafted("a plug-in in the run's folder and in the current one")
def _plugin(run: Path, outside: Path) -> None:
    code = f"open({str(outside / CANARY)!r}, 'w').close()\n"
    for home in (run, run.parent, Path.cwd()):
        (home / "evilplugin.py").write_text(code)
    settle(run, plugins=["evilplugin"], **{"training.rates": "evil"})


@crafted("an installed module as a plug-in")
def _installed(run: Path, outside: Path) -> None:
    settle(run, plugins=["this"])


@crafted("a server far away to send the events to")
def _server(run: Path, outside: Path) -> None:
    settle(run, **{"record.mlflow": True, "record.tracking_uri": "http://192.0.2.7:5000"})


@crafted("somebody's database to write the events to")
def _database(run: Path, outside: Path) -> None:
    settle(run, **{"record.mlflow": True, "record.tracking_uri": f"sqlite:///{outside / 'precious.db'}"})


@crafted("a table elsewhere to learn from")
def _table(run: Path, outside: Path) -> None:
    settle(run, task="table", **{"data.path": str(outside / "secret.csv"), "data.target": "y", "/task": "table"})
    page = json.loads((run / "run.json").read_text())
    page.pop("data_sha256")
    (run / "run.json").write_text(json.dumps(page))


@crafted("a pipe to learn from")
def _pipe_table(run: Path, outside: Path) -> None:
    os.mkfifo(run.parent / "pipe.csv")
    settle(run, task="table", **{"data.path": str(run.parent / "pipe.csv"), "data.target": "y", "/task": "table"})


@crafted("weights elsewhere to start from")
def _start(run: Path, outside: Path) -> None:
    settle(run, **{"network.start": str(outside / "home")})


@crafted("another folder to write to")
def _out(run: Path, outside: Path) -> None:
    settle(run, out=str(outside), name="../../outside/home")


_ODD = {
    "kind": ["grow"], "task": {"a": 1}, "seed": "x", "versions": [1], "name": {"a": "b"}, "created": 7, "git": [1, 2],
    "config": None, "processor": {"a": 1}, "data_sha256": 5,
}  # fmt: skip
for _key, _value in _ODD.items():

    @crafted(f"run.json: {_key} of another type")
    def _odd(run: Path, outside: Path, key: str = _key, value: Any = _value) -> None:
        settle(run, **{f"/{key}": value})

    @crafted(f"run.json: without {_key}")
    def _less(run: Path, outside: Path, key: str = _key) -> None:
        page = json.loads((run / "run.json").read_text())
        page.pop(key, None)
        (run / "run.json").write_text(json.dumps(page))


for _key, _value in {"workers": 10**9, "training.steps": 10**18, "network.hidden": [10**12], "search": 5, "seed": -1,
                     "growth.cycles": 10**15, "device": "cuda:99", "data.limit": 10**30}.items():  # fmt: skip

    @crafted(f"config: {_key} = {_value}")
    def _config(run: Path, outside: Path, key: str = _key, value: Any = _value) -> None:
        settle(run, **{key: value})


# --- safetensors and blueprints


def tensors_file(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


_TENSORS = {
    "a header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "a shape of 2^50": tensors_file(
        b'{"a":{"dtype":"F32","shape":[1125899906842624],"data_offsets":[0,8]}}', b"12345678"
    ),
    "offsets behind the end": tensors_file(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,999999]}}', b"12345678"),
    "negative shapes": tensors_file(b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', b"12345678"),
    "nested metadata": tensors_file(b'{"__metadata__":' + b"[" * 100_000),
}
for _what, _bytes in _TENSORS.items():

    @crafted(f"safetensors: {_what}")
    def _tensors(run: Path, outside: Path, content: bytes = _bytes) -> None:
        for path in snapshot(run).glob("*.safetensors"):
            path.write_bytes(content)


@crafted("a blueprint of 10^12 units")
def _blueprint(run: Path, outside: Path) -> None:
    path = snapshot(run) / "blueprint.json"
    page = json.loads(path.read_text())
    page["blueprint"]["layers"] = [[name, 10**12 if name.startswith("hidden") else n]
                                   for name, n in page["blueprint"]["layers"]]  # fmt: skip
    path.write_text(json.dumps(page))


# --- what is shown

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ESCAPE = "\x1b[31m\x1b]0;owned\x07\x9b2J"


@crafted("markup and escape codes in every text")
def _shown(run: Path, outside: Path) -> None:
    for name in ("reason", "action", "site", "proposer", "analyzer"):
        with_column(run, name, lambda values: [v and f"{v}{MARKUP}{ESCAPE}" for v in values])
    settle(run, **{"/task": MARKUP + ESCAPE, "/created": MARKUP + ESCAPE, "/git": MARKUP + ESCAPE,
                   "/versions": {"torch": MARKUP + ESCAPE, MARKUP: ESCAPE}})  # fmt: skip


@crafted("a name that would be typed into a shell")
def _shell(run: Path, outside: Path) -> None:
    settle(run, **{"/name": f"a; touch {outside / CANARY} #"})


# --- looking at them

COMMANDS: dict[str, list[str]] = {
    "show": ["show", "RUN", "--network", "all"],
    "show --json": ["show", "RUN", "--json"],
    "runs": ["runs", "--out", "OUT"],
    "export": ["export", "RUN"],
    "report": ["report", "RUN"],
    "predict": ["predict", "RUN", "--data", "DATA"],
    "ensemble": ["ensemble", "RUN"],
    "status": ["status", "RUN"],
    "resume": ["resume", "RUN"],
}


def look(command: list[str], run: Path, data: Path, told: Path) -> dict[str, Any]:
    """What a command says of a run: exit code (None where it hung), its output, and how much memory it took more."""
    names = {"RUN": str(run), "OUT": str(run.parent), "DATA": str(data)}
    words = [names.get(word, word) for word in command]
    pid = os.fork()
    if pid == 0:
        _command(words, told)
    until, status, usage = time.monotonic() + SECONDS, 0, None
    while time.monotonic() < until:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.005)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return {"code": None, "out": "", "err": "", "rise": 0}
    out, err = (told.with_suffix(end).read_text(errors="replace") for end in (".out", ".err"))
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    assert usage is not None
    rise = usage.ru_maxrss - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"code": code, "out": out, "err": err, "rise": rise}


def _command(words: list[str], told: Path) -> None:
    """Never returns."""
    from evo import cli

    code = 70
    try:
        for number, end in ((1, ".out"), (2, ".err")):
            file = os.open(told.with_suffix(end), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(file, number)
        sys.argv = ["evo", *words]
        sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(n, "wb"), encoding="utf-8") for n in (1, 2))
        cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def state_of(folder: Path) -> dict[str, str]:
    """Everything in a folder, to see whether it is as it was."""
    return {str(path.relative_to(folder)): path.read_bytes().hex() if path.is_file() else "folder"
            for path in sorted(folder.rglob("*"))}  # fmt: skip


def chosen(share: int) -> dict[str, list[str]]:
    """The crafted folders with the commands that look at them. share: 1, all by all; n, of each kind of craft every
    n-th, by `show`, `resume` and one of the others in turn.
    """
    if share == 1:
        return {name: list(COMMANDS) for name in CRAFTED}
    found, seen = dict[str, list[str]](), Counter[str]()
    others = [name for name in COMMANDS if name not in ("show", "resume", "export")]
    for name, craft in CRAFTED.items():
        if seen[craft.__name__] % share == 0:
            found[name] = ["show", others[len(found) % len(others)], "resume"]
        seen[craft.__name__] += 1
    return found


def examine(good: Path, home: Path, wanted: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """What every command makes of every crafted folder."""
    found: dict[str, dict[str, Any]] = {}
    for i, (name, commands) in enumerate(wanted.items()):
        craft = CRAFTED[name]
        place, outside = home / f"{i:03d}" / "runs", home / f"{i:03d}" / "outside"
        (outside / "home").mkdir(parents=True)
        for file in ("precious.txt", "precious.db", "home/mine.txt"):
            (outside / file).write_text("mine\n")
        (outside / "secret.csv").write_text("x,y\n" + "\n".join(f"{k},{k % 2}" for k in range(300)))
        run = Path(shutil.copytree(good, place / "a"))
        os.chdir(place.parent)
        craft(run, outside)
        before = state_of(outside)
        told = {}
        for command in commands:
            told[command] = look(COMMANDS[command], run, good.parent / "data.npy", home / "told")
            told[command]["touched"] = state_of(outside) != before
            told[command]["html"] = (run / "report" / "report.html").is_file() and MARKUP in (
                run / "report" / "report.html").read_text()  # fmt: skip
        found[name] = told
        os.chdir(home)
        shutil.rmtree(home / f"{i:03d}")
    return found


def wrong(told: dict[str, Any]) -> str:
    """What is wrong with a command's behaviour; "" if it was refused in one line, or harmless."""
    lines = told["err"].strip().splitlines()
    complaints = [line for line in lines if line.startswith("evo: ")]
    faults = {
        "hung": told["code"] is None,
        f"exit {told['code']}": told["code"] not in (0, 2, None),
        "no line": told["code"] == 2 and not complaints,
        "several lines": told["code"] == 2 and len(complaints) > 1,
        "Traceback": "Traceback" in told["err"],
        "touched what lies outside": told["touched"],
        "markup": told["html"],
        "escape codes": "\x1b" in told["out"] + told["err"] or "\x07" in told["out"] + told["err"],
        f"{told['rise'] >> 10} MB": told["rise"] > LARGEST_RISE,
    }
    return ", ".join(name for name, so in faults.items() if so)


def main(folder: Path, share: int) -> None:
    import numpy as np
    import torch
    import torch.export  # as everything that the commands import: here, once, and not in every fork
    from small_life import SMALL

    from evo import (  # noqa: F401
        api,
        cli,
        ensembles,
        export,
        predictions,
        recorder,
        report,
        run_folder,
        scale_table,
        show,
    )  # fmt: skip

    torch.set_num_threads(1)
    report.PICTURES = {"front": lambda run: None}  # type: ignore[assignment]
    report.png = lambda figure: b"a picture"  # type: ignore[assignment]
    short = {"growth.cycles": 2, "training.steps": 60, "tournament.rungs": [2, 3], "training.warmup": 2}
    api.grow(config={**SMALL, **short, "device": "cpu", "name": "a", "out": str(folder / "good")})
    good = folder / "good" / "a"
    # Unfinished: the last commits' events are gone, so that to resume means to read snapshots and to grow.
    table = recorder.read_table(good, "n000")
    rows = table.to_pylist()
    for path in (good / "events").glob("*.parquet"):
        path.unlink()
    writer = recorder.Recorder(good, "n000")
    for cycle in (0, 1):
        writer.commit([row for row in rows if row["cycle"] == cycle])
    (good / "report" / "front.json").unlink()
    np.save(folder / "good" / "data.npy", np.zeros((3, 64)))
    run_folder.git_revision = lambda: None  # type: ignore[assignment]
    found = examine(good, folder, chosen(share))
    bad = {name: {c: f"{w}: {t['err'].strip()[-600:]}" for c, t in told.items() if (w := wrong(t))}
           for name, told in found.items()}  # fmt: skip
    codes = {name: {c: t["code"] for c, t in told.items()} for name, told in found.items()}
    print(json.dumps({"bad": {k: v for k, v in bad.items() if v}, "codes": codes}))


if __name__ == "__main__":
    real = os.dup(1)
    with contextlib.redirect_stdout(sys.stderr):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    os.write(real, stream.getvalue().strip().splitlines()[-1].encode() + b"\n")
