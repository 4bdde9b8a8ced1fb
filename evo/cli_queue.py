"""`evo queue add|list|cancel|run`: many searches, one after the other or side by side, by priority."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evo.complaints import plainly
from evo.options import (
    Address,
    Budget,
    ConfigFile,
    Data,
    Device,
    Epochs,
    From,
    Json,
    Name,
    OutSetting,
    Recipe,
    Seed,
    Set,
    Target,
    Task,
    Workers,
    settings,
)  # fmt: skip
from evo.output import print_json

if TYPE_CHECKING:
    from evo.job_queue import Standing

Kind = Annotated[str, typer.Argument(metavar="KIND", help="search or grow.")]
Where = Annotated[str, typer.Option("--queue", metavar="DIR", help="Folder or bucket of the queue.")]
Priority = Annotated[int, typer.Option(help="The higher goes first, and stops a lower one at its next snapshot.")]
AtOnce = Annotated[int, typer.Option("--at-once", help="Jobs side by side.")]
UntilEmpty = Annotated[bool, typer.Option("--until-empty", help="End when every job is over, instead of waiting.")]
Lease = Annotated[float, typer.Option(help="Seconds of silence after which a runner on another machine is dead.")]
JobIds = Annotated[list[str], typer.Argument(metavar="JOB...", help="As `evo queue list` names them.")]
QUEUE = "runs/queue"

app = typer.Typer(help="Run many searches by priority, on a queue that survives its runners.", no_args_is_help=True)


@app.command()
@plainly
def add(
    kind: Kind, task: Task = None, priority: Priority = 0, queue: Where = QUEUE, recipe: Recipe = None,
    config: ConfigFile = None, assign: Set = None, seed: Seed = None, out: OutSetting = None, name: Name = None,
    workers: Workers = None, budget: Budget = None, epochs: Epochs = None, device: Device = None, data: Data = None,
    target: Target = None, start: From = None, address: Address = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Put a search or a life at the end of its priority; takes what `evo search` and `evo grow` take."""
    from evo.job_queue import Queue

    if kind not in ("search", "grow"):
        raise ValueError(f"KIND: expected search or grow, got {kind!r}; write for example evo queue add search digits")
    wanted = settings(
        config, assign, seed, out, name, workers, budget, epochs, device, data, target, task, recipe, address=address
    )
    if start is not None:
        wanted["network"]["parent"] = start
    job = Queue(queue).add(kind, _checked(kind, wanted), priority)
    if as_json:
        print_json({"job": job.id, "run": job.run, "priority": job.priority})
    else:
        print(f"{job.id}: {job.kind} {job.config['task']}, priority {job.priority}, into {job.run}")


@app.command("list")
@plainly
def list_jobs(queue: Where = QUEUE, as_json: Json = False) -> None:
    """List the jobs, the next to run first."""
    from evo.job_queue import Queue

    known = Queue(queue)
    found = known.standings()
    rows = {s.job.id: _row(s, known.heard(s)) for s in found}
    if as_json:
        print_json({"jobs": list(rows.values()), "damaged": known.damaged})
        return
    for said in known.damaged.values():
        print(f"evo: {said}", file=sys.stderr)
    from rich.console import Console
    from rich.table import Table

    from evo.progress import spoken

    if not found and not known.damaged:
        print(f"no job in {queue}; `evo queue add search digits --queue {queue}` adds one")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in ("job", "priority", "state", "what", "run", "attempts", "added", "said"):
        long = heading in ("run", "said")
        table.add_column(heading, no_wrap=not long, overflow="fold", justify="left")
    order = {"running": 0, "waiting": 1}
    for s in sorted(found, key=lambda s: order.get(s.state, 2)):
        row = rows[s.job.id]
        added = time.strftime("%m-%d %H:%M", time.localtime(s.job.added))
        said = row["cause"] or s.ended
        if s.state == "running":
            heard = "" if row["heard"] is None else f", heard {spoken(max(0.0, time.time() - row['heard']))} ago"
            said = f"on {row['host']} (pid {row['pid']}){heard}"
        what, place = f"{row['kind']} {row['task']}", _short(row["run"])
        table.add_row(row["job"], str(row["priority"]), row["state"], what, place, str(row["attempts"]), added, said)
    # In a pipe nothing is to be folded.
    Console(highlight=False, width=None if sys.stdout.isatty() else 1000).print(table)


@app.command()
@plainly
def cancel(jobs: JobIds, queue: Where = QUEUE) -> None:
    """Take jobs out of the queue; a running one stops at its next snapshot, and its run can be resumed."""
    from evo.job_queue import Queue

    known = Queue(queue)
    for job in jobs:
        known.standing(job)  # all are there, or none is cancelled
    for job in jobs:
        was = known.standing(job)
        if known.cancel(job):
            print(f"{job} cancelled{_still_at_work(was, known.heard(was))}")
        else:
            print(f"{job} was {known.final(job)} already")


def _still_at_work(was: Standing, heard: float | None) -> str:
    """What becomes of the run of a job that was cancelled."""
    from evo.machine import gone

    if was.state != "running" or was.attempt is None or heard is None:
        return ""
    if gone(was.attempt.host, was.attempt.space, was.attempt.pid):
        return f"; the runner that had it is gone (pid {was.attempt.pid})"
    if time.time() - heard > was.attempt.lease:
        return f"; nothing was heard of its runner for {time.time() - heard:.0f} s: if it lives, it stops"
    return ", and stops at its next snapshot"


@app.command()
@plainly
def run(
    queue: Where = QUEUE, at_once: AtOnce = 1, until_empty: UntilEmpty = False, lease: Lease = 120.0
) -> None:  # fmt: skip
    """Run what waits, by priority and then by age; Ctrl-C stops the jobs at their next snapshots."""
    if at_once < 1:
        raise ValueError(f"--at-once: expected 1 or more, got {at_once}; write --at-once 1")
    if not 5 <= lease <= 86_400:
        raise ValueError(f"--lease: expected 5 to 86400 seconds, got {lease:g}; write --lease 120")
    from evo.job_queue import Queue
    from evo.queue_runner import Runner
    from evo.stopping import Stop

    known = Queue(queue)
    if until_empty and not known.standings() and not known.damaged:
        _say(f"no job in {queue}; `evo queue add search digits --queue {queue}` adds one")
    with Stop(lambda: _say("stopping at the next safe points ...")) as stop:
        Runner(known, at_once, _say, lease).run(until_empty, stop)


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _checked(kind: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The settings as they must be read on whatever machine runs them. Raises ConfigError for what would fail there."""
    from evo import api, data, origins, plugins, run_folder
    from evo.config import ConfigError
    from evo.settings import build
    from evo.storage import below, is_remote
    from search_spaces.families import FAMILIES

    config = build(wanted)
    if config.network.family not in FAMILIES:
        raise ConfigError(
            f"network.family: expected one of {', '.join(FAMILIES)}, got {config.network.family!r}; "
            f"write for example network.family: {next(iter(FAMILIES))}"
        )
    data.check_name(config)
    api.check_address(kind, config)
    plugins.load(config)
    plugins.check(config, elsewhere=True)
    for key, path in (("data.path", config.data.path), ("network.start", config.network.start)):
        if path is not None and not is_remote(path):
            if not Path(path).exists():
                raise ConfigError(f"{key}: there is no file {path!r}; correct the path")
            wanted = build(wanted, {key: str(Path(path).absolute())}).model_dump()
    if config.network.parent is not None:
        origin = origins.Origin.read(config.network.parent)
        if not is_remote(origin.run) and not is_remote(config.out):
            place = str(run_folder.find(origin.run, config.out).absolute())
            snapshot = f":{origin.network}/{origin.snapshot}" if origin.network else ""
            wanted = build(wanted, {"network.parent": f"{place}{snapshot}"}).model_dump()
    if not is_remote(config.out):
        wanted = build(wanted, {"out": str(Path(config.out).absolute())}).model_dump()
    if config.name is not None:
        run_folder.checked_name(config.name)
        place = below(wanted["out"], config.name)
        if not is_remote(place) and Path(place).exists():
            raise ConfigError(f"name: expected one that is free, but {place!r} is there already; write another --name")
    return wanted


def _short(run: str) -> str:
    """As the user would write it from here."""
    here = f"{Path.cwd()}/"
    return run.removeprefix(here)


def _row(s: Standing, heard: float | None) -> dict[str, Any]:
    running = s.attempt if s.state == "running" else None
    return {
        "job": s.job.id, "priority": s.job.priority, "state": s.state, "kind": s.job.kind,
        "task": str(s.job.config["task"]), "run": s.job.run, "attempts": s.attempt.number if s.attempt else 0,
        "host": running.host if running else None, "pid": running.pid if running else None,
        "heard": heard, "added": s.job.added, "seconds": s.seconds, "cause": s.cause,
    }  # fmt: skip
