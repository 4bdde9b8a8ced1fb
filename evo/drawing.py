"""How our pictures look: page, palette, labels. No global state: everything is set on the figure itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK, MUTED, FAINT, GRID = "#1f2a37", "#5f6b7a", "#b8c1cc", "#e9edf1"
TEAL, AMBER = "#0f766e", "#c2570c"
# What grows points up or is round, what shrinks points down; colours that survive colour blindness.
MARKS: Mapping[str, tuple[str, str]] = {
    "Widen": ("#0f766e", "^"),
    "Connect": ("#2b6cb0", "o"),
    "Skip": ("#7c4dbe", "D"),
    "Insert": ("#b7791f", "s"),
    "Disconnect": ("#c2410c", "v"),
    "Narrow": ("#be3a6b", "v"),
    "Remove": ("#7a2e2e", "X"),
}
Corner = Literal["upper left", "upper right", "lower right"]
_OTHER = ("#4a5563", "*")


def page(title: str, rows: int = 1, height: float = 5.0) -> tuple[Figure, list[Axes]]:
    """A white page, 8 inches wide, with a title at the left and `rows` quiet axes below it that share x."""
    figure = Figure(figsize=(8.0, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    head = 0.72 / height
    grid = figure.add_gridspec(rows, 1, left=0.095, right=0.965, bottom=0.62 / height, top=1 - head, hspace=0.1)
    axes: list[Axes] = []
    for i in range(rows):
        each = figure.add_subplot(grid[i], sharex=axes[0] if axes else None)
        each.set_facecolor("white")
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(FAINT)
        each.tick_params(colors=MUTED, labelsize=8.5, length=3, color=FAINT)
        each.tick_params(which="minor", length=0)
        each.grid(True, color=GRID, lw=0.8)
        each.set_axisbelow(True)
        each.xaxis.label.set(color=INK, fontsize=9)
        each.yaxis.label.set(color=INK, fontsize=9)
        axes.append(each)
    figure.text(0.018, 1 - 0.27 / height, safe(title), fontsize=12.5, fontweight="bold", color=INK, va="center")
    return figure, axes


def subtitle(figure: Figure, text: str) -> None:
    height = float(figure.get_figheight())
    figure.text(0.018, 1 - 0.51 / height, text, fontsize=8.6, color=MUTED, va="center")


def empty(figure: Figure, axes: Axes, why: str) -> Figure:
    """A picture of nothing says so."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes, fontsize=11, color=MUTED)
    return figure


def key(
    colour: str, mark: str | None, label: str, line: bool = False, hollow: bool = False, style: str = "-"
) -> Line2D:
    """An entry of a legend."""
    return Line2D(
        [], [], color=colour, marker=mark or "", label=label, ls=style if line else "", lw=1.6, ms=5.5,
        mfc="white" if hollow else colour, mec=colour if hollow else "white", mew=1.1 if hollow else 0.5,
    )  # fmt: skip


def legend(axes: Axes, handles: Sequence[Line2D], place: Corner, columns: int = 1) -> None:
    axes.legend(
        handles=list(handles), loc=place, ncols=columns, fontsize=8.2, labelcolor=INK, frameon=True, framealpha=0.88,
        edgecolor="none", facecolor="white", handlelength=1.5, columnspacing=1.2, borderpad=0.4, labelspacing=0.4,
    )  # fmt: skip


def mark(action: str) -> tuple[str, str]:
    """Colour and marker of an action; a combination is a cross in the colour of its last part."""
    if "+" in action:
        return MARKS.get(action.rpartition("+")[2], _OTHER)[0], "P"
    return MARKS.get(action, _OTHER)


def plain_log_ticks(axes: Axes, low: float, high: float) -> None:
    """Whole numbers on a logarithmic x axis, about as many as fit."""
    span = high / low
    subs = (1, 2, 5) if span > 6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))


def gain_scale(axes: Axes, which: Literal["x", "y"], unit: float) -> None:
    """An axis in nats: logarithmic beyond ±unit, straight between, so that gains around zero are seen too."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("symlog", linthresh=unit, linscale=0.8)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("-", "−")))


def label_end(axes: Axes, x: pd.Series, y: pd.Series, text: str, colour: str, dy: float = 0.0) -> None:
    """A line's name at its end, in its colour, so that nobody has to look it up."""
    axes.annotate(
        text, (float(x.iloc[-1]), float(y.iloc[-1])), xytext=(5, dy), textcoords="offset points", fontsize=8.5,
        color=colour, va="center", annotation_clip=False,
    )  # fmt: skip


def room_at_right(axes: Axes, share: float) -> None:
    """Space beyond the last point, as a share of the width, for labels at the ends of lines."""
    low, high = axes.dataLim.intervalx
    width = max(float(high - low), 1.0)
    axes.set_xlim(low - 0.02 * width, high + share * width)


def ease(x0: float, y0: float, x1: float, y1: float) -> tuple[Any, Any]:
    """A branch that leaves and arrives level."""
    t = np.linspace(0.0, 1.0, 48)
    return x0 + (x1 - x0) * t, y0 + (y1 - y0) * t * t * (3 - 2 * t)


def count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def safe(text: object, longest: int = 60) -> str:
    """A name from a file as harmless text for a picture: no line breaks, no formulas, not too long."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return shown.replace("$", r"\$")
