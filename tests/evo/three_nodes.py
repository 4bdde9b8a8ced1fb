"""A search on a cluster of three nodes, and the same one in a single process, for tests to compare."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray_nodes import Cluster, Node
from small_life import SMALL

from evo.algorithms import population
from evo.census import Census
from evo.data import load_task
from evo.grower import Grower
from evo.population import Ground
from evo.progress import silent
from evo.recorder import read_events
from evo.settings import build

EVO = [sys.executable, "-c", "from evo.cli import main; main()"]
SEARCH: dict[str, Any] = {
    **SMALL, "training.steps": 60, "training.warmup": 2, "growth.cycles": 2, "tournament.rungs": [2, 3],
    "search.networks": 4, "search.population": 2,
}  # fmt: skip
WORDS = [w for k, v in SEARCH.items() if k not in ("task", "seed") for w in ("--set", f"{k}={json.dumps(v)}")]
COMMAND = [*EVO, "search", "digits", "--seed", "7", "--workers", "1", *WORDS]


def live_alone(folder: Path) -> None:
    """The search in this one process: no Ray, no workers, network after network."""
    config = build({**SEARCH, "device": "cpu"})
    task = load_task(config)
    census = Census(folder, silent)
    people = population(Ground(config, 64, 10, 0.0, None, ()))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        while (birth := people.birth()) is not None:
            settings = build(config.model_dump(), birth.settings)
            grower = Grower(settings, task, folder, birth.network, birth.generation, birth.parent)
            while not grower.done:
                grower.advance()
            grower.close()
            people.ended(birth.network, census.life(birth.network) or [])
    finally:
        torch.set_num_threads(threads)
    assert (read_events(folder)["kind"] == "finished").sum() == 4


def until(
    found: Callable[[], object], what: str, of: subprocess.Popen[str] | None = None, seconds: float = 280.0
) -> None:
    """of: the process that is to bring it about."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"never: {what}"
        assert of is None or of.poll() is None, f"it ended before: {what}\n{of.communicate()[1]}"
        time.sleep(0.1)


def commits(run: Path) -> int:
    return len(list((run / "events").glob("n*.parquet")))


def networks_on(node: Node) -> list[int]:
    """Process ids of the networks that grow there."""
    return [pid for pid in node.find("ray::") if b"NetworkTrial" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def ended(process: subprocess.Popen[Any], seconds: float = 280.0) -> tuple[int, str]:
    _, err = process.communicate(timeout=seconds)
    return process.returncode, err


def piped(cluster: Cluster) -> dict[str, Any]:
    return {
        "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True,
        "env": {"RAY_ADDRESS": cluster.address},
    }  # fmt: skip
