"""Snapshots of a run in a store, seen from several machines: what was committed is what each of them comes to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_life import SHORT, live, made

from evo import recorder, replica, retention, stored_snapshots
from evo.events import row
from evo.grower import Grower
from evo.recorder import Fenced, Recorder, read_events
from search_spaces import checkpoint


def machines(tmp_path: Path, *names: str) -> list[Path]:
    """A replica each of one run, whose store is a folder."""
    (tmp_path / "store").mkdir(exist_ok=True)
    made = []
    for name in names:
        (tmp_path / name).mkdir()
        replica.attach(tmp_path / name, str(tmp_path / "store"))
        made.append(tmp_path / name)
    return made


class Killed(BaseException):
    pass


@pytest.mark.parametrize("deltas", [True, False])
def test_a_snapshot_that_was_saved_and_not_committed_gives_way_to_the_committed_one(
    tmp_path: Path, deltas: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine a has other last bits, and is killed after it saved a cycle that machine b then commits."""
    a, b, fresh = machines(tmp_path, "a", "b", "fresh")
    config, task = made(**{**SHORT, "growth.cycles": 3, "training.steps": 90, "record.deltas": deltas})
    first = Grower(config, task, a)
    with torch.no_grad():
        next(first.body.parameters()).mul_(1.0000005)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "commit", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            first.advance()
    second = Grower(config, task, b)
    second.advance()
    second.advance()
    uncommitted = (a / "snapshots" / "n000" / "000001" / "blueprint.json").read_bytes()
    assert uncommitted != (b / "snapshots" / "n000" / "000001" / "blueprint.json").read_bytes()

    # Where it goes on, it goes on from what was committed, and tidies that alone.
    last = live(config, task, a)
    recorder.compact(a)
    replica.push_compacted(a)
    stay = {("n000", "000001"): "on the front", ("n000", f"{last.cycle:06d}"): "the network's last"}
    for name in stay:
        stored_snapshots.fetch(a, *name)
    retention.tidy(a, stay)
    stored_snapshots.tidy(a, stay)
    replica.refresh(fresh)
    for network, snapshot in stay:
        stored_snapshots.fetch(fresh, network, snapshot)
        there, here = (checkpoint.load(home / "snapshots" / network / snapshot) for home in (fresh, a))
        for one, other in zip(there.network.parameters(), here.network.parameters(), strict=True):
            assert torch.equal(one, other)
    assert stored_snapshots.kept(fresh) == set(stay)


def test_who_tidies_leaves_alone_what_its_events_do_not_know(tmp_path: Path) -> None:
    """Another process took the run over and added a network to it."""
    (a,) = machines(tmp_path, "a")
    config, task = made(**SHORT)
    live(config, task, a)
    found = replica.of(a)
    assert found is not None
    found.store.create("snapshots/n001/000000/0123456789abcdef/blueprint.json", b"{}")
    stay = [("n000", "000002")]
    stored_snapshots.tidy(a, stay)
    assert stored_snapshots.kept(a) == {("n000", "000002"), ("n001", "000000")}


# --- events


def rows(*cycles: int, **more: Any) -> list[list[dict[str, Any]]]:
    return [[row("snapshot", cycle=i, step=i, snapshot=f"{i:06d}", stored=f"{i:016x}", **more)] for i in cycles]


def three_commits(tmp_path: Path) -> list[Path]:
    """Made on one machine, and fetched by another."""
    a, b = machines(tmp_path, "a", "b")
    writer = Recorder(a, "n000")
    for commit in rows(0, 1, 2):
        writer.commit(commit)
    replica.refresh(b)
    return [a, b]


def test_a_removed_commit_that_was_lived_again_is_fetched_again(tmp_path: Path) -> None:
    a, b = three_commits(tmp_path)
    (tmp_path / "store" / "events" / "n000-000002.parquet").unlink()
    writer = Recorder(a, "n000")
    writer.commit([{**rows(2)[0][0], "stored": "f" * 16}])
    replica.distrust(b)
    replica.refresh(b)
    assert read_events(b)["stored"].tolist() == read_events(a)["stored"].tolist()


def test_a_damaged_file_of_a_replica_is_fetched_again(tmp_path: Path) -> None:
    _, b = three_commits(tmp_path)
    path = b / "events" / "n000-000001.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(recorder.RecordError):
        read_events(b)
    replica.distrust(b)
    replica.refresh(b)
    assert read_events(b)["seq"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("place", ["a folder", "a store"])
def test_who_slept_through_a_compaction_commits_nothing(tmp_path: Path, place: str) -> None:
    """The names of earlier commits are free then; what they held is in the newest."""
    one = other = tmp_path
    if place == "a store":
        one, other = machines(tmp_path, "one", "other")
    zombie = Recorder(other, "n000")
    zombie.commit(rows(0)[0])
    heir = Recorder(one, "n000")
    for commit in rows(1, 2, 3):
        heir.commit(commit)
    recorder.compact(one)
    replica.push_compacted(one)
    with pytest.raises(Fenced):
        zombie.commit(rows(9)[0])
    with pytest.raises(Fenced):
        zombie.check()
    home = tmp_path / "store" if place == "a store" else tmp_path
    assert [path.name for path in (home / "events").glob("[!.]*")] == ["n000-000003.parquet"]
    assert read_events(one)["cycle"].tolist() == [0, 1, 2, 3]


def test_who_slept_until_the_run_was_tidied_changes_no_snapshot(tmp_path: Path) -> None:
    config, task = made(**SHORT)
    zombie = Grower(config, task, tmp_path)
    heir = live(config, task, tmp_path)
    recorder.compact(tmp_path)
    retention.tidy(tmp_path, {("n000", "000001"): "on the front", ("n000", f"{heir.cycle:06d}"): "the network's last"})
    home = tmp_path / "snapshots" / "n000"
    before = {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}
    while not zombie.done:
        zombie.advance()
    assert {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()} == before
    assert checkpoint.load(home / "000001").state is not None
