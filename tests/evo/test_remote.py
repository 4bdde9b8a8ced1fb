"""Who asked for a search on a cluster may leave, and its driver and the cluster's head may die: it ends the same.

By ray://, from a process on none of the nodes, the driver is an actor on the head.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray_nodes
from ray_nodes import Cluster
from small_life import same
from three_nodes import COMMAND, EVO, commits, ended, piped, until

from evo.recorder import read_events

pytestmark = pytest.mark.timeout(600)


def test_a_client_may_stop_the_search_or_die(home: Path, alone: Path, cluster: Cluster) -> None:
    """By ray://, from a process on none of the nodes; its driver is an actor on the head."""
    run = home / "runs" / "client"
    options: dict[str, Any] = {"cwd": home, "env": cluster.env, "stderr": subprocess.PIPE, "text": True}
    options["stdout"] = subprocess.DEVNULL
    search = subprocess.Popen([*COMMAND, "--name", "client", "--address", cluster.client], **options)
    until(lambda: commits(run) >= 1, "a first commit", search)
    search.send_signal(signal.SIGINT)
    code, err = ended(search)
    assert code == 130, err
    assert "stopped, and kept everything in" in err
    assert (read_events(run)["kind"] == "finished").sum() < 4
    until(lambda: not cluster.head.find("ray::Driver"), "the driver went away")
    before = len(read_events(run))  # files of events merge at a network's end
    again = subprocess.Popen([*EVO, "resume", "client", "--address", cluster.client], **options)
    until(lambda: len(read_events(run)) > before, "it went on", again)
    again.kill()
    ended(again)
    driver = cluster.head.find("ray::Driver")
    assert driver
    until(lambda: (run / "report" / "report.html").exists(), "the search ended by itself")
    assert same(alone, run) == []
    for pid in driver:
        os.kill(pid, signal.SIGKILL)  # nobody will ask it again


def test_driver_and_head_may_die(home: Path, alone: Path, cluster: Cluster) -> None:
    run = home / "runs" / "resumed"
    search = cluster.popen([*COMMAND, "--name", "resumed", "--address", cluster.address], cwd=home, **piped(cluster))
    until(lambda: commits(run) >= 1, "a first commit", search)
    search.kill()
    ended(search)
    before = len(read_events(run))  # files of events merge at a network's end
    words = [*EVO, "resume", "resumed", "--address", "auto"]
    again = cluster.popen(words, cwd=home, **piped(cluster))
    until(lambda: len(read_events(run)) > before, "it went on", again)
    cluster.head.kill()
    again.wait(30)  # it was a process of that machine
    with ray_nodes.started(workers=[2]) as other:
        last = other.popen(words, cwd=home, **piped(other))
        code, err = ended(last)
    assert code == 0, err
    assert same(alone, run) == []
    rows = read_events(run)
    assert not rows.duplicated(["network", "seq"]).any()
