"""The half of the fault table on real Ray processes: searches as commands, struck, taken up, compared.

Scenes: `evo search` with its private Ray; or on a cluster of a head and two worker nodes, each a `ray start` of its own
(tests/evo/ray_nodes.py). A fault strikes when a drawn number of commits has been made and a drawn part of a second has
passed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fault_lives as lives
from fault_table import revision

from search_spaces.randomness import keyed

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "evo"))

import ray_nodes  # noqa: E402

SEEDS = (7, 11)
FIRST = 160
PATIENCE = 150.0
"""Seconds after which a command that is still at work counts as hung."""
TRIES = 4
"""Resumes before a run counts as lost."""

SETTINGS: dict[str, Any] = {
    **lives.SMALL, "search.networks": 4, "search.population": 2, "search.at_once": 2, "training.steps": 240,
    "growth.cycles": 6,
}  # fmt: skip
COMMAND = """
import os
if address := os.environ.get("FAULTS_ADDRESS"):
    import logging, ray
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
from evo.cli import main
main()
"""


class SkippedError(Exception):
    """This fault cannot be struck on this machine: why."""


@dataclass
class Scene:
    """One run and what it runs on. log: what the driver said on standard error. notes: what was done, for the line."""

    out: Path
    seed: int
    nodes: bool
    draw: Any
    more: dict[str, Any] = field(default_factory=dict)
    cluster: ray_nodes.Cluster | None = None
    driver: subprocess.Popen[str] | None = None
    log: Path = Path()
    server: subprocess.Popen[bytes] | None = None
    damaged: Path | None = None
    resume_words: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def run(self) -> Path:
        return self.out / "a"

    def commits(self) -> int:
        """Commits of all networks so far (there are fewer files once they are compacted)."""
        return len([p for p in (self.run / "events").glob("*.parquet") if not p.name.startswith(".")])

    def start(self) -> None:
        """Begins the search, or takes it up."""
        begun = (self.run / "run.json").exists()
        given = {**SETTINGS, "seed": self.seed, "out": str(self.out), **self.more}
        assign = [word for k, v in given.items() if k != "task" for word in ("--set", f"{k}={json.dumps(v)}")]
        words = (
            ["resume", str(self.run), "--json", *self.resume_words]
            if begun
            else ["search", "digits", "--json", *assign]
        )
        command = [sys.executable, "-c", COMMAND, *words]
        self.log = self.out.with_suffix(f".{len(self.notes)}.log")
        with self.log.open("w") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": log}
            options |= {"text": True, "start_new_session": True, "cwd": self.out.parent}
            if self.cluster is not None:
                self.driver = self.cluster.popen(command, env={"FAULTS_ADDRESS": self.cluster.address}, **options)
            else:
                env = {**ray_nodes.without_ray(), **ray_nodes.FAST, **QUICK}
                self.driver = subprocess.Popen(command, env=env, **options)

    def finish(self) -> str:
        """Waits for the driver: "done", or its exit code with its last line; one that hangs is killed."""
        assert self.driver is not None
        try:
            code = self.driver.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.end_driver()
            return "hung"
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("evo: ")]
        return "done" if code == 0 else f"exit {code}{f' ({said[-1][:200]})' if said else ''}"

    def end_driver(self) -> None:
        """SIGKILL, for the driver alone; its Ray is to notice."""
        assert self.driver is not None
        with contextlib.suppress(ProcessLookupError):
            self.driver.kill()
        self.driver.wait(20)

    def begin_cluster(self) -> None:
        """A cluster, or a new one in the place of one whose head is dead."""
        if self.nodes:
            self.stack.close()
            self.stack = contextlib.ExitStack()
            self.cluster = self.stack.enter_context(ray_nodes.started(workers=[1, 1], env=QUICK))

    def close(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.end_driver()
        self.stack.close()


QUICK = {
    # A dead head is to be noticed in seconds, not in a minute.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_gcs_server_request_timeout_seconds": "5",
}


def struck(work: Path, number: int) -> dict[str, Any]:
    """Strikes with fault `number` and tells what came of it, as a line of the table."""
    from fault_strikes import KINDS

    kind = KINDS[number - FIRST]
    draw = keyed("faults", number)
    seed = SEEDS[int(draw.integers(len(SEEDS)))]
    line: dict[str, Any] = {
        "number": number, "half": "on Ray", "life": "search on nodes" if kind.nodes else "search", "seed": seed,
        "kind": kind.name, "where": "", "outcome": "", "resumed": "", "clear": True, "seconds_lost": None,
        **dict.fromkeys(("lost", "doubled", "unequal", "drafts")),
    }  # fmt: skip
    try:
        whole, seconds = unbroken(work, seed, kind.nodes)
    except (AssertionError, OSError, RuntimeError) as err:
        return {**line, "skipped": f"no unbroken run comes to its end here: {' '.join(str(err).split())[-300:]}"}
    out = work / f"ray-{number:03d}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    at = int(draw.integers(1, _commits_of(whole) - 3))
    after = round(float(draw.random()) * 0.4, 2)
    line["where"] = f"commit {at} + {after:g} s"
    scene = Scene(out, seed, kind.nodes, draw, dict(kind.settings))
    try:
        with _cleared(scene):
            if kind.before is not None:
                kind.before(scene)
            scene.begin_cluster()
            began = time.monotonic()
            scene.start()
            _await_commits(scene, at)
            time.sleep(after)
            scene.notes.append(kind.strike(scene) or "struck")
            outcome = scene.finish()
            if kind.after is not None:
                kind.after(scene)
            resumed = []
            while outcome_of(resumed, outcome) != "done" and len(resumed) < TRIES:
                if scene.cluster is not None and not scene.cluster.head.alive:
                    scene.begin_cluster()
                scene.notes.append("resumed")
                scene.start()
                resumed.append(scene.finish())
                if kind.between is not None and resumed[-1] != "done":
                    kind.between(scene)
            line["seconds_lost"] = time.monotonic() - began - seconds
            found = lives.difference(whole, out)
            line |= vars(found)
            if kind.check is not None:
                line |= kind.check(scene, whole, found)
            line["outcome"] = f"{scene.notes[0]}: {outcome}"
            line["resumed"] = ", ".join(resumed) or "-"
            line["clear"] = outcome_of(resumed, outcome) == "done" and "hung" not in (outcome, *resumed)
    except SkippedError as reason:
        return {**line, "skipped": str(reason)}
    except (AssertionError, OSError, RuntimeError, ValueError) as err:
        # Told in the table as what it is; the faults after it are struck none the less.
        noted = f"{type(err).__name__}: {' '.join(str(err).split())[:300]}"
        return {**line, "outcome": f"{'; '.join(scene.notes)}: {noted}", "clear": False}
    if line["clear"] and not any(line[k] for k in ("lost", "doubled", "unequal", "drafts")):
        shutil.rmtree(out)
        for log in out.parent.glob(f"{out.name}.*.log"):
            log.unlink()
    return line


def outcome_of(resumed: Sequence[str], first: str) -> str:
    return resumed[-1] if resumed else first


@contextlib.contextmanager
def _cleared(scene: Scene) -> Iterator[None]:
    try:
        yield
    finally:
        scene.close()


def _await_commits(scene: Scene, at: int) -> None:
    assert scene.driver is not None
    end = time.monotonic() + PATIENCE
    while scene.commits() < at:
        if scene.driver.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the search came to no {at} commits: {scene.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _commits_of(whole: Path) -> int:
    from evo.recorder import read_events

    return int((read_events(whole / "a")["kind"] == "snapshot").sum())


def unbroken(work: Path, seed: int, nodes: bool) -> tuple[Path, float]:
    """A twin that nothing struck, and the seconds that it took in this scene. Lived once a folder of work."""
    home = work / "unbroken-ray" / revision()
    home.mkdir(parents=True, exist_ok=True)
    whole = home / f"{'nodes' if nodes else 'alone'}-{seed}"
    with (home / f".lock-{whole.name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        note = whole / "seconds.json"
        if not note.exists():
            shutil.rmtree(whole, ignore_errors=True)
            whole.mkdir()
            scene = Scene(whole, seed, nodes, None)
            with _cleared(scene):
                scene.begin_cluster()
                began = time.monotonic()
                scene.start()
                outcome = scene.finish()
                assert outcome == "done", (outcome, scene.log.read_text(errors="replace")[-3000:])
            note.write_text(json.dumps(time.monotonic() - began))
        return whole, json.loads(note.read_text())


def tree(root: int) -> dict[int, str]:
    """Process ids with command lines of all that descend from a process."""
    parents, lines = {}, {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    found, edge = {}, {root}
    while edge:
        edge = {pid for pid, parent in parents.items() if parent in edge and pid not in found}
        found |= {pid: lines[pid] for pid in edge if pid in lines}
    return found


def stop_and_go(pids: Sequence[int], seconds: float) -> None:
    """SIGSTOP, a pause, SIGCONT."""
    for number, pause in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(pause)


def scratch_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="evf-", dir="/tmp"))
