"""Sweeps: small, predeclared sets of settings around one subject, each lived in full and compared seed by seed.

Focused: one setting at a time is moved from where the config has it. Lenient: the same, from a beginning that lets
nearly everything through (a low price, low bounds, growth considered often, any trigger), so that what the strict
defaults never allow is seen as well.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evo.instruments import pictures
from evo.instruments.comparisons import Estimate, estimate, holm, paired
from evo.instruments.instrument import Bench, Request, Result
from evo.instruments.jobs import Outcome
from evo.instruments.tables import Column, nats, percent, probability, signed, whole
from evo.learning_rates import RATES

Changes = Mapping[str, Any]

LENIENT: Changes = {
    "growth.cycles": 32,
    "growth.trim": 0.05,
    "economy.price": 0.0004,
    "economy.final_price": 0.004,
    "economy.endowment": 5.0,
    "tournament.confidence": 0.6,
    "tournament.random_share": 0.5,
}
"""Prices a tenth to a fiftieth of the default's, twice as many decisions, and a bound of six in ten."""

GROWTH: Mapping[str, Changes] = {
    "half the stake": {"growth.stake": 0.25},
    "twice the stake": {"growth.stake": 1.0},
    "8 cycles": {"growth.cycles": 8},
    "32 cycles": {"growth.cycles": 32},
    "no trimming": {"growth.trim": 0.0},
    "twice the trimming": {"growth.trim": 0.24},
    "price a fifth": {"economy.final_price": 0.04},
    "price five times": {"economy.final_price": 1.0},
    "2 candidates": {"tournament.candidates": 2},
    "8 candidates": {"tournament.candidates": 8},
    "short rungs": {"tournament.rungs": [10, 20]},
    "long rungs": {"tournament.rungs": [40, 80]},
    "settles for a third": {"growth.settle": 0.33},
    "on a plateau or a spike": {"growth.triggers": "plateau or spike"},
    "on extrema": {"growth.triggers": "extrema"},
    "every alarm": {"growth.triggers": "plateau or spike or extrema", "growth.false_alarm": 0.2},
}

ARCHITECTURE: Mapping[str, Changes] = {
    f"{'-'.join(map(str, hidden)) or 'none'} at {100 * density:g}%": {
        "network.hidden": list(hidden), "network.density": density,
    }
    for hidden in ((), (4,), (8,), (16,), (32,), (8, 8), (16, 8), (32, 16))
    for density in (0.05, 0.1, 0.3)
}  # fmt: skip

GROUPS = ("growth", "architecture", "rates")

COLUMNS = (
    Column("setting", "setting"),
    Column("per_parameter", "millinats a parameter", nats),
    Column("per_parameter_reach", "±", nats),
    Column("information", "nats", nats),
    Column("information_reach", "±", nats),
    Column("rank", "rank by nats", whole),
    Column("parameters", "parameters", whole),
    Column("work", "steps", whole),
    Column("gain", "nats over the first", signed),
    Column("p", "p, Holm", probability),
    Column("test_accuracy", "test accuracy", percent),
)

FIRST = "as it is"


def settings(group: str, lenient: bool) -> dict[str, dict[str, Any]]:
    """What is lived, by name; the beginning, which all others are compared with, first."""
    base = dict(LENIENT) if lenient else {}
    moved = {"growth": GROWTH, "architecture": ARCHITECTURE, "rates": _rates()}[group]
    return {FIRST: base, **{name: {**base, **change} for name, change in moved.items()}}


def sweep(request: Request, bench: Bench) -> Result:
    """options: group, lenient."""
    group, lenient = str(request.options["group"]), bool(request.options["lenient"])
    sets = settings(group, lenient)
    outcomes = bench.run([request.job(name, s, change) for name, change in sets.items() for s in request.each_seed])
    n = request.seeds
    lived = {name: outcomes[i * n : (i + 1) * n] for i, name in enumerate(sets)}
    rows = _rows(lived)
    table = pd.DataFrame(rows, columns=[column.name for column in COLUMNS])
    summary = {
        "task": request.config.task, "group": group, "lenient": lenient, "seeds": list(request.each_seed),
        "rows": [
            {**{k: _finite(v) for k, v in row.items()}, "change": sets[row["setting"]],
             "seeds": [_seed(o) for o in lived[row["setting"]]]}
            for row in rows
        ],
    }  # fmt: skip
    kind = "lenient" if lenient else "focused"
    title = f"Sweep of {request.config.task}: {group}, {kind}"
    told = f"{len(sets)} settings, {n} seed{'s' * (n > 1)} each; bars: 95% intervals over seeds"
    return Result(summary, table, COLUMNS, pictures.sweep(title, _points(lived), told), _notes(rows, n))


def _rates() -> dict[str, Changes]:
    return {name: {"training.rates": name} for name in RATES if name != "uniform"}


def _rows(lived: Mapping[str, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """Best information per parameter first; rank: by information alone."""
    first = _information(lived[FIRST])
    gains = {name: paired(_information(outcomes), first) for name, outcomes in lived.items() if name != FIRST}
    corrected = dict(zip(gains, holm([gain.p for gain in gains.values()]), strict=True))
    rows: list[dict[str, Any]] = []
    for name, outcomes in lived.items():
        known, efficient = estimate(_information(outcomes)), estimate([o.per_parameter for o in outcomes])
        rows.append({
            "setting": name,
            "per_parameter": efficient.mean, "per_parameter_reach": _reach(efficient),
            "information": known.mean, "information_reach": _reach(known),
            "parameters": statistics.fmean(o.active_parameters for o in outcomes),
            "work": statistics.fmean(o.work for o in outcomes),
            "gain": gains[name].mean if name in gains else None,
            "p": corrected.get(name),
            "test_accuracy": statistics.fmean(o.test_accuracy for o in outcomes),
        })  # fmt: skip
    for rank, row in enumerate(sorted(rows, key=lambda row: -float(row["information"])), start=1):
        row["rank"] = rank
    return sorted(rows, key=lambda row: -float(row["per_parameter"]))


def _points(lived: Mapping[str, Sequence[Outcome]]) -> list[tuple[str, float, float, float, float, bool]]:
    told = []
    for name, outcomes in lived.items():
        known = estimate(_information(outcomes))
        parameters = statistics.fmean(o.active_parameters for o in outcomes)
        reach = _reach(known) or 0.0
        told.append((name, parameters, known.mean, known.mean - reach, known.mean + reach))
    return [(*row, not any(o[1] <= row[1] and o[2] > row[2] for o in told)) for row in told]


def _notes(rows: Sequence[Mapping[str, Any]], seeds: int) -> tuple[str, ...]:
    if seeds < 2:
        return ("one seed: no intervals, nothing can be told apart; write --seeds 3 or more",)
    sure = [row for row in rows if row["p"] is not None and row["p"] < 0.05]
    told = ", ".join(f"{row['setting']} ({row['gain']:+.3f} nats)" for row in sure) or "nothing"
    return (f"beyond chance at 5%, corrected for {len(rows) - 1} comparisons (Holm), in information: {told}",)


def _information(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.validation_information for outcome in outcomes]


def _reach(found: Estimate) -> float | None:
    return None if found.n < 2 else found.high - found.mean


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value


def _seed(outcome: Outcome) -> dict[str, Any]:
    names = ("validation_information", "test_accuracy", "active_parameters", "work")
    return {name: getattr(outcome, name) for name in names}
