"""Pictures of the instruments: everything is on the page and readable, and shows what it was given."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from layouts import faults
from matplotlib.figure import Figure
from matplotlib.text import Text
from small_jobs import outcome

from evo.instruments import pictures
from evo.instruments.cliff import Cliff, Mark

Row = tuple[str, float, float, float, float, bool]
LONG = "my_package.proposers:reconnect_everything"
NO_CLIFF = Cliff(Mark(None), Mark(None), 0.5, None)


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def names(figure: Figure) -> list[str]:
    """Of the rows, from top to bottom."""
    figure.draw_without_rendering()
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def rescue(rows: int = 24, seeds: int = 5) -> Figure:
    draw = random.Random(1)
    mechanisms = ["static", "work", "tournament", LONG, *(f"mechanism_{i}_vertical" for i in range(rows - 4))]
    found = {name: [draw.uniform(0.1, 1.0) for _ in range(seeds)] for name in mechanisms}
    return pictures.rescue("Rescue of a_table_with_a_long_name from 0.1% density", found, 0.95, 0.11, mechanisms[2:])


def settings(count: int = 25) -> list[Row]:
    draw = random.Random(2)
    rows: list[Row] = [("as it is", 147.0, 1.8, 1.7, 1.9, False)]
    for i in range(count - 1):
        value = draw.gauss(1.8, 0.1)
        rows.append(
            (f"{LONG}_{i}" if i % 3 else f"{i}", draw.uniform(100, 900), value, value - 0.1, value + 0.1, i == 7)
        )
    return rows


def sweep(rows: list[Row] | None = None) -> Figure:
    return pictures.sweep("Sweep of digits: growth, lenient", rows or settings(), "25 settings, 3 seeds each")


def ladder(densities: list[float], seeds: int = 3, cliff: Cliff = NO_CLIFF) -> Figure:
    rungs = [[outcome(validation_information=2 * d, test_accuracy=d)] * seeds for d in densities]
    return pictures.ladder("Ladder of mnist, 784-300-100-10", densities, rungs, cliff, 2.3)


def seeds(most: float = 1e6) -> Figure:
    draw = random.Random(3)
    points = [(most ** draw.uniform(0.2, 1.0), draw.gauss(0.5, 0.5)) for _ in range(60)]
    return pictures.seeds("Smallest seed for mnist", points, [(50.0, 0.3, 0.2), (40.0, 0.2, 0.05)], 0.1, (50.0, 0.3))


def flows(layers: int, fall: float = 0.5) -> Figure:
    order = [*(f"hidden{i}" for i in range(1, layers)), "output"]
    own = {layer: fall**i for i, layer in enumerate(order)}
    twin = {layer: 0.0 if i < layers // 3 else 2 * fall**i for i, layer in enumerate(order)}
    return pictures.flows("Gradient in a network for digits", {"as configured": own, "dense twin": twin})


USUAL = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005]
FOUND = Cliff(Mark(0.06, 0.03, 0.08), Mark(0.055), 1.1, (0.05, 0.1))


@pytest.mark.parametrize(
    "draw",
    [
        rescue, lambda: rescue(4, 1), sweep, lambda: sweep(settings(2)), lambda: sweep(settings(1)),
        lambda: sweep([(f"{i}", 10.0**i, 0.1 * i, 0.1 * i, 0.1 * i, True) for i in range(1, 7)]),
        lambda: ladder(USUAL, cliff=FOUND), lambda: ladder([0.9, 0.8, 0.7], 1), lambda: ladder([1.0, 1e-4, 1e-6]),
        lambda: ladder([1 - i / 50 for i in range(40)]), seeds, lambda: seeds(300.0),
        lambda: flows(3), lambda: flows(1), lambda: flows(16, 0.2), lambda: flows(7, 2.0),
    ],
)  # fmt: skip
def test_everything_is_on_the_page_and_nothing_overprints_anything(draw: Callable[[], Figure]) -> None:
    assert faults(draw()) == []


def test_a_sweep_names_every_setting_with_most_information_at_the_top() -> None:
    rows = settings()
    shown = names(sweep(rows))
    order = [row[0] for row in sorted(rows, key=lambda row: -row[2])]
    assert len(shown) == 25
    assert all(name == shown_name or shown_name.endswith("…") for name, shown_name in zip(order, shown, strict=True))


def test_a_sweep_is_told_apart_from_where_it_began() -> None:
    figure = sweep()
    dashed = [line.get_xdata()[0] for axes in figure.axes for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [1.8, 147.0]


def test_an_interval_that_would_flatten_the_others_is_cut_and_that_is_said() -> None:
    rows = [(f"{i}", 100.0 + i, 1.0 + i / 10, 0.8 + i / 10, 1.2 + i / 10, False) for i in range(8)]
    assert "cut off" not in words(sweep(rows))
    rows[3] = (*rows[3][:3], -40.0, 44.0, False)
    figure = sweep(rows)
    assert "1 bar cut off at the frame" in words(figure)
    low, high = figure.axes[0].get_xlim()
    assert high - low < 4
    assert all(low < row[2] < high for row in rows), "values are never cut"


def test_a_rescue_shows_each_seed_beside_the_median() -> None:
    figure = pictures.rescue("Rescue", {"static": [0.1, 0.3, 0.2], "skip": [0.9, 0.7, 0.5]}, 0.8, 0.1, ["skip"])
    drawn = [[x for x, _ in points.get_offsets()] for points in figure.axes[0].collections]
    assert drawn == [[0.2], [0.1, 0.3, 0.2], [0.7], [0.9, 0.7, 0.5]]
    assert names(figure) == ["static", "skip"]
    assert "3 seeds each" in words(figure)


def test_a_ladder_has_a_tick_at_each_rung_that_has_room() -> None:
    figure = ladder(USUAL, cliff=FOUND)
    figure.draw_without_rendering()
    told = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert sorted(told) == sorted(f"{100 * density:g}%" for density in USUAL)
    assert "half of the dense information, 95% band" in words(figure)


def test_a_ladder_of_one_seed_speaks_of_no_mean() -> None:
    assert "mean over seeds" in words(ladder(USUAL))
    assert "mean" not in words(ladder(USUAL, seeds=1))
    assert "half of the dense" not in words(ladder(USUAL)), "there is no cliff"


def test_trials_below_the_picture_are_counted() -> None:
    figure = pictures.seeds("Smallest", [(10.0, 0.4), (20.0, -3.0), (30.0, -9.0)], [(10.0, 0.3, 0.2)], 0.1, None)
    assert "3 short trials, 1 network lived in full; 2 below the picture" in words(figure)
    assert "found" not in words(figure)


def test_layers_that_no_gradient_reaches_are_left_out_and_if_none_is_left_that_is_said() -> None:
    lines = flows(6).axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [6, 4]
    nothing = {"hidden1": 0.0, "output": 0.0}
    assert "no gradient reaches any layer" in words(pictures.flows("Gradient", {"as configured": nothing}))


def test_hostile_names_are_drawn_as_text() -> None:
    name = "$\\frac{\n\x1b[31m"
    figure = pictures.rescue(name, {name: [0.1], "skip": [0.2]}, 0.8, 0.1, ["skip"])
    assert faults(figure) == []
    assert not [shown for shown in names(figure) if "\n" in shown or "\x1b" in shown]
