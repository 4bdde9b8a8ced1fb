"""Temporary patches: only what was grown last goes, and it goes as it came."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from proposing import findings, patched

from search_spaces import surgery
from search_spaces.actions import Connect, Disconnect, Edge, Spoke, Unit, Widen
from search_spaces.optimizer_state import OptimizerState
from tournaments.extremes.withdrawal import withdraw, youngest
from tournaments.findings import Findings
from tournaments.pruning import active_edges


def seen_with(network, state, trim=8):
    known = findings("patched")
    return Findings(network, known.evidence, 30, trim, known.draw, state=state)


def test_the_youngest_patch_is_proposed_whole():
    (candidate,) = withdraw(findings("patched"))
    (action,) = candidate.actions
    assert isinstance(action, Disconnect)
    network, state = patched()
    for edge in action.edges:
        assert int(state.age[f"links.{edge.link}"][edge.row, edge.column]) == 3
    after, _ = surgery.apply(network, candidate.actions)
    assert after.count() == network.count() - 5


def test_adding_and_withdrawing_is_no_change():
    seen = findings("two hidden layers")
    state = OptimizerState.fresh(seen.network)
    for age in state.age.values():
        age += 7
    masked = torch.nonzero(seen.network.get_buffer("mask.hidden1>hidden2") == 0).tolist()[:4]
    edges = tuple(Edge("hidden1>hidden2", i, j, 0.3) for i, j in masked)
    grown, state = surgery.apply(seen.network, (Connect("hidden2", edges),), state)
    (candidate,) = withdraw(Findings(grown, seen.evidence, 5, 9, seen.draw, state=state))
    back, _ = surgery.apply(grown, candidate.actions)
    for name, tensor in surgery.tensors(back).items():
        assert torch.equal(tensor, surgery.tensors(seen.network)[name])


def test_the_predicted_loss_is_the_sum_of_saliencies():
    seen = findings("patched")
    (candidate,) = withdraw(seen)
    gone = {(e.link, e.row, e.column) for e in candidate.actions[0].edges}
    active = active_edges(seen)
    every = zip(active.edges(range(len(active.link))), active.saliency.tolist(), strict=True)
    assert candidate.predicted == pytest.approx(-sum(s for e, s in every if (e.link, e.row, e.column) in gone))


def test_no_more_than_may_go_and_the_weakest_first():
    whole = withdraw(findings("patched"))[0]
    part = withdraw(findings("patched", trim=2))[0]
    assert part.cost == -2
    assert set(part.actions[0].edges) < set(whole.actions[0].edges)
    assert part.predicted >= whole.predicted


def test_without_a_patch_nothing_is_withdrawn():
    network, _ = patched()
    assert youngest(seen_with(network, None)) is None
    assert withdraw(seen_with(network, None)) == []
    assert withdraw(seen_with(network, OptimizerState.fresh(network))) == []
    assert withdraw(findings("patched", trim=0)) == []


def test_a_patch_that_something_younger_stands_on_stays():
    network, state = patched()
    unit = Unit((Spoke("input", 0, 1.0),), (Spoke("hidden2", 0, 0.0),))
    grown, later = surgery.apply(network, (Widen("hidden1", (unit,)),), state)
    assert withdraw(seen_with(grown, later)) == []
    # As young is as bad: a unit that came with the patch.
    assert later is not None
    ages = {name: age.clamp(min=3) for name, age in later.age.items()}
    assert withdraw(seen_with(grown, dataclasses.replace(later, age=ages))) == []


def test_of_two_patches_the_later_goes():
    network, state = patched()
    i, j = torch.nonzero(network.get_buffer("mask.hidden2>output") == 0)[0].tolist()
    grown, later = surgery.apply(network, (Connect("output", (Edge("hidden2>output", i, j, 0.2),)),), state)
    (candidate,) = withdraw(seen_with(grown, later))
    assert [(e.link, e.row, e.column) for e in candidate.actions[0].edges] == [("hidden2>output", i, j)]
