"""Progress, live: a table with a row a network on a terminal, one line a decision elsewhere. Always standard error.

An update is a mapping with a `stage`: "start" (run, kind, task, seed, networks, cycles) once, "cycle" (network,
generation and what `Grower.advance` returns) after each decision, "note" (text, lasts) where there is something to say,
"report" while the test set is read and the pictures are made.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Update = Mapping[str, Any]
Progress = Callable[[Update], None]

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 16


def cleaned(update: Update) -> Update:
    """The update without control characters, which a terminal would obey: names and versions come out of files."""
    shown = "\N{REPLACEMENT CHARACTER}"
    return {
        key: "".join(c if c.isprintable() else shown for c in value) if isinstance(value, str) else value
        for key, value in update.items()
    }


def silent(_: Update) -> None:
    """Shows nothing."""


def to_stderr(stream: TextIO | None = None) -> Lines | LiveTable:
    """What suits the stream: a live table on a terminal, plain lines otherwise. A context manager and a Progress."""
    stream = stream or sys.stderr
    console = Console(file=stream, stderr=stream is sys.stderr, highlight=False)
    return LiveTable(console) if console.is_terminal and not console.is_dumb_terminal else Lines(stream)


class Lines:
    """One plain line a decision."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._cycles = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        pass

    def __call__(self, update: Update) -> None:
        update = cleaned(update)
        stage = update.get("stage", "cycle")
        if stage == "start":
            self._cycles = int(update.get("cycles", 0))
            line = headline(update)
        elif stage == "note":
            line = str(update["text"])
        elif stage == "report":
            line = "reading the test set, writing the report"
        else:
            line = decision_line(update, self._cycles)
        print(line, file=self._stream, flush=True)


@dataclass
class _Row:
    """What is known of one network."""

    last: Update
    history: list[float] = field(default_factory=list)
    seen: float = 0.0


class LiveTable:
    """One row a network, the latest at work in bold, and a bar over the whole run."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._start: Update = {}
        self._began = clock()
        self._at_birth: dict[str, int] = {}
        self._note, self._note_lasts, self._over = "", False, False
        # What libraries print meanwhile goes above the table.
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=4, vertical_overflow="crop")

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # What stays on the screen tells what was, not what was about to be.
        self._note, self._over = "", True
        self._live.stop()

    def __call__(self, update: Update) -> None:
        update = cleaned(update)
        stage = update.get("stage", "cycle")
        if stage == "start":
            self._start, self._began = update, self._clock()
        elif stage == "note":
            self._note, self._note_lasts = str(update["text"]), bool(update.get("lasts"))
        elif stage == "report":
            self._note = "reading the test set, writing the report"
        else:
            if not self._note_lasts:
                self._note = ""
            name = str(update.get("network", ""))
            row = self._rows.setdefault(name, _Row(update))
            self._at_birth.setdefault(name, int(update.get("cycle") or 0) - 1)
            row.last, row.seen = update, self._clock()
            row.history.append(_information(update))
            if self._start.get("networks") == 1 and update.get("action") not in (None, "", "NoChange"):
                self._console.print(Text(decision_line(update, self._cycles), style="dim"))

    def render(self) -> RenderableType:
        if not self._start:
            return Text(self._note or "starting ...", style="dim")
        parts: list[RenderableType] = [Text(headline(self._start), style="bold")]
        if self._rows:
            parts.append(self._table())
        parts.append(self._overall())
        if self._note:
            parts.append(Text(self._note, style="yellow"))
        return Group(*parts)

    def _table(self) -> Table:
        room = max(3, self._console.height - 8)
        names = sorted(self._rows)
        # Where there are more networks than lines, those that moved last are worth the most.
        shown = set(sorted(names, key=lambda n: -self._rows[n].seen)[:room])
        best = max(self._rows.values(), key=lambda r: _rank(_information(r.last)))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        quality = "R²" if "validation_r2" in best.last else "accuracy"
        table.add_column("network")
        table.add_column("gen", justify="right")
        table.add_column("cycle", no_wrap=True)
        table.add_column("information", no_wrap=True)
        table.add_column(quality, justify="right")
        table.add_column("parameters", justify="right", no_wrap=True)
        table.add_column("last action", no_wrap=True, overflow="ellipsis")
        for name in names:
            if name in shown:
                table.add_row(*self._cells(name, self._rows[name] is best))
        if len(names) > len(shown):
            table.add_row(Text(f"and {len(names) - len(shown)} more", style="dim"))
        return table

    def _cells(self, name: str, best: bool) -> list[RenderableType]:
        row = self._rows[name]
        update = row.last
        done = bool(update.get("done"))
        cycle, cycles = int(update.get("cycle") or 0), self._cycles
        change = int(update.get("delta_parameters") or 0)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=cycles, completed=cycles if done else cycle, width=12, finished_style="green"),
            Text(f"{cycle:>{len(str(cycles))}}/{cycles}", style="dim" if done else ""),
        )
        information = Text.assemble(
            (f"{_number(_information(update), '.3f')} nats ", "bold green" if best else ""),
            (sparkline(thinned(row.history)), "cyan"),
        )
        parameters = Text.assemble(
            f"{update.get('active_parameters', 0):,}",
            (f"{change:+d}".rjust(6) if change else " " * 6, "green" if change > 0 else "magenta"),
        )
        action = str(update.get("action") or "")
        quiet = action in ("", "NoChange")
        return [
            Text(name, style="bold green" if best else "dim" if done else "bold"),
            str(update.get("generation", 0)),
            bar,
            information,
            _quality(update)[1],
            parameters,
            Text(f"✓ {action}" if done else action, style="dim" if quiet or done else ""),
        ]

    def _overall(self) -> RenderableType:
        total = max(1, int(self._start.get("networks", 1)) * self._cycles)
        ended = sum(self._cycles if r.last.get("done") else int(r.last.get("cycle") or 0) for r in self._rows.values())
        # What was done before a resume took none of this clock's time.
        before = sum(self._at_birth.values())
        spent = self._clock() - self._began
        share = (ended - before) / (total - before) if total > before else 1.0
        left = f", {_clock(spent / share - spent)} left" if 0.02 < share < 1 and not self._over else ""
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=total, completed=ended, width=max(10, min(48, self._console.width - 40))),
            Text(f"{ended / total:4.0%}", style="bold"),
            Text(f"{_clock(spent)}{left}", style="dim"),
        )
        return bar

    @property
    def _cycles(self) -> int:
        return max(1, int(self._start.get("cycles", 1)))


def headline(start: Update) -> str:
    networks = int(start.get("networks", 1))
    many = f"{networks} networks, " if networks > 1 else ""
    return f"{start.get('kind')} {start.get('task')}: {many}seed {start.get('seed')}, into {start.get('run')}"


def decision_line(update: Update, cycles: int) -> str:
    quality, value = _quality(update)
    change = int(update.get("delta_parameters") or 0)
    return (
        f"{update.get('network', '')} g{update.get('generation', 0)} "
        f"{int(update.get('cycle') or 0):>{len(str(cycles))}}/{cycles}  {_number(_information(update), '.3f')} nats  "
        f"{quality} {value}  {update.get('active_parameters', 0)} parameters ({change:+d})  "
        f"{update.get('action') or '-'}{'  done' if update.get('done') else ''}"
    )


def thinned(values: list[float], number: int = HISTORY) -> list[float]:
    """At most so many of the values, evenly spread, the last one always."""
    step = max(1.0, len(values) / number)
    return [values[len(values) - 1 - int(i * step)] for i in reversed(range(min(number, len(values))))]


def sparkline(values: list[float]) -> str:
    """The values as bars of eight heights, from their least to their greatest; a blank where one is not finite."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ""
    low, spread = min(finite), max(finite) - min(finite)
    return "".join(
        (BARS[min(7, int(8 * (v - low) / spread))] if spread > 0 else BARS[0]) if math.isfinite(v) else " "
        for v in values
    )


def spoken(seconds: float) -> str:
    """45 s, 3 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _information(update: Update) -> float:
    value = update.get("validation_information_nats", update.get("information_nats"))
    return math.nan if value is None else float(value)


def _rank(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def _quality(update: Update) -> tuple[str, str]:
    if update.get("validation_r2") is not None:
        return "R²", _number(float(update["validation_r2"]), ".3f")
    value = update.get("validation_accuracy")
    return "accuracy", _number(math.nan if value is None else 100 * float(value), ".1f") + "%"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
