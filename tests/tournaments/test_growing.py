"""New units: what they see that linear features do not, what they promise on noise, and how they start."""

from __future__ import annotations

import pytest
import torch
from proposing import NETWORKS, convnet, findings, mlp

from search_spaces import surgery
from search_spaces.actions import Insert, Widen
from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.growing import clone, drawn, insert, new_units, widen
from tournaments.objective import losses
from tournaments.proposals import PROPOSERS
from tournaments.screening import line_search


def xor(n: int = 2000) -> tuple[Network, Findings]:
    """Whether two of ten inputs have the same sign: each of them, and each linear mixture, says nothing about it."""
    rng = keyed("xor")
    x = torch.from_numpy(rng.standard_normal((n, 10))).float()
    y = (x[:, 2] * x[:, 7] > 0).long()
    network = mlp(4, density=0.3).eval()
    with torch.no_grad():
        network.get_parameter("links.hidden1>output").mul_(0.01)
    evidence = collect(network, x, y, "classification", rng)
    return network, Findings(network, evidence, 30, 5, lambda purpose: keyed("xor", purpose))


def fitted_gain(network: Network, seen: Findings, candidate) -> float:
    after, _ = surgery.apply(network, line_search(network, candidate, seen.evidence).actions)
    return float((losses("classification", network(seen.evidence.x), seen.evidence.y).mean()
                  - losses("classification", after.eval()(seen.evidence.x), seen.evidence.y).mean()).detach())


def test_linear_screening_is_blind_to_xor_and_units_are_not():
    network, seen = xor()
    blind = [c for name in ("connect", "skip") for c in PROPOSERS[name](seen) if c.site.endswith("output") or c.site == "*"]
    # Bias and calibration may be had without XOR: only the third class, which never comes, is to be learned.
    found = max(widen(seen), key=lambda c: c.predicted)
    print([(c.site, c.predicted, c.raw) for c in blind], found.predicted, fitted_gain(network, seen, found))
    assert max(c.predicted for c in blind) < 0.1 * found.predicted
