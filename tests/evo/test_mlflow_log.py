"""MLflow shows what Parquet holds: nothing lost, nothing doubled, and nothing of the run waits for it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fake_run
import pytest

from evo import faults, mlflow_ui
from evo.mlflow_log import drain
from evo.mlflow_mirror import Mirror
from evo.mlflow_queue import TrackingDown, default_uri, pending
from evo.recorder import Recorder, compact, read_events

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
ROOT = Path(__file__).parents[2]
BOOKS = ("started", "segment", "decision")
CURVES = {
    "information_nats": BOOKS,
    "active_parameters": BOOKS,
    "credits_nats": BOOKS,
    "train_loss": ("segment",),
    "validation_information_nats": ("snapshot",),
    "validation_accuracy": ("snapshot",),
}


def search(folder: Path, networks: int = 2, cycles: int = 3, kind: str = "search") -> Path:
    """A search that is committed cycle by cycle, as a grower does."""
    fake_run.write(folder, [], kind)
    info = json.loads((folder / "run.json").read_text())
    info["config"]["search"] = {"networks": networks, "algorithm": "nsga2", "population": 8}
    info["created"] = "2026-05-28T20:00:00+00:00"  # before the first event
    info["config"]["network"] = {"family": "mlp", "hidden": [8]}
    (folder / "run.json").write_text(json.dumps(info))
    for i in range(networks):
        commit(folder, f"n{i:03d}", range(cycles + 1), of=cycles)
    return folder


def commit(folder: Path, network: str, cycles: Iterable[int], of: int) -> None:
    """Commits cycles of a life, one file each; the cycle after its last is its end."""
    writer = Recorder(folder, network)
    rows = fake_run.life(network, cycles=of, seed=int(network[1:]))
    for cycle in cycles:
        writer.commit([row for row in rows if row["cycle"] == cycle])


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs: making one takes MLflow seconds, copying it none."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def runs(tmp_path: Path, empty: Path) -> Path:
    """A folder for runs, with its store."""
    shutil.copy(empty, tmp_path / "mlflow.db")
    return tmp_path


def store(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri.removeprefix("sqlite:///"))


def points(uri: str) -> Counter[tuple[str, str, int]]:
    """How many points MLflow has of each network, key and step."""
    rows = store(uri).execute(
        "select runs.name, key, step from metrics join runs using (run_uuid) where runs.lifecycle_stage = 'active'"
    )
    return Counter(rows)


def expected(folder: Path) -> Counter[tuple[str, str, int]]:
    """The same, counted in Parquet by a way of its own."""
    events = read_events(folder)
    count: Counter[tuple[str, str, int]] = Counter()
    for key, kinds in CURVES.items():
        rows = events[events.kind.isin(kinds) & events[key].notna()]
        count.update((network, key, step) for network, step in zip(rows.network, rows.step, strict=True))
    decisions = events[events.kind == "decision"]
    count.update((n, "gain_nats", step) for n, step in zip(decisions.network, decisions.step, strict=True))
    return count


def test_a_search_becomes_a_parent_with_its_networks_as_children(tmp_path: Path) -> None:
    folder = search(tmp_path / "first")
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("<h1>The front</h1>")
    assert pending(folder)
    assert drain(folder) == len(read_events(folder))
    assert not pending(folder)
    assert drain(folder) == 0
    uri = default_uri(tmp_path)
    assert points(uri) == expected(folder)
    with store(uri) as db:
        tags: dict[str, dict[str, str]] = {}
        for name, key, value in db.execute("select name, tags.key, tags.value from tags join runs using (run_uuid)"):
            tags.setdefault(name, {})[key] = value
        runs = dict(db.execute("select name, run_uuid from runs"))
        assert dict(db.execute("select name, status from runs")) == dict.fromkeys(("first", "n000", "n001"), "FINISHED")
        assert db.execute("select count(*) from runs where end_time < start_time").fetchone() == (0,)
        params = dict(db.execute("select key, value from params where run_uuid = ?", (runs["first"],)))
    assert tags["n001"]["mlflow.parentRunId"] == runs["first"]
    assert tags["n001"]["meristem.network"] == "n001"
    assert "mlflow.parentRunId" not in tags["first"]
    assert params["task"] == "digits"
    assert params["seed"] == "7"
    assert params["network.hidden"] == "[8]"
    assert params["search.algorithm"] == "nsga2"
    page = tmp_path / "mlartifacts" / runs["first"] / "artifacts" / "report" / "report.html"
    assert page.read_text() == "<h1>The front</h1>"
    (folder / "report" / "report.html").write_text("<h1>The front, finished</h1>")
    assert pending(folder)
    drain(folder)
    assert page.read_text() == "<h1>The front, finished</h1>"


def test_what_was_not_finite_is_no_point(runs: Path) -> None:
    folder = fake_run.write(runs / "run", [])
    rows = fake_run.life("n000", cycles=1, ends=False)
    rows[1].update(train_loss=float("nan"), information_nats=float("inf"))
    Recorder(folder, "n000").commit(rows)
    drain(folder)
    found = points(default_uri(runs))
    assert ("n000", "train_loss", 120) not in found
    assert ("n000", "active_parameters", 120) in found


def test_a_crash_anywhere_in_a_drain_loses_and_doubles_nothing(
    tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    for crash in range(1, 20):
        folder = search(tmp_path / f"{crash:02d}" / "run", cycles=1)
        shutil.copy(empty, folder.parent / "mlflow.db")
        passed = 0

        def point(name: str, crash: int = crash) -> None:
            nonlocal passed
            passed += name.startswith("mlflow.")
            if passed == crash:
                raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(faults, "point", point)
            try:
                drain(folder)
            except Killed:
                pass
            else:
                break
        drain(folder)
        uri = default_uri(folder.parent)
        assert points(uri) == expected(folder)
        assert store(uri).execute("select count(*) from runs").fetchone() == (3,)
    assert crash == 1 + 3 + 2 + 3  # three runs made, two networks logged, three times remembered


@pytest.mark.parametrize("torn", ["", "{", "[]", '{"uri": 3}'])
def test_a_lost_or_torn_cursor_only_costs_time(runs: Path, torn: str) -> None:
    folder = search(runs / "run", cycles=2)
    drain(folder)
    (folder / "mlflow.json").write_text(torn)
    assert pending(folder)
    drain(folder)
    uri = default_uri(runs)
    assert points(uri) == expected(folder)
    assert store(uri).execute("select count(*) from runs").fetchone() == (3,)


def test_only_what_is_new_is_logged_and_a_compaction_changes_nothing(runs: Path) -> None:
    folder = search(runs / "run", networks=0, kind="grow")
    status = "select status from runs where name = 'n000'"
    uri = default_uri(runs)
    rows = 0
    for cycles in ([0], [1, 2]):
        commit(folder, "n000", cycles, of=4)
        rows += drain(folder)
        assert rows == len(read_events(folder))
        assert store(uri).execute(status).fetchone() == ("RUNNING",)
    compact(folder)
    assert drain(folder) == 0
    commit(folder, "n000", [3, 4], of=4)
    compact(folder)
    rows += drain(folder)
    assert rows == len(read_events(folder))
    assert store(uri).execute(status).fetchone() == ("FINISHED",)
    assert points(uri) == expected(folder)


def test_a_store_that_was_thrown_away_is_filled_again(tmp_path: Path) -> None:
    folder = search(tmp_path / "run", cycles=1)
    rows = drain(folder)
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert pending(folder, other)
    assert drain(folder, other) == rows
    assert points(other) == expected(folder)


def test_runs_deleted_in_the_page_stay_deleted(runs: Path) -> None:
    from mlflow import MlflowClient

    folder = search(runs / "run", cycles=1)
    drain(folder)
    uri = default_uri(runs)
    client = MlflowClient(tracking_uri=uri)
    found: dict[str, str] = dict(store(uri).execute("select name, run_uuid from runs"))
    client.delete_run(found["n001"])
    (folder / "mlflow.json").unlink()
    drain(folder)
    assert {network for network, _, _ in points(uri)} == {"n000"}
    client.delete_run(found["run"])
    assert drain(folder) == 0
    assert store(uri).execute("select count(*) from runs").fetchone() == (3,)


def test_a_store_that_cannot_be_is_told_at_once(tmp_path: Path) -> None:
    folder = search(tmp_path / "run", networks=1, cycles=1)
    (tmp_path / "mlflow.db").write_text("this is no database, but long enough to be one" * 99)
    with pytest.raises(TrackingDown, match=r"cannot be written .* stay queued"):
        drain(folder)
    with pytest.raises(TrackingDown, match="cannot be written"):
        drain(folder, "sqlite:////nowhere/at/all.db")
    begun = time.monotonic()
    with pytest.raises(TrackingDown, match="does not answer; the events stay queued"):
        drain(folder, f"http://127.0.0.1:{free_port()}")
    assert time.monotonic() - begun < 15
    assert pending(folder)


def test_recording_does_not_import_mlflow() -> None:
    code = "import sys, evo.mlflow_mirror; print([name for name in ('mlflow', 'torch', 'ray') if name in sys.modules])"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, text=True).strip() == "[]"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Any, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


def test_a_server_that_hangs_holds_nothing_up(tmp_path: Path, silent: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = search(tmp_path / "run", networks=1, cycles=1)
    mirror = Mirror(folder, silent)
    begun = time.monotonic()
    assert not mirror.close(timeout=3.0)
    assert time.monotonic() - begun < 10
    assert "too slow" in caplog.text
    assert pending(folder, silent)


def test_the_run_survives_a_dead_server_and_the_queue_drains_later(
    tmp_path: Path, empty: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(empty, tmp_path / "server.db")
    port = free_port()
    url, uri = f"http://127.0.0.1:{port}", f"sqlite:///{tmp_path / 'server.db'}"
    folder = search(tmp_path / "runs" / "run", networks=2, cycles=2)
    mirror = Mirror(folder, url)
    with caplog.at_level(logging.WARNING):
        assert until(lambda: "does not answer" in caplog.text)  # dead while the run goes on
    commit(folder, "n002", range(3), of=2)
    with mlflow_ui.serve(uri, (tmp_path / "artifacts").as_uri(), port):
        assert until(lambda: not pending(folder, url))  # back: the mirror catches up by itself
        assert points(uri) == expected(folder)
    commit(folder, "n003", range(3), of=2)  # and dead again, to the end of the run
    assert not mirror.close()
    assert caplog.text.count("does not answer") == 2  # one line for each outage
    assert pending(folder, url)
    with mlflow_ui.serve(uri, (tmp_path / "artifacts").as_uri(), port):
        drain(folder, url)
        assert points(uri) == expected(folder)
        (folder / "mlflow.json").unlink()  # as after a crash between logging and remembering, over HTTP too
        drain(folder, url)
    assert points(uri) == expected(folder)
    assert store(uri).execute("select count(*) from runs").fetchone() == (5,)


def test_a_killed_run_is_mirrored_to_its_last_commit(runs: Path) -> None:
    folder = search(runs / "run", cycles=2)
    code = (
        "import sys, time; from pathlib import Path; from evo.mlflow_mirror import Mirror\n"
        "mirror = Mirror(Path(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, stdout=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.readline()
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert until(lambda: not pending(folder))
    assert points(default_uri(runs)) == expected(folder)
