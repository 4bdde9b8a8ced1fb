"""A private PostgreSQL for the tests: in a folder and on a port of its own, ended with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MISSING = "PostgreSQL's server is not installed (apt-get install postgresql)"


def programs() -> Path | None:
    """The folder with initdb and postgres, where Debian hides them or on the path."""
    hidden = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = hidden[-1] if hidden else shutil.which("initdb")
    return None if found is None else Path(found).parent


class Postgres:
    """One database, `mlflow`, that may be killed and started again."""

    def __init__(self, home: Path, bin: Path) -> None:
        self.home, self._bin = home, bin
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # As root it refuses to run. A child of our own, so that one which was killed is buried at once.
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(home, "postgres")
        self._run("initdb", "-D", str(home / "data"), "-U", "mlflow", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()
        self._run("createdb", "-h", str(home), "-p", str(self.port), "-U", "mlflow", "mlflow")

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://mlflow@127.0.0.1:{self.port}/mlflow"

    def start(self) -> None:
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.home), "fsync": "off"}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self.home / "data"), "-p", str(self.port), *words]
        with (self.home / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command, cwd="/", stdout=log, stderr=log, start_new_session=True, **self._as
            )
        end = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < end, (self.home / "log").read_text()[-2000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to all of it, in the middle of whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()

    def _answers(self) -> bool:
        asked = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *words], capture_output=True, text=True, cwd="/", timeout=60, **self._as
        )
        assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def running(bin: Path) -> Iterator[Postgres]:
    # pytest's own folders are closed to the user that it must run as.
    home = Path(tempfile.mkdtemp(prefix="evo-pg-", dir="/tmp"))
    server = None
    try:
        server = Postgres(home, bin)
        yield server
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(home, ignore_errors=True)
