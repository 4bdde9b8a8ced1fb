"""Pictures of the instruments, in the style of a run's own."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from evo.drawing import (
    AMBER,
    FAINT,
    INK,
    MUTED,
    TEAL,
    count,
    key,
    legend,
    page,
    plain_log_ticks,
    safe,
    subtitle,
)  # fmt: skip
from evo.instruments.cliff import Cliff
from evo.instruments.jobs import Outcome


def ladder(
    title: str, densities: Sequence[float], found: Sequence[Sequence[Outcome]], cliff: Cliff, entropy: float
) -> Figure:
    """Information above, accuracy below, over density; the cliff with its interval as a band."""
    figure, (top, low) = page(title, rows=2)
    x = np.asarray(densities)
    for axes, name in ((top, "information"), (low, "accuracy")):
        for kind, colour in (("validation", TEAL), ("test", AMBER)):
            values = [[float(getattr(o, f"{kind}_{name}")) for o in rung] for rung in found]
            means = [statistics.fmean(rung) for rung in values]
            if kind == "validation":
                for density, rung in zip(densities, values, strict=True):
                    axes.scatter([density] * len(rung), rung, s=12, c=FAINT, lw=0, zorder=2)
                axes.plot(x, means, c=colour, lw=2, marker="o", ms=4, zorder=4)
            else:
                axes.plot(x, means, c=colour, lw=0, marker="D", ms=4.5, mfc="white", mew=1.1, zorder=5)
        half, steepest = cliff.half, cliff.steepest
        if half.density is not None:
            if half.low is not None and half.high is not None:
                axes.axvspan(half.low, half.high, color=MUTED, alpha=0.16, lw=0, zorder=0)
            axes.axvline(half.density, c=INK, lw=1.1, zorder=1)
        if steepest.density is not None:
            axes.axvline(steepest.density, c=MUTED, lw=1, ls=(0, (2, 3)), zorder=1)
    top.axhline(entropy, c=MUTED, lw=0.9, ls=(0, (5, 4)), zorder=1)
    low.set_xscale("log")
    low.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    low.xaxis.set_minor_formatter(NullFormatter())
    low.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}%"))
    low.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    top.tick_params(labelbottom=False)
    top.set_ylabel("information, nats a sample")
    low.set_ylabel("accuracy")
    low.set_xlabel("density: active weights as a share of all cells")
    handles = [key(TEAL, "o", "validation, mean over seeds", line=True), key(AMBER, "D", "test", hollow=True)]
    if cliff.half.density is not None:
        handles.append(key(INK, None, "half of the dense information, 95% band", line=True))
    if cliff.steepest.density is not None:
        handles.append(key(MUTED, None, "steepest", line=True, style=":"))
    legend(low, handles, "lower right")
    subtitle(figure, f"{count(len(x), 'density', 'densities')}, {count(len(found[0]), 'seed')} each, plain training")
    return figure


def rescue(
    title: str, rows: Mapping[str, Sequence[float]], target: float, worked: float, grown: Sequence[str]
) -> Figure:
    """Test accuracy of every row, seed by seed with the median, against the target and against work without growth."""
    figure, (axes,) = page(title, height=2.1 + 0.24 * len(rows))
    _name_rows(axes, list(rows), below=2.4)
    for i, (name, values) in enumerate(rows.items()):
        colour = TEAL if name in grown else MUTED
        axes.scatter(values, [i] * len(values), s=16, c=FAINT, lw=0, zorder=3)
        axes.scatter([statistics.median(values)], [i], s=44, c=colour, marker="o" if name in grown else "s", zorder=4)
    axes.axvline(target, c=AMBER, lw=1.3, zorder=1)
    axes.axvline(worked, c=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("test accuracy")
    handles = [key(TEAL, "o", "grown: median"), key(MUTED, "s", "trained alone: median")]
    handles += [key(AMBER, None, "target", line=True), key(MUTED, None, "static, as much work", line=True, style="--")]
    legend(axes, handles, "lower right", columns=2)
    subtitle(figure, f"{count(len(next(iter(rows.values()))), 'seed')} each; nothing was chosen by test data")
    return figure


def seeds(
    title: str, points: Sequence[tuple[float, float]], last: Sequence[tuple[float, float, float]], margin: float,
    found: tuple[float, float] | None,
) -> Figure:  # fmt: skip
    """Information over parameters. points: every trial. last: (parameters, nats, lower bound) of the last rung."""
    figure, (axes,) = page(title)
    every = np.asarray([p for p, _ in points] + [p for p, *_ in last])
    axes.scatter([p for p, _ in points], [v for _, v in points], s=11, c=FAINT, lw=0, zorder=2)
    for parameters, value, bound in last:
        axes.plot([parameters] * 2, [bound, value], c=MUTED, lw=1.2, zorder=3)
        axes.scatter([parameters], [value], s=26, c=MUTED, lw=0, zorder=4)
    handles = [key(FAINT, "o", "short trials"), key(MUTED, "o", "full length, down to the lower bound")]
    if found is not None:
        axes.scatter([found[0]], [found[1]], s=90, c=TEAL, marker="*", lw=0, zorder=5)
        handles.append(key(TEAL, "*", f"found: {found[0]:,.0f} parameters"))
    axes.axhline(margin, c=AMBER, lw=1.2, zorder=1)
    handles.append(key(AMBER, None, f"margin, {margin:g} nats above chance", line=True))
    axes.set_xscale("log")
    low, high = float(every.min()) / 1.2, float(every.max()) * 1.2
    axes.set_xlim(low, high)
    plain_log_ticks(axes, low, high)
    bottom = min([margin, 0.0, *(b for *_, b in last)])
    axes.set_ylim(bottom=max(bottom - 0.1, -0.5))
    axes.set_xlabel("active parameters (weights and biases)")
    axes.set_ylabel("validation information, nats a sample")
    legend(axes, handles, "upper left")
    subtitle(figure, f"{count(len(points) + len(last), 'network')} tried")
    return figure


def flows(title: str, layers: Mapping[str, Mapping[str, float]]) -> Figure:
    """Gradient that reaches each layer, network by network: {network: {layer: nats per unit}}."""
    figure, (axes,) = page(title, height=3.8)
    names = list(dict.fromkeys(layer for values in layers.values() for layer in values))
    handles = []
    for (network, values), (colour, mark) in zip(layers.items(), ((TEAL, "o"), (AMBER, "D")), strict=False):
        known = [(i, values[name]) for i, name in enumerate(names) if values.get(name, 0.0) > 0]
        axes.plot([i for i, _ in known], [v for _, v in known], c=colour, marker=mark, lw=1.6, ms=6)
        handles.append(key(colour, mark, network, line=True))
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), [safe(name, 16) for name in names])
    axes.set_ylabel("gradient, nats per unit of pre-activation")
    legend(axes, handles, "lower right")
    subtitle(figure, "root of the summed squares over a layer's units, mean over samples, at birth")
    return figure


def sweep(title: str, rows: Sequence[tuple[str, float, float, float, float, bool]], told: str) -> Figure:
    """(name, parameters, nats, low, high, whether no other has more nats for as few parameters) of every setting."""
    figure, (axes,) = page(title)
    for name, parameters, value, bottom, top, best in rows:
        colour = TEAL if best else MUTED
        axes.plot([parameters] * 2, [bottom, top], c=colour if best else FAINT, lw=1.2, zorder=2)
        axes.scatter([parameters], [value], s=30 if best else 18, c=colour, lw=0, zorder=4 if best else 3)
        if best or len(rows) <= 12:
            axes.annotate(safe(name, 36), (parameters, value), xytext=(5, 4), textcoords="offset points", fontsize=7.8,
                          color=colour)  # fmt: skip
    axes.set_xscale("log")
    every = [row[1] for row in rows]
    low, high = min(every) / 1.15, max(every) * 1.6
    axes.set_xlim(low, high)
    plain_log_ticks(axes, low, high)
    axes.set_xlabel("active parameters (weights and biases), mean over seeds")
    axes.set_ylabel("validation information, nats a sample")
    legend(axes, [key(TEAL, "o", "on the front"), key(MUTED, "o", "the others")], "lower right")
    subtitle(figure, told)
    return figure


def _name_rows(axes: Axes, names: Sequence[str], below: float) -> None:
    """Rows from top to bottom, each with its name at the left, and room for a legend `below` them, in rows."""
    axes.set_yticks(range(len(names)), [safe(name, 24) for name in names])
    axes.set_ylim(len(names) - 0.4 + below, -0.6)
    left, place = 0.03 + 0.0095 * max(len(name) for name in names), axes.get_position()
    axes.set_position((left, place.y0, place.x1 - left, place.height))
    axes.tick_params(axis="y", labelcolor=INK)
