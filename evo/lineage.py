"""The family tree of a population, as a picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from evo import front
from evo.drawing import FAINT, INK, MUTED, count, ease, empty, page, safe, subtitle

if TYPE_CHECKING:
    from evo.run import Run


def picture_lineage(run: Run) -> Figure:
    """Who came from whom: generations from left to right, area by active parameters, colour by information."""
    people = run.networks.set_index("network")
    places = _tree(people)
    deepest = max((y for _, y in places.values()), default=0.0)
    figure, (axes,) = page(f"Lineage of {run.name}", height=max(2.4, 1.7 + 0.3 * deepest))
    if not len(people):
        return empty(figure, axes, "no network was born yet")
    knows = front.snapshots(run.events).groupby("network")["validation_information_nats"].max().to_dict()
    winners = set(run.front["network"])
    values = [float(knows.get(name, math.nan)) for name in places]
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    sizes = pd.to_numeric(people["active_parameters"]).astype(float).fillna(0.0)
    for name, (x, y) in places.items():
        origin = _parent(people, name)
        if origin in places:
            axes.plot(*ease(*places[origin], x, y), c=FAINT, lw=1.3, zorder=1)
    spread = max(finite) - min(finite) + 1e-9
    axes.scatter([x for x, _ in places.values()], [y for _, y in places.values()], c=values, cmap="YlGnBu",
                 s=[24 + 170 * float(sizes[name]) / max(float(sizes.max()), 1.0) for name in places],
                 vmin=min(finite) - 0.4 * spread, vmax=max(finite) + 0.15 * spread, plotnonfinite=True,
                 edgecolors=[INK if name in winners else "white" for name in places],
                 linewidths=[1.5 if name in winners else 0.6 for name in places], zorder=3)  # fmt: skip
    for name, value in zip(places, values, strict=True):
        text = f"{safe(name, 20)}   {sizes[name]:,.0f} p" + (
            f"   {value:.2f} nats" if math.isfinite(value) else "   no snapshot"
        )
        text += "   failed" if people.loc[name, "state"] == "failed" else ""
        axes.annotate(text, places[name], xytext=(12, 0), textcoords="offset points", va="center", fontsize=8.2,
                      color=INK if name in winners else MUTED, fontweight="bold" if name in winners else "normal",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2})  # fmt: skip
    children = int(people["parent"].notna().sum())
    born = f"{children or 'none'} of them started from another's snapshot" if len(people) > 1 else "so there is no tree"
    reading = "Area: parameters, colour: information, bold: on the front"
    subtitle(figure, f"{count(len(people), 'network')}, {born}. {reading}")
    last = int(max(x for x, _ in places.values()))
    axes.set_xlim(-0.08, last + 0.62)
    axes.set_ylim(deepest + 0.7, -0.7)
    axes.set_yticks([])
    axes.set_xticks(range(last + 1), [f"generation {g}" for g in range(last + 1)])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _parent(people: pd.DataFrame, name: str) -> str:
    return str(people.loc[name, "parent"] or "").partition("/")[0]


def _tree(people: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Where each network stands: x is its depth from a seed, y such that branches do not cross."""
    children: dict[str, list[str]] = {}
    for name in people.index:
        origin = _parent(people, name)
        children.setdefault(origin if origin in people.index and origin != name else "", []).append(name)
    places: dict[str, tuple[float, float]] = {}
    row = 0.0

    def place(name: str, depth: int) -> float:
        nonlocal row
        places[name] = (float(depth), math.nan)  # claimed: a record in which parents form a circle must end too
        below = [place(child, depth + 1) for child in children.get(name, []) if child not in places]
        if not below:
            below, row = [row], row + 1
        places[name] = (float(depth), (below[0] + below[-1]) / 2)
        return places[name][1]

    for seed in children.get("", []):
        place(seed, 0)
    for name in people.index:
        if name not in places:
            place(name, 0)
    return {name: places[name] for name in people.index}
