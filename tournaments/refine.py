"""Refining: what was learned on coarse pictures, spread over the finer pixels that a coarse one stood for.

While all pixels of a block are alike a unit needs an edge to one of them; once they differ that edge sees a sample of
what it saw as a mean. An edge of weight w is therefore spread over the block: each finer block within it gets one edge,
with the share of w that is its share of the block's pixels. On pictures that are constant over the blocks the function
is kept exactly. The decisive edges come first: largest |w| times the standard deviation of what they carry.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch

from search_spaces import surgery
from search_spaces.actions import Action, Connect, Disconnect, Edge
from tournaments.candidate import Candidate
from tournaments.findings import Findings

CONFIDENCE = 2.05
"""Standard errors below the measured gain at which a promise begins: 2% of them are broken on pure noise."""

Key = tuple[str, int, int]
"""Layer, row and column of an edge from the input."""


def refine(findings: Findings) -> list[Candidate]:
    """The decisive input edges spread over their blocks: as many as the budget buys, and half as many."""
    picture = findings.picture
    if picture is None or findings.network.axis_sizes()["input"] != math.prod(picture):
        return []
    before, now = findings.blocks
    ranked = _decisive(findings)
    if before <= now or not ranked or findings.grow < 1:
        return []
    candidates = []
    for budget in dict.fromkeys((findings.grow, findings.grow // 2)):
        spread = _spread(findings, ranked, picture, (before, now), budget)
        if spread is not None and spread not in candidates:
            candidates.append(spread)
    return candidates


def _decisive(findings: Findings) -> list[tuple[Key, float]]:
    """Every active edge from the input with its weight, the most decisive first."""
    deviation = findings.evidence.activations["input"].flatten(1).std(dim=0)
    found: list[tuple[float, Key, float]] = []
    for layer in findings.consumers("input"):
        weight, mask = findings.weight("input", layer), findings.mask("input", layer)
        force = weight.abs() * deviation
        for row, column in torch.nonzero(mask & (force > 0)).tolist():
            found.append((-float(force[row, column]), (layer, row, column), float(weight[row, column])))
    return [(key, weight) for _, key, weight in sorted(found)]


def _spread(
    findings: Findings,
    ranked: Sequence[tuple[Key, float]],
    picture: tuple[int, int, int],
    sides: tuple[int, int],
    budget: int,
) -> Candidate | None:
    """As many of these edges as fit into the budget, or None where not one does."""
    masks = {layer: findings.mask("input", layer) for layer in findings.consumers("input")}
    change: defaultdict[Key, float] = defaultdict(float)
    cost = spread = 0
    for (layer, row, column), weight in ranked:
        shares = finer(column, picture, sides, set(torch.nonzero(masks[layer][row]).view(-1).tolist()))
        fresh = [c for c in shares if not bool(masks[layer][row, c]) and (layer, row, c) not in change]
        if len(shares) < 2 or cost + len(fresh) > budget:
            continue
        cost, spread = cost + len(fresh), spread + 1
        change[layer, row, column] -= weight
        for c, share in shares.items():
            change[layer, row, c] += share * weight
    if not spread:
        return None
    actions = _actions(findings, change)
    gain, error = _gain(findings, actions)
    reason = f"{spread} decisive input edges, each over its block of {sides[0]} x {sides[0]} pixels"
    return Candidate(actions, "refine", reason, cost, max(gain - CONFIDENCE * error, 0.0), max(gain, 0.0), exact=True)


def finer(column: int, picture: tuple[int, int, int], sides: tuple[int, int], taken: set[int]) -> dict[int, float]:
    """Pixel -> its share, over the block that `column` lies in: one pixel for each finer block, sum 1.

    sides: of the block, and of the finer blocks. In the column's own finer block the pixel is the column, in the others
    one of `taken`, that the unit reads already, where there is one.
    """
    (_, height, width), (before, now) = picture, sides
    channel, y, x = column // (height * width), column // width % height, column % width
    cells: dict[tuple[int, int], list[int]] = {}
    for v in range(y // before * before, min(y // before * before + before, height)):
        for u in range(x // before * before, min(x // before * before + before, width)):
            cells.setdefault((v // now, u // now), []).append((channel * height + v) * width + u)
    pixels = sum(map(len, cells.values()))
    chosen = {}
    for cell in cells.values():
        at = column if column in cell else next((pixel for pixel in cell if pixel in taken), cell[0])
        chosen[at] = len(cell) / pixels
    return chosen


def _actions(findings: Findings, change: dict[Key, float]) -> tuple[Action, ...]:
    """The old edges off, and all of them on again with what they now weigh; the fresh ones on."""
    layers = {layer for layer, _, _ in change}
    weights = {layer: findings.weight("input", layer) * findings.mask("input", layer) for layer in layers}
    old = [key for key in change if bool(findings.mask("input", key[0])[key[1], key[2]])]
    off = Disconnect("input", tuple(Edge(f"input>{layer}", row, column) for layer, row, column in old))
    on = Connect(
        "input",
        tuple(
            Edge(f"input>{layer}", row, column, float(weights[layer][row, column]) + delta)
            for (layer, row, column), delta in change.items()
        ),
    )
    return (off, on)


@torch.no_grad()
def _gain(findings: Findings, actions: tuple[Action, ...]) -> tuple[float, float]:
    """Nats that the evidence's loss falls by at once, and its standard error over the samples."""
    evidence = findings.evidence
    after, _ = surgery.apply(findings.network, actions)
    difference = evidence.losses(findings.network).double() - evidence.losses(after).double()
    return float(difference.mean()), float(difference.std()) / math.sqrt(evidence.samples)
