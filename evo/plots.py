"""Pictures of a run: the front, a network's growth, the population's lineage, the decisions' gains, the predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from evo import books, front
from evo.drawing import (
    AMBER,
    FAINT,
    INK,
    MUTED,
    TEAL,
    count,
    empty,
    gain_scale,
    key,
    label_end,
    legend,
    mark,
    page,
    plain,
    plain_log_ticks,
    room_at_right,
    safe,
    subtitle,
)  # fmt: skip
from evo.lineage import picture_lineage

if TYPE_CHECKING:
    from evo.run import Run


def picture_front(run: Run) -> Figure:
    """Validation information against active parameters: every snapshot faint, the front bold, test figures beside."""
    points, best = front.snapshots(run.events), run.front
    figure, (axes,) = page(f"Pareto front of {run.name}")
    if not len(best):
        return empty(figure, axes, "no snapshot was saved yet")
    networks = points["network"].nunique()
    x, y = best["active_parameters"], best["validation_information_nats"]
    axes.scatter(points["active_parameters"], points["validation_information_nats"], s=9, c=FAINT, lw=0, alpha=0.55)
    low, high = float(points["active_parameters"].min()), float(points["active_parameters"].max())
    low, high = max(low, 1.0) / 1.12, max(high, 1.0) * 1.12
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    plain_log_ticks(axes, low, high)
    axes.step(x, y, where="post", c=TEAL, lw=2.2, solid_joinstyle="round", zorder=3)
    axes.scatter(x, y, s=26, c=TEAL, lw=0, zorder=4)
    handles = [key(TEAL, "o", "front, by validation", line=True), key(FAINT, "o", "other snapshots")]
    shown = [float(points["validation_information_nats"].quantile(0.02)), float(y.min()), float(y.max())]
    if "test_information_nats" in best and best["test_information_nats"].notna().any():
        tested = best["test_information_nats"]
        axes.vlines(x, tested, y, colors=AMBER, lw=0.8, alpha=0.45, zorder=3)
        axes.scatter(x, tested, s=22, marker="D", facecolors="white", edgecolors=AMBER, lw=1.2, zorder=5)
        handles.insert(1, key(AMBER, "D", "the same networks on test data", hollow=True))
        shown += [float(tested.min()), float(tested.max())]
    entropy, samples = reference(run)
    bottom, top = min(shown), max(shown)
    height = max(top - bottom, 0.05)
    if samples is not None:
        price = math.log(samples) / (2 * samples)
        grid = np.geomspace(low, high, 200)
        axes.plot(grid, price * grid, c=MUTED, lw=1.1, ls=":", zorder=2)
        handles.append(key(MUTED, None, f"½ ln N / N nats a parameter, N = {samples:,}", line=True, style=":"))
        bottom = min(bottom, price * low) if price * low > bottom - height else bottom
    if entropy is not None and entropy < top + 1.2 * height:
        axes.axhline(entropy, c=MUTED, lw=0.9, ls=(0, (5, 4)), zorder=1)
        handles.append(key(MUTED, None, f"H(Y) = {entropy:.2f} nats: all there is to know", line=True, style="--"))
        top = max(top, entropy)
    # Untrained networks may be far worse than guessing; they must not flatten the picture of the others.
    bottom = max(bottom, -0.12 * top) if top > 0 else bottom
    margin = 0.06 * max(top - bottom, 0.05)
    hidden = int((points["validation_information_nats"] < bottom - margin).sum())
    told = f"{count(len(points), 'snapshot')} of {count(networks, 'network')}, {len(best)} on the front"
    subtitle(figure, told + (f"; {hidden} below the picture" if hidden else ""))
    axes.set_ylim(bottom - margin, top + 2 * margin)
    axes.set_xlabel("active parameters (weights and biases)")
    axes.set_ylabel("information about the target, nats a sample")
    legend(figure, handles)
    end = float(y.iloc[-1])
    crowded = entropy is not None and 0 < entropy - end < 0.14 * (top - bottom)
    _label_best(axes, best.iloc[-1], front.metric(run.events), entropy if crowded and entropy is not None else end)
    return figure


def picture_growth(run: Run, network: str | None = None) -> Figure:
    """Information and active parameters over the steps of a life, ancestors first, decisions marked by action."""
    name = network or _main_network(run)
    figure, (top, low) = page(f"Growth of {name or 'no network'}", rows=2, height=5.4)
    told = books.history(run.events, name) if name else run.events.iloc[:0]
    told = told[told["information_nats"].notna() | told["active_parameters"].notna()]
    if not len(told):
        low.set_visible(False)
        return empty(figure, top, "nothing has happened yet")
    known, saved = told[told["information_nats"].notna()], told[told["validation_information_nats"].notna()]
    counts = told[told["active_parameters"].notna()].astype({"active_parameters": "float64"})
    top.plot(known["life_step"], known["information_nats"], c=FAINT, lw=1.3)
    top.plot(saved["life_step"], saved["validation_information_nats"], c=TEAL, lw=2)
    if len(known) and len(saved):
        gap = float(known["information_nats"].iloc[-1]) - float(saved["validation_information_nats"].iloc[-1])
        label_end(
            top, saved["life_step"], saved["validation_information_nats"], "validation", TEAL, -5 if gap > 0 else 5
        )
        label_end(top, known["life_step"], known["information_nats"], "growth data", MUTED, 5 if gap > 0 else -5)
    adopted = counts[(counts["kind"] == "decision") & counts["action"].notna() & (counts["action"] != "NoChange")]
    handles = []
    if len(counts):
        low.step(counts["life_step"], counts["active_parameters"], where="post", c=INK, lw=1.5)
        first, last = int(counts["active_parameters"].iloc[0]), int(counts["active_parameters"].iloc[-1])
        label_end(low, counts["life_step"], counts["active_parameters"], f"{last:,}", INK)
        low.annotate(f"{first:,}", (counts["life_step"].iloc[0], first), xytext=(0, -12), textcoords="offset points",
                     fontsize=8.5, color=INK)  # fmt: skip
        stayed = int((told["kind"] == "decision").sum()) - len(adopted)
        subtitle(figure, f"{count(first, 'parameter')} at birth, {last:,} at the end; {count(len(adopted), 'change')} "
                         f"adopted, NoChange {count(stayed, 'time')}")  # fmt: skip
    for action, rows in adopted.groupby("action", sort=False):
        colour, shape = mark(str(action))
        low.scatter(rows["life_step"], rows["active_parameters"], s=36, c=colour, marker=shape, lw=0.6,
                    edgecolors="white", zorder=4)  # fmt: skip
        handles.append(key(colour, shape, f"{safe(action)} × {len(rows)}"))
    _mark_births((top, low), told)
    top.set_ylabel("information, nats a sample")
    low.set_ylabel("active parameters")
    low.set_xlabel("training steps" + (", ancestors' included" if told["network"].nunique() > 1 else ""))
    top.tick_params(labelbottom=False)
    for axis in (low.xaxis, low.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: plain(v)))
    low.margins(y=0.18)
    room_at_right(low, 0.13)
    if handles:
        legend(figure, handles)
    return figure


def picture_decisions(run: Run, network: str | None = None) -> Figure:
    """Each adopted change's gain with its 95% interval, and the same gain on the audit half."""
    name = network or _main_network(run)
    figure, (axes,) = page(f"What the decisions of {name or 'no network'} gained")
    rows = books.lived(run.decisions, books.history(run.events, name) if name else run.events.iloc[:0])
    rows = rows[rows["candidates"] > 0].reset_index(drop=True)
    won = rows[(rows["action"] != "NoChange") & rows["measured_nats"].notna()]
    if not len(won):
        return empty(figure, axes, "NoChange won every tournament" if len(rows) else "no tournament was held")
    handles = []
    for action, part in won.groupby("action", sort=False):
        colour, shape = mark(str(action))
        axes.errorbar(part.index + 1, part["measured_nats"], yerr=books.Z95 * part["se_nats"].fillna(0.0), fmt=shape,
                      ms=6, c=colour, ecolor=colour, elinewidth=1.2, mec="white", mew=0.5, zorder=3)  # fmt: skip
        handles.append(key(colour, shape, f"{safe(action)} × {len(part)}"))
    audited = won[won["audit_nats"].notna()]
    axes.scatter(audited.index + 1.3, audited["audit_nats"], s=18, facecolors="white", edgecolors=MUTED, lw=1, zorder=4)
    handles += [key(MUTED, "o", "on the audit half", hollow=True)] if len(audited) else []
    stayed = rows[rows["action"] == "NoChange"]
    axes.scatter(stayed.index + 1, [0.0] * len(stayed), s=26, c=FAINT, marker="|", lw=1.6, zorder=3)
    handles += [key(FAINT, "|", f"NoChange × {len(stayed)}", hollow=True)] if len(stayed) else []
    axes.axhline(0, c=INK, lw=0.9)
    gains, unit = won["measured_nats"].abs(), _round_up(float(won["se_nats"].fillna(0.0).median()))
    if float(gains.max()) > 15 * max(float(gains.median()), unit):
        gain_scale(axes, "y", unit)
    axes.set_xlim(0.3, len(rows) + 0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("tournament" + (", ancestors' included" if rows["network"].nunique() > 1 else ""))
    axes.set_ylabel("ΔMI against NoChange, nats")
    told = f"{count(len(rows), 'tournament')}, {count(len(won), 'change')} adopted"
    subtitle(figure, f"{told}; bars: 95% intervals on the half that decided")
    legend(figure, handles)
    return figure


def picture_predictions(run: Run) -> Figure:
    """What the screening foretold against what the trials measured, candidate by candidate."""
    figure, (axes,) = page("Screening: predicted and measured gain")
    pairs = books.arms(run.events)
    pairs = pairs[pairs["predicted_nats"].notna() & pairs["measured_nats"].notna()]
    if not len(pairs):
        return empty(figure, axes, "no tournament was held, so there is no prediction to compare")
    predicted, measured = pairs["predicted_nats"].astype(float), pairs["measured_nats"].astype(float)
    unit = _round_up(float(measured.abs().quantile(0.2)))
    won = books.true(pairs["selected"])
    gain_scale(axes, "x", unit)
    gain_scale(axes, "y", unit)
    axes.scatter(predicted[~won], measured[~won], s=15, c=FAINT, lw=0, alpha=0.85)
    axes.scatter(predicted[won], measured[won], s=24, c=TEAL, lw=0.4, edgecolors="white", zorder=3)
    top = max(float(predicted.max()), float(measured.max()), unit) * 1.4
    axes.plot(
        [0, *np.geomspace(unit / 10, top, 60)], [0, *np.geomspace(unit / 10, top, 60)], c=MUTED, lw=1, ls=":", zorder=1
    )
    axes.axhline(0, c=FAINT, lw=0.9, zorder=0)
    axes.set_xlim(min(-0.3 * unit, 1.4 * float(predicted.min())), top)
    facts = books.calibration(run.events, None)
    rank = f"Spearman {facts.rank:.2f}" if math.isfinite(facts.rank) else "too few for a rank correlation"
    ratio = f", median measured/predicted {facts.ratio:.2f}" if math.isfinite(facts.ratio) else ""
    subtitle(figure, f"{count(len(pairs), 'candidate')}: {rank}{ratio}. The screening ranks, it is not calibrated")
    axes.set_xlabel("predicted ΔMI, nats")
    axes.set_ylabel("measured ΔMI against NoChange, nats")
    legend(figure, [key(TEAL, "o", "adopted"), key(FAINT, "o", "not adopted"),
                    key(MUTED, None, "as predicted", line=True, style=":")])  # fmt: skip
    return figure


PICTURES: Mapping[str, Callable[[Run], Figure]] = {
    "front": picture_front,
    "growth": picture_growth,
    "decisions": picture_decisions,
    "predictions": picture_predictions,
    "lineage": picture_lineage,
}


def reference(run: Run) -> tuple[float | None, int | None]:
    """(H(Y) in nats, training samples), where run.json or the test's record tells them."""
    told = {**run.info, **(run.test or {})}
    entropy, samples = told.get("entropy_nats"), told.get("samples")
    n = samples.get("train") if isinstance(samples, dict) else None
    known = isinstance(entropy, int | float) and math.isfinite(entropy)
    return float(entropy) if known else None, n if isinstance(n, int) and n > 1 else None  # type: ignore[arg-type]


def _round_up(value: float) -> float:
    """The power of ten at or above a gain in nats; at least a millionth."""
    return float(10.0 ** math.ceil(math.log10(max(value, 1e-6))))


def _main_network(run: Run) -> str | None:
    """The network to tell about where none is named: the best, or else the first."""
    if len(run.front):
        return run.best.network
    return str(run.networks["network"].iloc[0]) if len(run.networks) else None


def _label_best(axes: Axes, entry: pd.Series, figure: str, height: float) -> None:
    """Names the last point of the front, above `height`."""
    tested = f"test_{figure}" in entry and pd.notna(entry[f"test_{figure}"])
    quality, where = (entry[f"test_{figure}"], "test") if tested else (entry[figure], "validation")
    shown = f", {where} R² {quality:.3f}" if figure == "r2" else f", {quality:.1%} {where} accuracy"
    left = float(axes.transAxes.inverted().transform(axes.transData.transform((entry["active_parameters"], height)))[0])
    axes.annotate(
        f"{safe(entry['network'], 20)}: {entry['active_parameters']:,} parameters{'' if pd.isna(quality) else shown}",
        (entry["active_parameters"], height), xytext=(2, 7), textcoords="offset points", fontsize=8.5,
        ha="left" if left < 0.5 else "right", fontweight="bold", color=TEAL,
    )  # fmt: skip


def _mark_births(panels: tuple[Axes, ...], told: pd.DataFrame) -> None:
    """A line where a child took over, with the names of both lives; nothing where there is one life only."""
    lives = list(told.groupby("network", sort=False))
    letter = 0.012 * float(told["life_step"].max() - told["life_step"].min())  # the width of one, in steps
    ends: list[float] = []  # of the names in each line of names, from the bottom
    for i, (name, life) in enumerate(lives if len(lives) > 1 else []):
        at, shown = float(life["life_step"].iloc[0]), safe(name, 20)
        for axes in panels if i else ():
            axes.axvline(at, c=FAINT, lw=0.9, ls=(0, (2, 3)), zorder=0)
        line = next((k for k, end in enumerate(ends) if end < at), len(ends))
        ends[line : line + 1] = [at + letter * (len(shown) + 1)]
        panels[0].annotate(shown, (at, 0.03 + 0.09 * line), xytext=(4, 0), xycoords=("data", "axes fraction"),
                           fontsize=8.2, textcoords="offset points", color=MUTED)  # fmt: skip
