"""Two growers of one network, at once, with random delays: `python rivals.py FOLDER COUNT` has processes as rivals.

In each rivalry one of the two is frozen somewhere, as a node that lost its network is, and wakes when the other one's
life is over.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from killing import forked
from small_life import SHORT, live, made

from evo import faults
from search_spaces.randomness import keyed

LONGEST = 30.0
"""Seconds that a frozen rival sleeps at most."""


def between_threads(seed: int, lives: list[Callable[[], object]]) -> list[int]:
    """Runs both lives, delayed at every point between durable operations; whose each commit was that went through."""
    told: list[BaseException] = []
    won: list[int] = []
    over, names = threading.Event(), {}
    passed = [0, 0]
    freezing = int(keyed(seed, "freeze").integers(1, 30))

    def point(name: str) -> None:
        me = names[threading.get_ident()]
        passed[me] += 1
        if name == "events.committed":
            won.append(me)
        if me == 0 and passed[me] == freezing:
            over.wait(LONGEST)
        time.sleep(float(keyed(seed, "delay", me, passed[me]).exponential(0.002)))

    def rival(me: int) -> None:
        names[threading.get_ident()] = me
        try:
            lives[me]()
        except BaseException as error:
            told.append(error)
        finally:
            if me == 1:
                over.set()

    before, faults.point = faults.point, point
    try:
        threads = [threading.Thread(target=rival, args=(me,)) for me in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        faults.point = before
    if told:
        raise told[0]
    return won


def between_processes(seed: int, folder: Path, seconds: float) -> None:
    """As above, the one frozen by SIGSTOP at a random moment of a life that takes about so many seconds."""
    config, task = made(**SHORT)
    frozen, other = (forked(lambda: live(config, task, folder)) for _ in range(2))
    time.sleep(float(keyed(seed, "moment").uniform(0, seconds)))
    os.kill(frozen, signal.SIGSTOP)
    assert os.waitpid(other, 0)[1] == 0
    os.kill(frozen, signal.SIGCONT)
    assert os.waitpid(frozen, 0)[1] == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    home, begun = Path(sys.argv[1]), time.monotonic()
    live(*made(**SHORT), home / "unbroken")
    length = time.monotonic() - begun
    for number in range(int(sys.argv[2])):
        between_processes(number, home / f"rivalry-{number:02d}", 1.5 * length)
