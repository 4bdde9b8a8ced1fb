"""Two growers of one network, one of them a zombie: nothing is lost or doubled, and the life is the unbroken one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rivals import between_threads
from small_life import SHORT, live, made, same

from evo import recorder
from evo.events import row
from evo.grower import Grower
from evo.recorder import Fenced, Recorder, read_events
from search_spaces import checkpoint

ROOT = Path(__file__).resolve().parents[2]
THREADS, PROCESSES = 20, 5


def check(short_life: Path, folder: Path) -> None:
    assert same(short_life, folder) == []
    assert read_events(folder)["seq"].tolist() == list(range(len(read_events(short_life))))
    names = [path.name for path in (folder / "events").iterdir()]
    assert sorted(names) == sorted(path.name for path in (short_life / "events").iterdir())
    for snapshot in (folder / "snapshots" / "n000").iterdir():
        assert checkpoint.load(snapshot).state is not None


@pytest.mark.parametrize("seed", range(THREADS))
def test_rivals_in_threads_leave_one_life(short_life: Path, tmp_path: Path, seed: int) -> None:
    config, task = made(**SHORT)
    won = between_threads(seed, [lambda: live(config, task, tmp_path)] * 2)
    check(short_life, tmp_path)
    assert len(won) == len(list((tmp_path / "events").iterdir()))


def test_rivals_in_processes_leave_one_life(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("rivals.py")), str(tmp_path), str(PROCESSES)]
    done = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = sorted(tmp_path.glob("rivalry-*"))
    assert len(folders) == PROCESSES
    for folder in folders:
        check(tmp_path / "unbroken", folder)


def test_what_a_zombie_has_saved_but_not_yet_committed_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, task = made(**SHORT)
    zombie = Grower(config, task, tmp_path)
    with monkeypatch.context() as frozen:
        frozen.setattr(Recorder, "commit", lambda *_: (_ for _ in ()).throw(InterruptedError))
        with pytest.raises(InterruptedError):
            zombie.advance()  # saves, and falls asleep before it commits
    saved = tmp_path / "snapshots" / "n000" / "000001"
    before = saved.stat().st_ino
    heir = Grower(config, task, tmp_path)
    assert heir.cycle == 0
    assert saved.stat().st_ino == before
    heir.advance()
    assert saved.stat().st_ino == before  # the same bits: it stays


def test_what_somebody_has_committed_is_replaced_by_nobody(tmp_path: Path) -> None:
    """A zombie of other bits, as on another type of CPU."""
    config, task = made(**SHORT)
    zombie, heir = Grower(config, task, tmp_path), None
    with torch.no_grad():
        next(zombie.body.parameters()).mul_(1.001)
    heir = Grower(config, task, tmp_path)
    heir.advance()
    before = {p: p.read_bytes() for p in (tmp_path / "snapshots" / "n000" / "000001").iterdir()}
    figures = zombie.advance()
    assert {p: p.read_bytes() for p in (tmp_path / "snapshots" / "n000" / "000001").iterdir()} == before
    assert figures["information_nats"] == heir.life.information
    assert figures["validation_information_nats"] == read_events(tmp_path)["validation_information_nats"].iloc[-1]
    while not zombie.done:
        zombie.advance()
    assert checkpoint.load(tmp_path / "snapshots" / "n000" / f"{zombie.cycle:06d}").state is not None


def test_a_network_that_the_search_has_ended_is_over_for_its_zombie(tmp_path: Path) -> None:
    grower = Grower(*made(**SHORT), tmp_path)
    Recorder(tmp_path, "n000").commit([row("finished", cycle=0, step=0, reason="gave way to n001")])
    grower.advance()
    assert grower.done
    assert read_events(tmp_path)["kind"].tolist()[-1] == "finished"
    assert grower.life.reason == "gave way to n001"


def test_one_who_is_fenced_by_nobody_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grower = Grower(*made(**SHORT), tmp_path)
    monkeypatch.setattr(recorder, "create_file", lambda *_: False)
    with pytest.raises(Fenced, match="another process writes this network"):
        grower.advance()
