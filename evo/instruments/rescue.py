"""The rescue: a seed below the cliff, where plain training fails. Which mechanisms grow it into one that works?

All rows share seeds, splits and the seed's wiring. `static` trains the seed as it is; `work` does for as many steps as
the tournament took with all of its trials. The targets have the density at which the tournament ended from the start
and train as long as its line: the seed's layers wired evenly, or uniformly, or the tournament's own last wiring with
weights drawn anew. `target` is the best of these by validation. The tournament is the config's; then each mechanism
alone, in the same tournament and for the same work.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evo.config import ConfigError
from evo.instruments import pictures
from evo.instruments.comparisons import holm, paired
from evo.instruments.instrument import Bench, Request, Result
from evo.instruments.jobs import STATIC, Job, Outcome
from evo.instruments.tables import Column, nats, percent, points, probability, share, whole

STATIC_ROW, WORK, TOURNAMENT = "static", "work", "tournament"
TARGETS = ("target even", "target uniform", "target redrawn")
WITHIN = 0.02
"""Points of accuracy from the target within which a row counts as a rescue."""

ONLY_TAKE = frozenset({"narrow", "disconnect", "withdraw", "magnitude", "remove"})
"""Proposers that never add anything; alone they cannot rescue."""

COLUMNS = (
    Column("mechanism", "mechanism"),
    Column("test_accuracy", "test accuracy", percent),
    Column("lowest", "lowest", percent),
    Column("highest", "highest", percent),
    Column("validation_information", "nats", nats),
    Column("active_parameters", "parameters", whole),
    Column("density", "density", share),
    Column("work", "steps", whole),
    Column("over_work", "over work, points", points),
    Column("p", "p, Holm", probability),
    Column("verdict", "verdict"),
)

Rows = dict[str, list[Outcome]]


def adders(known: Sequence[str]) -> tuple[str, ...]:
    """The proposers that could rescue alone."""
    return tuple(name for name in known if name not in ONLY_TAKE)


def rescue(request: Request, bench: Bench) -> Result:
    """options: mechanisms, max_density. The config's network is the seed."""
    jobs = _first_jobs(request, _limit(request, bench))
    outcomes = bench.run([job for row in jobs.values() for job in row])
    rows: Rows = {name: outcomes[i * request.seeds : (i + 1) * request.seeds] for i, name in enumerate(jobs)}
    second = _second_jobs(request, _limit(request, bench), jobs[TOURNAMENT], rows[TOURNAMENT])
    outcomes = bench.run([job for row in second.values() for job in row])
    rows |= {name: outcomes[i * request.seeds : (i + 1) * request.seeds] for i, name in enumerate(second)}
    return _result(request, bench, rows)


def _limit(request: Request, bench: Bench) -> int:
    """Parameters that a rescue may come to: its density's share of the cells of the seed's layers, biases included."""
    network, most = request.config.network, float(request.options["max_density"])
    if network.family != "mlp":
        raise ConfigError(f"network.family: a rescue is of fully connected networks, got {network.family!r}; write mlp")
    sizes = [math.prod(bench.task.shape), *network.hidden, bench.task.outputs]
    cells, biases = sum(p * q for p, q in itertools.pairwise(sizes)), sum(sizes[1:])
    born, limit = round(network.density * cells) + biases, round(most * cells)
    if not born < limit or most > 1:
        raise ConfigError(
            f"--max-density: expected at most 1, and room to grow beyond the seed's {born:,} weights and biases, got "
            f"{most:g}, which is {limit:,} of {cells:,}; write --max-density {min(3 * born / cells, 1):.2g}"
        )
    return limit


def _first_jobs(request: Request, limit: int) -> dict[str, list[Job]]:
    below = {"network.wiring": "uniform"}
    growing = {**below, "growth.max_parameters": limit}
    rows: dict[str, dict[str, Any]] = {STATIC_ROW: {**below, **STATIC}, TOURNAMENT: growing}
    return {
        label: [request.job(label, seed, change, keeps=label == TOURNAMENT) for seed in request.each_seed]
        for label, change in rows.items()
    }


def _second_jobs(request: Request, limit: int, grown: Sequence[Job], came: Sequence[Outcome]) -> dict[str, list[Job]]:
    """What depends on how the tournament of the same seed ended: on its work, its density, its wiring."""
    alone = [str(name) for name in request.options["mechanisms"]]
    rows: dict[str, list[Job]] = {name: [] for name in (WORK, *TARGETS, *alone)}
    static = {**STATIC, "network.wiring": "uniform"}
    for seed, job, outcome in zip(request.each_seed, grown, came, strict=True):
        rows[WORK].append(request.job(WORK, seed, static, work=outcome.work))
        for name in TARGETS[:2]:
            wiring = name.rpartition(" ")[2]
            dense = {**STATIC, "network.wiring": wiring, "network.density": min(outcome.density, 1.0)}
            rows[name].append(request.job(name, seed, dense))
        rows[TARGETS[2]].append(request.job(TARGETS[2], seed, static, shape_of=job.key))
        for name in alone:
            change = {"network.wiring": "uniform", "growth.max_parameters": limit, "growth.proposers": [name]}
            rows[name].append(request.job(name, seed, change, work=outcome.work))
    return rows


def _result(request: Request, bench: Bench, rows: Rows) -> Result:
    order = [STATIC_ROW, WORK, *TARGETS, TOURNAMENT, *(str(name) for name in request.options["mechanisms"])]
    best = max(TARGETS, key=lambda name: statistics.median(o.validation_information for o in rows[name]))
    target = _median(rows[best], "test_accuracy")
    grown = order[order.index(TOURNAMENT) :]
    against = {name: paired(_accuracies(rows[name]), _accuracies(rows[WORK])) for name in grown}
    corrected = dict(zip(grown, holm([against[name].p for name in grown]), strict=True))
    told = []
    for name in order:
        row = _row(name, rows[name])
        if name in against:
            row |= {"over_work": against[name].mean, "p": corrected[name]}
            row["verdict"] = _verdict(row, target, float(request.options["max_density"]))
        told.append(row)
    table = pd.DataFrame(told, columns=[column.name for column in COLUMNS])
    network = request.config.network
    summary = {
        "task": request.config.task,
        "hidden": list(network.hidden),
        "seed_density": network.density,
        "max_density": request.options["max_density"],
        "seeds": list(request.each_seed),
        "static": _median(rows[STATIC_ROW], "test_accuracy"),
        "target": target,
        "target_row": best,
        "rows": [{**_plain(row), "seeds": [_seed(o) for o in rows[str(row["mechanism"])]]} for row in told],
    }
    picture = pictures.rescue(
        f"Rescue of {request.config.task} from {share(network.density)} density",
        {name: _accuracies(rows[name]) for name in order},
        target, _median(rows[WORK], "test_accuracy"), grown,
    )  # fmt: skip
    return Result(summary, table, COLUMNS, picture, _notes(request, best, target, told))


def _row(name: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Medians over seeds."""
    accuracies = _accuracies(outcomes)
    figures = ("test_accuracy", "validation_information", "active_parameters", "density", "work")
    medians = {figure: _median(outcomes, figure) for figure in figures}
    return {"mechanism": name, **medians, "lowest": min(accuracies), "highest": max(accuracies)}


def _verdict(row: Mapping[str, Any], target: float, most: float) -> str:
    if row["density"] > most:
        return "too dense"
    if row["test_accuracy"] >= target - WITHIN:
        return "rescues"
    helps = row["over_work"] > 0 and row["p"] < 0.05
    return "helps, no rescue" if helps else "no rescue"


def _notes(request: Request, best: str, target: float, told: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    by = {str(row["mechanism"]): row for row in told}
    grown = by[TOURNAMENT]
    rescuers = [name for name, row in by.items() if row.get("verdict") == "rescues" and name != TOURNAMENT]
    return (
        f"medians over {request.seeds} seeds; target: {best}, the best of three by validation, {percent(target)}",
        f"the tournament {grown['verdict']}: {percent(grown['test_accuracy'])} at {share(grown['density'])} density; "
        f"static {percent(by[STATIC_ROW]['test_accuracy'])}, with as much work {percent(by[WORK]['test_accuracy'])}",
        f"alone {'rescue' if len(rescuers) > 1 else 'rescues'}: {', '.join(rescuers) or 'none'}"
        f" (within {100 * WITHIN:g} points of the target)",
    )


def _accuracies(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.test_accuracy for outcome in outcomes]


def _median(outcomes: Sequence[Outcome], figure: str) -> float:
    return float(statistics.median(getattr(outcome, figure) for outcome in outcomes))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}


def _seed(outcome: Outcome) -> dict[str, Any]:
    names = ("test_accuracy", "validation_accuracy", "validation_information", "test_information", "active_parameters",
             "density", "work", "line_steps", "tournaments", "reason")  # fmt: skip
    return {**{name: getattr(outcome, name) for name in names}, "adopted": dict(outcome.adopted)}
