"""More of the folders that `hostile_folders` lists: files that say what they should not, and ask for it."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from hostile_folders import (
    CANARY,
    PLACES,
    crafted,
    snapshot,
    with_column,
)

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
            PLACES[name](run).parent.mkdir(exist_ok=True)
            PLACES[name](run).write_bytes(text.encode("utf-8", errors="surrogatepass"))


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


ELSEWHERE = (
    "http://evil.com\\@localhost:5000", "http://evil.com\\@127.0.0.1", "http://localhost\\.evil.com/",
    "http://localhost@evil.com", "http://localhost:5000@evil.com", "http://evil.com@localhost:5000",
    "http://localhost:pass@evil.com:80/", "http://localhost:5000 @evil.com", " http://localhost:5000",
    "http://localhost:5000\n", "http://evil.com\t@localhost", "http://local\nhost", "http://localhost\0.evil.com",
    "http:localhost", "http:/localhost", "http:///localhost", "//localhost", "HTTP://LOCALHOST:5000",
    "http://LOCALHOST", "http://localhost.", "http://localhost.evil.com", "http://%6cocalhost",
    "http://evil.com%2f@localhost", "http://evil.com#@localhost", "http://evil.com?@localhost", "http://localhost#@evil.com",
    "http://localhost?@evil.com", "http://[::1].evil.com", "http://[::1%25eth0]", "http://[::ffff:192.0.2.7]", "http://127.0.0.1.evil.com",
    "http://localhost:", "http://localhost:5000x", "http://localhost:\u0665", "http://\uff4cocalhost",
    "http://localhost/a b", "ftp://localhost", "file:///tmp/mine", "databricks", "uc:localhost", "",
)  # fmt: skip
"""Addresses that are none of this machine's, or that two parsers may take for different ones."""

for _address in ELSEWHERE[::4]:

    @crafted(f"events to {_address!r}")
    def _address_elsewhere(run: Path, outside: Path, address: str = _address) -> None:
        settle(run, **{"record.mlflow": True, "record.tracking_uri": address})


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


@crafted("a search of 10^12 networks, of which one is named in escape codes")
def _search(run: Path, outside: Path) -> None:
    settle(run, **{"/kind": "search", "search.networks": 10**12, "growth.cycles": "x"})
    (run / "live").mkdir(exist_ok=True)
    (run / "live" / f"{ESCAPE}.json").write_text(json.dumps({"time": 1.0, "beat": 1, "phase": ESCAPE}))


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
