"""An instrument's table: columns with a head and a form, printed on standard output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evo.show import console


@dataclass(frozen=True)
class Column:
    """name: in the frame. form: how a value is told; numbers stand right."""

    name: str
    head: str
    form: Callable[[Any], str] | None = None


def nats(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def share(value: float) -> str:
    """A density: three significant digits, in percent."""
    return f"{100 * value:.3g}%"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"


def points(value: float) -> str:
    """A difference of accuracies, in percentage points."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def probability(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def show(frame: pd.DataFrame, columns: Sequence[Column], notes: Sequence[str], to: Console | None = None) -> None:
    """Prints it, and the notes under it."""
    to = to or console()
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column.head, justify="left" if column.form is None else "right", no_wrap=True)
    for cells in told(frame, columns):
        table.add_row(*(Text(cell) for cell in cells))
    to.print(table)
    for note in notes:
        to.print(Text(note))


def told(frame: pd.DataFrame, columns: Sequence[Column]) -> list[list[str]]:
    """Every cell as text; a dash for what is missing."""
    return [[_cell(row[column.name], column) for column in columns] for _, row in frame.iterrows()]


def _cell(value: Any, column: Column) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if column.form is not None:
        return column.form(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
