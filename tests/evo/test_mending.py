"""A run of which the newest file is damaged is refused by name, and goes on once that is set aside: to the same end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_life import live, made, same

from evo import recorder, run_folder
from evo.api import resume
from evo.config import Config, ConfigError
from evo.grower import Grower
from evo.mending import set_aside


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["events/n000-000004.parquet", "snapshots/n000/000004/*.safetensors"])
@pytest.mark.parametrize("harm", [truncate, flip])
def test_the_newest_commit_is_lived_again(copy: Path, unbroken: Path, what: str, harm: Callable[[Path], None]) -> None:
    (path,) = copy.glob(what)
    harm(path)
    with pytest.raises(ValueError, match=r"000004.*`evo resume RUN --set-aside n000`") as caught:
        Grower(*made(), copy)
    assert "\n" not in str(caught.value)
    aside = set_aside(copy, "n000")
    assert aside == copy / "aside" / "n000-000004.parquet.1"
    assert aside.is_file()
    live(*made(), copy)
    assert same(unbroken, copy) == []


def test_step_by_step_back_to_the_beginning(copy: Path, unbroken: Path) -> None:
    for left in (4, 3, 2, 1, 0):
        truncate(copy / "events" / f"n000-{left:06d}.parquet")
        set_aside(copy, "n000")
    assert recorder.networks(copy) == []
    live(*made(), copy)
    assert same(unbroken, copy) == []


def test_a_compacted_life_is_lived_anew_and_nothing_is_overwritten(copy: Path, unbroken: Path) -> None:
    (copy / "aside").mkdir()
    (copy / "aside" / "n000-000004.parquet.1").write_text("of before")
    recorder.compact(copy)
    assert set_aside(copy, "n000").name == "n000-000004.parquet.2"
    live(*made(), copy)
    assert same(unbroken, copy) == []
    assert (copy / "aside" / "n000-000004.parquet.1").read_text() == "of before"


@pytest.mark.parametrize("network", ["n00", "n0*", "", "../n000", "n001"])
def test_a_network_that_there_is_not(copy: Path, network: str) -> None:
    before = sorted(copy.rglob("*"))
    with pytest.raises(ConfigError, match=r"^--set-aside: expected a network of this run, one of n000, got"):
        set_aside(copy, network)
    assert sorted(copy.rglob("*")) == before


def test_not_while_another_process_is_at_work(copy: Path) -> None:
    config: Config = made()[0]
    (copy / "run.json").write_text(json.dumps(run_folder.describe("grow", config.model_copy(update={"name": "copy"}))))
    with run_folder.locked(copy), pytest.raises(ConfigError, match="another process is at work on it"):
        resume(copy, set_aside="n000")
    assert not (copy / "aside").exists()
