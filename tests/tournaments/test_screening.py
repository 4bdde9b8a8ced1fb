"""The shortlist's order, its shares, and a line search that never does harm."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from linear_gaussian import network_with

from search_spaces import surgery
from search_spaces.actions import Connect, Disconnect, Edge, Insert, Narrow, NoChange, Skip, Spoke, Unit, Widen
from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments.candidate import Candidate
from tournaments.evidence import Evidence, collect
from tournaments.objective import losses
from tournaments.screening import STEPS, line_search, scaled, shortlist


def grower(cost: int, predicted: float, raw: float = 0.0, name: str = "g") -> Candidate:
    return Candidate((Connect(name, (Edge("a>b", 0, cost),)),), name, "", cost, predicted, raw)


def shrinker(cost: int, predicted: float) -> Candidate:
    return Candidate((Narrow("hidden1", (cost,)),), "s", "", -cost, predicted, predicted)


GROWERS = [grower(10 * i, 0.1 * i - 0.004 * i * i, name=f"g{i}") for i in range(1, 9)]
SHRINKERS = [shrinker(i, -0.01 * i * i) for i in range(1, 5)]


def test_net_promise_first_then_least_loss_then_promise_per_parameter():
    # Net at .005: g1 .046 … g6 .156, g7 .154; loss: −1 saves .005 − .01 = −.005, the least; ratio: g1.
    chosen = shortlist([*GROWERS, *SHRINKERS], 5, 0.005, 0.0, keyed("s"))
    nets = sorted(GROWERS, key=lambda c: -(c.predicted - 0.005 * c.cost))
    losses_ = sorted(SHRINKERS, key=lambda c: -(c.predicted - 0.005 * c.cost))
    assert chosen == [nets[0], losses_[0], GROWERS[0], nets[1], losses_[1]]


def test_where_nothing_is_promised_the_raw_gain_ranks():
    low, high = grower(10, 0.0, 0.2, "low"), grower(10, 0.0, 0.3, "high")
    assert shortlist([low, high], 1, 0.001, 0.0, keyed("s")) == [high]


@pytest.mark.parametrize("keep", [2, 3, 4, 8])
@pytest.mark.parametrize("random_share", [0.0, 0.25, 0.5, 1.0])
def test_there_is_a_shrinker_and_a_grower_where_there_are_any(keep, random_share):
    for draw in range(20):
        chosen = shortlist([*GROWERS, SHRINKERS[3]], keep, 0.001, random_share, keyed("s", draw))
        assert SHRINKERS[3] in chosen
        assert any(c.cost > 0 for c in chosen)
        assert len(chosen) == len(set(chosen)) == min(keep, 9)


def test_one_kind_alone_fills_all_places():
    assert len(shortlist(SHRINKERS, 3, 0.001, 0.0, keyed("s"))) == 3
    assert len(shortlist(GROWERS, 3, 0.001, 0.0, keyed("s"))) == 3
    assert shortlist([], 3, 0.001, 0.5, keyed("s")) == []
    assert len(shortlist(GROWERS[:2], 5, 0.001, 0.5, keyed("s"))) == 2


def test_the_same_draw_gives_the_same_list():
    field = [*GROWERS, *SHRINKERS]
    one, same, other = (shortlist(field, 6, 0.001, 0.5, keyed("s", k)) for k in ("a", "a", "b"))
    assert one == same
    assert one != other
    assert one[:3] == other[:3] == shortlist(field, 6, 0.001, 0.0, keyed("s"))[:3]


@pytest.mark.parametrize(("keep", "share"), [(4, 0.25), (6, 0.25), (10, 0.5)])
def test_the_random_share_is_honoured_on_average(keep, share):
    field = [grower(10, 1.0 - 0.01 * i, name=f"g{i}") for i in range(60)]
    earned = shortlist(field, keep, 0.0, 0.0, keyed("s"))
    lucky = [len(set(shortlist(field, keep, 0.0, share, keyed("s", d))) - set(earned)) for d in range(400)]
    # A lucky draw may fall on one that would have earned its place.
    assert sum(lucky) / 400 == pytest.approx(keep * share, abs=0.12 * keep * share + 0.05)


def test_every_candidate_that_did_not_earn_a_place_may_be_drawn():
    field = [grower(10, 1.0 - 0.01 * i, name=f"g{i}") for i in range(12)]
    drawn = {c for d in range(200) for c in shortlist(field, 2, 0.0, 0.5, keyed("s", d))}
    assert drawn == set(field)


def test_one_idea_had_twice_takes_one_place():
    assert shortlist([GROWERS[0], GROWERS[0], GROWERS[1]], 3, 0.001, 0.0, keyed("s")) == [GROWERS[1], GROWERS[0]]
    other = dataclasses.replace(GROWERS[1], proposer="another", reason="for another reason")
    assert shortlist([GROWERS[0], GROWERS[1], other], 3, 0.001, 0.0, keyed("s")) == [GROWERS[1], GROWERS[0]]


# --- steps


UNIT = Unit((Spoke("input", 0, 2.0),), (Spoke("output", 1, 4.0),), 0.5)
HALVED = Unit((Spoke("input", 0, 2.0),), (Spoke("output", 1, 2.0),), 0.5)


@pytest.mark.parametrize(
    ("action", "half"),
    [
        (Widen("hidden1", (UNIT,)), Widen("hidden1", (HALVED,))),
        (Insert("hidden2", "output", (UNIT,)), Insert("hidden2", "output", (HALVED,))),
        (Connect("*", (Edge("a>b", 1, 2, 3.0),)), Connect("*", (Edge("a>b", 1, 2, 1.5),))),
        (Skip("a>b", (Edge("a>b", 1, 2, 3.0),)), Skip("a>b", (Edge("a>b", 1, 2, 1.5),))),
        (Widen("hidden1", (UNIT,), ((0, 0.5),)), Widen("hidden1", (UNIT,), ((0, 0.5),))),
        (Disconnect("*", (Edge("a>b", 1, 2),)), Disconnect("*", (Edge("a>b", 1, 2),))),
        (Narrow("hidden1", (0,), (1.0,)), Narrow("hidden1", (0,), (1.0,))),
        (NoChange(), NoChange()),
    ],
)
def test_a_step_scales_what_is_sent_on_and_nothing_else(action, half):
    assert scaled((action,), 0.5) == (half,)
    assert scaled((action,), 1.0) == (action,)


def problem(kind: str = "regression") -> tuple[Network, Evidence]:
    network = network_with(
        {"input>hidden1": torch.ones(3, 4), "hidden1>output": torch.ones(2, 3)},
        [("input", 4), ("hidden1", 3), ("output", 2)],
    )
    rng = keyed("line search")
    x = torch.from_numpy(rng.standard_normal((300, 4))).float()
    y = torch.stack([x[:, 0] * 2, x[:, 1]], dim=1) if kind == "regression" else (x[:, 0] > 0).long()
    return network, collect(network, x, y, kind, rng)


def loss(network: Network, actions, evidence: Evidence) -> float:
    after, _ = surgery.apply(network, actions)
    return float(losses(evidence.kind, after.eval()(evidence.x), evidence.y).detach().mean())


def skip(value: float) -> Candidate:
    return Candidate((Skip("input>output", (Edge("input>output", 0, 0, value),)),), "skip", "", 1, 0.0)


@pytest.mark.parametrize("kind", ["regression", "classification"])
@pytest.mark.parametrize("value", [2.0, 5.0, 12.0, 60.0, -2.0, -0.1, 1e30])
def test_the_step_taken_is_the_best_of_those_tried_and_never_worse_than_none(kind, value):
    network, evidence = problem(kind)
    candidate = skip(value)
    found = line_search(network, candidate, evidence)
    tried = {step: loss(network, scaled(candidate.actions, step), evidence) for step in (0.0, *STEPS)}
    finite = {step: value for step, value in tried.items() if value == value}
    assert found.actions == scaled(candidate.actions, min(finite, key=finite.__getitem__))
    assert loss(network, found.actions, evidence) <= tried[0.0]
    assert dataclasses.replace(found, actions=candidate.actions) == candidate


def test_an_overshooting_step_is_shortened_and_a_wrong_one_dropped():
    network, evidence = problem()
    (long,) = line_search(network, skip(5.0), evidence).actions
    (wrong,) = line_search(network, skip(-2.0), evidence).actions
    assert isinstance(long, Skip)
    assert isinstance(wrong, Skip)
    assert long.edges[0].value == pytest.approx(2.0)
    assert wrong.edges[0].value == 0.0


def test_a_rewiring_is_compared_with_its_own_loss_of_edges():
    network, evidence = problem()
    out = Disconnect("*", (Edge("hidden1>output", 0, 0),))
    candidate = Candidate((out, Skip("input>output", (Edge("input>output", 0, 0, 2.0),))), "rewire", "", 0, 0.0)
    found = line_search(network, candidate, evidence)
    assert found.actions[0] == out
    assert loss(network, found.actions, evidence) <= loss(network, scaled(candidate.actions, 0.0), evidence)


def test_shrinkers_clones_and_zero_values_are_left_as_they_are():
    network, evidence = problem()
    clone = Widen("hidden1", (Unit((Spoke("input", 0, 1.0),), (Spoke("output", 0, 9.0),)),), ((0, 0.5),))
    for candidate in (
        Candidate((Narrow("hidden1", (0,), (0.1,)),), "narrow", "", -7, 0.0),
        Candidate((clone,), "clone", "", 3, 0.0),
        skip(0.0),
    ):
        assert line_search(network, candidate, evidence) is candidate
