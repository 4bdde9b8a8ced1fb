"""Traces: what triggers remember from cycle to cycle, as JSON in the life.

Each field of a trigger's history is collected only where the expression in `growth.triggers` names a trigger that reads
it. All but the last loss and the plateau's clock begins anew with growth, which moves every statistic.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo import learning_rates
from evo.config import Config
from evo.life import Life
from search_spaces.network import Network
from tournaments import activity, series, trajectory, triggers
from tournaments.analyzers.extrema import hidden_extrema, share
from tournaments.evidence import Evidence
from tournaments.history import Credit, Evaluation, History, Settings, Spread
from tournaments.trajectory import Shape

Look = Callable[[], Evidence]
"""Makes the evidence, which costs a pass, where it is needed, once."""

WARMUP = 400
"""Steps of a life before the first evaluation of its trajectory."""


def settings(config: Config) -> Settings:
    """How strictly the config's triggers test."""
    growth = config.growth
    return Settings(false_alarm=growth.false_alarm, window=growth.window, every=growth.every)


def snapshots(config: Config) -> int:
    """Snapshots of the weights that a stretch of training takes for the triggers; 0 for none."""
    return trajectory.SNAPSHOTS if "evaluations" in triggers.needed(config.growth.triggers) else 0


def born(config: Config, figure: float | None) -> dict[str, Any]:
    """The traces of a newborn. figure: whose highs earn credits, None where there is none."""
    if "credit" not in triggers.needed(config.growth.triggers):
        return {}
    return {"highs": [] if figure is None else [figure], "earned": 0.0}


def trained(config: Config, life: Life, losses: NDArray[np.float64], velocities: NDArray[np.float64] | None) -> Life:
    """After a stretch of training: how much the loss improved on the last one's, and how straight a path was taken."""
    traces = dict(life.traces)
    if len(losses) and "evaluations" in triggers.needed(config.growth.triggers):
        loss, before = float(losses.mean()), traces.get("loss")
        shape = None if velocities is None else trajectory.shape(velocities)
        if shape is not None and before is not None and life.step >= WARMUP:
            improvement = (before - loss) / max(abs(before), sys.float_info.min)
            found = {"improvement": improvement, **dataclasses.asdict(shape)}
            traces["evaluations"] = [*traces.get("evaluations", []), found][-settings(config).patience :]
        traces["loss"] = loss
    if learning_rates.parse(config.training.rates) != (learning_rates.UNIFORM,):  # any rule may read the plateaus
        since = traces.get("since_plateau", 0) + len(losses)
        recent = np.array(life.losses[-since:] if since else ())
        if series.plateau(History(recent, np.empty(0)), settings(config)).fired:
            life, since = dataclasses.replace(life, plateaus=life.plateaus + 1), 0
        traces["since_plateau"] = since
    return dataclasses.replace(life, traces=traces)


def looked(config: Config, life: Life, network: Network, look: Look, figure: float | None) -> Life:
    """After a look at the units, at every cycle, also where growth rests. figure: whose highs earn credits."""
    needed = triggers.needed(config.growth.triggers)
    traces = dict(life.traces)
    if {"activity", "spreads"} & needed and look().finite:
        if "activity" in needed:
            kept = traces.get("activity", {})
            now = activity.active_units(network, look())
            patience = settings(config).patience
            traces["activity"] = {name: [*kept.get(name, []), list(seen)][-patience:] for name, seen in now.items()}
        if "spreads" in needed:
            after = activity.averaged(_spreads(traces), activity.unit_spreads(look()), look().samples)
            traces["spreads"] = {
                name: {"ratios": list(spread.ratios), "errors": list(spread.errors), "samples": spread.samples}
                for name, spread in after.items()
            }
    if "credit" in needed and figure is not None:
        traces["highs"] = [*traces["highs"], figure]
    return dataclasses.replace(life, traces=traces)


def grown(config: Config, life: Life, figure: float | None) -> Life:
    """After growth: most is forgotten."""
    needed = triggers.needed(config.growth.triggers)
    traces: dict[str, Any] = {name: life.traces[name] for name in ("loss", "since_plateau") if name in life.traces}
    if "cycles" in needed:
        traces["grown"] = life.cycle
    if "credit" in needed:
        traces |= {"highs": [] if figure is None else [figure], "earned": life.ledger.earned}
    return dataclasses.replace(life, traces=traces)


def history(
    config: Config, life: Life, network: Network, look: Look, wanted: int, purse: Callable[[Life], int]
) -> History:
    """What the triggers read. wanted: the most parameters that one event may add. purse: what a life can pay for."""
    needed, traces = triggers.needed(config.growth.triggers), life.traces
    extreme, units = extremes(network, look) if "extreme_units" in needed else (0, 0)
    return History(
        losses=np.array(life.losses),
        gradient_norms=np.array(life.norms),
        extreme_units=extreme,
        units=units,
        activity={name: tuple((int(a), int(b)) for a, b in seen) for name, seen in traces.get("activity", {}).items()},
        spreads=_spreads(traces),
        evaluations=tuple(_evaluation(found) for found in traces.get("evaluations", [])),
        cycles=life.cycle - traces.get("grown", -1) if "cycles" in needed else None,
        credit=_credit(life, wanted, purse, traces["highs"], traces["earned"]) if "credit" in needed else None,
    )


def extremes(network: Network, look: Look) -> tuple[int, int]:
    """(dead or saturated units, all hidden units); none of any where what was seen overflows."""
    return share(hidden_extrema(network, look())) if look().finite else (0, 0)


def _credit(life: Life, wanted: int, purse: Callable[[Life], int], highs: Sequence[float], earned: float) -> Credit:
    without = dataclasses.replace(life, ledger=dataclasses.replace(life.ledger, earned=earned))
    return Credit(min(purse(life), wanted), min(purse(without), wanted), wanted, tuple(highs))


def _spreads(traces: dict[str, Any]) -> dict[str, Spread]:
    return {
        name: Spread(tuple(seen["ratios"]), tuple(seen["errors"]), int(seen["samples"]))
        for name, seen in traces.get("spreads", {}).items()
    }


def _evaluation(found: dict[str, Any]) -> Evaluation:
    return Evaluation(found["improvement"], Shape(**{k: v for k, v in found.items() if k != "improvement"}))
