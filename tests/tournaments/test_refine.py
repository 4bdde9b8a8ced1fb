"""Refining: the function on coarse pictures is kept, the cost is exact, the decisive edges come first."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from search_spaces import surgery
from search_spaces.actions import Connect, Disconnect
from search_spaces.families import Mlp
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from tournaments.evidence import collect
from tournaments.findings import Findings
from tournaments.refine import finer, refine

PICTURE = (2, 6, 7)


def coarse(x: torch.Tensor, side: int) -> torch.Tensor:
    means = functional.avg_pool2d(x.reshape(-1, *PICTURE), side, ceil_mode=True, count_include_pad=False)
    tall = means.repeat_interleave(side, 2)[:, :, : PICTURE[1]]
    return tall.repeat_interleave(side, 3)[:, :, :, : PICTURE[2]].flatten(1)


def looked(
    blocks: tuple[int, int], grow: int = 60, density: float = 0.1, picture: tuple[int, int, int] | None = PICTURE
) -> tuple[Network, Findings]:
    """A network with two links from the input, that learned nothing yet, and what is found on pictures in blocks."""
    layers = [("input", 84), ("hidden1", 6), ("output", 3)]
    network = Mlp(layers, [("input", "hidden1"), ("input", "output"), ("hidden1", "output")])
    connect(network, density, keyed("refine"))
    network.double()
    rng = keyed("pictures")
    x = coarse(torch.from_numpy(rng.standard_normal((200, 84))), blocks[1])
    y = torch.from_numpy(rng.integers(0, 3, 200))
    evidence = collect(network.eval(), x, y, "classification", rng)
    return network, Findings(network, evidence, grow, 5, lambda p: keyed(p), picture=picture, blocks=blocks)


@pytest.mark.parametrize("blocks", [(4, 2), (2, 1), (3, 2), (4, 1), (7, 3)])
def test_on_pictures_of_the_coarser_blocks_the_function_is_kept(blocks: tuple[int, int]) -> None:
    network, findings = looked(blocks)
    x = coarse(torch.from_numpy(keyed("new").standard_normal((50, 84))), blocks[0])
    found = refine(findings)
    assert found
    for candidate in found:
        after, _ = surgery.apply(network, candidate.actions)
        assert torch.allclose(after.eval()(x), network(x), atol=1e-12)
        assert after.count() - network.count() == candidate.cost
        assert 0 < candidate.cost <= findings.grow


def test_a_finer_picture_is_seen_as_the_mean_of_its_block() -> None:
    network, findings = looked((2, 1), grow=10_000)
    (candidate,) = refine(findings)[:1]
    after, _ = surgery.apply(network, candidate.actions)
    x = torch.from_numpy(keyed("new").standard_normal((50, 84)))
    assert torch.allclose(after(x), network(coarse(x, 2)), atol=1e-12), "every edge was spread"


def test_the_most_decisive_edges_come_first_and_the_budget_holds() -> None:
    _, findings = looked((2, 1), grow=7)
    whole, half = refine(findings)
    assert 4 <= whole.cost <= 7
    assert half.cost == 3
    off = half.actions[0]
    assert isinstance(off, Disconnect)
    force = {}
    for layer in ("hidden1", "output"):
        carried = findings.evidence.x.std(dim=0) * findings.weight("input", layer).abs()
        for row, column in torch.nonzero(findings.mask("input", layer)).tolist():
            force[f"input>{layer}", row, column] = float(carried[row, column])
    (most,) = sorted(force, key=lambda key: -force[key])[:1]
    assert most in {(edge.link, edge.row, edge.column) for edge in off.edges}


def test_shares_are_those_of_the_pixels_and_an_edge_that_is_there_is_taken() -> None:
    # The lower right block of a picture of 6 x 7 in blocks of 4: 2 x 3 pixels, in finer blocks of 4 and of 2.
    column = 42 + 4 * 7 + 5
    shares = finer(column, PICTURE, (4, 2), taken={42 + 5 * 7 + 6})
    assert shares == {column: pytest.approx(4 / 6), 42 + 5 * 7 + 6: pytest.approx(2 / 6)}


def test_what_there_is_nothing_to_spread_over_proposes_nothing() -> None:
    assert refine(looked((4, 4))[1]) == []
    assert refine(looked((2, 1), picture=None)[1]) == []
    assert refine(looked((2, 1), picture=(1, 6, 7))[1]) == []
    assert refine(looked((2, 1), grow=0)[1]) == []


def test_where_means_are_what_counts_the_gain_is_seen_at_once() -> None:
    """A class that is the sign of a block's mean, known by one of its pixels as long as all were alike."""
    network = Mlp([("input", 84), ("output", 2)], [("input", "output")])
    with torch.no_grad():
        network.get_buffer("mask.input>output")[:, 0] = 1
        network.get_parameter("links.input>output")[:, 0] = torch.tensor([-4.0, 4.0])
    rng = keyed("means")
    x = torch.from_numpy(rng.standard_normal((400, 84))).float()
    y = (coarse(x, 2)[:, 0] > 0).long()
    evidence = collect(network.eval(), x, y, "classification", rng)
    (found, _) = refine(Findings(network, evidence, 6, 0, lambda p: keyed(p), picture=PICTURE))
    assert found.cost == 6
    assert found.predicted > 0.3
    on = found.actions[1]
    assert isinstance(on, Connect)
    assert {edge.column for edge in on.edges} == {0, 1, 7, 8}
    assert all(abs(edge.value) == pytest.approx(1.0) for edge in on.edges)
