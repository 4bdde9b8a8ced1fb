"""Extrema patches: dense blocks in the mask, around extreme units, with a function that they keep at zero."""

from __future__ import annotations

import pytest
import torch
from proposing import NETWORKS, ODD, findings

from search_spaces import surgery
from search_spaces.actions import Connect
from search_spaces.randomness import keyed
from tournaments.evidence import collect
from tournaments.extremes.found import extremes
from tournaments.extremes.patching import SIDE, patch
from tournaments.screening import scaled

EXTREME = ("extremes", "switches")


def into(network, layer):
    """Patches from the extreme units of `layer`, and those into them."""
    seen = findings(network)
    out_of, to = [], []
    for candidate in patch(seen):
        (action,) = candidate.actions
        assert isinstance(action, Connect)
        links = {e.link for e in action.edges}
        if links <= {f"{s}>{layer}" for s in seen.sources(layer)} and "inputs" in candidate.reason:
            to.append(action)
        if links <= {f"{layer}>{t}" for t in seen.consumers(layer)} and "saturated" in candidate.reason:
            out_of.append(action)
    return seen, out_of, to


@pytest.mark.parametrize("network", EXTREME)
def test_a_patch_leaves_a_block_without_a_gap(network):
    """Of every saturated unit's block no edge stays masked, unless the budget ends first."""
    seen, patches, _ = into(network, "hidden1")
    (action,) = patches
    after, _ = surgery.apply(seen.network, (action,))
    mask = after.get_buffer("mask.hidden1>hidden2").bool()
    rows = sorted({e.row for e in action.edges})
    columns = {e.column for e in action.edges}
    assert len(action.edges) <= seen.grow
    blocks = [u for u in extremes(seen)["hidden1"].saturated if u in columns]
    assert blocks
    for slot in blocks:
        fed = [i for i in rows if bool(mask[i, slot])]
        assert len(fed) >= SIDE


@pytest.mark.parametrize("network", EXTREME)
def test_what_leads_in_wakes_dead_units_on_the_evidence(network):
    seen, _, patches = into(network, "hidden1")
    (action,) = patches
    dead = extremes(seen)["hidden1"].dead
    assert {e.row for e in action.edges} <= set(dead)
    after, _ = surgery.apply(seen.network, (action,))
    now = collect(after, seen.evidence.x, seen.evidence.y, "classification", keyed("after")).activations["hidden1"]
    for slot in {e.row for e in action.edges}:
        assert float(now[:, slot].std()) > 5 * float(seen.evidence.activations["hidden1"][:, slot].std())


@pytest.mark.parametrize("network", EXTREME)
def test_at_zero_a_patch_keeps_the_function(network):
    seen = findings(network)
    before = seen.network(seen.evidence.x)
    assert patch(seen)
    for candidate in patch(seen):
        after, _ = surgery.apply(seen.network, scaled(candidate.actions, 0.0))
        assert torch.allclose(after.eval()(seen.evidence.x), before, rtol=0, atol=1e-6)


def test_networks_without_extreme_units_get_none():
    for network in (*NETWORKS, *ODD):
        seen = findings(network)
        if not any(e.dead or e.saturated for e in extremes(seen).values()):
            assert patch(seen) == []


@pytest.mark.parametrize("grow", [1, 3, 16])
def test_a_small_budget_cuts_the_last_block(grow):
    for network in EXTREME:
        for candidate in patch(findings(network, grow=grow)):
            assert 0 < candidate.cost <= grow
