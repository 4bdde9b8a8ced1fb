"""The ladder: plain training at a row of densities, wired alike at random, and where the cliff is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from evo.config import ConfigError
from evo.instruments import cliff, pictures
from evo.instruments.instrument import Bench, Request, Result
from evo.instruments.jobs import STATIC, Job, Outcome
from evo.instruments.tables import Column, nats, percent, share, whole
from search_spaces.randomness import keyed

FIGURES = ("validation_information", "validation_accuracy", "test_information", "test_accuracy")

COLUMNS = (
    Column("asked", "density", share),
    Column("active_parameters", "parameters", whole),
    Column("validation_information", "nats", nats),
    Column("validation_accuracy", "accuracy", percent),
    Column("test_information", "test nats", nats),
    Column("test_accuracy", "test accuracy", percent),
    Column("spread", "± seeds, nats", nats),
)


def ladder(request: Request, bench: Bench) -> Result:
    """options: densities, densest first."""
    rungs = [float(density) for density in request.options["densities"]]
    if request.config.network.family != "mlp":
        raise ConfigError(
            f"network.family: a ladder is of fully connected networks, got {request.config.network.family!r}; write mlp"
        )
    wanted = [_job(request, density, seed) for density in rungs for seed in request.each_seed]
    outcomes = bench.run(wanted)
    found = [outcomes[i * request.seeds : (i + 1) * request.seeds] for i in range(len(rungs))]
    located = cliff.locate(
        rungs, [[o.validation_information for o in rung] for rung in found], keyed(request.config.seed, "cliff")
    )
    table = pd.DataFrame([_row(density, rung) for density, rung in zip(rungs, found, strict=True)])
    hidden = list(request.config.network.hidden)
    sizes = [math.prod(bench.task.shape), *hidden, bench.task.outputs]
    summary = {
        "task": request.config.task,
        "layers": sizes,
        "seeds": list(request.each_seed),
        "entropy_nats": bench.task.entropy,
        "rungs": [
            {"density": density, **_row(density, rung), "seeds": [_told(outcome) for outcome in rung]}
            for density, rung in zip(rungs, found, strict=True)
        ],
        "cliff": dataclasses.asdict(located),
    }
    title = f"Ladder of {request.config.task}, {'-'.join(map(str, sizes))}"
    picture = pictures.ladder(title, rungs, found, located, bench.task.entropy)
    return Result(summary, table, COLUMNS, picture, _notes(located, request.seeds))


def _job(request: Request, density: float, seed: int) -> Job:
    change = {**STATIC, "network.wiring": "uniform", "network.density": density}
    return request.job(f"density {density:g}", seed, change)


def _row(density: float, rung: Sequence[Outcome]) -> dict[str, Any]:
    """Means over seeds; spread: their standard deviation."""
    means = {name: float(np.mean([getattr(outcome, name) for outcome in rung])) for name in FIGURES}
    known = [outcome.validation_information for outcome in rung]
    return {
        "asked": density,
        "real": float(np.mean([outcome.density for outcome in rung])),
        "active_parameters": float(np.mean([outcome.active_parameters for outcome in rung])),
        **means,
        "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def _told(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in (*FIGURES, "density", "active_parameters", "work")}


def _notes(located: cliff.Cliff, seeds: int) -> tuple[str, ...]:
    half, value = located.half, located.half_value
    if half.density is None:
        return (f"no cliff within these densities: information never falls below {nats(value)} nats, half of its top",)
    between = "" if located.bracket is None else f", between the rungs {' and '.join(map(share, located.bracket))}"
    lines = [f"cliff: at {_mark(half)} information falls to {nats(value)} nats, half of the dense network's{between}"]
    if located.steepest.density is not None:
        lines.append(f"steepest at {_mark(located.steepest)}, by a logistic in log density")
    lines.append(f"intervals: 95%, by Student's t on {seeds} seeds a rung" if seeds > 1 else "one seed: no interval")
    return tuple(lines)


def _mark(mark: cliff.Mark) -> str:
    assert mark.density is not None
    if mark.low is None or mark.high is None:
        return share(mark.density)
    return f"{share(mark.density)} ({share(mark.low)} to {share(mark.high)})"
