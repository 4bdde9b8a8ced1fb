"""A child process that keeps MLflow up with a run while it goes on.

A process, not a thread: importing MLflow and a first database cost seconds, and a server may hang; none of that may
take the growing networks' time. It runs at low priority and ends when the run closes its pipe (or dies, which closes
it too); what it did not get to is still queued for the next drain.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from evo import replica
from evo.foreign import ForeignError
from evo.mlflow_log import TrackingDown, drain
from evo.mlflow_queue import Cursor, default_uri, pending
from evo.mlflow_system import EVERY, fresh
from evo.recorder import RecordError
from evo.storage import is_remote

NICENESS = 10
POLL = (3.0, 15.0)  # seconds between looks at the folder, least and most
SHARE = 0.05  # of one CPU that draining should cost while the run goes on

log = logging.getLogger("evo.mlflow")


class Mirror:
    """Mirrors one run's folder until it is closed. Never raises: MLflow is only a view."""

    def __init__(self, folder: Path, tracking_uri: str | None = None) -> None:
        self.folder = Path(folder).resolve()
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment.pop("MERISTEM_FAULT", None)  # it is the run that is to die there
        self._child = subprocess.Popen(
            [sys.executable, "-m", "evo.mlflow_mirror", str(self.folder), tracking_uri or "", replica.address(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,  # Ctrl-C is for the run; the mirror then still drains what was committed
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            log.warning("%s", line.rstrip())

    def close(self, timeout: float = 60.0) -> bool:
        """Has the rest drained, and waits for it so long. False if something is left for a later drain."""
        assert self._child.stdin is not None
        if not self._child.stdin.closed:
            self._child.stdin.close()
        try:
            left = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            self._child.kill()
            left = self._child.wait()
            log.warning("MLflow was too slow: the rest of %s stays queued, and `evo ui` drains it", self.folder.name)
        self._listener.join(5.0)
        return left == 0


def follow(folder: Path, tracking_uri: str | None, pipe: int) -> bool:
    """Drains whatever is new until the pipe ends, and once more after that. Returns whether all was drained."""
    figures, looked = _system_metrics(folder), -EVERY
    down = False
    pause = POLL[0]
    last = False
    while not last:
        last = bool(select.select([pipe], [], [], pause)[0])
        spent = time.process_time()
        try:
            told = False
            if figures and time.monotonic() - looked >= EVERY:
                looked = time.monotonic()
                told = fresh(folder, Cursor.read(folder, tracking_uri or default_uri(folder.parent)).beats)
            if told or pending(folder, tracking_uri):
                drain(folder, tracking_uri)
            down = False
        except (TrackingDown, RecordError, ForeignError) as error:
            if not down:  # one line for an outage, however long
                print(error, flush=True)
            down = True
        pause = min(max(POLL[0], (time.process_time() - spent) / SHARE), POLL[1])
    return not down


def _system_metrics(folder: Path) -> bool:
    try:
        info = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return bool(info["config"]["record"]["system_metrics"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


if __name__ == "__main__":
    os.nice(NICENESS)
    if is_remote(sys.argv[3]):
        replica.attach(Path(sys.argv[1]), sys.argv[3])
    sys.exit(0 if follow(Path(sys.argv[1]), sys.argv[2] or None, sys.stdin.fileno()) else 1)
