"""Linear probes of nested sets of features, all of them for the price of the largest.

What `information.probe_gains` says of the first 4, 8, … columns of T is the same in any whitened coordinates. In those
of a Cholesky factor, the first r coordinates are made of the first r columns alone, and so are the scores of the
discriminants, if these are whitened by a Cholesky factor in turn. So one pass over the widest set has all others in it.

n samples, p columns, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special

from tournaments.information import probe_gains

Array = NDArray[np.float64]

RIDGE = 1e-3
ALIKE = 1e-4
"""A column of which the columns before it leave less than this share of its variance is too much alike for Cholesky's
method, whose results are then told from `probe_gains`' beyond the 9th decimal."""


def nested_gains(T: Array, widths: Sequence[int], y: Array, folds: int) -> list[Array]:
    """probe_gains(T[:, :width], y), (n,) nats each, for each of the rising widths. T: (n, p), y: (n,) or (n, q)."""
    if y.ndim != 1 or y.dtype.kind not in "iub":
        return [probe_gains(T[:, :width], y, ridge=RIDGE, folds=folds) for width in widths]
    n = len(T)
    classes, labels = np.unique(y, return_inverse=True)
    one_hot = np.eye(len(classes))[labels]
    known = -np.log(one_hot.mean(0))[labels]
    fold = np.arange(n) % folds
    found = np.empty((len(widths), n))
    sound = widths[-1]
    for k in range(folds):
        out, rest = fold == k, fold != k
        shares, columns = _held_out(T[rest], one_hot[rest], T[out], widths)
        found[:, out] = known[out] + np.log((shares * one_hot[out]).sum(2))
        sound = min(sound, columns)
    return [
        gains if width <= sound else probe_gains(T[:, :width], y, ridge=RIDGE, folds=folds)
        for width, gains in zip(widths, found, strict=True)
    ]


def _held_out(inside: Array, one_hot: Array, outside: Array, widths: Sequence[int]) -> tuple[Array, int]:
    """(widths, n, c): class probabilities of the samples outside, by linear discriminant analysis of those inside; and
    for how many columns they can be trusted.
    """
    n, counts = len(inside), one_hot.sum(0)
    prior = np.log((counts + 0.5) / (counts + 0.5).sum())
    mean = inside.mean(0)
    centred = inside - mean
    gram = centred.T @ centred / n
    columns = _sound(gram)
    gram, centred, outside = gram[:columns, :columns], centred[:, :columns], (outside - mean)[:, :columns]
    factor = np.linalg.cholesky(gram)
    means = linalg.solve_triangular(factor, (centred.T @ one_hot) / np.maximum(counts, 1), lower=True)  # (p, c)
    dof = max(n - int((counts > 0).sum()), 1)
    # The whitened samples' Gram matrix is n times the identity: that within classes is what their means leave of it.
    within = (n * np.eye(columns) - (means * counts) @ means.T) / dof + RIDGE * np.eye(columns)
    factor = factor @ np.linalg.cholesky(within)
    along = linalg.solve_triangular(np.linalg.cholesky(within), means, lower=True)
    seen = linalg.solve_triangular(factor, outside.T, lower=True)
    scores = np.broadcast_to(prior, (len(outside), len(counts)))
    shares, before = [], 0
    for width in widths:
        part = slice(before, min(width, columns))
        scores = scores + seen[part].T @ along[part] - 0.5 * (along[part] ** 2).sum(0)
        # As `probe_gains`: what the discriminant rules out keeps one part in n of its prior.
        shares.append(special.softmax(scores, axis=1) * (1 - 1 / n) + np.exp(prior) / n)
        before = part.stop
    return np.stack(shares), columns


def _sound(gram: Array) -> int:
    """How many leading columns no other before them says nearly all of."""
    factor, failed = linalg.lapack.dpotrf(gram, lower=1)
    size = gram.diagonal()
    upto = failed - 1 if failed > 0 else len(gram)
    left = factor.diagonal()[:upto] ** 2
    poor = np.flatnonzero(~(left > ALIKE * size[:upto]))
    return int(poor[0]) if len(poor) else upto
