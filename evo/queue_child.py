"""A job's own process: the `evo` command, which dies with the runner that started it, however that dies.

`python -m evo.queue_child PID WORD...`, PID being the runner's. A job whose runner is gone must not go on: another
runner will take it up, and two processes would be at work on one run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """From now on this process is killed when `parent`, who started it, ends. What a run has committed is safe."""
    try:
        asked = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    except (OSError, AttributeError):
        asked = False  # not Linux
    if not asked:
        threading.Thread(target=_guard, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before this was asked for
        os.kill(os.getpid(), signal.SIGKILL)


def _guard(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    die_with(int(sys.argv.pop(1)))
    from evo.cli import main

    main()
