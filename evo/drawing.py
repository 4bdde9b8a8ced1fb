"""How our pictures look: page, palette, labels. No global state: everything is set on the figure itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

INK, MUTED, FAINT, GRID = "#1f2a37", "#5f6b7a", "#b8c1cc", "#e9edf1"
TEAL, AMBER = "#0f766e", "#c2570c"
# What grows points up or is round, what shrinks points down or aside; colours that survive colour blindness.
MARKS: Mapping[str, tuple[str, str]] = {
    "Widen": ("#0f766e", "^"),
    "Connect": ("#2b6cb0", "o"),
    "Skip": ("#7c4dbe", "D"),
    "Insert": ("#b7791f", "s"),
    "Disconnect": ("#c2410c", "v"),
    "Narrow": ("#be3a6b", "<"),
    "Remove": ("#7a2e2e", "X"),
}
HEAD = 0.72
"""Inches that the title and the line under it take."""
_OTHER = ("#4a5563", "*")


class _Margins(LayoutEngine):
    """Moves the axes as far to the right as the labels at their left need, measured when the picture is drawn."""

    _adjust_compatible = True
    _colorbar_gridspec = False

    def execute(self, fig: Figure) -> None:
        need = 0.0
        for axes in fig.axes:
            taken = axes.get_tightbbox(for_layout_only=True, bbox_extra_artists=[])
            first = axes.get_subplotspec()
            if taken is not None and first is not None and first.is_first_col():
                need = max(need, (float(axes.bbox.x0) - float(taken.x0)) / float(fig.bbox.width))
        fig.subplots_adjust(left=max(0.095, need + 0.018))


def page(
    title: str, rows: int = 1, height: float = 5.0, columns: Sequence[float] = (1.0,)
) -> tuple[Figure, list[Axes]]:
    """A white page, 8 inches wide, with a title at the left and quiet axes below it, row by row.

    rows: they share x. columns: their widths as shares; they share y.
    """
    figure = Figure(figsize=(8.0, height), dpi=150, facecolor="white", layout=_Margins())
    FigureCanvasAgg(figure)
    figure.subplots_adjust(right=0.965, bottom=0.62 / height, top=1 - HEAD / height, hspace=0.1, wspace=0.06)
    grid = figure.add_gridspec(rows, len(columns), width_ratios=list(columns))
    axes: list[Axes] = []
    for i in range(rows * len(columns)):
        row, column = divmod(i, len(columns))
        above, left = axes[column] if row else None, axes[i - column] if column else None
        each = figure.add_subplot(grid[row, column], sharex=above, sharey=left)
        each.set_facecolor("white")
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(FAINT)
        each.tick_params(which="both", colors=MUTED, labelsize=8.5, length=3, color=FAINT)
        each.tick_params(which="minor", length=0)
        each.tick_params(labelleft=left is None)
        each.grid(True, color=GRID, lw=0.8)
        each.set_axisbelow(True)
        each.xaxis.label.set(color=INK, fontsize=9)
        each.yaxis.label.set(color=INK, fontsize=9)
        axes.append(each)
    figure.align_ylabels()
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
        [], [], color=colour, marker=mark or "", label=label, ls=style if line else "", lw=1.6,
        ms=9 if mark == "*" else 5.5, mfc="white" if hollow else colour, mec=colour if hollow else "white",
        mew=1.1 if hollow else 0.5,
    )  # fmt: skip


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Between the head and the axes, which make room, so that it hides nothing; in as many columns as fit."""
    height = float(figure.get_figheight())
    for columns in range(len(handles), 0, -1):
        box = figure.legend(
            handles=list(handles), loc="upper left", bbox_to_anchor=(0.018, 1 - (HEAD - 0.07) / height), ncols=columns,
            fontsize=8.2, labelcolor=INK, frameon=False, handlelength=1.5, columnspacing=1.4, labelspacing=0.4,
            borderpad=0.0, borderaxespad=0.0,
        )  # fmt: skip
        size = box.get_window_extent()
        if columns == 1 or size.width <= 0.955 * figure.bbox.width:
            figure.subplots_adjust(top=1 - (HEAD + 0.06 + float(size.height) / figure.dpi) / height)
            return
        box.remove()


def mark(action: str) -> tuple[str, str]:
    """Colour and marker of an action; a combination is a cross in the colour of its last part."""
    if "+" in action:
        return MARKS.get(action.rpartition("+")[2], _OTHER)[0], "P"
    return MARKS.get(action, _OTHER)


def plain_log_ticks(axes: Axes, low: float, high: float, which: Literal["x", "y"] = "x", most: int = 10) -> None:
    """Plain numbers on a logarithmic axis, not many more than fit."""
    decades = math.log10(high / low)
    choices: Sequence[Sequence[float]] = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,))
    subs = next((subs for subs in choices if len(subs) * decades <= most), (1,))
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=subs, numticks=most))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda v, _: plain(v)))


def plain(value: float) -> str:
    """12,000 or 0.05, with the sign that numbers have."""
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}").replace("-", "−")


def gain_scale(axes: Axes, which: Literal["x", "y"], unit: float) -> None:
    """An axis in nats: logarithmic beyond ±unit, straight between, so that gains around zero are seen too."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("symlog", linthresh=unit, linscale=0.8)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda v, _: plain(v)))


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
