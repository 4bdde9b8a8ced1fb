"""Highways: a dead unit becomes a live relay on a path that jumps over a layer."""

from __future__ import annotations

import pytest
import torch
from proposing import findings, mlp

from search_spaces import surgery
from search_spaces.actions import Narrow, Widen
from search_spaces.randomness import keyed
from tournaments.evidence import collect
from tournaments.extremes.found import extremes
from tournaments.extremes.highways import highway, relays_of
from tournaments.extremes.reactivation import lifeless
from tournaments.findings import Findings
from tournaments.screening import scaled

DEAD = ("extremes", "switches", "dead layer")


@pytest.mark.parametrize("network", DEAD)
def test_the_relay_is_alive_and_the_dead_unit_gone(network):
    seen = findings(network)
    found = highway(seen)
    assert found
    for candidate in found:
        (widen,) = [a for a in candidate.actions if isinstance(a, Widen)]
        (narrow,) = [a for a in candidate.actions if isinstance(a, Narrow)]
        dead = extremes(seen)[widen.site].dead
        assert set(narrow.slots) <= set(dead)
        assert len(widen.units) == len(narrow.slots)
        after, _ = surgery.apply(seen.network, candidate.actions)
        evidence = collect(after, seen.evidence.x, seen.evidence.y, "classification", keyed("after"))
        now = Findings(after, evidence, 30, 8, seen.draw)
        assert len(extremes(now)[widen.site].dead) <= len(dead) - len(narrow.slots)
        new = range(after.axis_sizes()[widen.site] - len(widen.units), after.axis_sizes()[widen.site])
        assert not set(new) & set(lifeless(now, widen.site))


@pytest.mark.parametrize("network", DEAD)
def test_the_path_jumps_over_a_layer_and_both_its_links_are_there(network):
    seen = findings(network)
    names = ["input", *seen.places]
    for candidate in highway(seen):
        (widen,) = [a for a in candidate.actions if isinstance(a, Widen)]
        ((source, target),) = {(u.fan_in[0].layer, s.layer) for u in widen.units for s in u.fan_out}
        at = names.index(widen.site)
        assert max(at - names.index(source), names.index(target) - at) > 1
        after, _ = surgery.apply(seen.network, candidate.actions)
        now = Findings(after, seen.evidence, 0, 0, seen.draw)
        new = range(after.axis_sizes()[widen.site] - len(widen.units), after.axis_sizes()[widen.site])
        assert bool(now.mask(source, widen.site)[list(new)].any(dim=1).all())
        assert bool(now.mask(widen.site, target)[:, list(new)].any(dim=0).all())


@pytest.mark.parametrize("network", DEAD)
def test_until_the_relay_sends_the_function_stays(network):
    """Dead units put out their constants but for at most 1% of the samples, which is what may differ."""
    seen = findings(network)
    before = seen.network(seen.evidence.x).detach()
    for candidate in highway(seen):
        silent = scaled(candidate.actions, 0.0)
        after, _ = surgery.apply(seen.network, silent)
        off = (after.eval()(seen.evidence.x).detach() - before).abs().amax(dim=1)
        assert float(off.median()) <= 1e-2 * float(before.std())


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "sigmoid"])
def test_a_relay_passes_its_feature_on(activation):
    network = mlp(6, 5, activation=activation).eval()
    x = torch.from_numpy(keyed("x").standard_normal((500, 10))).float()
    y = torch.zeros(500, dtype=torch.int64)
    seen = Findings(network, collect(network, x, y, "classification", keyed("f")), 9, 9, lambda p: keyed(p))
    features = torch.from_numpy(keyed("h").standard_normal((500, 3)) * [0.01, 1.0, 50.0] + [5.0, 0.0, -90.0]).float()
    pool = relays_of(seen, "hidden2", features)
    assert pool.columns.view(-1).tolist() == [0, 1, 2]
    for k in range(3):
        assert float(torch.corrcoef(torch.stack([features[:, k], pool.outputs[:, k]]))[0, 1]) > 0.95


def test_a_constant_feature_has_no_relay():
    seen = findings("extremes")
    assert not len(relays_of(seen, "hidden2", torch.ones(50, 2)).bias)


def test_without_dead_units_or_far_layers_there_is_no_highway():
    for network in (
        "one hidden layer",
        "two hidden layers",
        "one channel layer",
        "channels and hidden",
        "unit and row without edges",
    ):
        assert highway(findings(network)) == []
