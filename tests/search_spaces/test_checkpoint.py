"""Checkpoints that are damaged, foreign or hostile, and disks that fail."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from random_actions import inputs, random_state, seed_network
from safetensors.torch import load, save

from search_spaces import checkpoint
from search_spaces.checkpoint import CheckpointError
from search_spaces.network import Network
from search_spaces.randomness import keyed

NAMES = ["blueprint.json", "weights.safetensors", "optimizer.safetensors", "state.json"]

Files = dict[str, bytes]


def network() -> Network:
    return seed_network("convnet", keyed("checkpoint"))


@pytest.fixture
def files() -> Files:
    grown = network()
    return checkpoint.to_files(grown, random_state(grown, keyed("state")), {"cycle": 3, "name": "n000"}, ["n000/1"])


def refused(files: Files) -> str:
    """What is said of files that cannot be read."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.from_files(files, "runs/x/000003")
    message = str(caught.value)
    assert message.startswith("runs/x/000003/")
    assert "\n" not in message
    return message


def with_blueprint(files: Files, change: Callable[[dict[str, Any]], object]) -> Files:
    head = json.loads(files["blueprint.json"])
    change(head)
    return {**files, "blueprint.json": json.dumps(head).encode()}


def with_tensors(files: Files, name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Files:
    values = load(files[name])
    change(values)
    return {**files, name: save(values)}


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


# --- damage


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_flipped_bit_is_noticed(files: Files, name: str) -> None:
    content = bytearray(files[name])
    content[-3] ^= 1
    assert f"{name}: damaged" in refused({**files, name: bytes(content)})


@pytest.mark.parametrize("name", NAMES)
def test_truncated_at_every_kind_of_place(name: str, files: Files) -> None:
    whole = files[name]
    places = {0, 1, 4, 7, 8, 9, 20, len(whole) // 4, len(whole) // 2, len(whole) - 8, len(whole) - 1}
    if name.endswith("safetensors"):
        (length,) = struct.unpack("<Q", whole[:8])
        places |= {8 + length // 2, 8 + length - 1, 8 + length, 8 + length + 1}
    for at in sorted(p for p in places if p < len(whole)):
        assert name in refused({**files, name: whole[:at]}), at


@pytest.mark.parametrize("name", [n for n in NAMES if n != "optimizer.safetensors"])
def test_a_missing_file_is_named(name: str, files: Files) -> None:
    assert f"{name}: missing" in refused({k: v for k, v in files.items() if k != name})


def test_without_optimizer_state_a_fresh_one_is_due(files: Files) -> None:
    del files["optimizer.safetensors"]
    assert checkpoint.from_files(files).state is None


@pytest.mark.parametrize("name", NAMES)
def test_garbage_is_refused(name: str, files: Files) -> None:
    for garbage in (b"\x00" * 64, b"\xff" * 64, bytes(range(256)), b"[]", b"null", b"7"):
        assert name in refused({**files, name: garbage})


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_is_refused_and_never_run(name: str, files: Files, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    assert name in refused({**files, name: pickle.dumps(Trap())})
    torch.save({"links": torch.zeros(2)}, tmp_path / "torch.pt")
    assert name in refused({**files, name: (tmp_path / "torch.pt").read_bytes()})
    assert not (tmp_path / "sprung").exists()


def test_flipped_header_bytes_never_crash(files: Files) -> None:
    whole = files["weights.safetensors"]
    rng = keyed("flips")
    (length,) = struct.unpack("<Q", whole[:8])
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, 8 + length, 3):
            damaged[at] = rng.integers(256)
        try:
            checkpoint.from_files({**files, "weights.safetensors": bytes(damaged)})
        except CheckpointError as err:
            assert "weights.safetensors" in str(err)  # noqa: PT017 some flips fall into blanks and do no harm


# --- files that do not fit


def test_wrong_shapes_name_the_tensor_and_both_shapes(files: Files) -> None:
    key = "links.channel1>channel2"
    message = refused(with_tensors(files, "weights.safetensors", lambda t: t.update({key: t[key][:1]})))
    assert f"weights.safetensors: {key} has shape (1, 3, 3, 3), the blueprint says (2, 3, 3, 3)" in message
    key = "second/biases.output"
    message = refused(with_tensors(files, "optimizer.safetensors", lambda t: t.update({key: torch.zeros(7)})))
    assert f"{key} has shape (7,), the blueprint says (3,)" in message


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors"])
def test_tensors_missing_spare_or_of_another_type(name: str, files: Files) -> None:
    key = "biases.output" if name.startswith("weights") else "age/biases.output"
    assert f"{key!r} is missing" in refused(with_tensors(files, name, lambda t: t.pop(key)))
    assert "'spare' is unknown" in refused(with_tensors(files, name, lambda t: t.update(spare=torch.zeros(1))))
    wrong = torch.zeros(3, dtype=torch.int64)
    assert "torch.int64" in refused(with_tensors(files, name, lambda t: t.update({key: wrong})))
    other = "biases.hidden1" if name.startswith("weights") else "scale/biases.hidden1"
    mixed = torch.zeros(3, dtype=torch.float16)
    assert "floating-point" in refused(with_tensors(files, name, lambda t: t.update({other: mixed})))


def test_unknown_family(files: Files) -> None:
    for family in ("transformer", None, 3, ["mlp"], {"mlp": 1}):
        message = refused(with_blueprint(files, lambda head, f=family: head["blueprint"].update(family=f)))
        assert "expected one of mlp, convnet" in message


def test_other_versions(files: Files) -> None:
    for version in (3, 0, "1", None):
        message = refused(with_blueprint(files, lambda head, v=version: head.update(version=v)))
        assert f"version {version!r}" in message


@pytest.mark.parametrize(
    "layers",
    [
        [],
        None,
        "input",
        [["input"]],
        [["input", 2], ["output", "many"]],
        [["input", 2], ["channel1", 0], ["output", 3]],
        [["input", 2], ["channel1", -3], ["output", 3]],
        [["input", 2], ["channel1", 1e400], ["output", 3]],
        [["input", 2], ["chan.nel", 3], ["output", 3]],
        [["input", 2], ["channel1", 3], ["channel1", 3], ["output", 3]],
    ],
)
def test_blueprints_that_cannot_be_built(layers: object, files: Files) -> None:
    assert "blueprint.json" in refused(with_blueprint(files, lambda head: head["blueprint"].update(layers=layers)))


@pytest.mark.parametrize("key", ["layers", "picture", "activation"])
def test_blueprints_with_a_field_missing(key: str, files: Files) -> None:
    assert key in refused(with_blueprint(files, lambda head: head["blueprint"].pop(key)))


def test_lineage_and_state_of_the_wrong_kind(files: Files) -> None:
    assert "lineage" in refused(with_blueprint(files, lambda head: head.update(lineage=7)))
    assert "blueprint.json: expected a JSON object" in refused({**files, "blueprint.json": b"[1]"})


# --- hostile sizes


@pytest.mark.parametrize("units", [10**9, 10**12, 10**18, 10**30, 10**4000])
def test_huge_blueprints_are_refused_without_memory(units: int, files: Files) -> None:
    def grow(head: dict[str, Any]) -> None:
        head["blueprint"]["layers"][1][1] = units

    tracemalloc.start()
    try:
        refused(with_blueprint(files, grow))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("units", [10**9, 10**12])
def test_huge_layers_on_both_sides_of_an_mlp(units: int) -> None:
    grown = seed_network("mlp", keyed("huge"))
    head = with_blueprint(
        checkpoint.to_files(grown), lambda h: h["blueprint"].update(layers=[[n, units] for n, _ in grown.layers])
    )
    assert "blueprint" in refused(head)


def test_huge_tensors_in_a_small_file(files: Files) -> None:
    for shape, end in (([2**40, 2**20], 8), ([2**62, 4], 2**63), ([10**12], 4 * 10**12), ([2**40, 0], 0)):
        entry = {"biases.output": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}
        assert "weights.safetensors" in refused({**files, "weights.safetensors": header(entry, b"\x00" * 8)})
    assert "weights.safetensors" in refused({**files, "weights.safetensors": struct.pack("<Q", 2**63) + b"{}"})


# --- disks


def everything(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def sealed() -> Iterator[Path]:
    """A folder in which this process may not write, though it may run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(stat.S_IRWXU)
        folder.rmdir()


def test_a_read_only_folder_is_an_os_error_and_stays_empty(sealed: Path) -> None:
    grown = network()
    with pytest.raises(PermissionError):
        checkpoint.save(sealed / "000001", grown)
    assert everything(sealed) == []


def fails_at(monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: int) -> None:
    """Let the n-th call of os.CALL fail."""
    real, count = getattr(os, call), iter(range(1000))

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(count) == number:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, failing)


@pytest.mark.parametrize(
    ("old", "call", "number", "code"),
    [
        *((old, "fsync", n, code) for old in (False, True) for n, code in enumerate([errno.ENOSPC, errno.EIO] * 2)),
        (False, "rename", 0, errno.EROFS),
        (True, "rename", 0, errno.EROFS),
        (True, "rename", 1, errno.EROFS),
    ],
)
def test_a_failing_disk_leaves_the_old_checkpoint_or_none(
    old: bool, call: str, number: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, grown = tmp_path / "snapshots" / "000001", network()
    if old:
        checkpoint.save(folder, grown, extra={"which": "old"})
    with monkeypatch.context() as patched:
        fails_at(patched, call, number, code)
        with pytest.raises(OSError, match=os.strerror(code)):
            checkpoint.save(folder, grown, random_state(grown, keyed("state")), {"which": "new"})
    if old:
        assert everything(folder.parent)[:1] == ["000001"]
        assert len(everything(folder.parent)) == 4
        assert checkpoint.load(folder).extra == {"which": "old"}
    else:
        assert everything(tmp_path) == ["snapshots"]


def test_replaced_as_a_whole(tmp_path: Path) -> None:
    grown = network()
    checkpoint.save(tmp_path / "a", grown, random_state(grown, keyed("state")), {"which": "old"})
    checkpoint.save(tmp_path / "a", grown, None, {"which": "new"})
    loaded = checkpoint.load(tmp_path / "a")
    assert loaded.state is None
    assert loaded.extra == {"which": "new"}
    assert everything(tmp_path) == ["a", "a/blueprint.json", "a/state.json", "a/weights.safetensors"]


def test_same_network_same_bytes(files: Files) -> None:
    grown = network()
    again = checkpoint.to_files(grown, random_state(grown, keyed("state")), {"cycle": 3, "name": "n000"}, ["n000/1"])
    assert again == files


def test_what_is_loaded_can_be_trained(files: Files) -> None:
    loaded = checkpoint.from_files(files)
    loaded.network.train()
    loaded.network(inputs(loaded.network, keyed("x"))).sum().backward()
    with torch.no_grad():
        for parameter in loaded.network.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * parameter.grad
    assert loaded.state is not None
    loaded.state.age["biases.output"] += 1


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder; write the folder of a snapshot"):
        checkpoint.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"blueprint.json: missing"):
        checkpoint.load(tmp_path / "empty")
