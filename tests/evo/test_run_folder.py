"""Run folders: whole or not at all, one name for one run, found by name."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from evo import run_folder
from evo.config import Config, ConfigError, UnavailableError
from evo.settings import build


def config(out: Path, **settings: object) -> Config:
    return build({"out": str(out)}, settings)


def test_holds_enough_to_run_it_again(tmp_path: Path) -> None:
    folder, named = run_folder.create("grow", config(tmp_path / "a" / "runs", seed=5, task="parity:8"), data_sha256="x")
    info = json.loads((folder / "run.json").read_text())
    assert folder.parent == tmp_path / "a" / "runs"
    assert folder.name.startswith("parity-8-")
    assert info["name"] == named.name == folder.name
    assert (info["kind"], info["task"], info["seed"], info["data_sha256"]) == ("grow", "parity:8", 5, "x")
    assert build(info["config"]) == named
    assert {"python", "torch", "numpy", "ray", "pyarrow"} <= set(info["versions"])
    assert info["created"].endswith("+00:00")
    assert os.listdir(folder) == ["run.json"]
    assert os.listdir(folder.parent) == [folder.name]


def test_names_of_its_own_are_always_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_name_of", lambda task: "digits-now")
    names = [run_folder.create("grow", config(tmp_path))[0].name for _ in range(3)]
    assert names == ["digits-now", "digits-now-2", "digits-now-3"]


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    folder, _ = run_folder.create("grow", config(tmp_path, name="mine"))
    before = (folder / "run.json").read_bytes()
    with pytest.raises(ConfigError, match=r"^name: expected one that is free.*evo resume mine"):
        run_folder.create("grow", config(tmp_path, name="mine"))
    assert (folder / "run.json").read_bytes() == before


def test_of_two_that_want_a_name_at_once_one_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if target.name == "mine":
            target.mkdir()
            (target / "run.json").write_text("the other's")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(ConfigError, match="name: expected one that is free"):
        run_folder.create("grow", config(tmp_path, name="mine"))
    assert os.listdir(tmp_path) == ["mine"]
    assert (tmp_path / "mine" / "run.json").read_text() == "the other's"


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "mlflow.db", "two words", "x" * 300])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^name: expected up to 100 letters"):
        run_folder.create("grow", config(tmp_path, name=name))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_folder.create("grow", config(tmp_path / "new" / "runs"))
    assert os.listdir(tmp_path) == []


def test_found_by_name_or_folder(tmp_path: Path) -> None:
    folder, _ = run_folder.create("grow", config(tmp_path, name="mine"))
    assert run_folder.find("mine", tmp_path) == folder
    assert run_folder.find(folder, "elsewhere") == folder
    with pytest.raises(ConfigError, match=r"no run 'mime'.*; write mine"):
        run_folder.find("mime", tmp_path)
    with pytest.raises(ConfigError, match="`evo runs` lists them"):
        run_folder.find("mime", tmp_path / "none")


def test_lists_runs_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b", "a"):
        run_folder.create("grow", config(tmp_path, name=name))
    (tmp_path / "mlartifacts").mkdir()
    (tmp_path / ".draft").mkdir()
    (tmp_path / ".draft" / "run.json").write_text("{}")
    (tmp_path / "mlflow.db").write_text("")
    assert [f.name for f in run_folder.folders(tmp_path)] == ["a", "b"]
    assert run_folder.folders(tmp_path / "none") == []


def test_only_a_run_without_events_is_discarded(tmp_path: Path) -> None:
    empty, _ = run_folder.create("grow", config(tmp_path, name="empty"))
    full, _ = run_folder.create("grow", config(tmp_path, name="full"))
    (full / "events").mkdir()
    (full / "events" / "n000-000000.parquet").write_bytes(b"")
    run_folder.discard(empty)
    run_folder.discard(full)
    assert os.listdir(tmp_path) == ["full"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder, _ = run_folder.create("grow", config(tmp_path, name="mine"))
    refused = pytest.raises(UnavailableError, match=r"^run: expected mine to be at rest")
    with run_folder.locked(folder), refused, run_folder.locked(folder):
        pytest.fail("it was locked")
    with run_folder.locked(folder):
        assert (folder / ".lock").exists()


@pytest.mark.timeout(20)
def test_a_lock_that_is_a_pipe_or_a_link_is_not_waited_for_nor_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for craft in (os.mkfifo, lambda path: os.symlink(tmp_path / "mine", path)):
        craft(tmp_path / ".lock")
        with pytest.raises(OSError, match="lock"), run_folder.locked(tmp_path):
            pytest.fail("it was locked")
        (tmp_path / ".lock").unlink()
    assert (tmp_path / "mine").read_text() == "precious"
