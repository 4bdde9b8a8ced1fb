"""Graph measures of the active connections: units are nodes, an active edge leads from source unit to target unit.

A channel is one node, and two units joined by any weight of a kernel have one edge. Paths count edges. The measures are
networkx's and scipy's on a sparse array; where the network is too large for exact betweenness, it is estimated from
pivots drawn without replacement among the units that have edges out (Brandes and Pich 2007):

    b(v) = M / k · Σ_s δ_s(v) / ((N − 1)(N − 2)),     se² = M² (1 − k / M) var_s(δ(v)) / k,

δ_s(v) being the share of v in the shortest paths from pivot s, M the units with edges out, k the pivots, N the units.

Cost: k · edges for betweenness, with k such that this stays under `VISITS` (yet at least `PIVOTS`); outputs · edges for
paths; the sum of squared degrees for clustering.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from tournaments.analysis import Analysis, Cost, Measure
from tournaments.findings import Findings

Array = NDArray[np.float64]

VISITS = 2_000_000
PIVOTS = 16


@dataclass(frozen=True, eq=False)
class Wiring:
    """The active connections. slots: layer -> (first, last) node numbers. edges: (N, N) csr, 1 where s feeds t."""

    slots: Mapping[str, tuple[int, int]]
    edges: sparse.csr_array

    @property
    def units(self) -> int:
        return int(self.edges.shape[0])

    def of(self, layer: str) -> slice:
        return slice(*self.slots[layer])


@dataclass(frozen=True, eq=False)
class Betweenness:
    """values: (N,), normalised. se: of each. mean, mean_se: over all units."""

    values: Array
    se: Array
    mean: float
    mean_se: float


def graph(findings: Findings) -> Analysis:
    """Of every layer: in_degree, out_degree (edges a unit), isolated_share (units without any edge).

    Of the network: edges; in_degree_gini over the units that may have edges in, out_degree_gini likewise; clustering
    (undirected, mean); betweenness_max (which is high where it is estimated, as the largest of many estimates),
    betweenness_mean; path_length from input to output over the pairs that are joined (0 if none is); inputs_used and
    outputs_reached, joined to any unit of the other end; working_share, hidden units on a path from input to output.
    arrays, (units,) each: LAYER.in_degree, LAYER.out_degree, LAYER.betweenness.
    """
    net = wiring(findings)
    first, last = "input", list(findings.places)[-1]
    into, out = _degrees(net)
    drawn = betweenness(net, findings.draw("graph pivots"))
    from_input, to_output = _reached(net, first), _reached(_reversed(net), last)
    measures = []
    for layer in net.slots:
        at = net.of(layer)
        if layer != first:
            measures.append(_exact(layer, "in_degree", into[at].mean(), "edges"))
        if layer != last:
            measures.append(_exact(layer, "out_degree", out[at].mean(), "edges"))
        measures.append(_exact(layer, "isolated_share", ((into + out)[at] == 0).mean(), "share"))
    hidden = np.ones(net.units, dtype=bool)
    hidden[net.of(first)] = hidden[net.of(last)] = False
    working = from_input & to_output & hidden
    top = int(drawn.values.argmax())
    measures += [
        _exact("", "edges", net.edges.nnz, "edges"),
        _exact("", "in_degree_gini", gini(np.delete(into, np.r_[net.of(first)])), "1"),
        _exact("", "out_degree_gini", gini(np.delete(out, np.r_[net.of(last)])), "1"),
        _exact("", "clustering", clustering(net), "1"),
        Measure("", "betweenness_max", float(drawn.values[top]), float(drawn.se[top]), "1"),
        Measure("", "betweenness_mean", drawn.mean, drawn.mean_se, "1"),
        _exact("", "path_length", path_length(net, first, last), "edges"),
        _exact("", "inputs_used", to_output[net.of(first)].mean(), "share"),
        _exact("", "outputs_reached", from_input[net.of(last)].mean(), "share"),
        _exact("", "working_share", working.sum() / max(int(hidden.sum()), 1), "share"),
    ]
    arrays = {}
    for layer in net.slots:
        for name, values in (("in_degree", into), ("out_degree", out), ("betweenness", drawn.values)):
            arrays[f"{layer}.{name}"] = values[net.of(layer)].astype(np.float64)
    outputs = net.slots[last][1] - net.slots[last][0]
    operations = (_pivots(net) + outputs) * net.edges.nnz + float(((into + out) ** 2).sum())
    return Analysis("graph", tuple(measures), Cost(findings.evidence.samples, max(operations, 1.0)), arrays)


def wiring(findings: Findings) -> Wiring:
    """The network's active connections."""
    sizes = {layer: findings.network.axis_sizes()[layer] for layer in ("input", *findings.places)}
    ends = np.cumsum([0, *sizes.values()]).tolist()
    slots = {layer: (ends[i], ends[i + 1]) for i, layer in enumerate(sizes)}
    rows, columns = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for target in findings.places:
        for source in findings.sources(target):
            mask = findings.mask(source, target).reshape(sizes[target], sizes[source], -1).any(dim=2)
            q, p = np.nonzero(mask.cpu().numpy())
            rows.append(p + slots[source][0])
            columns.append(q + slots[target][0])
    row, column = np.concatenate(rows), np.concatenate(columns)
    return Wiring(slots, sparse.csr_array((np.ones(len(row)), (row, column)), shape=(ends[-1], ends[-1])))


def betweenness(net: Wiring, rng: np.random.Generator) -> Betweenness:
    """Of every unit, over all ordered pairs of units; exact where there are pivots enough for all that have edges."""
    senders = np.flatnonzero(np.diff(net.edges.indptr))
    total, pivots = len(senders), _pivots(net)
    if total == 0 or net.units < 3:
        return Betweenness(np.zeros(net.units), np.zeros(net.units), 0.0, 0.0)
    chosen = senders if pivots == total else np.sort(rng.choice(senders, pivots, replace=False))
    import networkx as nx  # slow to import, and every worker would

    whole = nx.from_scipy_sparse_array(net.edges, create_using=nx.DiGraph)
    nodes = list(range(net.units))
    shares = np.zeros((pivots, net.units))
    for i, source in enumerate(chosen.tolist()):
        found = nx.betweenness_centrality_subset(whole, [source], nodes)
        shares[i] = [found[v] for v in nodes]
    scale = total / ((net.units - 1) * (net.units - 2))
    spread = math.sqrt((1 - pivots / total) / pivots)
    means = shares.mean(1)
    dof = 1 if pivots > 1 else 0
    return Betweenness(
        scale * shares.mean(0),
        scale * spread * shares.std(0, ddof=dof),
        float(scale * means.mean()),
        float(scale * spread * means.std(ddof=dof)),
    )


def clustering(net: Wiring) -> float:
    """Mean share of a unit's neighbours that are joined themselves, whichever way the edges lead."""
    import networkx as nx

    return float(nx.average_clustering(nx.from_scipy_sparse_array(net.edges)))


def path_length(net: Wiring, first: str, last: str) -> float:
    """Mean shortest path in edges over the joined pairs of units of both layers; 0 where there are none."""
    targets = np.arange(*net.slots[last])
    lengths = csgraph.shortest_path(net.edges.T.tocsr(), unweighted=True, indices=targets)[:, net.of(first)]
    joined = np.isfinite(lengths)
    return float(lengths[joined].mean()) if joined.any() else 0.0


def gini(values: Array) -> float:
    """How unequally a total is shared: 0 for all alike, near 1 for all at one; 0 where there is nothing to share."""
    ranked = np.sort(values)
    n, total = len(ranked), float(ranked.sum())
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ranked / (n * total))


def _pivots(net: Wiring) -> int:
    senders = int(np.count_nonzero(np.diff(net.edges.indptr)))
    return min(senders, max(PIVOTS, VISITS // max(net.edges.nnz, 1)))


def _degrees(net: Wiring) -> tuple[Array, Array]:
    """(N,) edges in, edges out."""
    return (
        np.bincount(net.edges.indices, minlength=net.units).astype(np.float64),
        np.diff(net.edges.indptr).astype(np.float64),
    )


def _reversed(net: Wiring) -> Wiring:
    return Wiring(net.slots, net.edges.T.tocsr())


def _reached(net: Wiring, layer: str) -> NDArray[np.bool_]:
    """(N,): which units a path leads to from any unit of the layer, its own included."""
    seen = np.zeros(net.units)
    seen[net.of(layer)] = 1.0
    backward = net.edges.T.tocsr()
    for _ in net.slots:  # no path is longer than there are layers
        seen = np.minimum(seen + backward @ seen, 1.0)
    return np.asarray(seen > 0)


def _exact(site: str, name: str, value: float, unit: str) -> Measure:
    return Measure(site, name, float(value), 0.0, unit)
