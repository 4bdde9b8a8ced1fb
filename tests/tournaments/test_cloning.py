"""Vertical cloning: where a clone stands, what it reads and feeds, and that its weights are .7 of the original's."""

from __future__ import annotations

import pytest
import torch
from proposing import NETWORKS, findings

from search_spaces import surgery
from search_spaces.actions import Disconnect, Skip, Widen
from tournaments.extremes import cloning
from tournaments.extremes.cloning import CLONE, clone_vertical
from tournaments.extremes.found import extremes
from tournaments.screening import scaled


def cloned(network, grow=60):
    """(layer of the original, candidate) of all."""
    seen = findings(network, grow=grow)
    return seen, [(c.reason.split()[3], c) for c in clone_vertical(seen)]


@pytest.mark.parametrize("network", ["extremes", "switches"])
def test_clones_stand_in_the_adjacent_layers(network):
    seen, found = cloned(network)
    hidden = list(extremes(seen))
    assert {layer for layer, _ in found} == set(hidden)
    for layer, candidate in found:
        sites = {a.site for a in candidate.actions if isinstance(a, Widen)}
        assert sites
        assert all(abs(hidden.index(site) - hidden.index(layer)) == 1 for site in sites)


def test_a_clone_below_sends_on_what_the_original_does_times_the_share(monkeypatch):
    monkeypatch.setattr(cloning, "NOISE", 0.0)
    seen, found = cloned("switches")
    for layer, candidate in found:
        for widen in (a for a in candidate.actions if isinstance(a, Widen)):
            for unit in widen.units:
                twins = [seen.network.unit(layer, slot) for slot in extremes(seen)[layer].saturated]
                if list(extremes(seen)).index(widen.site) < list(extremes(seen)).index(layer):
                    ours = {(s.layer, s.slot): s.value for s in unit.fan_out}
                    theirs = [{(s.layer, s.slot): CLONE * s.value for s in t.fan_out} for t in twins]
                else:
                    ours = {(s.layer, s.slot): s.value for s in unit.fan_in}
                    theirs = [{(s.layer, s.slot): CLONE * s.value for s in t.fan_in} for t in twins]
                assert any(ours.keys() == t.keys() and ours == pytest.approx(t) for t in theirs)


def test_what_stands_in_the_clones_own_layer_is_replaced_by_the_path_through_it(monkeypatch):
    """hidden2's units read hidden1 alone: a clone in hidden1 reads what the product of both weights names."""
    monkeypatch.setattr(cloning, "NOISE", 0.0)
    seen, found = cloned("switches")
    (candidate,) = [c for layer, c in found if layer == "hidden2"]
    units = [u for a in candidate.actions if isinstance(a, Widen) and a.site == "hidden1" for u in a.units]
    through = seen.weight("hidden1", "hidden2").double() @ seen.weight("input", "hidden1").double()
    rows = [through[slot] for slot in extremes(seen)["hidden2"].saturated]
    assert units
    for unit in units:
        assert any(
            all(s.value == pytest.approx(CLONE * float(row[s.slot]), rel=1e-5) for s in unit.fan_in) for row in rows
        )


def test_noise_breaks_the_symmetry_by_about_a_tenth(monkeypatch):
    _, noisy = cloned("switches", grow=200)
    monkeypatch.setattr(cloning, "NOISE", 0.0)
    _, plain = cloned("switches", grow=200)
    ratios = []
    for (_, a), (_, b) in zip(noisy, plain, strict=True):
        known = {
            (w.site, s.layer, s.slot, round(u.bias, 9)): s.value
            for w in b.actions
            if isinstance(w, Widen)
            for u in w.units
            for s in (*u.fan_in, *u.fan_out)
        }
        for w in (w for w in a.actions if isinstance(w, Widen)):
            ratios += [
                s.value / known[w.site, s.layer, s.slot, round(u.bias, 9)]
                for u in w.units
                for s in (*u.fan_in, *u.fan_out)
            ]
    spread = torch.tensor(ratios)
    assert len(ratios) > 50
    assert float(spread.mean()) == pytest.approx(1.0, abs=0.05)
    assert 0.07 < float(spread.std()) < 0.14


def test_links_that_are_missing_come_with_the_clones_and_hold_nothing_else():
    for network in ("extremes", "switches"):
        seen, found = cloned(network)
        assert any(isinstance(a, Skip) for _, c in found for a in c.actions)
        for _, candidate in found:
            after, _ = surgery.apply(seen.network, candidate.actions)
            fresh = sum(
                len(u.fan_in) + len(u.fan_out) + 1 for a in candidate.actions if isinstance(a, Widen) for u in a.units
            )
            assert after.count() - seen.network.count() == fresh == candidate.cost
            held = [a for a in candidate.actions if isinstance(a, Disconnect)]
            assert len(held) == sum(isinstance(a, Skip) for a in candidate.actions)


def test_at_zero_step_the_function_is_kept():
    for network in ("extremes", "switches"):
        seen, found = cloned(network)
        before = seen.network(seen.evidence.x)
        for _, candidate in found:
            after, _ = surgery.apply(seen.network, scaled(candidate.actions, 0.0))
            assert torch.allclose(after.eval()(seen.evidence.x), before, rtol=0, atol=1e-5)


def test_a_lone_hidden_layer_has_no_neighbour_to_clone_into():
    for network in (n for n in NETWORKS if "one hidden" in n or "channel" in n):
        assert clone_vertical(findings(network)) == []
