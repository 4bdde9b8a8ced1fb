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
    linear = [c for name in ("connect", "skip") for c in PROPOSERS[name](seen) if c.site in ("output", "input>output")]
    assert len(linear) == 2
    assert all(c.predicted == 0.0 for c in linear)
    found = max(widen(seen), key=lambda c: c.predicted)
    assert found.predicted > 0.2
    assert fitted_gain(network, seen, found) > 0.1
    (action,) = found.actions
    assert isinstance(action, Widen)
    assert {2, 7} <= {s.slot for u in action.units for s in u.fan_in}
