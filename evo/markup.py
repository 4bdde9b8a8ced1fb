"""Pieces of a page in HTML. Whatever came from a file is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from evo.books import Share


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    kinds: Sequence[str] = (),
    notes: Sequence[object] = (),
    tall: bool = False,
) -> str:
    """A head that begins with # is a column of numbers. kinds: a class for each row. notes: a line below each row."""
    names = "".join(f'<th class="{"number" if h[0] == "#" else ""}">{text(h.lstrip("#"))}</th>' for h in heads)
    body = []
    for i, row in enumerate(rows):
        kind = kinds[i] if i < len(kinds) else ""
        cells = "".join(
            f'<td class="{"number" if h[0] == "#" else ""}">{text(cell)}</td>'
            for h, cell in zip(heads, row, strict=True)
        )
        body.append(f'<tr class="{kind}{" noted" if notes else ""}">{cells}</tr>')
        if notes:
            body.append(f'<tr class="{kind}"><td class="below" colspan="{len(heads)}">{text(notes[i])}</td></tr>')
    return f'<div class="scroll{" tall" if tall else ""}"><table><tr>{names}</tr>{"".join(body)}</table></div>'


def bullets(lines: Sequence[str], kind: str, nothing: str) -> str:
    items = "".join(f'<li class="{kind}">{text(line)}</li>' for line in lines)
    return f"<ul>{items}</ul>" if lines else f"<p>{nothing}</p>"


def share(part: Share) -> list[str]:
    """Count, rate and the interval of the rate, for the cells of a table."""
    if not part.n:
        return ["none ran", "", ""]
    low, high = part.interval
    return [f"{part.hits} of {part.n}", f"{part.rate:.1%}", f"{low:.1%} to {high:.1%}"]


def text(value: object) -> str:
    missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    return "" if missing else html.escape(str(value))


def whole(value: Any) -> str:
    return "" if pd.isna(value) else f"{int(value):,}"


def signed(value: Any) -> str:
    return "" if pd.isna(value) else f"{int(value):+,}".replace("-", "−")


def nats(value: Any) -> str:
    """Four digits; + 0.0 turns a negative zero into a plain one."""
    return "" if pd.isna(value) else f"{round(value, 4) + 0.0:.4f}".replace("-", "−")


def tiny(value: Any) -> str:
    return "not recorded" if pd.isna(value) else f"{value:.1e}".replace("-", "−")


def quality(value: Any, metric: str) -> str:
    """Accuracy in percent, R² as a plain number."""
    if value is None or pd.isna(value):
        return ""
    return f"{value:.4f}".replace("-", "−") if metric == "r2" else f"{value:.2%}"
