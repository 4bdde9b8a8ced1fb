"""Proposals: from findings to candidates. A proposer is one function, listed in PROPOSERS by the name it is asked by.

It keeps to the budget (`findings.grow` parameters added, `findings.trim` taken away), says what each candidate costs to
the parameter, and draws only from `findings.draw`. One that is not asked for costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from tournaments.bottleneck import bottleneck
from tournaments.candidate import Candidate
from tournaments.channels import channels
from tournaments.connecting import connect, random_edges, skip
from tournaments.extremes import clone_vertical, highway, patch, reactivate, route, withdraw
from tournaments.findings import Findings
from tournaments.growing import clone, drawn, insert, widen
from tournaments.hybrid import hybrid
from tournaments.pruning import disconnect, magnitude, narrow
from tournaments.refine import refine
from tournaments.removal import remove
from tournaments.residual_blocks import residual
from tournaments.rewiring import rewire, rewire_forward

Proposer = Callable[[Findings], list[Candidate]]

PROPOSERS: dict[str, Proposer] = {
    "connect": connect,
    "skip": skip,
    "widen": widen,
    "channels": channels,
    "insert": insert,
    "clone": clone,
    "drawn": drawn,
    "narrow": narrow,
    "disconnect": disconnect,
    "rewire": rewire,
    "bottleneck": bottleneck,
    "residual": residual,
    "rewire_forward": rewire_forward,
    "magnitude": magnitude,
    "remove": remove,
    "hybrid": hybrid,
    "random_edges": random_edges,
    "refine": refine,
    "patch": patch,
    "withdraw": withdraw,
    "clone_vertical": clone_vertical,
    "highway": highway,
    "route": route,
    "reactivate": reactivate,
}
