"""`evo status` and `evo watch`: how a run is doing, once or for as long as it goes on, from any machine."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from evo.complaints import plainly
from evo.options import Json, Out, RunName
from evo.output import print_json

if TYPE_CHECKING:
    from evo.status import Watcher

Interval = Annotated[float, typer.Option(metavar="SECONDS", help="Between two looks; 1 at least.")]


@plainly
def status(run: RunName, out: Out = "runs", as_json: Json = False) -> None:
    """Tell how a run is doing: networks, machines, candidates, failures, time left."""
    from rich.console import Console

    from evo import status_screen

    found = _watcher(run, out).look()
    if as_json:
        print_json(status_screen.as_json(found))
    elif sys.stdout.isatty():
        Console(highlight=False).print(status_screen.screen(found))
    else:
        print("\n".join(status_screen.lines(found)))


@plainly
def watch(run: RunName, out: Out = "runs", interval: Interval = 2.0) -> None:
    """Follow a run until it has finished; Ctrl-C ends the watching, never the run."""
    if not 1 <= interval <= 86_400:
        raise ValueError(f"--interval: expected 1 to 86400 seconds, got {interval:g}; write --interval 2")
    watcher = _watcher(run, out)
    try:
        if sys.stdout.isatty():
            _on_terminal(watcher, interval)
        else:
            _as_lines(watcher, interval)
    except KeyboardInterrupt:
        return


def _on_terminal(watcher: Watcher, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from evo import status_screen

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            found = watcher.look()
            room = console.height - 10 - len(found.hosts) - min(len(found.failures), status_screen.FAILURES)
            live.update(status_screen.screen(found, max(3, room)), refresh=True)
            if found.over:
                return
            time.sleep(interval)


def _as_lines(watcher: Watcher, interval: float) -> None:
    """Whatever differs from the look before, and no more."""
    from evo import status_screen

    before: set[str] = set()
    while True:
        found = watcher.look()
        told = status_screen.lines(found)
        for line in told:
            if line not in before:
                print(line, flush=True)
        before = set(told)
        if found.over:
            return
        time.sleep(interval)


def _watcher(run: str, out: str) -> Watcher:
    from evo import run_folder
    from evo.run import Run
    from evo.status import Watcher

    return Watcher(Run.open(run_folder.find(run, out)))
