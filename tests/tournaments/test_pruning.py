"""Saliencies against exact refits; what goes with edges that are taken out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from linear_gaussian import by_hand, network_with, refitted

from search_spaces import surgery
from search_spaces.actions import Narrow
from search_spaces.families import Convnet
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.pruning import disconnect, lightest_edges, magnitude, narrow, saliencies, weakest_edges


def findings(network: Network, trim: int = 4, n: int = 500, y: torch.Tensor | None = None) -> Findings:
    rng = keyed("pruning")
    features = int(torch.tensor(network.input_shape()).prod())
    x = torch.from_numpy(rng.standard_normal((n, features))).float()
    labels = torch.from_numpy(rng.integers(0, network.axis_sizes()["output"], n)) if y is None else y
    evidence = collect(network, x, labels, "classification", rng)
    return Findings(network, evidence, 10, trim, lambda purpose: keyed("draw", purpose))


def test_a_saliency_is_the_loss_of_an_edge_once_the_others_make_up_for_it():
    rng = keyed("saliency")
    H = torch.from_numpy(rng.standard_normal((500, 6)) + 0.7 * rng.standard_normal((500, 1)) + 0.5)
    y = torch.from_numpy(rng.standard_normal((500, 3))) + H @ torch.from_numpy(rng.standard_normal((6, 3)))
    present = torch.tensor([[True] * 6, [True, False, True, True, False, False], [False] * 5 + [True]])
    weight = torch.zeros(3, 6, dtype=torch.float64)
    for k in range(3):
        X = torch.cat([H[:, present[k]], torch.ones(500, 1)], dim=1)
        weight[k, present[k]] = torch.linalg.lstsq(X, y[:, k : k + 1]).solution[:-1, 0]
    residual = y - H @ weight.t()
    stats = by_hand(H, residual - residual.mean(0), present)
    found = saliencies(stats, weight) / stats.f[:, None]
    for k in range(3):
        had = present[k].nonzero().view(-1).tolist()
        for j in range(6):
            if j not in had:
                assert float(found[k, j]) == float("inf")
                continue
            exact = refitted(H[:, [i for i in had if i != j]], y[:, k]) - refitted(H[:, had], y[:, k])
            assert float(found[k, j]) == pytest.approx(exact, rel=1e-9)


def test_correlated_rows_share_the_metric_of_their_place():
    rng = keyed("metric")
    H = torch.from_numpy(rng.standard_normal((400, 4)))
    F = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
    stats = by_hand(H, torch.zeros(400, 2, dtype=torch.float64), torch.ones(2, 4, dtype=torch.bool), F=F)
    found = saliencies(stats, torch.ones(2, 4, dtype=torch.float64))
    inner, outer = torch.linalg.inv(stats.A), torch.linalg.inv(F)
    for k in range(2):
        for j in range(4):
            assert float(found[k, j]) == pytest.approx(0.5 / float(inner[j, j] * outer[k, k]), rel=5e-3)


def sparse() -> Network:
    """hidden1 has four units; unit 3 hangs on one edge from the input, unit 2 on one to the output."""
    into = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 1, 0, 1], [1, 0, 1, 1, 1], [0, 0, 1, 0, 0]]).float()
    out = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]]).float()
    return network_with(
        {"input>hidden1": into, "hidden1>output": out}, [("input", 5), ("hidden1", 4), ("output", 2)], "tanh"
    )


def network_of(inputs: int) -> Network:
    """Dense, so that no edge is anybody's last."""
    into, out = torch.ones(3, inputs), torch.ones(2, 3)
    layers = [("input", inputs), ("hidden1", 3), ("output", 2)]
    return network_with({"input>hidden1": into, "hidden1>output": out}, layers, "tanh")


def test_the_weakest_edges_are_those_of_least_saliency_anywhere():
    network = sparse()
    with torch.no_grad():
        network.get_parameter("links.input>hidden1")[0, 1] = 1e-6
        network.get_parameter("links.hidden1>output")[1, 0] = 1e-5
    weak = weakest_edges(findings(network), 2)
    assert weak is not None
    assert [(e.link, e.row, e.column) for e in weak.edges] == [("input>hidden1", 0, 1), ("hidden1>output", 1, 0)]
    assert 0 <= weak.loss < 1e-6
    assert weakest_edges(findings(network), 1000) is None


def whole(network: Network) -> bool:
    """Whether every hidden unit has an input and an output."""
    into, out = network.get_buffer("mask.input>hidden1"), network.get_buffer("mask.hidden1>output")
    return bool(into.any(dim=1).all()) and bool(out.any(dim=0).all())


@pytest.mark.parametrize("trim", range(1, 12))
def test_orphans_go_with_their_edges_and_never_more_than_may(trim):
    network = sparse()
    with torch.no_grad():
        network.get_parameter("links.input>hidden1")[3, 2] = 0.0
    seen = findings(network, trim=trim)
    for candidate in (*disconnect(seen), *magnitude(seen)):
        after, _ = surgery.apply(network, candidate.actions)
        assert after.count() - network.count() == candidate.cost
        assert 0 < -candidate.cost <= trim
        assert whole(after)
    if trim in (4, 5):
        # Unit 3 with its three other parameters is all that fits.
        first = disconnect(seen)[0]
        assert [type(a).__name__ for a in first.actions] == ["Disconnect", "Narrow"]
        assert first.actions[1].slots == (3,)
    if trim == 1:
        # The weakest edge is its unit's last, so the next weakest goes.
        (only,) = disconnect(seen)
        assert [type(a).__name__ for a in only.actions] == ["Disconnect"]


def test_magnitude_goes_by_weight_and_says_what_that_costs():
    network = sparse()
    with torch.no_grad():
        network.get_parameter("links.input>hidden1").mul_(1e-3)
        network.get_parameter("links.hidden1>output").mul_(1e-5)
        network.get_parameter("links.input>hidden1")[:, 2] *= 1e-5
    seen = findings(network, trim=2)
    (candidate,) = magnitude(seen)
    taken = {(e.link, e.row, e.column) for e in candidate.actions[0].edges}
    assert taken == {("input>hidden1", 1, 2), ("input>hidden1", 2, 2)}
    light = lightest_edges(seen, 2)
    assert light is not None
    assert -candidate.predicted == pytest.approx(light.loss)
    weak = weakest_edges(seen, 2)
    assert weak is not None
    assert weak.loss <= light.loss


def test_the_lightest_edges_leave_nobody_alone():
    network = sparse()
    light = lightest_edges(findings(network), 1000)
    assert light is not None
    after, _ = surgery.apply(network, (light.action,))
    assert whole(after)
    # One more edge of any unit would be its last, of one end or the other.
    assert len(light.edges) < int(network.get_buffer("mask.input>hidden1").sum()) + 7


def test_a_nearly_singular_gram_matrix_gives_finite_saliencies():
    rng = keyed("singular")
    h = torch.from_numpy(rng.standard_normal((300, 1)))
    H = 1e4 + torch.cat([h, h, h], dim=1)
    present = torch.ones(2, 3, dtype=torch.bool)
    stats = by_hand(H, torch.from_numpy(rng.standard_normal((300, 2))), present)
    # As single precision leaves it: a Gram matrix of three equal columns, one eigenvalue below zero.
    A = stats.A.clone()
    A[0, 1] = A[1, 0] = A[0, 1] * (1 + 1e-6)
    assert float(torch.linalg.eigvalsh(A)[0]) < 0
    found = saliencies(dataclasses.replace(stats, A=A), torch.ones(2, 3, dtype=torch.float64))
    assert bool(torch.isfinite(found).all())
    assert bool((found > 0).all())


def test_a_trim_of_one_makes_one_candidate_not_two_alike():
    assert len(disconnect(findings(sparse(), trim=1))) == 1
    assert len(disconnect(findings(network_of(40), trim=4))) == 2


def test_narrow_takes_the_unit_that_varies_least_and_folds_its_mean():
    network = sparse()
    with torch.no_grad():
        network.get_parameter("links.input>hidden1")[1] *= 0.01
        network.get_parameter("biases.hidden1")[1] = 0.7
    seen = findings(network, trim=6)
    (candidate,) = narrow(seen)
    (action,) = candidate.actions
    assert isinstance(action, Narrow)
    assert action.slots == (1,)
    mean = float(seen.evidence.activations["hidden1"][:, 1].mean())
    assert action.folds == (pytest.approx(mean, abs=1e-6),)
    after, _ = surgery.apply(network, candidate.actions)
    assert torch.allclose(after(seen.evidence.x), network(seen.evidence.x), atol=0.05)
    assert -1e-3 < candidate.predicted < 0


def test_the_loss_of_a_unit_is_that_of_its_variation_seen_through_the_consumers():
    network = sparse()
    with torch.no_grad():
        network.get_parameter("links.hidden1>output").mul_(0.1)
    seen = findings(network, trim=6, n=4000)
    (candidate,) = narrow(seen)
    (action,) = candidate.actions
    assert isinstance(action, Narrow)
    h = seen.evidence.activations["hidden1"][:, action.slots[0]].double()
    weight = network.get_parameter("links.hidden1>output").detach()[:, action.slots[0]].double()
    shift = (h - h.mean())[:, None] * weight[None, :]
    p = network(seen.evidence.x).detach().double().softmax(1)
    # Half the mean of shiftᵀ F shift, of which the screening has the diagonal.
    exact = 0.5 * float((shift.square() * p * (1 - p)).sum(1).mean())
    assert -candidate.predicted == pytest.approx(exact, rel=0.1)


def channels() -> Network:
    network = Convnet((1, 8, 8), [("input", 1), ("channel1", 3), ("channel2", 3), ("output", 2)])
    connect(network, 0.8, keyed("channels"))
    return network.eval()


def test_channels_are_taken_out_with_all_of_their_taps():
    network = channels()
    seen = findings(network, trim=50)
    for candidate in (*narrow(seen), *disconnect(seen)):
        after, _ = surgery.apply(network, candidate.actions)
        assert after.count() - network.count() == candidate.cost < 0
    first, second = (c.actions[0] for c in narrow(seen))
    assert isinstance(first, Narrow)
    assert isinstance(second, Narrow)
    assert first.folds == (0.0,)
    assert all(f > 0 for f in second.folds)


def test_narrow_takes_units_only_as_far_as_they_may_go():
    network = sparse()
    sizes = {}
    for trim in range(13):
        found = narrow(findings(network, trim=trim))
        assert all(0 < -c.cost <= trim for c in found)
        sizes[trim] = sum(len(c.actions[0].slots) for c in found)
    # The smallest unit is of four parameters; the others are of six.
    assert [sizes[t] for t in (3, 4, 5, 12)] == [0, 1, 1, 2]
