"""What is wrong with a picture's layout, measured as it is drawn."""

from __future__ import annotations

import itertools

from matplotlib.figure import Figure
from matplotlib.text import Text


def faults(figure: Figure) -> list[str]:
    """Texts beyond the page, labels of an axis that overprint each other, a legend that hides something."""
    figure.draw_without_rendering()
    found = []
    page = figure.bbox
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible()):
        box = text.get_window_extent()
        if text.get_text().strip() and box.width and not _seen_as_tick(text, figure):
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
            found += [] if inside else [f"{text.get_text()!r} is beyond the page"]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [tick.label1 for tick in axis.get_major_ticks() if tick.label1.get_visible()]
            shown = [label for label in labels if label.get_text() and _within(label, axis)]
            shown.sort(key=lambda label: label.get_position())
            for one, other in itertools.pairwise(shown):
                # Slanted ones have large boxes that overlap while the letters do not.
                if not one.get_rotation() and one.get_window_extent().overlaps(other.get_window_extent()):
                    found.append(f"{one.get_text()!r} and {other.get_text()!r} overlap")
        for legend in figure.legends:
            if legend.get_window_extent().overlaps(axes.bbox):
                found.append("the legend hides a part of the axes")
    return found


def _within(label: Text, axis: object) -> bool:
    low, high = sorted(axis.get_view_interval())  # type: ignore[attr-defined]
    at = label.get_position()[0 if axis.axis_name == "x" else 1]  # type: ignore[attr-defined]
    return bool(low <= at <= high)


def _seen_as_tick(text: Text, figure: Figure) -> bool:
    """A label of a tick outside of its axis' limits, which is never drawn."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if text in (tick.label1, tick.label2):
                    return not _within(text, axis)
    return False
