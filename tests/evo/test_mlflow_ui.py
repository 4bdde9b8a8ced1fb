"""What a person sees: MLflow's page over a folder of runs, in a real browser."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_run
import pytest
from ray_nodes import listening

from evo import mlflow_ui
from evo.mlflow_ui import PageError
from evo.recorder import read_events

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1600,1100",
    "--remote-debugging-pipe",
)
EXPANDER = "document.querySelector('.ag-cell button')"
CURVES = (
    "active_parameters",
    "credits_nats",
    "gain_nats",
    "information_nats",
    "train_loss",
    "validation_accuracy",
    "validation_information_nats",
)


class Browser:
    """Headless Chromium, driven over its debugging pipe: JSON messages that end in a zero byte."""

    def __init__(self, profile: Path) -> None:
        there, self.write = os.pipe()
        self.read, here = os.pipe()
        command = f'exec "$0" "$@" 3<&{there} 4>&{here}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(there, here),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(here)
        self.buffer = b""
        self.numbers = itertools.count(1)
        self.session: str | None = None
        pages = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in pages if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                self.buffer += os.read(self.read, 1 << 20)
            one, self.buffer = self.buffer.split(b"\0", 1)
            reply = json.loads(one)
            if reply.get("id") == number:
                assert "error" not in reply, reply
                return dict(reply["result"])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url="about:blank")  # a change after # alone would load nothing anew
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get(
            "value"
        )

    def text(self) -> str:
        return str(self.run("document.body ? document.body.innerText : ''"))

    def shows(self, *words: str, seconds: float = 60.0) -> bool:
        end = time.monotonic() + seconds
        while not all(word in self.text() for word in words):
            if time.monotonic() > end:
                return False
            time.sleep(0.2)
        return True

    def until(self, script: str, seconds: float = 60.0) -> Any:
        end = time.monotonic() + seconds
        while not (value := self.run(script)) and time.monotonic() < end:
            time.sleep(0.2)
        return value

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_ui.Page]:
    runs = tmp_path_factory.mktemp("runs")
    folder = fake_run.search(runs / "first-search", networks=2)
    info = json.loads((folder / "run.json").read_text())
    info["created"] = "2026-05-28T20:00:00+00:00"  # before its events
    info["config"]["training"] = {"learning_rate": 0.005}
    (folder / "run.json").write_text(json.dumps(info))
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("<html><body><h1>The front of first-search</h1></body></html>")
    with mlflow_ui.ui(runs, free_port()) as page:
        yield page


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def test_the_page_shows_the_search_its_networks_their_curves_and_the_report(
    page: mlflow_ui.Page, browser: Browser, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("MERISTEM_PICTURES", tmp_path))
    browser.open(page.url)
    assert browser.shows("meristem", "first-search", "3 matching runs"), browser.text()
    assert "n001" not in browser.text()  # folded into its parent
    assert browser.until(f"{EXPANDER} !== null")
    browser.run(f"{EXPANDER}.click()")
    assert browser.shows("first-search", "n000", "n001"), browser.text()
    browser.picture(pictures / "runs.png")

    from mlflow import MlflowClient

    runs = {run.info.run_name: run.info.run_id for run in MlflowClient(tracking_uri=page.server).search_runs(["1"])}
    at = f"{page.server}/#/experiments/1/runs"
    browser.open(f"{at}/{runs['n001']}?workflowType=machine_learning")
    assert browser.shows("n001", "Parent run", "first-search", "learning_rate", *CURVES), browser.text()
    browser.picture(pictures / "network.png")
    browser.open(f"{at}/{runs['n001']}/model-metrics?workflowType=machine_learning")
    assert browser.shows(*CURVES[:6]), browser.text()
    drawn = "document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length"
    assert browser.until(f"{drawn} > 80"), browser.run(drawn)  # curves over steps, not single figures
    browser.picture(pictures / "curves.png")
    browser.open(f"{at}/{runs['first-search']}/artifacts/report/report.html?workflowType=machine_learning")
    assert browser.shows("report.html"), browser.text()
    assert browser.until("document.querySelector('iframe') !== null")
    assert "The front of first-search" in browser.run("fetch(document.querySelector('iframe').src).then(r => r.text())")
    browser.picture(pictures / "report.png")


def test_the_page_is_for_this_machine_alone(page: mlflow_ui.Page) -> None:
    port = int(page.server.rpartition(":")[2])
    assert listening(port) == {"127.0.0.1"}


def test_a_taken_port_and_an_empty_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="runs: expected a folder with runs"):
        mlflow_ui.ui(tmp_path)
    fake_run.search(tmp_path / "run", networks=2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PageError, match="port: expected one that is free"):
            mlflow_ui.ui(tmp_path, taken.getsockname()[1])
    with pytest.raises(PageError, match="port: expected one that is free"):
        mlflow_ui.ui(tmp_path, 123456)
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(PageError, match="cannot be written"):
        mlflow_ui.ui(tmp_path, free_port())


def test_a_damaged_run_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (fake_run.search(tmp_path / "bad", networks=2) / "events" / "n000-000000.parquet").write_text("torn")
    good = fake_run.search(tmp_path / "good", networks=2)
    assert mlflow_ui.drain_all(tmp_path) == len(read_events(good))
    assert "bad: left out" in caplog.text


def test_what_somebody_made_to_do_harm_is_passed_over_in_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Links that would have had it write, copy and look elsewhere, a lock that is none, and texts that are none."""
    runs, outside = tmp_path / "runs", tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    good = fake_run.search(runs / "good", networks=2)
    for name in (".mlflow.lock", "report/x.txt", "events/n009-000000.parquet", "live"):
        run = fake_run.search(runs / f"a-{name.rpartition('/')[2]}", networks=2)
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).symlink_to(outside / ("nothing" if "events" in name else "precious"))
    (fake_run.search(runs / "b-lock", networks=2) / ".mlflow.lock").mkdir()
    bad = {"c-quote": {"name": "it's \x1b[2J"}, "d-config": {"config": 5}, "e-created": {"created": {"a": "'"}}}
    for name, said in bad.items():
        run = fake_run.search(runs / name, networks=2)
        (run / "run.json").write_text(json.dumps({**json.loads((run / "run.json").read_text()), **said}))
    (fake_run.search(runs / "f-list", networks=2) / "run.json").write_text("[]")
    assert mlflow_ui.drain_all(runs) == len(read_events(good))
    told = [record.getMessage() for record in caplog.records if record.name == "evo.mlflow"]
    made = sorted(path.name for path in runs.iterdir() if path.name[1] == "-")
    assert [line.partition(":")[0] for line in told] == made
    assert all(line.isprintable() and ": left out, " in line for line in told), told
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"precious": "mine"}
    copied = [path.name for path in (runs / "mlartifacts").rglob("*") if path.is_file()]
    assert "x.txt" not in copied


def test_closing_ends_the_server_and_its_workers(page: mlflow_ui.Page) -> None:
    page.close()
    page.close()
    assert page.process.poll() is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(page.process.pid, 0)
