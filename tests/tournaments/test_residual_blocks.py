"""Residual blocks: two layers beside a link that stays, which see what one new layer does not."""

from __future__ import annotations

import pytest
import torch
from proposing import NETWORKS, findings, mlp

from search_spaces import surgery
from search_spaces.actions import Insert
from search_spaces.network import Network
from search_spaces.randomness import keyed
from tournaments.candidate import Candidate
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.growing import insert, widen
from tournaments.objective import losses
from tournaments.residual_blocks import Shape, residual
from tournaments.screening import line_search


def gain(network: Network, seen: Findings, candidate: Candidate) -> float:
    """Nats that the evidence's loss falls by, untrained, at the best step."""
    after, _ = surgery.apply(network, line_search(network, candidate, seen.evidence).actions)
    with torch.no_grad():
        values = [float(losses("classification", n.eval()(seen.evidence.x), seen.evidence.y).mean())
                  for n in (network, after)]  # fmt: skip
    return values[0] - values[1]


@pytest.mark.parametrize("name", [n for n in NETWORKS if "channel" not in n])
def test_a_block_is_two_layers_in_a_row_beside_a_link_that_stays(name):
    seen = findings(name, grow=60)
    found = residual(seen)
    assert found
    for candidate in found:
        first, second = candidate.actions
        assert isinstance(first, Insert)
        assert isinstance(second, Insert)
        assert first.before == second.before
        (source,) = {s.layer for u in first.units for s in u.fan_in}
        assert {s.layer for u in second.units for s in u.fan_in} == {first.site}
        assert {s.layer for u in (*first.units, *second.units) for s in u.fan_out} == {first.before}
        # The first layer's own edge to the far end starts at zero, and each of its units is read.
        assert all(len(u.fan_out) == 1 and u.fan_out[0].value == 0.0 for u in first.units)
        assert {s.slot for u in second.units for s in u.fan_in} == set(range(len(first.units)))
        after, _ = surgery.apply(seen.network, candidate.actions)
        link = f"links.{source}>{first.before}"
        assert torch.equal(after.get_parameter(link), seen.network.get_parameter(link))
        assert {f"links.{source}>{first.site}", f"links.{first.site}>{second.site}"} <= set(after.masks())


def test_without_what_the_second_layer_sends_on_the_function_is_kept_bit_for_bit():
    seen = findings("two hidden layers", grow=60)
    before = seen.network(seen.evidence.x)
    for candidate in residual(seen):
        first, _ = candidate.actions
        alone, _ = surgery.apply(seen.network, (first,))
        assert torch.equal(alone.eval()(seen.evidence.x), before)
        whole, _ = surgery.apply(seen.network, candidate.actions)
        assert not torch.equal(whole.eval()(seen.evidence.x), before)


def test_it_sees_a_product_of_four_signs_of_which_one_layer_makes_little():
    rng = keyed("four signs")
    x = torch.from_numpy(rng.choice((-1.0, 1.0), (2048, 4))).float()
    x = torch.cat([x, torch.zeros(2048, 6)], dim=1)
    y = (x[:, :4].prod(dim=1) > 0).long()
    network = mlp(12, activation="relu", density=0.2).eval()
    with torch.no_grad():
        # A first layer that detects pairs of bits, of which the class is a function, yet no linear one.
        weight, mask = network.get_parameter("links.input>hidden1"), network.get_buffer("mask.input>hidden1")
        mask.zero_()
        weight.zero_()
        for unit in range(8):
            pair = (0, 1) if unit < 4 else (2, 3)
            for bit, sign in zip(pair, ((1, 1), (1, -1), (-1, 1), (-1, -1))[unit % 4], strict=True):
                weight[unit, bit], mask[unit, bit] = float(sign), 1.0
        network.get_parameter("biases.hidden1").fill_(-1.0)
        network.get_parameter("links.hidden1>output").mul_(0.01)
    evidence = collect(network, x, y, "classification", rng)
    seen = Findings(network, evidence, 80, 5, lambda purpose: keyed("four", purpose))
    deep, *shallow = (max(p(seen), key=lambda c: c.predicted) for p in (residual, insert, widen))
    assert deep.predicted > 0
    gained, *others = (gain(network, seen, c) for c in (deep, *shallow))
    assert gained > 0.2
    assert max(others) < 0.5 * gained, "one layer makes less than half of it"


@pytest.mark.parametrize("budget", range(0, 120, 7))
@pytest.mark.parametrize(("units", "columns", "rows"), [(1, 10, 3), (6, 64, 10), (20, 3, 2)])
def test_a_shape_fits_into_its_budget(budget, units, columns, rows):
    shape = Shape.within(budget, units, columns, rows)
    if shape is None:
        assert budget < 77
        return
    cost = shape.first * (shape.fan_in + 2) + shape.second * (shape.between + 1 + shape.fan_out)
    assert cost <= budget
    assert min(shape.fan_in, shape.fan_out, shape.second) >= 1
    assert shape.fan_in <= columns
    assert shape.fan_out <= rows
    assert shape.first == shape.second * shape.between
