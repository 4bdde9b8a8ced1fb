"""A replica that a driver and others on its machine share: nobody takes from the driver what it works on."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from evo import recorder, replica, replica_lock, run_folder
from evo.config import UnavailableError
from evo.events import row
from evo.recorder import Recorder, read_events
from evo.storage import lock_file, open_store


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of runs that stands for a bucket."""
    monkeypatch.setenv("MERISTEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(replica_lock, "PATIENCE_SECONDS", 0.3)
    (tmp_path / "bucket").mkdir()
    return str(tmp_path / "bucket")


def begun(out: str, commits: int = 3) -> Path:
    """A driver's replica."""
    folder = replica.claim(out, "a", b"{}")
    assert folder is not None
    writer = Recorder(folder, "n000")
    for cycle in range(commits):
        writer.commit([row("segment", cycle=cycle)])
    return folder


def cycles(out: str, tmp_path: Path) -> list[int]:
    """What somebody reads who has seen nothing of it."""
    place = tmp_path / f"fresh-{len(list(tmp_path.iterdir()))}"
    place.mkdir()
    replica.attach(place, f"{out}/a")
    replica.refresh(place)
    return list(read_events(place)["cycle"])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "events").glob("[!.]*")}


def test_beside_a_driver_that_compacts_a_reader_takes_nothing_away(out: str, tmp_path: Path) -> None:
    folder = begun(out)
    with run_folder.locked(folder):
        recorder.compact(folder)
        held = files(folder)
        assert replica.opened(f"{out}/a") == folder
        assert files(folder).items() >= held.items()
        replica.push_compacted(folder)
    assert cycles(out, tmp_path) == [0, 1, 2]
    # Nobody is at work any more: it is brought to what is in the bucket.
    (folder / "events" / "n000-000002.parquet").write_bytes(b"damaged")
    assert replica.opened(f"{out}/a") == folder
    assert list(read_events(folder)["cycle"]) == [0, 1, 2]


def test_a_reader_that_was_slow_puts_nothing_over_what_the_driver_has_made(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked before the driver had fetched a commit, and writes after that was compacted."""
    folder = begun(out)
    (folder / "events" / "n000-000002.parquet").unlink()
    driver = replica.of(folder)
    assert driver is not None
    store = type(driver.store)
    read = store.read

    def slowly(self: object, name: str) -> bytes:
        data = read(self, name)
        monkeypatch.setattr(store, "read", read)
        replica.refresh(folder)
        recorder.compact(folder)
        return data

    monkeypatch.setattr(store, "read", slowly)
    replica.refresh(folder)
    assert list(read_events(folder)["cycle"]) == [0, 1, 2]


def test_nothing_leaves_the_bucket_that_the_newest_file_does_not_hold(out: str, tmp_path: Path) -> None:
    folder = begun(out)
    for name in ("n000-000000", "n000-000001"):
        (folder / "events" / f"{name}.parquet").unlink()
    replica.push_compacted(folder)
    assert len(open_store(f"{out}/a").names("events/")) == 3
    assert cycles(out, tmp_path) == [0, 1, 2]


def test_a_process_that_hangs_while_it_brings_a_replica_up_to_date_keeps_readers_from_nothing(out: str) -> None:
    folder = begun(out)
    (folder / "events" / "n000-000001.parquet").unlink()
    with lock_file(folder.parent / ".a.update") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert replica.opened(f"{out}/a") == folder
        assert list(read_events(folder)["cycle"]) == [0, 1, 2]
        with (
            pytest.raises(UnavailableError, match=r"a to be at rest on this machine, .*; wait"),
            run_folder.locked(folder),
        ):
            pass
    with run_folder.locked(folder):
        pass


def test_a_driver_waits_for_a_reader_that_is_about_to_be_done(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_lock, "PATIENCE_SECONDS", 60.0)
    folder, told = begun(out), []
    with lock_file(folder.parent / ".a.update") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def drive() -> None:
            with run_folder.locked(folder):
                told.append("driver")

        thread = threading.Thread(target=drive)
        thread.start()
        thread.join(0.2)
        told.append("reader")
    thread.join()
    assert told == ["reader", "driver"]


def test_where_a_driver_works_on_an_earlier_run_of_the_name_nothing_of_it_goes(out: str) -> None:
    folder = begun(out)
    store = open_store(f"{out}/a")
    with run_folder.locked(folder):
        held = files(folder)
        for name in store.names():
            store.remove(name)
        with pytest.raises(UnavailableError, match="on an earlier run of that name"):
            replica.claim(out, "a", b'{"another": 1}')
        assert store.names() == []
        store.create("run.json", b'{"another": 1}')
        with pytest.raises(UnavailableError, match="on an earlier run of that name"):
            replica.opened(f"{out}/a")
        assert files(folder) == held
    opened = replica.opened(f"{out}/a")
    assert opened == folder
    assert files(folder) == {}


def test_a_name_that_is_taken_is_told_as_such_also_while_its_driver_works(out: str) -> None:
    with run_folder.locked(begun(out)):
        assert replica.claim(out, "a", b"{}") is None
