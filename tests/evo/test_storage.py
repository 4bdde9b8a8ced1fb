"""The contract of every store; a store joins by being listed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bucket_server import S3, bucket

from evo import buckets, storage
from evo.config import ConfigError
from evo.storage import Folder, StorageError, Store, StoreAwayError, below, open_store
from evo.transient import transient

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "plain",
    "a folder/ümläut ∂.parquet",
    "a+b%20c/d?e=f&g#h",
    "x/y/z/" + "n" * 200,
    "n000-000041.parquet",
    "a=b;c,d'e\"",
)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with bucket() as server:
        yield server


KINDS: dict[str, Callable[[Path, S3], str]] = {
    "folder": lambda tmp, s3: str(tmp / "runs"),
    "file": lambda tmp, s3: (tmp / "some runs").as_uri(),
    "s3": lambda tmp, s3: s3.uri(f"/{tmp.name}/some%20runs"),
}


@pytest.fixture(params=KINDS)
def uri(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> str:
    return KINDS[request.param](tmp_path, s3)


def test_what_was_written_is_read_again(uri: str) -> None:
    store, other = open_store(uri), open_store(uri)
    for name in NAMES:
        data = name.encode() * 1000
        assert store.create(name, data)
        assert other.read(name) == data
        other.replace(name, b"")
        assert store.read(name) == b""
    assert store.names() == other.names() == sorted(NAMES)
    for name in NAMES:
        store.remove(name)
        other.remove(name)  # missing already
    assert store.names() == []


def test_large_files_come_back_whole(uri: str) -> None:
    data = os.urandom(7 * 2**20)
    store = open_store(uri)
    assert store.create("created", data)
    store.replace("replaced", data)
    assert store.read("created") == store.read("replaced") == data


def test_a_name_is_given_once(uri: str) -> None:
    store = open_store(uri)
    assert store.create("a", b"first")
    assert not store.create("a", b"second")
    assert store.read("a") == b"first"
    store.remove("a")
    assert store.create("a", b"third")


def test_prefixes_are_of_names_not_of_folders(uri: str) -> None:
    store = open_store(uri)
    for name in ("events/n000-1", "events/n0001-1", "events/n001-1", "eventful", "other/events/n000-1"):
        store.replace(name, b"x")
    assert store.names("events/n000") == ["events/n000-1", "events/n0001-1"]
    assert store.names("event") == ["eventful", "events/n000-1", "events/n0001-1", "events/n001-1"]
    assert store.names("nothing/here") == []
    assert len(store.names()) == 5


def test_missing_files_are_told_of_as_such(uri: str) -> None:
    with pytest.raises(FileNotFoundError):
        open_store(uri).read("events/none")


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", ".hidden", "a/.b", "a\\b", "a\0"])
def test_names_that_lead_elsewhere_are_refused(uri: str, name: str) -> None:
    store = open_store(uri)
    for call in (store.read, store.remove, lambda n: store.create(n, b""), lambda n: store.replace(n, b"")):
        with pytest.raises(ValueError, match="relative name"):
            call(name)


def test_what_is_read_while_others_replace_it_is_whole(uri: str) -> None:
    texts, over = (b"short", b"long" * 5000), threading.Event()
    open_store(uri).replace("sign", texts[0])

    def replace() -> None:
        store = open_store(uri)
        while not over.is_set():
            for text in texts:
                store.replace("sign", text)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        store = open_store(uri)
        assert {store.read("sign") for _ in range(150)} <= set(texts)
    finally:
        over.set()
        thread.join()


def test_of_racing_threads_one_wins(uri: str) -> None:
    for round_ in range(5):
        barrier, won = threading.Barrier(8), []

        def race(number: int, name: str = f"race/{round_}", barrier: threading.Barrier = barrier) -> None:
            store = open_store(uri)
            barrier.wait()
            if store.create(name, f"{number}".encode() * 5000):
                won.append(number)  # noqa: B023

        threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert len(won) == 1
        assert open_store(uri).read(f"race/{round_}") == f"{won[0]}".encode() * 5000


RACER = """
import sys, time
from evo.storage import open_store
store, mine = open_store(sys.argv[1]), sys.argv[2]
store.create("ready/" + mine, b"")
while len(store.names("ready/")) < 2:
    time.sleep(0.01)
print([n for n in range(20) if store.create(f"race/{n}", mine.encode())])
"""


def test_of_racing_processes_one_wins(uri: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, uri, mine], env=environment, stdout=subprocess.PIPE, text=True)
        for mine in "ab"
    ]
    won = {mine: eval(racer.communicate(timeout=60)[0]) for mine, racer in zip("ab", racers, strict=True)}
    assert sorted(won["a"] + won["b"]) == list(range(20))
    for mine, numbers in won.items():
        assert all(open_store(uri).read(f"race/{n}") == mine.encode() for n in numbers)


# --- folders


def test_drafts_are_neither_seen_nor_left(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    path = tmp_path / "a"
    with storage.draft_of(path, b"half") as draft:
        assert draft.exists()
        assert store.names() == []
        assert not storage.abandoned(draft)
    assert list(tmp_path.iterdir()) == []
    (left := tmp_path / ".a.1.0000").write_bytes(b"half")
    assert storage.abandoned(left)


@pytest.mark.parametrize("refusal", [1, 95])  # EPERM, EOPNOTSUPP
def test_where_there_are_no_hard_links_one_wins_too(
    tmp_path: Path, refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(refusal, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    test_of_racing_threads_one_wins(str(tmp_path))


def test_a_lock_is_taken_on_a_plain_file_that_stays_as_it_is(tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to(precious)
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(OSError, match=name):
            storage.lock_file(tmp_path / name)
    for _ in range(2):
        with storage.lock_file(tmp_path / "new"), storage.lock_file(precious):
            pass
    assert precious.read_text() == "mine"
    assert not (tmp_path / "made").exists()


def test_where_there_are_no_hard_links_the_lock_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(1, "no hard links here")

    monkeypatch.setattr(os, "link", refused)
    (precious := tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".creating").symlink_to(precious)
    with pytest.raises(OSError, match="creating"):
        storage.create_file(tmp_path / "run" / "a", b"x")
    assert precious.read_text() == "mine"


def test_an_answer_lost_by_a_network_file_system_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # the client asks again, and is told that the name is taken

    monkeypatch.setattr(os, "link", twice)
    assert open_store(tmp_path).create("a", b"ours")
    assert not open_store(tmp_path).create("a", b"theirs")


def test_a_folder_that_cannot_be_written_is_told_of_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store: Store = Folder(tmp_path / "file")
    for call in (store.create, store.replace):
        with pytest.raises(StorageError, match="another one with --out"):
            call("events/a", b"")


# --- buckets


def test_a_store_that_is_gone_is_one_error_after_some_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PATIENCE", 1.5)
    with bucket() as server:
        store = open_store(server.uri("/runs"))
        store.replace("a", b"1")
        server.stop()
        calls = [
            lambda: store.read("a"), lambda: store.create("b", b""), lambda: store.replace("c", b""), store.names,
            lambda: store.remove("a"),
        ]  # fmt: skip
        for call in calls:
            begun = time.monotonic()
            with pytest.raises(StoreAwayError, match=r"s3://bucket-\w+/runs: .*`evo resume RUN`") as told:
                call()
            assert time.monotonic() - begun < 10
            assert "\n" not in str(told.value)
        server.start()
        assert store.read("a") == b"1"


def test_a_store_that_comes_back_in_time_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PATIENCE", 30.0)
    with bucket() as server:
        store = open_store(server.uri("/runs"))
        server.stop()
        timer = threading.Timer(1.0, server.start)
        timer.start()
        assert store.create("a", b"1")
        timer.join()
        assert store.read("a") == b"1"


def test_an_answer_lost_on_its_way_is_no_loss(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ConnectionClosedError

    store = open_store(s3.uri("/lost"))
    assert isinstance(store, buckets.Bucket)
    put, tries = store.s3.put_object, []

    def deaf(**request: object) -> object:
        answer = put(**request)
        tries.append(request)
        if len(tries) == 1:
            raise ConnectionClosedError(endpoint_url="x")
        return answer

    monkeypatch.setattr(store.s3, "put_object", deaf)
    assert store.create("a", b"1")
    assert not open_store(s3.uri("/lost")).create("a", b"1")


def test_a_missing_bucket_is_told_of_at_once(s3: S3) -> None:
    store = open_store(s3.uri().replace(s3.name, "no-such-bucket", 1))
    for call in (store.create, store.replace):
        with pytest.raises(StorageError, match="create the bucket") as told:
            call("a", b"")
        assert not transient(told.value)


def use(uri: str) -> None:
    store = open_store(uri)
    store.names()
    store.create("a", b"")


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://key:secret@bucket/runs", "without credentials"),
        ("s3://bucket/runs?endpoint=x", "no more than region"),
        ("s3:///runs", "a bucket in the address"),
        ("nothing://bucket/runs", "such as s3://bucket/runs"),
        ("mock:///runs", "first writer wins"),
    ],
)
def test_addresses_that_will_not_do_are_refused(uri: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        use(uri)
    assert "secret" not in str(error.value)


def test_without_its_package_a_bucket_names_it(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=r"meristem\[s3\]"):
        open_store(s3.uri("/runs")).create("a", b"")
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(ConfigError, match="google-cloud-storage"):
        open_store("gs://bucket/runs").create("a", b"")


def test_the_environment_may_name_the_endpoint(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    assert open_store(f"s3://{s3.name}/env").create("a", b"1")
    assert open_store(s3.uri("/env")).read("a") == b"1"


def test_an_address_without_a_bucket_has_nothing_below_it() -> None:
    """Put together anew it would be `s3:/NAME`, a local folder."""
    with pytest.raises(ConfigError, match="expected a bucket in the address, got 's3://'"):
        below("s3://", "first")


def test_addresses_below_an_address() -> None:
    assert below("s3://bucket/runs/?region=x", "a b") == "s3://bucket/runs/a%20b?region=x"
    assert below("runs", "a b") == "runs/a b"
