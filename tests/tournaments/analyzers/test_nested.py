"""Probes of nested sets say to the 9th decimal what one probe after another says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from search_spaces.randomness import keyed
from tournaments.analyzers import nested
from tournaments.analyzers.nested import nested_gains
from tournaments.information import probe_gains

Array = NDArray[np.float64]
KINDS = ("plain", "rectified", "copies", "constant in a fold", "told apart", "few samples")


def features(kind: str, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
    """T (n, p) and labels (n,)."""
    n, p = (40, 12) if kind == "few samples" else (300, 24)
    y = rng.integers(0, 5, n)
    T = rng.standard_normal((n, p)) * 10.0 ** rng.uniform(-4, 1, p)
    if kind == "rectified":
        T = np.maximum(T - np.abs(T).std(0), 0) + 0.3 * y[:, None]
    if kind == "copies":
        T[:, 9], T[:, 15] = 2 * T[:, 0], T[:, 1] + 1e-4 * T[:, 2]
    if kind == "constant in a fold":
        T[:, 0], T[:, 11] = 0.0, 0.0
        T[7, 0], T[8, 11] = 1.0, 1.0
    if kind == "told apart":
        T[:, 3] = 5.0 * y
    return T, y


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_one_probe_after_another(kind: str) -> None:
    for number in range(5):
        T, y = features(kind, keyed(kind, number))
        widths = [1, 4, 10, T.shape[1]]
        for width, gains in zip(widths, nested_gains(T, widths, y, 5), strict=True):
            np.testing.assert_allclose(gains, probe_gains(T[:, :width], y), rtol=0, atol=1e-9)


def test_values_are_probed_too() -> None:
    rng = keyed("values")
    T = rng.standard_normal((100, 6))
    y = T[:, :2] + rng.standard_normal((100, 2))
    for width, gains in zip([2, 6], nested_gains(T, [2, 6], y, 5), strict=True):
        np.testing.assert_array_equal(gains, probe_gains(T[:, :width], y))


def test_only_what_is_too_much_alike_is_probed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    again: list[int] = []

    def watched(T: Array, y: NDArray[np.int64], **how: float) -> Array:
        again.append(T.shape[1])
        return probe_gains(T, y, ridge=how["ridge"], folds=5)

    monkeypatch.setattr(nested, "probe_gains", watched)
    for kind, expected in (("plain", []), ("copies", [10, 24])):
        again.clear()
        T, y = features(kind, keyed(kind, "again"))
        nested_gains(T, [4, 8, 9, 10, 24], y, 5)
        assert again == expected
