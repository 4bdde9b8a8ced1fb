"""Runs in a bucket: the same as in a folder, to the bit, whoever is killed, frozen or cut off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_server import S3, bucket
from rivals import between_threads
from small_life import SHORT, SMALL, live, made, same, saved, stable

from evo import api, buckets, drive, lease, replica, run_folder, stored_snapshots
from evo.census import Census
from evo.config import ConfigError, UnavailableError
from evo.events import row
from evo.grower import Grower
from evo.machine import HOST, SPACE
from evo.recorder import Fenced, Recorder, compact, read_events
from evo.run import Run
from evo.storage import StorageError, open_store
from search_spaces import checkpoint

RIVALRIES = 10


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with bucket() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MERISTEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pulled(uri: str, folder: Path) -> Path:
    """All that is committed in the bucket, in a folder that has seen nothing of it before."""
    folder.mkdir()
    replica.attach(folder, uri)
    replica.refresh(folder)
    shots = read_events(folder)
    for network, snapshot in shots.loc[shots["kind"] == "snapshot", ["network", "snapshot"]].itertuples(index=False):
        stored_snapshots.fetch(folder, network, snapshot)
        assert checkpoint.load(folder / "snapshots" / network / snapshot).state is not None
    return folder


# --- lives


def test_a_life_in_a_bucket_is_the_life_in_a_folder(short_life: Path, s3: S3, tmp_path: Path) -> None:
    uri = s3.uri("/life/a")
    with replica.temporary(uri) as folder:
        live(*made(**SHORT), folder)
    assert not folder.exists()
    assert same(short_life, pulled(uri, tmp_path / "pulled")) == []


def test_a_new_machine_at_every_cycle_makes_no_difference(short_life: Path, s3: S3, tmp_path: Path) -> None:
    uri, done = s3.uri("/machines/a"), False
    while not done:
        with replica.temporary(uri) as folder:
            grower = Grower(*made(**SHORT), folder)
            if not grower.done:
                grower.advance()
            done = grower.done
    assert same(short_life, pulled(uri, tmp_path / "pulled")) == []


def test_what_a_killed_process_left_is_swept_by_the_next(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (left := tmp_path / "evo-replica-left").mkdir()
    with replica.temporary(s3.uri("/swept/a")) as one:
        assert not left.exists()
        with replica.temporary(s3.uri("/swept/a")) as other:
            assert sorted(tmp_path.iterdir()) == sorted([one, other])
    assert not list(tmp_path.iterdir())


def test_a_child_finds_its_parent_in_the_bucket(short_life: Path, s3: S3, tmp_path: Path) -> None:
    born = {"network": "n001", "generation": 1, "parent": "n000/000001"}
    here = Path(shutil.copytree(short_life, tmp_path / "here"))
    live(*made(**SHORT), here, **born)
    uri = s3.uri("/child/a")
    for more in ({}, born):
        with replica.temporary(uri) as folder:
            live(*made(**SHORT), folder, **more)
    assert same(here, pulled(uri, tmp_path / "pulled")) == []


@pytest.mark.parametrize("seed", range(RIVALRIES))
def test_rivals_on_two_machines_leave_one_life(short_life: Path, s3: S3, tmp_path: Path, seed: int) -> None:
    config, task = made(**SHORT)
    uri = s3.uri(f"/rivals/{seed}")

    def life() -> None:
        with replica.temporary(uri) as folder:
            live(config, task, folder)

    won = between_threads(seed, [life, life])
    assert same(short_life, pulled(uri, tmp_path / "pulled")) == []
    stored = open_store(uri).names("events/")
    assert len(won) == len(stored) == len(list((short_life / "events").iterdir()))
    shots = read_events(tmp_path / "pulled")["stored"].dropna().nunique()
    assert len({name.rpartition("/")[0] for name in open_store(uri).names("snapshots/")}) == shots


def test_a_commit_that_another_machine_made_is_fenced(s3: S3, tmp_path: Path) -> None:
    uri = s3.uri("/fenced/a")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        replica.attach(tmp_path / name, uri)
    one, other = Recorder(tmp_path / "one", "n000"), Recorder(tmp_path / "other", "n000")
    one.commit([row("started")])
    with pytest.raises(Fenced):
        other.commit([row("started"), row("segment")])
    assert Recorder(tmp_path / "other", "n000").last_seq == 0


def test_a_store_that_is_gone_for_a_while_costs_time_alone(
    short_life: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "PATIENCE", 30.0)
    with bucket() as server:
        uri = server.uri("/gone/a")
        with replica.temporary(uri) as folder:
            grower = Grower(*made(**SHORT), folder)
            server.stop()
            timer = threading.Timer(1.0, server.start)
            timer.start()
            grower.advance()
            timer.join()
            monkeypatch.setattr(buckets, "PATIENCE", 0.5)
            server.stop()
            with pytest.raises(StorageError, match="evo resume RUN"):
                grower.advance()
            server.start()
        with replica.temporary(uri) as folder:
            live(*made(**SHORT), folder)
        assert same(short_life, pulled(uri, tmp_path / "pulled")) == []


def test_a_search_whose_store_is_gone_is_to_end_with_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PATIENCE", 0.2)
    with bucket() as server:
        replica.attach(tmp_path, server.uri("/census/a"))
        Recorder(tmp_path, "n000").commit([row("started", cycle=0)])
        server.stop()
        for ask in (lambda c: c.life("n000"), lambda c: c.end("n000", "failed", "its process died")):
            census = Census(tmp_path, lambda update: None)
            assert not ask(census)
            assert isinstance(census.broken, StorageError)
        server.start()
        assert Census(tmp_path, lambda update: None).life("n000") is None
        assert len(read_events(tmp_path)) == 1


def test_a_machine_without_room_for_a_replica_says_so(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.uri("/full/a")
    with replica.temporary(uri) as folder:
        Recorder(folder, "n000").commit([row("started")])
    (tmp_path / "machine").mkdir()
    replica.attach(tmp_path / "machine", uri)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device.*MERISTEM_CACHE"):
        replica.refresh(tmp_path / "machine")


def test_a_replica_follows_a_compaction(s3: S3, tmp_path: Path) -> None:
    uri = s3.uri("/compacted/a")
    folders = {name: tmp_path / name for name in ("driver", "reader", "late")}
    for folder in folders.values():
        folder.mkdir()
        replica.attach(folder, uri)
    writer = Recorder(folders["driver"], "n000")
    for cycle in range(3):
        writer.commit([row("segment", cycle=cycle)])
        if cycle == 1:
            replica.refresh(folders["reader"])
    compact(folders["driver"])
    replica.push_compacted(folders["driver"])
    assert open_store(uri).names("events/") == ["events/n000-000002.parquet"]
    for folder in folders.values():
        replica.refresh(folder)
        assert read_events(folder)["cycle"].tolist() == [0, 1, 2]
    Recorder(folders["late"], "n000").commit([row("segment", cycle=3)])
    replica.refresh(folders["reader"])
    assert read_events(folders["reader"])["cycle"].tolist() == [0, 1, 2, 3]


def test_what_was_taken_out_of_the_bucket_is_lived_again(short_life: Path, s3: S3, tmp_path: Path) -> None:
    uri = s3.uri("/mended/a")
    (tmp_path / "machine").mkdir()
    replica.attach(tmp_path / "machine", uri)
    live(*made(**SHORT), tmp_path / "machine")
    store = open_store(uri)
    store.remove(store.names("events/")[-1])
    replica.refresh(tmp_path / "machine")
    assert len(read_events(tmp_path / "machine")) < len(read_events(short_life))
    live(*made(**SHORT), tmp_path / "machine")
    assert same(short_life, tmp_path / "machine") == []
    assert same(short_life, pulled(uri, tmp_path / "pulled")) == []


# --- runs


def grown(out: str, **more: object) -> Run:
    return api.grow(config={**SMALL, **SHORT, "name": "a", "out": out, **more})


def test_a_run_in_a_bucket_is_the_run_in_a_folder(
    s3: S3, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = grown(str(tmp_path / "runs"))
    out = s3.uri("/runs")
    there = grown(out)
    assert there.address == s3.uri("/runs/a")
    assert same(here.folder, there.folder) == []
    shutil.rmtree(cache)
    opened = Run.open(s3.uri("/runs/a"))
    assert stable(opened.folder).equals(stable(here.folder))
    assert opened.test is not None
    assert {**opened.test, "evaluated": 0} == {**(here.test or {}), "evaluated": 0}
    assert (opened.folder / "report" / "report.html").read_bytes()
    assert opened.front.equals(here.front)
    assert not (opened.folder / "snapshots").exists()  # until somebody asks for one
    for name, parameter in here.best.checkpoint.network.named_parameters():
        assert parameter.equal(opened.best.checkpoint.network.get_parameter(name))
    names = open_store(s3.uri("/runs/a")).names()
    assert [name for name in names if name.startswith("events/")] == ["events/n000-000003.parquet"]
    assert len({tuple(name.split("/")[1:3]) for name in names if name.startswith("snapshots/")}) == len(
        {name.rpartition("/")[0] for name in saved(here.folder)}
    )
    assert api.resume(s3.uri("/runs/a")).finished
    with pytest.raises(ConfigError, match="is there already"):
        grown(out)
    with pytest.raises(ConfigError, match=r"write a$"):
        run_folder.find("aa", out)
    assert [folder.name for folder in run_folder.folders(out)] == ["a"]


def test_a_run_that_was_broken_off_goes_on_from_another_machine(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = grown(str(tmp_path / "runs"))
    out = s3.uri("/broken")
    commits: list[int] = []
    commit = Recorder.commit

    def broken(self: Recorder, rows: list[dict[str, object]]) -> None:
        commits.append(len(rows))
        if len(commits) == 3:
            raise MemoryError("as if the machine were gone")
        commit(self, rows)

    with monkeypatch.context() as machine:
        machine.setattr(Recorder, "commit", broken)
        machine.setattr(lease.Lease, "release", lambda self: self._ended.set())
        with pytest.raises(MemoryError):
            grown(out)
    monkeypatch.setenv("MERISTEM_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setattr("evo.machine.SPACE", "another/1")
    with pytest.raises(ConfigError, match=r"to be at rest, but process \d+ on .* wait for it"):
        api.resume("a", out=out)
    monkeypatch.setattr(lease, "STALE", 0.2)
    time.sleep(0.3)
    assert same(here.folder, api.resume("a", out=out).folder) == []


def test_another_run_of_a_name_is_not_taken_for_the_one_before(s3: S3) -> None:
    store = open_store(s3.uri("/again/a"))
    store.create("run.json", json.dumps({"kind": "grow", "created": "one"}).encode())
    with replica.temporary(s3.uri("/again/a")) as folder:
        Recorder(folder, "n000").commit([row("started")])
    assert len(Run.open(s3.uri("/again/a")).events) == 1
    for name in store.names():
        store.remove(name)
    store.create("run.json", json.dumps({"kind": "grow", "created": "two"}).encode())
    assert len(Run.open(s3.uri("/again/a")).events) == 0


def test_a_run_that_came_to_nothing_leaves_nothing(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    def hurt(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(drive, "_grow_one", hurt)
    with pytest.raises(MemoryError):
        grown(s3.uri("/nothing"))
    assert open_store(s3.uri("/nothing")).names() == []


def test_a_run_goes_on_from_a_run_in_a_bucket_and_gets_more_of_it(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo.report.write", lambda run, task=None: None)
    first = grown(s3.uri("/origin"))
    local = grown(str(tmp_path / "runs"), name="b", **{"network.parent": s3.uri("/origin/a")})
    remote = grown(s3.uri("/origin"), name="b", **{"network.parent": first.address})
    assert same(local.folder, remote.folder) == []
    monkeypatch.setenv("MERISTEM_CACHE", str(tmp_path / "another machine"))
    longer = api.resume(s3.uri("/origin/b"), steps=60, cycles=1, trust=True)
    assert longer.finished
    assert len(longer.networks) == 2
    assert same(api.resume(local.folder, steps=60, cycles=1, trust=True).folder, longer.folder) == []


# --- leases


def test_a_lease_that_is_lost_is_told_of(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3.uri("/lease/a"))
    monkeypatch.setattr(lease, "STALE", 0.4)
    with lease.held(store) as first:
        first.check()
        time.sleep(0.5)
        first.check()  # it renews
        with pytest.raises(ConfigError, match="at rest"), lease.held(store):
            pass
        monkeypatch.setattr(lease, "_check_stale", lambda *_: None)  # as if this one had been frozen
        with lease.held(store):
            time.sleep(0.3)
            with pytest.raises(UnavailableError, match=r"took .* over"):
                first.check()
    with lease.held(store):
        assert len(store.names("lease/")) == 1


def test_a_dead_process_holds_no_lease_on_its_own_machine_and_holds_one_elsewhere(s3: S3) -> None:
    """Also one of before leases named this start of the kernel: a machine of the same name may be another one."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name, space in (("old", os.stat("/proc/self/ns/pid").st_ino), ("bare", None), ("here", SPACE)):
        store = open_store(s3.uri(f"/lease/{name}"))
        told = {"host": HOST, "space": space, "pid": ended.pid, "time": time.time()}
        store.create("lease/000000", json.dumps({k: v for k, v in told.items() if v is not None}).encode())
        if name == "here":
            with lease.held(store):
                assert store.names("lease/") == ["lease/000001"]
        else:
            with pytest.raises(UnavailableError, match="to be at rest"), lease.held(store):
                pytest.fail("it was held")


def test_of_many_who_want_a_lease_one_gets_it(s3: S3) -> None:
    store, got, barrier, over = open_store(s3.uri("/leases/a")), [], threading.Barrier(6), threading.Event()

    def want() -> None:
        barrier.wait()
        try:
            with lease.held(store):
                got.append(1)
                over.wait(20)
        except ConfigError:
            pass

    threads = [threading.Thread(target=want) for _ in range(6)]
    [t.start() for t in threads]
    time.sleep(2.0)
    over.set()
    [t.join() for t in threads]
    assert got == [1]
