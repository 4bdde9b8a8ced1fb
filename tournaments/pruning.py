"""Pruning proposals: which edges and units the network would miss least.

An edge's saliency is ½ w² / ([A⁻¹]_jj [F⁻¹]_kk), with A over the row's present inputs: the nats lost when it goes and
the others make up for it (the optimal brain surgeon's, with a Kronecker curvature).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.actions import Disconnect, Edge, Narrow
from tournaments.candidate import Candidate
from tournaments.findings import Findings
from tournaments.place import PlaceStatistics


@dataclass(frozen=True)
class WeakEdges:
    """action: takes `edges` out. loss: nats that this is predicted to cost."""

    action: Disconnect
    edges: tuple[Edge, ...]
    loss: float


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
    inverse = torch.linalg.inv(inner).diagonal(dim1=1, dim2=2)
    F = stats.F.double() + torch.diag(stats.f.double() - stats.F.double().diagonal())
    conditional = 1 / torch.linalg.inv(F).diagonal()
    full = torch.full((q, width), torch.inf, dtype=torch.float64, device=weight.device)
    padded = torch.cat([weight.double(), torch.zeros(q, 1, device=weight.device, dtype=torch.float64)], dim=1)
    loss = 0.5 * stats.positions * torch.gather(padded, 1, chosen).square() / inverse * conditional[:, None]
    full.scatter_(1, chosen, torch.where(real, loss, torch.inf))
    # The last column is the bias, which is no edge.
    full[~stats.present] = torch.inf
    return full[:, :-1]


def weakest_edges(findings: Findings, count: int) -> WeakEdges | None:
    """The `count` edges of least saliency in the whole network; None where they would be all that there are."""
    values, owners = [], []
    for layer in findings.places:
        stats = findings.statistics(layer)
        rows = torch.zeros(stats.present.shape[0], stats.present.shape[1] - 1, device=stats.A.device)
        for source in findings.sources(layer):
            first, last = stats.columns[source]
            rows[:, first:last] = findings.weight(source, layer)
        loss = saliencies(stats, rows)
        for source in findings.sources(layer):
            first, last = stats.columns[source]
            block = loss[:, first:last]
            at = torch.nonzero(torch.isfinite(block))
            values.append(block[at[:, 0], at[:, 1]])
            owners += [(f"{source}>{layer}", int(i), int(j)) for i, j in at.tolist()]
    joined = torch.cat(values)
    if len(joined) <= count:
        return None
    least = torch.argsort(joined, stable=True)[:count].tolist()
    edges = tuple(Edge(*owners[i]) for i in least)
    return WeakEdges(Disconnect("*", edges), edges, float(joined[least].sum()))


def disconnect(findings: Findings) -> list[Candidate]:
    """The weakest edges, whole shares of them; units that lose their last input or output go with them."""
    candidates = []
    for count in sorted({findings.trim, max(1, findings.trim // 2)}, reverse=True):
        weak = weakest_edges(findings, count)
        if weak is None:
            continue
        narrows, cost = _emptied(findings, weak.edges)
        idle = sum(len(n.slots) for n in narrows)
        reason = f"{len(weak.edges)} weakest edges" + (f", {idle} idle units" if narrows else "")
        candidates.append(
            Candidate((weak.action, *narrows), "disconnect", reason, -len(weak.edges) - cost, -weak.loss, -weak.loss)
        )
    return candidates


def _emptied(findings: Findings, edges: tuple[Edge, ...]) -> tuple[list[Narrow], int]:
    """Narrow actions for units left without fan-in or fan-out, and how many parameters go with them beside `edges`.

    A unit without fan-in puts out a constant, which is folded into its consumers' biases; where no bias can take it, as
    a picture is padded with zeros, the unit stays.
    """
    network, sizes = findings.network, findings.network.axis_sizes()
    masks = {
        link: findings.mask(*link.split(">")).clone() for link in (n.removeprefix("links.") for n in network.masks())
    }
    for edge in edges:
        masks[edge.link][edge.row, edge.column] = False
    narrows, cost = [], 0
    for layer, place in findings.places.items():
        sources, consumers = findings.sources(layer), findings.consumers(layer)
        if "Narrow" not in place.grows or not consumers:
            continue
        fed = torch.stack([masks[f"{s}>{layer}"].any(dim=1) for s in sources]).any(dim=0)
        out = torch.stack(
            [
                masks[f"{layer}>{t}"].reshape(-1, sizes[layer], findings.reach(layer, t)).any(dim=2).any(dim=0)
                for t in consumers
            ]
        ).any(dim=0)
        folds = {
            slot: _constant(findings, layer, slot) if not bool(fed[slot]) and bool(out[slot]) else 0.0
            for slot in torch.nonzero(~(fed & out)).view(-1).tolist()
        }
        if not _foldable(findings, layer):
            folds = {slot: constant for slot, constant in folds.items() if constant == 0.0}
        idle = list(folds)
        if not idle or len(idle) == sizes[layer]:
            continue
        narrows.append(Narrow(layer, tuple(idle), tuple(folds.values())))
        for s in sources:
            cost += int(masks[f"{s}>{layer}"][idle].sum())
            masks[f"{s}>{layer}"][idle] = False
        for t in consumers:
            sent = masks[f"{layer}>{t}"].view(-1, sizes[layer], findings.reach(layer, t))[:, idle]
            cost += int(sent.sum())
            masks[f"{layer}>{t}"].view(-1, sizes[layer], findings.reach(layer, t))[:, idle] = False
        cost += len(idle) * findings.own_parameters(layer)
    return narrows, cost


def _foldable(findings: Findings, layer: str) -> bool:
    """Whether the consumers' biases can take over a constant that a unit of `layer` puts out."""
    return all(findings.places[t].positions == 1 for t in findings.consumers(layer))


def _constant(findings: Findings, layer: str, slot: int) -> float:
    """What a unit without fan-in puts out."""
    return float(findings.network.nonlinearity(torch.tensor(findings.network.unit(layer, slot).bias)))


def narrow(findings: Findings) -> list[Candidate]:
    """The unit that would be missed least, its mean folded into its consumers' biases; several while they fit."""
    candidates = []
    for layer, place in findings.places.items():
        consumers, units = findings.consumers(layer), findings.network.axis_sizes()[layer]
        if "Narrow" not in place.grows or not consumers or units < 2:
            continue
        h = findings.features(layer, consumers[0])
        reach = h.shape[1] // units
        mean = (
            findings.by_unit(layer, h.mean(dim=0)) / reach
            if _foldable(findings, layer)
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
        cost = torch.full((units,), findings.own_parameters(layer), dtype=torch.int64, device=loss.device)
        for s in findings.sources(layer):
            cost += findings.mask(s, layer).sum(dim=1)
        for t in consumers:
            cost += findings.by_unit(layer, findings.mask(layer, t).sum(dim=0))
        order = torch.argsort(loss / cost, stable=True).tolist()
        slots: list[int] = []
        for slot in order[: units - 1]:
            if slots and sum(int(cost[s]) for s in (*slots, slot)) > findings.trim:
                break
            slots.append(slot)
        total = float(loss[slots].sum())
        action = Narrow(layer, tuple(slots), tuple(float(mean[s]) for s in slots))
        reason = f"units {slots} of {layer} pass on least"
        candidates.append(Candidate((action,), "narrow", reason, -int(cost[slots].sum()), -total, -total))
    return candidates
