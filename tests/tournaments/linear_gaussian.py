"""Linear-Gaussian problems, for which the gain of any set of features is known in closed form.

y = x·B + e, e ~ N(0, 1): at unit variance the loss of the best linear prediction from features S is ½ E‖y − ŷ_S‖², so a
feature's gain is what it takes off half the residual variance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.families import Mlp
from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments.evidence import collect
from tournaments.place import PlaceStatistics, statistics

Array = NDArray[np.float64]


class Problem:
    """x: (n, p) correlated normals of covariance `cov`, about `mean`; y: (n, q). B: (p, q), sparse."""

    def __init__(self, p: int = 12, q: int = 3, n: int = 60_000, key: str = "problem", signal: float = 0.6) -> None:
        rng = keyed("linear-gaussian", key)
        shared = 0.5 * rng.standard_normal((3, p))
        self.cov, self.mean = np.eye(p) + shared.T @ shared, rng.standard_normal(p)
        self.B = signal * rng.standard_normal((p, q)) * (rng.random((p, q)) < 0.6)
        x = rng.standard_normal((n, p)) + rng.standard_normal((n, 3)) @ shared + self.mean
        y = (x - self.mean) @ self.B + rng.standard_normal((n, q))
        self.x, self.y = torch.from_numpy(x).float(), torch.from_numpy(y).float()

    def gain(self, had: Sequence[int], added: Sequence[int], outputs: Sequence[int] | None = None) -> float:
        """Nats in the population of adding columns to rows that had some, both fitted by least squares."""
        before, after = self._residual(had), self._residual([*had, *added])
        rows = range(self.B.shape[1]) if outputs is None else outputs
        return float(sum(0.5 * (before[k] - after[k]) for k in rows))

    def _residual(self, columns: Sequence[int]) -> Array:
        s = list(columns)
        cross = self.cov[s] @ self.B
        explained = np.einsum("sq,sq->q", cross, np.linalg.solve(self.cov[np.ix_(s, s)], cross)) if s else 0.0
        return np.asarray(np.einsum("pq,pq->q", self.B, self.cov @ self.B) - explained)


def refitted(features: Tensor, y: Tensor) -> float:
    """½ mean squared residual of one output on these features and a constant, by least squares on the sample, nats."""
    X = np.column_stack([features.double().numpy(), np.ones(len(features))])
    target = y.double().numpy()
    residual = target - X @ np.linalg.lstsq(X, target, rcond=None)[0]
    return float(0.5 * (residual**2).mean())


@torch.no_grad()
def network_with(links: dict[str, Tensor], layers: list[tuple[str, int]], activation: str = "tanh") -> Network:
    """An mlp with these masks (q, p) by link, its weights drawn."""
    network = Mlp(layers, [(name.split(">")[0], name.split(">")[1]) for name in links], activation)
    rng = keyed("weights", *links)
    for name, mask in links.items():
        drawn = torch.from_numpy(rng.standard_normal(tuple(mask.shape))).float() / max(mask.shape[1], 1) ** 0.5
        network.get_parameter(f"links.{name}").copy_(drawn * mask)
        network.get_buffer(f"mask.{name}").copy_(mask)
    return network


def by_hand(H: Tensor, G: Tensor, present: Tensor, F: Tensor | None = None, positions: int = 1) -> PlaceStatistics:
    """Exact statistics, without a ridge, of features H (r, p) and negative gradients G (r, q); present: (q, p) bool."""
    H = torch.cat([H, torch.ones(len(H), 1, dtype=H.dtype)], dim=1)
    return PlaceStatistics(
        layer="output",
        columns={"input": (0, H.shape[1] - 1)},
        A=H.t() @ H / len(H),
        C=H.t() @ G / len(G),
        F=torch.eye(G.shape[1], dtype=G.dtype) if F is None else F,
        G=G,
        present=torch.cat([present, torch.ones(len(present), 1, dtype=torch.bool)], dim=1),
        samples=len(H) // positions,
        positions=positions,
    )


def output_statistics(network: Network, problem: Problem) -> PlaceStatistics:
    """Of the output's place, on the whole problem."""
    evidence = collect(network, problem.x, problem.y, "regression", keyed("fisher"))
    place = next(p for p in network.places() if p.layer == "output")
    return statistics(network, place, evidence)


def one_layer(present: Tensor) -> Network:
    """input > output with these edges (q, p)."""
    return network_with({"input>output": present}, [("input", present.shape[1]), ("output", present.shape[0])])


def arrays(key: str, n: int = 400, p: int = 8, q: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, p), gradients (n, q) that they explain in part, edges (q, p) bool: none in row 0, all in row 1."""
    rng = keyed("arrays", key)
    H = rng.standard_normal((n, p)) @ (np.eye(p) + 0.4 * rng.standard_normal((p, p))) + 1.0
    G = rng.standard_normal((n, q)) + 0.3 * H @ rng.standard_normal((p, q))
    present = torch.from_numpy(rng.random((q, p)) < 0.4)
    present[0], present[1:2] = False, True
    return torch.from_numpy(H), torch.from_numpy(G), present
