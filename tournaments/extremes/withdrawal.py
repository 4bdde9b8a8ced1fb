"""Temporary patches: edges that were grown last, out again where a tournament finds that they are not worth it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.actions import Disconnect
from search_spaces.network import active
from search_spaces.optimizer_state import ORIGINS
from tournaments.candidate import Candidate
from tournaments.findings import Findings
from tournaments.pruning import active_edges

GROWN = ORIGINS.index("Connect")


@dataclass(frozen=True, eq=False)
class Patch:
    """The edges of one growth, link -> (q, p) bool, and the count of updates that they have had."""

    edges: dict[str, Tensor]
    age: int


def withdraw(findings: Findings) -> list[Candidate]:
    """The patch of edges that was grown last, out again; where it is more than may go, the weakest of it.

    The predicted loss is the sum of the edges' saliencies. Nothing is proposed where something else is as young: what
    stands on the patch would be left standing on nothing.
    """
    found = youngest(findings)
    if found is None or findings.trim < 1:
        return []
    edges = active_edges(findings)
    masks = [found.edges[link] for link in edges.links]
    where = zip(edges.link.tolist(), edges.at.tolist(), strict=True)
    of_it = [k for k, (link, (row, column)) in enumerate(where) if bool(masks[link][row, column])]
    order = torch.argsort(edges.saliency[of_it], stable=True).tolist()
    gone = [of_it[i] for i in order[: findings.trim]]
    loss = float(edges.saliency[gone].sum())
    part = f"all {len(gone)}" if len(gone) == len(of_it) else f"the weakest {len(gone)} of {len(of_it)}"
    reason = f"{part} edges of the patch grown {found.age} updates ago"
    return [Candidate((Disconnect("*", edges.edges(gone)),), "withdraw", reason, -len(gone), -loss, -loss)]


def youngest(findings: Findings) -> Patch | None:
    """The patch that was grown after all else; None where there is none, or ages are not known.

    Edges grown at one time have had the same count of updates, and all else that is active has had more.
    """
    state = findings.state
    if state is None:
        return None
    present = active(findings.network)
    ages = torch.cat([state.age[name][mask] for name, mask in present.items()])
    grown = torch.cat([state.origin[name][mask] == GROWN for name, mask in present.items()])
    if not bool(grown.any()):
        return None
    age = int(ages[grown].min())
    rest = ages[~(grown & (ages == age))]
    if not len(rest) or int(rest.min()) <= age:
        return None
    edges = {}
    for name in findings.network.masks():
        of_it = present[name] & (state.origin[name] == GROWN) & (state.age[name] == age)
        edges[name.removeprefix("links.")] = of_it.reshape(len(of_it), -1)
    return Patch(edges, age)
