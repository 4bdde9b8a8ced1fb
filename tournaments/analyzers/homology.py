"""Persistent homology of a layer's activations: of how many pieces the cloud of samples is, and what holes it has.

Samples are points, units coordinates (standardised, constant ones left out). Far-off points would each count as a
piece, so the `TRIM` share in the emptiest neighbourhoods goes. Of the rest, landmarks are chosen one by one, each the
point furthest from those before it (maxmin; the first is the furthest from the mean), and the Vietoris–Rips complex of
the landmarks is built by `ripser`: at scale t all pairs within distance t are joined, and all triangles and so on whose
pairs are. An interval (birth, death) of dimension 0 is a piece, of 1 a loop, of 2 a cavity.

Betti numbers count the intervals that are longer than twice the covering radius ρ, the largest distance of a point to
its landmark. Such an interval is no artefact of choosing landmarks: moving every point to its landmark changes a
distance by at most 2ρ, so Rips_t(landmarks) → Rips_{t+2ρ}(landmarks) runs through the complex of *all* points, and what
outlives it is a class there too. Pieces of a sample part more easily than holes open: there the interval must be
longer than 2 (ρ + spacing), the largest distance of a point to its `NEIGHBOURS`-th neighbour being the spacing, so that
a piece has more than that many points.
Whether the samples are a fair picture of what they are drawn from is another question. On shapes without holes (2,048
points trimmed, 128 landmarks, 40 clouds each: Gaussians of 2 to 30 units, rectified ones, heavy tails, a square) no
false piece or loop was counted; of a single unit, a false piece in 1 of 40.

Cost: n²·p for distances, and at most Σ_{j ≤ dimension + 2} C(m, j) simplices of m landmarks, for every one of
1 + `HALVES` runs: .35 million each for 128 landmarks and loops, 11 million for cavities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tournaments.analysis import Analysis, Cost, Measure
from tournaments.analyzers.samples import rows, standardised
from tournaments.findings import Findings

Array = NDArray[np.float64]

LANDMARKS = 128
POINTS_EACH = 16
"""Points behind a landmark at least: with fewer, holes between the samples themselves outlast 2ρ."""
SAMPLES = 2048
DIMENSION = 1
TRIM = 0.05
NEIGHBOURS = 10
HALVES = 4


@dataclass(frozen=True, eq=False)
class Persistence:
    """diagrams: for dimensions 0, 1, …: (k, 2) births and deaths, inf for the piece that never dies, longest first.

    radius: covering radius ρ of the landmarks. spacing: largest distance of a point to its NEIGHBOURS-th neighbour.
    scale: where the complex becomes a cone, and all else has died.
    """

    diagrams: tuple[Array, ...]
    radius: float
    spacing: float
    scale: float

    @property
    def betti(self) -> tuple[int, ...]:
        """Intervals by dimension: longer than 2ρ, and pieces longer than 2 (ρ + spacing)."""
        limits = (2 * (self.radius + self.spacing * (k == 0)) for k in range(len(self.diagrams)))
        return tuple(int((d[:, 1] - d[:, 0] > limit).sum()) for d, limit in zip(self.diagrams, limits, strict=True))

    @property
    def longest(self) -> tuple[float, ...]:
        """The longest interval that ends, by dimension; 0 where there is none."""
        ended = (d[np.isfinite(d[:, 1])] for d in self.diagrams)
        return tuple(float((d[:, 1] - d[:, 0]).max(initial=0.0)) for d in ended)


def homology(findings: Findings) -> Analysis:
    """Of the input and every hidden layer: betti0, betti1 (counts); longest0, longest1, the longest interval that ends,
    and radius, the covering radius (in standard deviations of a unit).

    Standard errors by half-sampling: √(mean squared change from all points to a random half), which for a mean is its
    usual error. arrays: LAYER.diagram0, LAYER.diagram1, (k, 2) births and deaths in standard deviations; the piece that
    never dies is written as dying where the complex becomes a cone.
    """
    measures: list[Measure] = []
    arrays: dict[str, Array] = {}
    operations = 0.0
    for layer in ("input", *findings.places):
        if layer not in findings.evidence.activations:
            continue
        points = standardised(rows(findings, layer)[:SAMPLES])
        distances = _trimmed(_distances(points), TRIM)
        n = len(distances)
        places = n - int(np.tril(distances == 0, -1).any(axis=1).sum())  # samples at one place are one point
        landmarks = max(1, min(LANDMARKS, places // POINTS_EACH))
        whole = _persistence(distances, landmarks, DIMENSION)
        draw = findings.draw(f"homology {layer}")
        halves = []
        for _ in range(HALVES):
            half = np.sort(draw.choice(n, (n + 1) // 2, replace=False))
            halves.append(_persistence(distances[np.ix_(half, half)], landmarks, DIMENSION))
        told = np.array([_figures(each) for each in (whole, *halves)])
        errors = np.sqrt(((told[1:] - told[0]) ** 2).mean(0))
        names = [f"{kind}{k}" for kind in ("betti", "longest") for k in range(DIMENSION + 1)]
        for name, value, se in zip([*names, "radius"], told[0].tolist(), errors.tolist(), strict=True):
            measures.append(Measure(layer, name, value, se, "1" if name.startswith("betti") else "sd"))
        for k, diagram in enumerate(whole.diagrams):
            arrays[f"{layer}.diagram{k}"] = np.minimum(diagram, max(whole.scale, float(diagram[:, 0].max(initial=0.0))))
        operations += n * n * max(points.shape[1], 1) + (1 + HALVES) * simplices(landmarks, DIMENSION)
    return Analysis("homology", tuple(measures), Cost(min(findings.evidence.samples, SAMPLES), operations), arrays)


def persistence(
    points: Array, landmarks: int = LANDMARKS, dimension: int = DIMENSION, trim: float = 0.0
) -> Persistence:
    """Persistent homology of points (n, p) up to `dimension`, from so many landmarks. trim: share of points that goes.

    Raises ValueError where fewer than two points are left for each landmark, as there is no covering radius then.
    """
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"points: expected finite points by coordinates (n, p), got shape {values.shape}")
    if dimension < 0 or not 0 <= trim < 1:
        raise ValueError(
            f"dimension, trim: expected 0 or more and a share from 0 to under 1, got {dimension} and {trim}"
        )
    kept = _trimmed(_distances(values), trim)
    if not 1 <= landmarks <= max(1, len(kept) // 2):
        raise ValueError(
            f"landmarks: expected from 1 to half of the {len(kept)} points, got {landmarks}; "
            f"write {max(1, len(kept) // POINTS_EACH)}, say"
        )
    return _persistence(kept, landmarks, dimension)


def simplices(landmarks: int, dimension: int) -> float:
    """The most that a complex can have, up to those that fill holes of this dimension."""
    return float(sum(math.comb(landmarks, j) for j in range(1, dimension + 3)))


def _persistence(distances: Array, landmarks: int, dimension: int) -> Persistence:
    """distances: (n, n) between all points."""
    from ripser import ripser  # a second to import, as it brings scikit-learn: only where it is asked for

    chosen, radius = _maxmin(distances, landmarks)
    among = distances[np.ix_(chosen, chosen)]
    scale = float(among.max(1).min())
    if len(chosen) == 1:
        diagrams = [np.array([[0.0, np.inf]]), *(np.zeros((0, 2)) for _ in range(dimension))]
    else:
        found = ripser(among, maxdim=dimension, distance_matrix=True)["dgms"]
        diagrams = [np.asarray(each, dtype=np.float64).reshape(-1, 2) for each in found]
    ordered = (d[np.lexsort((d[:, 0], d[:, 0] - d[:, 1]))] for d in diagrams)
    return Persistence(tuple(ordered), radius, float(_to_neighbour(distances).max()), scale)


def _distances(points: Array) -> Array:
    """(n, n) Euclidean, by one matrix product; what is only its rounding is 0."""
    centred = points - points.mean(0)
    squares = (centred**2).sum(1)
    table = squares[:, None] + squares[None, :] - 2 * centred @ centred.T
    table[table < 1e-12 * max(float(squares.max(initial=0.0)), np.finfo(np.float64).tiny)] = 0.0
    np.fill_diagonal(table, 0.0)
    return np.asarray(np.sqrt(np.maximum(table, table.T)))


def _trimmed(distances: Array, share: float) -> Array:
    """Without the share of points whose NEIGHBOURS-th neighbour is furthest."""
    n = len(distances)
    kept = np.sort(np.argsort(_to_neighbour(distances), kind="stable")[: n - math.floor(share * n)])
    return np.asarray(distances[np.ix_(kept, kept)])


def _to_neighbour(distances: Array) -> Array:
    """(n,) from each point to its NEIGHBOURS-th neighbour, or the furthest where there are fewer."""
    at = min(NEIGHBOURS, len(distances) - 1)
    return np.asarray(np.partition(distances, at, axis=1)[:, at])


def _maxmin(distances: Array, count: int) -> tuple[list[int], float]:
    """(landmarks, covering radius): at most `count`, fewer where they already are all the places that there are."""
    at = int((distances**2).sum(1).argmax())  # Σ_j |x_i − x_j|² is largest where x_i is furthest from the mean
    chosen, nearest = [at], distances[at].copy()
    while len(chosen) < count and nearest.max() > 0:
        at = int(nearest.argmax())
        chosen.append(at)
        nearest = np.minimum(nearest, distances[at])
    return chosen, float(nearest.max())


def _figures(found: Persistence) -> list[float]:
    return [*map(float, found.betti), *found.longest, found.radius]
