"""What several modules look at: small lives, a small search and a run, lived once; the command; three nodes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_nodes
import three_nodes
from commands import Evo, in_process
from small_life import SHORT, SMALL, live, made

import evo
from evo import report
from evo.grower import Grower
from evo.job_queue import Queue
from evo.run import Run


@pytest.fixture(scope="session")
def told() -> list[dict[str, Any]]:
    """What `advance` said in the life that the others are compared with."""
    return []


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, told: list[dict[str, Any]]) -> Path:
    """The folder of that life; only to be read."""
    folder = tmp_path_factory.mktemp("unbroken")
    grower = Grower(*made(), folder)
    while not grower.done:
        told.append(grower.advance())
    grower.close()
    return folder


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(unbroken, tmp_path / "copy"))


@pytest.fixture(scope="session")
def short_life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a life of two cycles; only to be read."""
    folder = tmp_path_factory.mktemp("short")
    live(*made(**SHORT), folder)
    return folder


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda run, task=None: run.folder / "report" / "report.html")
        yield


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of `evo grow`, without a report; only to be read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda run, task=None: run.folder / "report" / "report.html")
        return evo.grow(config=SMALL, out=str(tmp_path_factory.mktemp("first")), name="first")


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    """One without a job."""
    return Queue(tmp_path / "queue")


@pytest.fixture(name="evo")
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Evo:
    """The `evo` command in this process, in an empty folder."""
    return in_process(monkeypatch, capfd, tmp_path)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the searches of three nodes run."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def alone(home: Path) -> Path:
    """The folder of that search in this one process; only to be read."""
    three_nodes.live_alone(home / "alone")
    return home / "alone"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ray_nodes.Cluster]:
    # No node sees another's temporary files, as on machines of their own.
    own = tmp_path_factory.mktemp("own")
    with ray_nodes.started(workers=2, dashboard=True, env={"TMPDIR": str(own)}, hidden=own) as made:
        yield made
