"""MLflow's server over PostgreSQL, artifacts through it: a run is drained whole, whatever dies on the way."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_run
import postgres
import pytest

from evo import faults, mlflow_ui
from evo.mlflow_log import drain
from evo.mlflow_queue import TrackingDown, pending
from evo.recorder import read_events

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
PROGRAMS = postgres.programs()
CURVES = {
    "information_nats": ("started", "segment", "decision"),
    "train_loss": ("segment",),
    "validation_information_nats": ("snapshot",),
    "gain_fork_nats": ("decision",),  # MLflow's gain_nats
}


class Server:
    """MLflow's own server, as a user would start it; it may be killed and started again on its port."""

    def __init__(self, database: postgres.Postgres, artifacts: Path) -> None:
        self._database, self._artifacts = database, artifacts
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        self.page = mlflow_ui.serve(self._database.uri, self._artifacts.as_uri(), self.port)
        self.uri = self.page.server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[postgres.Postgres, Server]]:
    if PROGRAMS is None:
        pytest.skip(postgres.MISSING)
    pytest.importorskip("psycopg2", reason="pip install 'meristem[postgres]'")
    with postgres.running(PROGRAMS) as database:
        server = Server(database, tmp_path_factory.mktemp("artifacts"))
        try:
            yield database, server
        finally:
            server.page.close()


def run(folder: Path) -> Path:
    """A search with a report, as on the disk when it has ended."""
    fake_run.search(folder, networks=3)
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text(f"<h1>{folder.name}</h1>")
    return folder


def told(uri: str, name: str) -> tuple[Any, dict[str, Any]]:
    """MLflow's runs of this name's: the parent, and its children by network. Each is there once."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("meristem")
    found = client.search_runs([experiment.experiment_id], f"tags.`meristem.run` = '{name}'")
    parents = [r for r in found if "mlflow.parentRunId" not in r.data.tags]
    assert len(parents) == 1
    children = [r for r in found if r.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) + 1 == len(found)
    by_network = {r.data.tags["meristem.network"]: r for r in children}
    assert len(by_network) == len(children)
    return parents[0], by_network


def check(uri: str, folder: Path) -> None:
    """Every point that the events hold is in MLflow, with its value, once; and the report, through the server."""
    from mlflow import MlflowClient, artifacts

    client = MlflowClient(tracking_uri=uri)
    parent, children = told(uri, folder.name)
    assert parent.info.status == "FINISHED"
    events = read_events(folder)
    assert set(children) == set(events["network"])
    for network, child in children.items():
        assert child.info.status == "FINISHED"
        life = events[events["network"] == network]
        for key, kinds in CURVES.items():
            rows = life[life["kind"].isin(kinds) & life[key].notna()]
            wanted = sorted((int(r["step"]), r[key]) for _, r in rows.iterrows())
            name = "gain_nats" if key == "gain_fork_nats" else key
            points = sorted((p.step, p.value) for p in client.get_metric_history(child.info.run_id, name))
            assert [step for step, _ in points] == [step for step, _ in wanted]
            assert all(math.isclose(a, b, rel_tol=1e-15) for (_, a), (_, b) in zip(points, wanted, strict=True))
    assert parent.info.artifact_uri.startswith("mlflow-artifacts:")
    page = artifacts.load_text(f"{parent.info.artifact_uri}/report/report.html")
    assert page == (folder / "report" / "report.html").read_text()


@pytest.fixture(autouse=True)
def tracking(served: tuple[postgres.Postgres, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    # For `mlflow.artifacts`, which asks the server that it is told of.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served[1].uri)


def test_a_run_is_read_back_as_it_was_committed(served: tuple[postgres.Postgres, Server], tmp_path: Path) -> None:
    folder = run(tmp_path / "first")
    uri = served[1].uri
    assert drain(folder, uri) == len(read_events(folder))
    assert not pending(folder, uri)
    assert drain(folder, uri) == 0
    check(uri, folder)
    assert json.loads((folder / "mlflow.json").read_text())["uri"] == uri


@pytest.mark.parametrize("victim", ["server", "database"])
def test_killed_in_the_middle_nothing_is_lost_or_doubled(
    served: tuple[postgres.Postgres, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    """Right after the second network's points were taken, and before that is remembered."""
    database, server = served
    folder = run(tmp_path / f"without-{victim}")
    passed: list[str] = []

    def point(name: str) -> None:
        passed.append(name)
        if name == "mlflow.logged" and passed.count(name) == 2:
            if victim == "server":
                kill(server)
            else:
                database.kill()

    monkeypatch.setattr(faults, "point", point)
    with pytest.raises(TrackingDown, match="the events stay queued"):
        drain(folder, server.uri)
    assert pending(folder, server.uri)
    if victim == "server":
        server.start()
    else:
        database.start()
    drain(folder, server.uri)
    assert not pending(folder, server.uri)
    check(server.uri, folder)


def kill(server: Server) -> None:
    os.killpg(server.page.process.pid, signal.SIGKILL)
    server.page.process.wait()
