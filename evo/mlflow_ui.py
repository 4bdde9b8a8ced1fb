"""MLflow's own web page over a folder of runs, for `evo ui`."""

from __future__ import annotations

import http.client
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from evo import live, replica
from evo.mlflow_log import drain, experiment
from evo.mlflow_queue import TrackingDown, default_uri
from evo.run_folder import folders
from evo.storage import is_remote

log = logging.getLogger("evo.mlflow")


class PageError(ValueError):
    """The page cannot be served: one line with the cure."""


@dataclass(frozen=True)
class Page:
    """A running server, and the address to look at."""

    process: subprocess.Popen[bytes]
    server: str
    url: str

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def wait(self) -> int:
        """Until the server ends by itself; its exit code."""
        return self.process.wait()

    def close(self) -> None:
        """Ends the server and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def drain_all(runs: Path, tracking_uri: str | None = None) -> int:
    """Drains every run of the folder; returns how many rows that were. One that is damaged, or that somebody made to do
    harm, is told of in one line and passed over. Raises TrackingDown.
    """
    rows = 0
    for folder in folders(runs):
        try:
            rows += drain(folder, tracking_uri)
        except TrackingDown:
            raise
        except Exception as error:  # a folder may hold anything, and must not keep the page from the others
            told = " ".join(str(error).split()) or type(error).__name__
            log.warning("%s: left out, %s", live.printable(folder.name), live.printable(told))
    return rows


def ui(runs: str | Path, port: int = 5000, host: str = "127.0.0.1", patience: float = 90.0) -> Page:
    """Drains every run under the folder, serves them, and returns once the page answers.

    Raises PageError where there is no run to show, the port is taken, the store cannot be written, or the server does
    not come up.
    """
    held = folders(runs)
    told, runs = str(runs), (replica.home(str(runs)) if is_remote(runs) else Path(runs)).resolve()
    if not held:
        raise PageError(f"runs: expected a folder with runs, got {told!r}; start one, or write --out DIR of yours")
    _check(host, port)
    try:
        drain_all(runs)
    except TrackingDown as error:
        raise PageError(f"runs: {error}; make {str(runs)!r} writable, or free the disk") from error
    page = serve(default_uri(runs), (runs / "mlartifacts").as_uri(), port, host, patience)
    # MLflow would open on its page for language models; the table of runs is what is wanted.
    table = f"#/experiments/{experiment(default_uri(runs))}/runs?workflowType=machine_learning"
    return replace(page, url=f"{page.server}/{table}")


def serve(store: str, artifacts: str, port: int, host: str = "127.0.0.1", patience: float = 90.0) -> Page:
    """Starts MLflow's server over a store and returns once it answers. Raises PageError where it does not."""
    options = {
        "--backend-store-uri": store,
        "--artifacts-destination": artifacts,
        "--host": host,
        "--port": str(port),
        "--workers": "1",
    }
    words = [word for option in options.items() for word in option]
    quiet = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **quiet},
        start_new_session=True,  # so that its workers can be ended with it
    )
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    page = Page(process, address, address)
    try:
        _await(page, host, port, patience)
    except BaseException:  # Ctrl-C while waiting must not leave a server behind
        page.close()
        raise
    return page


def _check(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            told = getattr(error, "strerror", None) or error
            raise PageError(
                f"port: expected one that is free on {host}, got {port} ({told}); write another --port"
            ) from error


def _await(page: Page, host: str, port: int, patience: float) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end and page.process.poll() is None:
        asked = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=5)
        try:
            asked.request("GET", "/health")
            if asked.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.2)
        finally:
            asked.close()
    ended = page.process.poll()
    how = f"it ended with code {ended}" if ended is not None else f"it did not answer within {patience:.0f} s"
    raise PageError(f"MLflow's server did not start ({how}); `mlflow server --port {port}` tells why")
