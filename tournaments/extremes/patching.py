"""Extrema patches: small dense blocks of edges, embedded in the sparse layer's own mask around extreme units.

A saturated unit is a feature that its consumers could use more of: a block joins it and the units of its layer most
like it to rows of a layer that it feeds. A dead unit lacks inputs: a block joins its best inputs to it and to other
dead units of its layer. All masked edges of a block are switched on, at the values of the closed form; one that it
finds nothing for starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.actions import Edge
from tournaments.candidate import Candidate
from tournaments.connecting import beyond_noise, connected, edge_of
from tournaments.edges import ChosenEdge, choose_edges, edge_gains
from tournaments.extremes.found import dense, extremes
from tournaments.extremes.waking import Asked, asked, wake
from tournaments.findings import Findings

SIDE = 4
"""Units on either side of a block."""


@dataclass(frozen=True)
class Block:
    """Rows and columns of a place's statistics whose masked edges are joined; nats that they promise one by one."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    gain: float


def patch(findings: Findings) -> list[Candidate]:
    """Dense blocks of edges around extreme units: out of saturated ones, into dead ones."""
    candidates = []
    for layer, units in extremes(findings).items() if findings.grow else ():
        if dense(findings, layer):
            candidates += _out_of(findings, layer, units.saturated)
            candidates += _into(findings, layer, units.dead)
    return candidates


def _out_of(findings: Findings, layer: str, saturated: Sequence[int]) -> list[Candidate]:
    """At most one candidate for each layer that is fed: blocks from the saturated units, the best of them first."""
    candidates = []
    for target in findings.consumers(layer) if saturated else ():
        stats, left = findings.statistics(target), findings.residual(target)
        masked = findings.column_mask(target, [layer]) & ~stats.present
        gains = edge_gains(stats, left, masked)
        first = stats.columns[layer][0]
        alike = _alike(findings.features(layer, target))
        blocks = []
        for slot in saturated:
            columns = [first + slot, *(first + int(j) for j in alike[slot].topk(min(SIDE, len(alike)) - 1).indices)]
            rows = gains[:, columns].sum(dim=1).topk(min(SIDE, len(gains))).indices.tolist()
            blocks.append(_block(gains, rows, columns))
        chosen = _spent(masked, blocks, findings.grow)
        if not chosen:
            continue
        allowed = torch.zeros_like(masked)
        for row, column in chosen:
            allowed[row, column] = True
        found = {(e.row, e.column): e for e in choose_edges(stats, left, allowed, len(chosen))}
        edges = [edge_of(findings, target, found.get((i, j), ChosenEdge(i, j, 0.0, 0.0))) for i, j in chosen]
        candidates.append(
            Candidate(
                connected(findings, edges),
                "patch",
                f"{len(edges)} edges in blocks from saturated units of {layer} to {target}",
                len(edges),
                beyond_noise(findings, list(found.values()), int(masked.sum())),
                sum(e.gain for e in found.values()),
            )
        )
    return candidates


def _into(findings: Findings, layer: str, dead: Sequence[int]) -> list[Candidate]:
    """At most one candidate: blocks into the dead units that the evidence says would gain by moving."""
    if not dead:
        return []
    units = asked(findings, layer, dead)
    masked = findings.column_mask(layer, findings.sources(layer))[list(dead)] & ~units.place.present
    gains = edge_gains(units.place, units.left, masked)
    order = gains.amax(dim=1).argsort(descending=True, stable=True).tolist()
    blocks = []
    for at in range(0, len(order), SIDE):
        rows = order[at : at + SIDE]
        columns = gains[rows].sum(dim=0).topk(min(SIDE, gains.shape[1] - 1)).indices.tolist()
        blocks.append(_block(gains, rows, columns))
    chosen, raw, predicted = _woken(findings, units, masked, blocks)
    if not chosen:
        return []
    reason = f"{len(chosen)} edges in blocks from the best inputs to dead units of {layer}"
    return [Candidate(connected(findings, chosen), "patch", reason, len(chosen), predicted, raw)]


def _woken(
    findings: Findings, units: Asked, masked: Tensor, blocks: Sequence[Block]
) -> tuple[list[Edge], float, float]:
    """Edges of the blocks that wake their unit, raw and predicted nats."""
    by_row: dict[int, list[int]] = {}
    for row, column in _spent(masked, blocks, findings.grow):
        by_row.setdefault(row, []).append(column)
    edges: list[Edge] = []
    raw = predicted = 0.0
    for row, columns in by_row.items():
        woken = wake(findings, units, row, columns, int(masked[row].sum()))
        if woken.raw <= 0:
            continue
        raw, predicted = raw + woken.raw, predicted + woken.predicted
        slot = units.slots[row]
        edges += [
            edge_of(findings, units.layer, ChosenEdge(slot, j, v, 0.0))
            for j, v in zip(columns, woken.values, strict=True)
        ]
    return edges, raw, predicted


def _block(gains: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Block:
    return Block(tuple(rows), tuple(columns), float(gains[list(rows)][:, list(columns)].sum()))


def _spent(masked: Tensor, blocks: Sequence[Block], budget: int) -> list[tuple[int, int]]:
    """(row, column) of the masked edges of the most gainful blocks, while the budget lasts; the last block is cut."""
    chosen: dict[tuple[int, int], None] = {}
    for block in sorted(blocks, key=lambda b: -b.gain):
        if block.gain <= 0:
            break
        chosen |= {(i, j): None for j in block.columns for i in block.rows if bool(masked[i, j])}
    return list(chosen)[:budget]


def _alike(features: Tensor) -> Tensor:
    """(p, p) absolute correlation of units; -1 of a unit with itself, 0 where one of two is constant."""
    wide = features.double()
    h = wide - wide.mean(dim=0)
    inner = h.t() @ h / len(h)
    variance = inner.diagonal()
    floor = 1e-9 * variance.mean().clamp(min=1e-30)
    alike = torch.where(
        (variance > floor)[:, None] & (variance > floor)[None, :],
        inner.abs() / (variance[:, None] * variance[None, :]).clamp(min=1e-60).sqrt(),
        torch.zeros_like(inner),
    )
    return alike.fill_diagonal_(-1.0)
