"""Pictures of the instruments, in the style of a run's own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from evo.drawing import (
    AMBER,
    FAINT,
    INK,
    MUTED,
    TEAL,
    count,
    empty,
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
    figure, (top, low) = page(title, rows=2, height=5.4)
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
    low.xaxis.set_minor_formatter(NullFormatter())
    low.set_xticks(_apart(densities), [f"{100 * density:g}%" for density in _apart(densities)])
    low.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    top.tick_params(labelbottom=False)
    top.set_ylabel("information, nats a sample")
    low.set_ylabel("accuracy")
    low.set_xlabel("density: active weights as a share of all cells")
    seeds, mean = len(found[0]), ", mean over seeds" if len(found[0]) > 1 else ""
    handles = [
        key(TEAL, "o", f"validation{mean}", line=True), *([key(FAINT, "o", "one seed")] if mean else []),
        key(AMBER, "D", f"test{mean}", hollow=True),
        key(MUTED, None, f"H(Y) = {entropy:.2f} nats", line=True, style="--"),
    ]  # fmt: skip
    if cliff.half.density is not None:
        band = "" if cliff.half.low is None else ", 95% band"
        handles.append(key(INK, None, f"half of the dense information{band}", line=True))
    if cliff.steepest.density is not None:
        handles.append(key(MUTED, None, "steepest fall", line=True, style=":"))
    legend(figure, handles)
    subtitle(figure, f"{count(len(x), 'density', 'densities')}, {count(seeds, 'seed')} each, plain training")
    return figure


def _apart(densities: Sequence[float]) -> list[float]:
    """Those, densest first, that have room for a label on a logarithmic axis."""
    order = sorted(densities, reverse=True)
    room, kept = math.log(order[0] / order[-1]) / 13, order[:1]
    for density in order[1:]:
        if math.log(kept[-1] / density) >= room:
            kept.append(density)
    return kept


def rescue(
    title: str, rows: Mapping[str, Sequence[float]], target: float, worked: float, grown: Sequence[str]
) -> Figure:
    """Test accuracy of every row, seed by seed with the median, against the target and against work without growth."""
    figure, (axes,) = page(title, height=1.9 + 0.24 * len(rows))
    _name_rows(axes, list(rows))
    for i, (name, values) in enumerate(rows.items()):
        colour, mark = (TEAL, "o") if name in grown else (MUTED, "s")
        axes.scatter([statistics.median(values)], [i], s=52, c=colour, marker=mark, lw=0, zorder=3)
        axes.scatter(values, [i] * len(values), s=13, c="white", edgecolors=colour, lw=0.9, zorder=4)
    axes.axvline(target, c=AMBER, lw=1.3, zorder=1)
    axes.axvline(worked, c=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("test accuracy")
    handles = [
        key(TEAL, "o", "grown: median"), key(MUTED, "s", "trained alone: median"),
        key(MUTED, "o", "one seed", hollow=True), key(AMBER, None, "target", line=True),
        key(MUTED, None, "static, as much work", line=True, style="--"),
    ]  # fmt: skip
    legend(figure, handles)
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
    handles = [key(FAINT, "o", "short trial"), key(MUTED, "o", "full length, down to the 95% lower bound")]
    if found is not None:
        axes.scatter([found[0]], [found[1]], s=90, c=TEAL, marker="*", lw=0, zorder=5)
        handles.append(key(TEAL, "*", f"found: {found[0]:,.0f} parameters"))
    axes.axhline(margin, c=AMBER, lw=1.2, zorder=1)
    handles.append(key(AMBER, None, f"margin, {margin:g} nats above chance", line=True))
    axes.set_xscale("log")
    low, high = float(every.min()) / 1.2, float(every.max()) * 1.2
    axes.set_xlim(low, high)
    plain_log_ticks(axes, low, high)
    # Short trials may be far worse than guessing; they must not flatten the picture of the others.
    bottom = max(min([margin, 0.0, *(b for *_, b in last)]) - 0.1, -0.5)
    axes.set_ylim(bottom=bottom)
    hidden = sum(v < bottom for _, v in points)
    axes.set_xlabel("active parameters (weights and biases)")
    axes.set_ylabel("validation information, nats a sample")
    legend(figure, handles)
    told = f"{count(len(points), 'short trial')}, {count(len(last), 'network')} lived in full"
    subtitle(figure, told + (f"; {hidden} below the picture" if hidden else ""))
    return figure


def flows(title: str, layers: Mapping[str, Mapping[str, float]]) -> Figure:
    """Gradient that reaches each layer, network by network: {network: {layer: nats per unit}}."""
    figure, (axes,) = page(title, height=4.2)
    names = list(dict.fromkeys(layer for values in layers.values() for layer in values))
    seen = [value for values in layers.values() for value in values.values() if value > 0]
    if not seen:
        return empty(figure, axes, "no gradient reaches any layer")
    handles = []
    for (network, values), (colour, mark) in zip(layers.items(), ((TEAL, "o"), (AMBER, "D")), strict=False):
        known = [(i, values[name]) for i, name in enumerate(names) if values.get(name, 0.0) > 0]
        axes.plot([i for i, _ in known], [v for _, v in known], c=colour, marker=mark, lw=1.6, ms=6)
        handles.append(key(colour, mark, network, line=True))
    axes.set_yscale("log")
    room = max(1.25, (max(seen) / min(seen)) ** 0.06)
    low, high = min(seen) / room, max(seen) * room
    axes.set_ylim(low, high)
    plain_log_ticks(axes, low, high, "y", most=8)
    shown = [safe(name, 16) for name in names]
    slanted = sum(len(name) + 2 for name in shown) > 100
    axes.set_xticks(range(len(names)), shown, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    if slanted:
        figure.subplots_adjust(bottom=1.0 / figure.get_figheight())
    else:
        axes.set_xlabel("layer, from the input to the output")
    axes.set_ylabel("gradient, nats per unit\nof pre-activation")
    legend(figure, handles)
    subtitle(figure, "at birth: root of the sum of squares over a layer's units, mean over samples")
    return figure


def sweep(title: str, rows: Sequence[tuple[str, float, float, float, float, bool]], told: str) -> Figure:
    """(name, parameters, nats, low, high, whether no other has more nats for as few parameters) of every setting.

    The first is what the others are compared with; most information at the top.
    """
    figure, (left, right) = page(title, height=1.9 + 0.24 * len(rows), columns=(3, 2))
    order = sorted(rows, key=lambda row: -row[2])
    _name_rows(left, [row[0] for row in order])
    low, high = _seen(rows)
    for i, (_, parameters, value, bottom, top, best) in enumerate(order):
        colour, mark = (TEAL, "o") if best else (MUTED, "s")
        left.plot([bottom, top], [i, i], c=colour, lw=1.2, alpha=0.6, zorder=2)
        left.scatter([value], [i], s=34, c=colour, marker=mark, lw=0, zorder=3)
        right.scatter([parameters], [i], s=34, c=colour, marker=mark, lw=0, zorder=3)
    left.axvline(rows[0][2], c=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    right.axvline(rows[0][1], c=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    left.set_xlim(low, high)
    right.set_xscale("log")
    few, many = min(row[1] for row in rows) / 1.25, max(row[1] for row in rows) * 1.25
    right.set_xlim(few, many)
    plain_log_ticks(right, few, many, most=4)
    left.set_xlabel("validation information, nats a sample")
    right.set_xlabel("active parameters")
    handles = [key(TEAL, "o", "on the front: none as small knows more"), key(MUTED, "s", "the others")]
    legend(figure, [*handles, key(INK, None, safe(rows[0][0], 32), line=True, style="--")])
    cut = sum(row[3] < low or row[4] > high for row in rows)
    subtitle(figure, told + (f"; {count(cut, 'bar')} cut off at the frame" if cut else ""))
    return figure


def _seen(rows: Sequence[tuple[str, float, float, float, float, bool]]) -> tuple[float, float]:
    """Limits for information: every value, and every interval but those so wide that they would flatten the rest."""
    values = [row[2] for row in rows]
    centre = statistics.median(values)
    widths = sorted(max(centre - row[3], row[4] - centre) for row in rows)
    reach = min(widths[-1], 3 * widths[int(0.8 * (len(widths) - 1))])
    low = min(*values, max(min(row[3] for row in rows), centre - reach))
    high = max(*values, min(max(row[4] for row in rows), centre + reach))
    room = max(0.04 * (high - low), 0.005)
    return low - room, high + room


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows from top to bottom, each with its name at the left."""
    axes.set_yticks(range(len(names)), [safe(name, 32) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=INK)
