"""Pruning proposals: which edges and units the network would miss least.

An edge's saliency is ½ w² / ([A⁻¹]_jj [F⁻¹]_kk), with A over the row's present inputs: the nats lost when it goes and
the others make up for it (the optimal brain surgeon's, with a Kronecker curvature). The classical measure is its
magnitude, |w|, which knows nothing of scales; it is here to be compared with.

No candidate takes more than `findings.trim` parameters away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.actions import Disconnect, Edge, Narrow
from tournaments.candidate import Candidate
from tournaments.findings import Findings
from tournaments.orphans import foldable, orphans
from tournaments.place import PlaceStatistics, cholesky

TRIES = 8
"""So often fewer edges are tried where those that were chosen leave more orphans than may go."""


@dataclass(frozen=True)
class WeakEdges:
    """action: takes `edges` out. loss: nats that this is predicted to cost."""

    action: Disconnect
    edges: tuple[Edge, ...]
    loss: float


@dataclass(frozen=True, eq=False)
class ActiveEdges:
    """Every active edge of a network. links: names of links; link: (m,) position in it; at: (m, 2) row and column.

    saliency: (m,) nats. magnitude: (m,) |w|.
    """

    links: tuple[str, ...]
    link: Tensor
    at: Tensor
    saliency: Tensor
    magnitude: Tensor

    def edges(self, chosen: Sequence[int]) -> tuple[Edge, ...]:
        """The chosen ones as an action names them."""
        rows = zip(self.link[list(chosen)].tolist(), self.at[list(chosen)].tolist(), strict=True)
        return tuple(Edge(self.links[link], int(row), int(column)) for link, (row, column) in rows)


def saliencies(stats: PlaceStatistics, weight: Tensor) -> Tensor:
    """(q, p) nats lost by each present edge; infinite where there is none. weight: (q, p), the place's whole rows."""
    q, width = stats.present.shape
    counts = stats.present.sum(dim=1)
    most = int(counts.max())
    chosen = torch.argsort(stats.present.int(), dim=1, descending=True, stable=True)[:, :most]
    real = torch.arange(most, device=counts.device)[None, :] < counts[:, None]
    inner = stats.A[chosen[:, :, None], chosen[:, None, :]].double()
    eye = torch.eye(most, dtype=inner.dtype, device=inner.device)
    inner = torch.where(real[:, :, None] & real[:, None, :], inner, eye)
    inverse = torch.cholesky_inverse(cholesky(inner)).diagonal(dim1=1, dim2=2)
    F = stats.F.double() + torch.diag(stats.f.double() - stats.F.double().diagonal())
    conditional = 1 / torch.cholesky_inverse(cholesky(F[None]))[0].diagonal()
    full = torch.full((q, width), torch.inf, dtype=torch.float64, device=weight.device)
    padded = torch.cat([weight.double(), torch.zeros(q, 1, device=weight.device, dtype=torch.float64)], dim=1)
    loss = 0.5 * stats.positions * torch.gather(padded, 1, chosen).square() / inverse * conditional[:, None]
    full.scatter_(1, chosen, torch.where(real, loss, torch.inf))
    # The last column is the bias, which is no edge.
    full[~stats.present] = torch.inf
    return full[:, :-1]


def active_edges(findings: Findings) -> ActiveEdges:
    """All edges that there are, from input to output, computed once a decision."""
    return findings.once("active edges", lambda: _find_active_edges(findings))


def _find_active_edges(findings: Findings) -> ActiveEdges:
    links: list[str] = []
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for layer in findings.places:
        stats = findings.statistics(layer)
        rows = torch.zeros(stats.present.shape[0], stats.present.shape[1] - 1, device=stats.A.device)
        for source in findings.sources(layer):
            first, last = stats.columns[source]
            rows[:, first:last] = findings.weight(source, layer)
        loss = saliencies(stats, rows)
        for source in findings.sources(layer):
            first, last = stats.columns[source]
            at = torch.nonzero(torch.isfinite(loss[:, first:last]))
            row, column = at[:, 0], at[:, 1] + first
            parts.append((torch.full_like(row, len(links)), at, loss[row, column], rows[row, column].abs()))
            links.append(f"{source}>{layer}")
    link, at, saliency, magnitude = (torch.cat(part) for part in zip(*parts, strict=True))
    return ActiveEdges(tuple(links), link, at, saliency, magnitude)


def weakest_edges(findings: Findings, count: int) -> WeakEdges | None:
    """The `count` edges of least saliency in the whole network; None where they would be all that there are."""
    active = active_edges(findings)
    if len(active.link) <= count:
        return None
    return _taken(active, torch.argsort(active.saliency, stable=True)[:count].tolist())


def lightest_edges(findings: Findings, count: int) -> WeakEdges | None:
    """Up to `count` edges of least magnitude that are nobody's last; None where there are none."""
    active = active_edges(findings)
    chosen = _spared(findings, active, torch.argsort(active.magnitude, stable=True), count)
    return _taken(active, chosen) if chosen else None


def _taken(active: ActiveEdges, chosen: Sequence[int]) -> WeakEdges:
    edges = active.edges(chosen)
    return WeakEdges(Disconnect("*", edges), edges, float(active.saliency[list(chosen)].sum()))


def _spared(findings: Findings, active: ActiveEdges, order: Tensor, count: int) -> list[int]:
    """The first `count` edges in this order that leave every unit an input, and every hidden one an output."""
    ends = [tuple(name.split(">")) for name in active.links]
    reach = [findings.reach(source, target) for source, target in ends]
    links, at = active.link.tolist(), active.at.tolist()
    into = Counter((ends[k][1], row) for k, (row, _) in zip(links, at, strict=True))
    out = Counter((ends[k][0], column // reach[k]) for k, (_, column) in zip(links, at, strict=True))
    chosen: list[int] = []
    for i in order.tolist():
        if len(chosen) == count:
            break
        k, (row, column) = links[i], at[i]
        source, target = (ends[k][0], column // reach[k]), (ends[k][1], row)
        if into[target] > 1 and (out[source] > 1 or source[0] == "input"):
            chosen.append(i)
            into[target] -= 1
            out[source] -= 1
    return chosen


def disconnect(findings: Findings) -> list[Candidate]:
    """The weakest edges, whole shares of them; units that lose their last input or output go with them."""
    order = torch.argsort(active_edges(findings).saliency, stable=True)
    counts = sorted({findings.trim, max(1, findings.trim // 2)}, reverse=True) if findings.trim else []
    found = [_pruned(findings, "disconnect", "weakest edges", order, count) for count in counts]
    return list({c.actions: c for c in reversed(found) if c is not None}.values())[::-1]


def magnitude(findings: Findings) -> list[Candidate]:
    """The weights of least magnitude out, whatever they do: what pruning by saliency is compared with."""
    order = torch.argsort(active_edges(findings).magnitude, stable=True)
    found = _pruned(findings, "magnitude", "edges of least magnitude", order, findings.trim)
    return [] if found is None else [found]


def _pruned(findings: Findings, proposer: str, what: str, order: Tensor, count: int) -> Candidate | None:
    """The first `count` edges in this order, with the units that they orphan. Where that is more than may go: fewer, or
    such as orphan nobody, whichever loses less for a parameter.
    """
    active = active_edges(findings)
    if not 0 < count < len(order):
        return None
    options: list[Candidate] = []
    left = count
    for _ in range(TRIES):
        weak = _taken(active, order[:left].tolist())
        narrows, beside = orphans(findings, weak.edges)
        over = len(weak.edges) + beside - findings.trim
        if over <= 0:
            options.append(_candidate(proposer, what, weak, narrows, beside))
            break
        left = max(left - over, left * 3 // 4)
        if left < 1:
            break
    if over > 0 or left < count:
        chosen = _spared(findings, active, order, count)
        options += [_candidate(proposer, what, _taken(active, chosen), [], 0)] if chosen else []
    return min(options, key=lambda c: c.predicted / c.cost, default=None)


def _candidate(proposer: str, what: str, weak: WeakEdges, narrows: Sequence[Narrow], beside: int) -> Candidate:
    """beside: parameters of the units that go with the edges."""
    idle = sum(len(n.slots) for n in narrows)
    reason = f"{len(weak.edges)} {what}" + (f", {idle} idle units" if narrows else "")
    cost = -len(weak.edges) - beside
    return Candidate((weak.action, *narrows), proposer, reason, cost, -weak.loss, -weak.loss)


def narrow(findings: Findings) -> list[Candidate]:
    """The units that would be missed least, as many as may go, their means folded into their consumers' biases."""
    candidates = []
    for layer, place in findings.places.items():
        consumers, units = findings.consumers(layer), findings.network.axis_sizes()[layer]
        if "Narrow" not in place.grows or not consumers or units < 2:
            continue
        h = findings.features(layer, consumers[0])
        reach = h.shape[1] // units
        mean = (
            findings.by_unit(layer, h.mean(dim=0)) / reach
            if foldable(findings, layer)
            else torch.zeros(units, device=h.device)
        )
        spread = h.var(dim=0).double() + (h.mean(dim=0) - mean.repeat_interleave(reach)).double().square()
        stake = torch.stack(
            [
                findings.places[t].positions
                * (findings.weight(layer, t).square().double() * findings.statistics(t).f.double()[:, None]).sum(dim=0)
                for t in consumers
            ]
        ).sum(dim=0)
        loss = findings.by_unit(layer, 0.5 * spread * stake)
        cost = findings.held(layer)
        order = torch.argsort(loss / cost, stable=True).tolist()
        slots: list[int] = []
        for slot in order:
            fits = sum(int(cost[s]) for s in (*slots, slot)) <= findings.trim
            if len(slots) == units - 1 or (slots and not fits):
                break
            if fits:
                slots.append(slot)
        if not slots:
            continue
        total = float(loss[slots].sum())
        action = Narrow(layer, tuple(slots), tuple(float(mean[s]) for s in slots))
        reason = f"units {slots} of {layer} pass on least"
        candidates.append(Candidate((action,), "narrow", reason, -int(cost[slots].sum()), -total, -total))
    return candidates
