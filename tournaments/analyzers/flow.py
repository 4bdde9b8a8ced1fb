"""Information flow: how many nats about the target a closed-form probe reads off each layer, and where they get lost.

I(T_l; Y) is bounded from below by `information.probe_gains`: linear discriminants for classes, Gaussian regression for
values, every sample judged by a probe that never saw it. Two things keep the bound from falling with a layer's width
alone, as 784 coefficients a class cost .5 nats and more at 2,048 samples: a layer is read through the leading r
principal components of its standardised units, and r is the one of `RANKS` that does best on the other folds, so that
the choice does not inflate what is measured either. Pictures are first averaged down to `samples.WIDTH` features.

Links may jump over a layer, so what stands at a depth is more than its layer: C_l is T_l with those units of earlier
layers that still have an active edge into later ones. Every C is a function of the one before, so what any later one
shows cannot have been lost yet (data processing):

    drop(l) = I(C_{l−1}; Y) − max_{m ≥ l} I(C_m; Y)

is what disappears at l for good, as far as the probe can see; below 0, nothing does. The bottleneck is the layer of the
largest drop, if that is further above 0 than its paired standard error explains at `CONFIDENCE`, Bonferroni-corrected
for the number of layers.

The samples are those of the evidence, which the network was trained on: what it learned by heart counts as information.

Cost: n·p·min(n, p) for the components of a layer with p features, 10·n·r² for its probes, r the largest rank.
Where links jump, joint probes of the layers that stand side by side come on top.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special
from torch import Tensor

from tournaments.analysis import Analysis, Cost, Measure
from tournaments.analyzers.nested import nested_gains
from tournaments.analyzers.samples import rows, standardised
from tournaments.evidence import Evidence
from tournaments.findings import Findings

Array = NDArray[np.float64]
_Part = tuple[str, bytes]
"""Some units of a layer: its name, and a boolean for each unit."""
_Seen = tuple[Array, list[Array]]
"""(n, r) components, and the nats that they gain on each sample, (n,), by rank."""

RANKS = (4, 8, 16, 32, 64, 128)
FOLDS = 5
CONFIDENCE = 0.95


def flow(findings: Findings) -> Analysis:
    """Of every layer, input and output (its logits or predicted values) included, in nats:

    information: I(T_l; Y), of the layer alone. passing: I(C_l; Y), with what links carry past it. drop: what is lost at
    this layer for good (not of the input). Of the network: bottleneck, the layer's number in `depths`, −1 for none.
    arrays: information, passing, drop, (layers,) each; the input's drop is 0.
    """
    layers = depths(findings)
    tally = _Tally()
    target = _target(findings.evidence)
    seen: dict[_Part, _Seen] = {}

    def look(part: _Part) -> _Seen:
        """What is read off some units of a layer; the same ones often jump over several layers."""
        if part not in seen:
            layer, used = part
            values = rows(findings, layer)
            block = _components(values[:, np.frombuffer(used, dtype=bool).repeat(values.shape[1] // len(used))], tally)
            seen[part] = block, _gains([block], target, tally)
        return seen[part]

    own = [(layer, np.ones(findings.network.axis_sizes()[layer], dtype=bool).tobytes()) for layer in layers]
    alone = [look(part)[1] for part in own]
    passing = [_passing(findings, layers, at, own[at], look, target, tally) for at in range(len(layers))]
    told, cut = [_chosen(g) for g in alone], [_chosen(g) for g in passing]
    measures: list[Measure] = []
    drops = [(0.0, 0.0)]
    for at, layer in enumerate(layers):
        measures.append(_measure(layer, "information", told[at]))
        measures.append(_measure(layer, "passing", cut[at]))
        if at > 0:
            best = max(range(at, len(layers)), key=lambda m: (cut[m].mean(), -m))
            lost = _measure(layer, "drop", cut[at - 1] - cut[best])
            measures.append(lost)
            drops.append((lost.value, lost.se))
    measures.append(Measure("", "bottleneck", float(_narrowest(drops)), 0.0, "layer"))
    arrays = {
        "information": np.array([g.mean() for g in told]),
        "passing": np.array([g.mean() for g in cut]),
        "drop": np.array([value for value, _ in drops]),
    }
    return Analysis("flow", tuple(measures), Cost(findings.evidence.samples, tally.operations), arrays)


def depths(findings: Findings) -> list[str]:
    """Layers in the order in which `bottleneck` counts them, the input being 0."""
    return ["input", *findings.places]


def bottleneck(findings: Findings) -> str | None:
    """The layer at which most is lost, if anything is beyond error."""
    at = int(findings.analysis(flow).value("", "bottleneck"))
    return None if at < 0 else depths(findings)[at]


def layer_information(T: Array, y: Array) -> Array:
    """(n,) nats gained on each sample, of features T (n, p) about labels y (n,) or targets (n, q), as `flow` reads
    them; their mean is the estimate of I(T; Y), with the standard error of a mean.
    """
    return _chosen(_gains([_components(T, _Tally())], y, _Tally()))


class _Tally:
    """Multiply-adds so far."""

    def __init__(self) -> None:
        self.operations = 0.0


def _target(evidence: Evidence) -> Array:
    """Labels (n,), or targets (n, q) without constant ones, about which there is nothing to know."""
    y = np.asarray(evidence.y.cpu().numpy())
    if evidence.kind == "classification":
        return y
    values = np.asarray(y.reshape(len(y), -1), dtype=np.float64)
    return np.asarray(values[:, np.ptp(values, axis=0) > 0])


def _components(T: Array, tally: _Tally) -> Array:
    """(n, r): scores of the standardised features on their leading components, r ≤ min(n / 4, last of RANKS)."""
    tally.operations += T.size
    Z = standardised(T)
    n, p = Z.shape
    rank = min(p, max(1, n // 4), RANKS[-1])
    if p == 0:
        return Z
    side = min(n, p)
    tally.operations += n * p * side + side**3
    inner = Z.T @ Z if p <= n else Z @ Z.T
    sizes, vectors = linalg.eigh(inner, subset_by_index=[side - rank, side - 1])
    sizes, vectors = sizes[::-1], vectors[:, ::-1]
    full = sizes > 1e-10 * sizes[0]  # linear copies leave none
    scores = Z @ vectors if p <= n else vectors * np.sqrt(np.maximum(sizes, 0.0))
    return np.asarray(scores[:, full], dtype=np.float64)


def _gains(blocks: Sequence[Array], y: Array, tally: _Tally) -> list[Array]:
    """Nats gained on each sample, one array for each rank at which the blocks are read side by side.

    The first is that of no probe at all, 0: so noise is not read as less than nothing.
    """
    n = len(blocks[0])
    found = [np.zeros(n)]
    widest = max(block.shape[1] for block in blocks)
    if widest == 0 or y.size == 0:
        return found
    ranks, folds, most = sorted({min(rank, widest) for rank in RANKS}), min(FOLDS, n), max(1, n // 4)
    widths = [sum(min(rank, block.shape[1]) for block in blocks) for rank in ranks]
    nested = [width for width in widths if width <= most]
    if nested:
        # Component by component, so that what is read at one rank begins what is read at the next.
        steps = itertools.pairwise([0, *ranks[: len(nested)]])
        joint = np.concatenate([block[:, low:high] for low, high in steps for block in blocks], axis=1)
        tally.operations += 2 * FOLDS * n * joint.shape[1] ** 2
        found += nested_gains(joint, nested, y, folds)
    for rank in ranks[len(nested) :]:
        joint = np.concatenate([block[:, :rank] for block in blocks], axis=1)[:, :most]
        tally.operations += 2 * FOLDS * n * most**2
        found += nested_gains(joint, [most], y, folds)
    return found


def _passing(
    findings: Findings,
    layers: Sequence[str],
    at: int,
    own: _Part,
    look: Callable[[_Part], _Seen],
    target: Array,
    tally: _Tally,
) -> list[Array]:
    """The same for C: by the layer alone, by what jumps over it alone, and by both, as each is a bound."""
    beside = [part for part in (_jumping(findings, layers, s, at) for s in range(at)) if part is not None]
    single = [gain for part in (own, *beside) for gain in look(part)[1]]
    if not beside:
        return single
    return [*single, *_gains([look(part)[0] for part in (own, *beside)], target, tally)]


def _jumping(findings: Findings, layers: Sequence[str], source: int, at: int) -> _Part | None:
    """The units of layer `source` that have an active edge into a layer behind `at`; None without any."""
    name = layers[source]
    used: Tensor | None = None
    for target in layers[at + 1 :]:
        if findings.linked(name, target):
            reached = findings.by_unit(name, findings.mask(name, target).any(dim=0)) > 0
            used = reached if used is None else used | reached
    if used is None or not bool(used.any()):
        return None
    return name, used.cpu().numpy().tobytes()


def _chosen(gains: Sequence[Array]) -> Array:
    """Sample by sample the gain of the probe that does best on the other folds."""
    table = np.stack(gains)
    n = table.shape[1]
    fold = np.arange(n) % min(FOLDS, n)
    best = np.empty(n)
    for k in range(min(FOLDS, n)):
        out = fold == k
        best[out] = table[int(table[:, ~out].mean(1).argmax())][out]
    return best


def _narrowest(drops: Sequence[tuple[float, float]]) -> int:
    """Where most is lost beyond error, else −1. drops: (nats, se), that of the input first."""
    z = float(special.ndtri(1 - (1 - CONFIDENCE) / max(len(drops) - 1, 1)))
    at = max(range(1, len(drops)), key=lambda i: (drops[i][0], -i))
    value, se = drops[at]
    return at if value > z * se and value > 0 else -1


def _measure(layer: str, name: str, gains: Array) -> Measure:
    return Measure(layer, name, float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(gains)), "nats")
