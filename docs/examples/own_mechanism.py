"""A proposer, an analyzer, a trigger and a learning-rate rule of your own, without touching the package.

Each is one function, put into a plain dict under the name by which the config asks for it. The module that does so is
named in `plugins`, so that every process that takes part can import it. Try it:

    python docs/examples/own_mechanism.py

or, from this folder, `evo mechanisms --set plugins=[own_mechanism]`, and

    evo grow digits --set plugins=[own_mechanism] --set "growth.proposers=[steepest, widen]" \\
        --set growth.analyzers=[slopes] --set growth.triggers=learning --set training.rates=shallow
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

import evo
from evo.learning_rate_setting import Factors, Setting
from evo.learning_rates import RATES
from search_spaces.actions import Connect, Edge
from tournaments import Candidate, Findings
from tournaments.analysis import Analysis, Cost, Measure
from tournaments.analyzers import ANALYZERS
from tournaments.history import Firing, History, tested
from tournaments.history import Settings as TriggerSettings
from tournaments.proposals import PROPOSERS
from tournaments.triggers import TRIGGERS


def slopes(findings: Findings) -> Analysis:
    """Of every layer: the steepest slope of the loss along a weight that the layer does not have yet.

    arrays: LAYER (units, columns + 1), the slopes of all such weights, nats per unit of weight; 0 where there is one.
    """
    measures, arrays, operations = [], {}, 0.0
    for layer in findings.places:
        place = findings.statistics(layer)  # C: covariance of features and gradients; A: Gram matrix of the features
        absent = findings.column_mask(layer, findings.sources(layer)) & ~place.present
        slope = np.where(absent.cpu().numpy(), place.C.t().abs().cpu().numpy(), 0.0).astype(np.float64)
        row, column = np.unravel_index(slope.argmax(), slope.shape)
        error = math.sqrt(float(place.A[column, column] * place.f[row]) / place.samples)
        measures.append(Measure(layer, "steepest", float(slope.max()), error, "nats"))
        arrays[layer] = slope
        operations += place.samples * slope.size
    return Analysis("slopes", tuple(measures), Cost(findings.evidence.samples, operations), arrays)


def steepest(findings: Findings) -> list[Candidate]:
    """Absent edges of the steepest slopes, of value zero, as RigL grows them; the trial says what they are worth."""
    found = findings.analysis(slopes).arrays
    ranked = [
        (slope, layer, row, column)
        for layer, table in found.items()
        for (row, column), slope in np.ndenumerate(table)
        if slope > 0
    ]
    best = sorted(ranked, reverse=True)[: findings.grow]  # never more than may be added
    if not best:
        return []
    edges = tuple(_edge(findings, layer, row, column) for _, layer, row, column in best)
    reason = f"{len(edges)} absent edges along which the loss falls steepest"
    return [Candidate((Connect("*", edges),), "steepest", reason, cost=len(edges), predicted=0.0)]


def _edge(findings: Findings, layer: str, row: int, column: int) -> Edge:
    """The columns of a place are those of all layers that may feed it, side by side."""
    spans = findings.statistics(layer).columns.items()
    source, first = next((name, first) for name, (first, last) in spans if first <= column < last)
    return Edge(f"{source}>{layer}", row, column - first, 0.0)


def learning(history: History, settings: TriggerSettings) -> Firing:
    """Rank test: the later half of the losses since the last growth is lower than the earlier one."""
    losses = history.losses[-settings.window :]
    early, late = np.array_split(losses, 2)
    if len(late) < 10:
        return Firing("learning", False, None, None, f"not known: only {len(losses)} steps since the last growth")
    p = float(stats.mannwhitneyu(late, early, alternative="less").pvalue)
    return tested("learning", p, settings.false_alarm, f"the loss fell over the last {len(losses)} steps")


def shallow(setting: Setting) -> Factors:
    """.7^i by depth: each layer learns a little slower than the one before it."""
    return setting.by_layer(lambda layer: 0.7 ** setting.depths[layer])


PROPOSERS["steepest"] = steepest
ANALYZERS["slopes"] = slopes
TRIGGERS["learning"] = learning
RATES["shallow"] = shallow


if __name__ == "__main__":
    run = evo.grow(
        "digits",
        plugins=["own_mechanism"],
        growth={"proposers": ["steepest", "widen"], "analyzers": ["slopes"], "triggers": "learning"},
        training={"rates": "shallow", "epochs": 25},
        record={"mlflow": False},
    )
    shown = {
        "analysis": ["cycle", "analyzer", "site", "value", "value_se"],
        "candidate": ["cycle", "proposer", "action", "delta_parameters", "measured_nats", "selected"],
        "decision": ["cycle", "action", "reason"],
    }
    for kind, columns in shown.items():
        print(run.events[run.events["kind"] == kind][columns].to_string(index=False), end="\n\n")
    print(run.folder)
