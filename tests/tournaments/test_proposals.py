"""What every proposer owes, by being listed; what edge proposals promise, against exact gains and pure noise."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from linear_gaussian import Problem, network_with, refitted
from proposing import NETWORKS, ODD, findings

from search_spaces import surgery
from search_spaces.actions import Connect, Insert, Skip, Widen, from_json, to_json
from search_spaces.randomness import keyed
from search_spaces.spaces import seed
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.objective import sampled
from tournaments.place import residual, statistics
from tournaments.proposals import PROPOSERS
from tournaments.screening import scaled

CASES = [(proposer, network) for proposer in PROPOSERS for network in (*NETWORKS, *ODD)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def proposed(request):
    proposer, network = request.param
    seen = findings(network)
    return seen, PROPOSERS[proposer](seen)


def test_candidates_are_legal_and_cost_what_they_say(proposed):
    seen, candidates = proposed
    for candidate in candidates:
        after, _ = surgery.apply(seen.network, candidate.actions)
        assert after.count() - seen.network.count() == candidate.cost
        assert bool(torch.isfinite(after.eval()(seen.evidence.x)).all())
        assert from_json(to_json(candidate.actions)) == candidate.actions


def test_candidates_keep_to_their_budget_and_give_reasons(proposed):
    seen, candidates = proposed
    for candidate in candidates:
        assert -seen.trim <= candidate.cost <= seen.grow
        assert candidate.reason
        assert candidate.proposer in PROPOSERS
        assert math.isfinite(candidate.predicted)
        assert math.isfinite(candidate.raw)
        assert candidate.predicted <= candidate.raw + 1e-9


def test_the_same_draws_give_the_same_candidates(proposed, request):
    _, candidates = proposed
    proposer, network = request.node.callspec.params["proposed"]
    assert PROPOSERS[proposer](findings(network)) == candidates


def test_at_zero_step_what_is_added_keeps_the_function(proposed):
    seen, candidates = proposed
    before = seen.network(seen.evidence.x).detach()
    for candidate in candidates:
        actions = scaled(candidate.actions, 0.0)
        if not all(isinstance(a, Connect | Skip | Insert) or (isinstance(a, Widen) and not a.splits) for a in actions):
            continue
        after, _ = surgery.apply(seen.network, actions)
        assert torch.allclose(after.eval()(seen.evidence.x), before, rtol=0, atol=1e-6 * float(before.abs().max()))


@pytest.mark.parametrize("network", [*NETWORKS, *ODD])
@pytest.mark.parametrize("trim", [0, 1])
def test_nothing_to_spend_buys_nothing_and_what_may_not_go_stays(network, trim):
    seen = findings(network, grow=0, trim=trim)
    for name, propose in PROPOSERS.items():
        assert all(-trim <= c.cost <= 0 for c in propose(seen)), name


@pytest.mark.parametrize("grow", [1, 2, 3, 4, 5, 7])
def test_small_budgets_are_kept_to(grow):
    for network in NETWORKS:
        seen = findings(network, grow=grow, trim=1)
        for propose in PROPOSERS.values():
            for candidate in propose(seen):
                after, _ = surgery.apply(seen.network, candidate.actions)
                assert -1 <= after.count() - seen.network.count() == candidate.cost <= grow


def test_every_proposer_says_what_it_proposes_and_proposes_something():
    for name, propose in PROPOSERS.items():
        assert inspect.getdoc(propose), name
        assert any(propose(findings(network)) for network in NETWORKS), name


@pytest.mark.parametrize("network", [n for n in NETWORKS if "channel" in n])
def test_channels_can_be_widened_and_narrowed(network):
    seen = findings(network, grow=40, trim=60)
    sites = {(type(a).__name__, a.site) for p in PROPOSERS.values() for c in p(seen) for a in c.actions}
    for layer in (name for name in seen.places if name.startswith("channel")):
        assert ("Widen", layer) in sites
        assert ("Narrow", layer) in sites


# --- what edges promise


def test_on_a_linear_gaussian_problem_connections_promise_their_exact_gain():
    problem = Problem(n=40_000)
    present = (torch.from_numpy(keyed("mask").random((3, 12))) < 0.3).float()
    network = network_with({"input>output": present}, [("input", 12), ("output", 3)])
    evidence = collect(network, problem.x, problem.y, "regression", keyed("f"))
    for grow in (1, 4, 40):
        (candidate,) = PROPOSERS["connect"](Findings(network, evidence, grow, 1, lambda p: keyed(p)))
        (action,) = candidate.actions
        assert isinstance(action, Connect)
        known = 0.0
        for k in range(3):
            had = present[k].nonzero().view(-1).tolist()
            added = [e.column for e in action.edges if e.row == k]
            y = problem.y[:, k]
            known += refitted(problem.x[:, had], y) - refitted(problem.x[:, [*had, *added]], y)
        assert candidate.raw == pytest.approx(known, rel=0.02)
        assert candidate.predicted == pytest.approx(known, rel=0.03)


def test_a_skip_promises_what_the_place_says():
    seen = findings("two hidden layers")
    place = next(p for p in seen.network.places() if p.layer == "output")
    stats = statistics(seen.network, place, seen.evidence)
    left = residual(stats)
    (candidate,) = [c for c in PROPOSERS["skip"](seen) if c.site == "input>output"]
    (action,) = candidate.actions
    assert isinstance(action, Skip)
    first = action.edges[0]
    gain = (
        0.5
        * left.covariance[first.row, first.column] ** 2
        / (left.variance[first.row, first.column] * stats.f[first.row])
    )
    assert candidate.raw >= float(gain) > 0
    assert float(gain) == pytest.approx(
        float((left.covariance[:, :10].square() / left.variance[:, :10] / stats.f[:, None]).max()) / 2
    )


def test_rewiring_swaps_as_many_edges_and_never_the_same():
    for network in NETWORKS:
        for candidate in PROPOSERS["rewire"](findings(network)):
            out, into = candidate.actions
            gone, new = ({(e.link, e.row, e.column) for e in a.edges} for a in (out, into))
            assert len(gone) == len(new) == 4
            assert not gone & new


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_on_pure_noise_95_percent_of_the_candidates_promise_nothing(kind):
    """Labels drawn from the network itself: whatever is added, there is nothing to gain."""
    scores: dict[str, list[float]] = {}
    for draw in range(40):
        rng = keyed("noise", draw, kind)
        settings = {"family": "mlp", "hidden": (8,), "density": 0.3, "activation": "relu"}
        network = seed(settings, (20,), None, 4, rng)
        x = torch.from_numpy(rng.standard_normal((800, 20))).float()
        y = sampled(kind, network(x).detach(), rng)
        seen = Findings(network, collect(network, x, y, kind, rng), 30, 8, lambda p, d=draw: keyed("draw", d, p))
        for name, propose in PROPOSERS.items():
            scores.setdefault(name, []).extend(c.predicted for c in propose(seen))
    every = np.concatenate([np.array(s) for s in scores.values()])
    assert np.mean(every > 0) <= 0.05
    for name, found in ((name, found) for name, found in scores.items() if found):
        # None is far from the rate that all of them keep.
        assert np.mean(np.array(found) > 0) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(found)), name
    assert np.mean(np.concatenate([scores[n] for n in ("connect", "skip", "widen", "insert")]) == 0.0) >= 0.95
