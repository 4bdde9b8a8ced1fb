"""Pruning proposals: which edges and units the network would miss least.

An edge's saliency is ½ w² / ([A⁻¹]_jj [F⁻¹]_kk), with A over the row's present inputs: the nats lost when it goes and the
others make up for it (the optimal brain surgeon's, with a Kronecker curvature).
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
    for share in (1.0, 0.5):
        weak = weakest_edges(findings, max(1, int(findings.trim * share)))
        if weak is None:
            continue
        narrows, cost = _emptied(findings, weak.edges)
        reason = f"{len(weak.edges)} weakest edges" + (f", {sum(len(n.slots) for n in narrows)} idle units" * bool(narrows))
        candidates.append(
            Candidate((weak.action, *narrows), "disconnect", reason, -len(weak.edges) - cost, -weak.loss, -weak.loss)
        )
    return candidates


def _emptied(findings: Findings, edges: tuple[Edge, ...]) -> tuple[list[Narrow], int]:
    """Narrow actions for units left without fan-in or fan-out, and how many parameters go with them beside `edges`.

    A unit without fan-in puts out a constant, which is folded into its consumers' biases.
    """
    masks = {
        link: findings.mask(*link.split(">")).clone() for link in (n[6:] for n in findings.network.masks())
    }
    for edge in edges:
        masks[edge.link][edge.row, edge.column] = False
    narrows, cost = [], 0
    for layer, place in findings.places.items():
        if "Narrow" not in place.grows or place.positions != 1:
            continue
        into = torch.stack([masks[f"{s}>{layer}"].any(dim=1) for s in findings.sources(layer)]).any(dim=0)
        out = torch.stack([masks[f"{layer}>{t}"].any(dim=0) for t in findings.consumers(layer)]).any(dim=0)
        idle = torch.nonzero(~(into & out)).view(-1).tolist()
        if not idle or len(idle) == len(into):
            continue
        bias = findings.network.get_parameter(f"biases.{layer}").detach()
        folds = tuple(
            float(findings.network.nonlinearity(bias[i])) if not bool(into[i]) and bool(out[i]) else 0.0 for i in idle
        )
        narrows.append(Narrow(layer, tuple(idle), folds))
        for s in findings.sources(layer):
            cost += int(masks[f"{s}>{layer}"][idle].sum())
            masks[f"{s}>{layer}"][idle] = False
        for t in findings.consumers(layer):
            cost += int(masks[f"{layer}>{t}"][:, idle].sum())
            masks[f"{layer}>{t}"][:, idle] = False
        cost += len(idle)
    return narrows, cost


def narrow(findings: Findings) -> list[Candidate]:
    """The unit that would be missed least, its mean folded into its consumers' biases; several while they fit."""
    candidates = []
    for layer, place in findings.places.items():
        if "Narrow" not in place.grows or place.positions != 1 or findings.network.axis_sizes()[layer] < 2:
            continue
        consumers = findings.consumers(layer)
        h = findings.features(layer, consumers[0])
        spread, mean = h.var(dim=0).double(), h.mean(dim=0)
        stake = torch.stack(
            [(findings.weight(layer, t).square().double() * findings.statistics(t).f.double()[:, None]).sum(dim=0) for t in consumers]
        ).sum(dim=0)
        loss = 0.5 * spread * stake
        cost = torch.ones(len(loss), dtype=torch.int64, device=loss.device)
        for s in findings.sources(layer):
            cost += findings.mask(s, layer).sum(dim=1)
        for t in consumers:
            cost += findings.mask(layer, t).sum(dim=0)
        order = torch.argsort(loss / cost, stable=True).tolist()
        slots: list[int] = []
        for slot in order[: len(order) - 1]:
            if slots and sum(int(cost[s]) for s in (*slots, slot)) > findings.trim:
                break
            slots.append(slot)
        total = float(loss[slots].sum())
        candidates.append(
            Candidate(
                (Narrow(layer, tuple(slots), tuple(float(mean[s]) for s in slots)),),
                "narrow",
                f"units {slots} of {layer} pass on least",
                -int(cost[slots].sum()),
                -total,
                -total,
            )
        )
    return candidates
