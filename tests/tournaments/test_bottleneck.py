"""Growth at the bottleneck: there and nowhere else, and not at all where no information is lost."""

from __future__ import annotations

import pytest
import torch
from proposing import convnet, mlp

from search_spaces import surgery
from search_spaces.actions import Insert, Widen
from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments.analyzers.flow import bottleneck as narrowest
from tournaments.bottleneck import bottleneck
from tournaments.evidence import collect
from tournaments.findings import Findings


def narrow_waist(waist: int = 1, n: int = 1200) -> Findings:
    """Three classes along two directions, seen by both layers but for a waist of one unit between them."""
    rng = keyed("waist", waist)
    x = torch.from_numpy(rng.standard_normal((n, 10))).float()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    network = mlp(8, waist, 8, activation="tanh", density=1.0).eval()
    with torch.no_grad():
        into = torch.zeros(8, 10)
        into[torch.arange(8), torch.arange(8) % 2] = 1.0
        network.get_parameter("links.input>hidden1").copy_(into)
    return of(network, x, y)


def of(network: Network, x: torch.Tensor, y: torch.Tensor) -> Findings:
    evidence = collect(network, x, y, "classification", keyed("fisher"))
    return Findings(network, evidence, 40, 5, lambda purpose: keyed("bottleneck", purpose))


def test_units_and_a_layer_are_proposed_at_the_waist_alone():
    seen = narrow_waist()
    assert narrowest(seen) == "hidden2"
    found = bottleneck(seen)
    actions = [a for c in found for a in c.actions]
    assert {a.site for a in actions if isinstance(a, Widen)} == {"hidden2"}
    assert {a.before for a in actions if isinstance(a, Insert)} == {"hidden2"}
    assert all(c.proposer == "bottleneck" and "nats are lost at hidden2" in c.reason for c in found)
    assert max(c.predicted for c in found) > 0


def test_a_new_layer_reads_what_tells_most_whether_or_not_it_is_linked():
    seen = narrow_waist()
    (insert,) = [a for c in bottleneck(seen) for a in c.actions if isinstance(a, Insert)]
    (source,) = {s.layer for unit in insert.units for s in unit.fan_in}
    assert source in ("input", "hidden1")
    after, _ = surgery.apply(seen.network, (insert,))
    assert f"links.{source}>{insert.site}" in after.masks()


def test_where_nothing_is_lost_nothing_is_proposed():
    rng = keyed("noise")
    x = torch.from_numpy(rng.standard_normal((600, 10))).float()
    y = torch.from_numpy(rng.integers(0, 3, 600))
    seen = of(mlp(6, 5).eval(), x, y)
    assert narrowest(seen) is None
    assert bottleneck(seen) == []


def test_without_a_budget_not_even_the_analyzer_runs(monkeypatch):
    monkeypatch.setattr("tournaments.bottleneck.narrowest", lambda seen: pytest.fail("flow was asked"))
    seen = narrow_waist()
    seen.grow = 0
    assert bottleneck(seen) == []


def test_where_positions_share_weights_the_layer_gets_channels(monkeypatch):
    network = convnet(3, 3).eval()
    rng = keyed("pictures")
    x = torch.from_numpy(rng.standard_normal((300, 64))).float()
    seen = of(network, x, (x[:, 0] > 0).long())
    monkeypatch.setattr("tournaments.bottleneck.narrowest", lambda seen: "channel2")
    found = bottleneck(seen)
    assert found
    assert all([(type(a), a.site) for a in c.actions] == [(Widen, "channel2")] for c in found)
