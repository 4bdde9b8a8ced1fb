"""What consumers ask of a unit behind a flat slope, against the network's own derivatives; edges that wake it."""

from __future__ import annotations

import pytest
import torch
from proposing import extreme, findings

from search_spaces import surgery
from search_spaces.actions import Connect
from search_spaces.randomness import keyed
from tournaments.connecting import edge_of
from tournaments.edges import ChosenEdge
from tournaments.evidence import collect
from tournaments.extremes.waking import asked, wake
from tournaments.findings import Findings
from tournaments.objective import losses, sampled


@pytest.mark.parametrize("layer", ["hidden1", "hidden3"])
def test_the_gradient_asked_for_is_that_at_the_activation(layer):
    seen = findings("extremes")
    units = asked(seen, layer, (0, 1, 2))
    shift = torch.zeros(seen.evidence.samples, seen.network.axis_sizes()[layer], requires_grad=True)
    outputs = seen.network(seen.evidence.x, lambda name, v: v + shift if name == f"act:{layer}" else v)
    losses("classification", outputs, seen.evidence.y).sum().backward()
    assert torch.allclose(units.place.G, -shift.grad[:, :3], atol=1e-6)
    # The place's own gradient says nothing about the dead.
    assert float(seen.statistics(layer).G[:, :2].abs().max()) == 0.0


def test_what_waking_promises_comes_true_where_the_step_is_small():
    """Values scaled down to where a second order holds: a unit that is awake, a change of the loss as predicted."""
    seen = findings("switches")
    units = asked(seen, "hidden2", (3,))
    masked = torch.nonzero(~units.place.present[0][: 10 + 8]).view(-1).tolist()
    first, last = units.place.columns["hidden1"]
    columns = [j for j in masked if first <= j < last]
    woken = wake(seen, units, 0, columns, len(columns))
    edges = tuple(
        edge_of(seen, "hidden2", ChosenEdge(3, j, v, 0.0)) for j, v in zip(columns, woken.values, strict=True)
    )
    after, _ = surgery.apply(seen.network, (Connect("hidden2", edges),))
    now = float(losses("classification", after.eval()(seen.evidence.x), seen.evidence.y).detach().mean())
    assert seen.evidence.loss - now == pytest.approx(woken.raw, rel=0.5, abs=1e-4)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_waking_promises_nothing_on_pure_noise(activation):
    network = extreme(activation).eval()
    promised = []
    for draw in range(30):
        rng = keyed("noise", draw, activation)
        x = torch.from_numpy(rng.standard_normal((600, 10))).float()
        y = sampled("classification", network(x).detach(), rng)
        seen = Findings(network, collect(network, x, y, "classification", rng), 30, 8, lambda p: keyed(p))
        units = asked(seen, "hidden2", (0, 1))
        gains = (units.left.covariance.square() / units.left.variance.clamp(min=1e-9))[:, 10:18]
        for row in range(2):
            open_ = [
                10 + j for j in gains[row].argsort(descending=True).tolist() if not units.place.present[row, 10 + j]
            ]
            promised.append(wake(seen, units, row, open_[:3], 2 * len(open_)).predicted)
    assert sum(p > 0 for p in promised) <= 0.1 * len(promised)
