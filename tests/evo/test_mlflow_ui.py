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

from evo import mlflow_ui
from evo.mlflow_ui import PageError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1600,1100 --remote-debugging-pipe"
).split()


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
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

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


def runs_of(page: mlflow_ui.Page) -> dict[str, str]:
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=page.url).search_runs(["1"])
    return {run.info.run_name: run.info.run_id for run in found}


def test_the_page_shows_the_search_its_networks_their_curves_and_the_report(
    page: mlflow_ui.Page, browser: Browser, tmp_path: Path
) -> None:
    pictures = Path(os.environ.get("MERISTEM_PICTURES", tmp_path))
    browser.open(f"{page.url}/#/experiments/1/runs?workflowType=machine_learning")
    assert browser.shows("meristem", "first-search", "3 matching runs"), browser.text()
    assert "n001" not in browser.text()  # folded into its parent
    browser.until("document.querySelector('[data-testid=expander-cell] button, .ag-cell button') !== null")
    browser.picture(pictures / "runs.png")
    print(browser.run("[...document.querySelectorAll('button')].map(b=>b.outerHTML.slice(0,200)).join('\\n')"))
    runs = runs_of(page)
    browser.open(f"{page.url}/#/experiments/1/runs/{runs['n001']}")
    assert browser.shows("n001", "information_nats", "validation_accuracy", "gain_nats", "first-search")
    browser.picture(pictures / "network.png")
    browser.open(f"{page.url}/#/experiments/1/runs/{runs['n001']}/model-metrics")
    assert browser.shows("information_nats", "active_parameters")
    browser.until("document.querySelectorAll('.js-plotly-plot .scatterlayer path').length > 0")
    browser.picture(pictures / "curves.png")
    browser.open(f"{page.url}/#/experiments/1/runs/{runs['first-search']}/artifacts/report/report.html")
    assert browser.shows("report.html")
    browser.until("document.querySelector('iframe') !== null")
    time.sleep(2)
    browser.picture(pictures / "report.png")
    print(browser.run("document.querySelector('iframe').outerHTML.slice(0,300)"))
    assert 0
