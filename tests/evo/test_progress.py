"""Progress: lines for a log, a table for a terminal."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from evo.progress import Lines, LiveTable, sparkline, thinned, to_stderr

START = {"stage": "start", "run": "runs/x", "kind": "search", "task": "digits", "seed": 7, "networks": 2, "cycles": 40}


def cycle(network: str = "n000", number: int = 3, **more: Any) -> dict[str, Any]:
    return {
        "stage": "cycle", "network": network, "generation": 1, "cycle": number, "information_nats": 1.5,
        "validation_information_nats": 1.25, "validation_accuracy": 0.912, "active_parameters": 1142,
        "delta_parameters": 12, "action": "Widen", "done": False, **more,
    }  # fmt: skip


def drawn(updates: list[dict[str, Any]], height: int = 30, width: int = 100) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    clock = iter(range(0, 10_000, 10))
    table = LiveTable(console, clock=lambda: float(next(clock)))
    for update in updates:
        table(update)
    with console.capture() as shown:
        console.print(table.render())
    return shown.get()


def test_a_line_a_decision() -> None:
    stream = io.StringIO()
    with Lines(stream) as lines:
        for update in (START, cycle(), cycle(action="NoChange", delta_parameters=0, done=True), {"stage": "report"}):
            lines(update)
    assert stream.getvalue().splitlines() == [
        "search digits: 2 networks, seed 7, into runs/x",
        "n000 g1  3/40  1.250 nats  accuracy 91.2%  1142 parameters (+12)  Widen",
        "n000 g1  3/40  1.250 nats  accuracy 91.2%  1142 parameters (+0)  NoChange  done",
        "reading the test set, writing the report",
    ]


def test_regression_and_what_is_not_finite() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    lines({**cycle(validation_information_nats=math.nan), "validation_r2": 0.5})
    assert "  - nats  R² 0.500  " in stream.getvalue()


def test_a_row_a_network_and_a_bar_over_all() -> None:
    text = drawn([START, cycle(), cycle("n001", 40, done=True, action="Skip", delta_parameters=-5)])
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["network", "n000", "n001"]
    for word in ("1.250 nats", "91.2%", "1,142", "+12", "Widen", "3/40"):
        assert word in lines[2]
    assert "✓ Skip" in lines[3]
    assert " 54% " in lines[4]  # (3 + 40) of 80 cycles
    assert "left" in lines[4]


def test_more_networks_than_lines() -> None:
    text = drawn([START, *[cycle(f"n{i:03d}") for i in range(30)]], height=20)
    assert len(text.splitlines()) < 20
    assert "and 18 more" in text
    assert "n029" in text
    assert "n000" not in text


def test_a_resumed_run_does_not_count_what_was_done_before_as_speed() -> None:
    text = drawn([{**START, "networks": 1}, cycle(number=21), cycle(number=22)])
    # One clock tick of 10 s each; 2 of the 20 cycles that were left at the resume are done.
    assert "22/40" in text
    assert "left" in text
    left = next(line for line in text.splitlines() if "left" in line)
    minutes, seconds = left.split(", ")[1].split()[0].split(":")
    assert int(minutes) * 60 + int(seconds) >= 9 * 10


def test_before_anything_is_known() -> None:
    assert "starting" in drawn([])


def test_a_log_gets_lines_and_a_terminal_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(to_stderr(io.StringIO()), Lines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert isinstance(to_stderr(io.StringIO()), LiveTable)


def test_sparkline() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([0.0, math.nan, 1.0]) == "▁ █"
    assert sparkline([math.nan]) == ""


def test_thinning_keeps_the_last() -> None:
    assert thinned([1.0, 2.0, 3.0], 16) == [1.0, 2.0, 3.0]
    thin = thinned([float(i) for i in range(100)], 10)
    assert (len(thin), thin[-1]) == (10, 99.0)
    assert thin == sorted(thin)
