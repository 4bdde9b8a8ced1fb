"""A candidate: what might be done, why, what it costs and what it promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from search_spaces.actions import Action, Connect, Disconnect, Insert, Skip, Widen


@dataclass(frozen=True)
class Candidate:
    """actions: applied one after the other. cost: ΔParams, active weights and biases. predicted: ΔMI, nats.

    raw: nats before the noise threshold, which ranks where all predictions are zero. proposer, reason: who and why.
    exact: its values are meant as they are, as they make up for what it takes away; no line search.
    """

    actions: tuple[Action, ...]
    proposer: str
    reason: str
    cost: int
    predicted: float
    raw: float = 0.0
    exact: bool = False

    @property
    def name(self) -> str:
        """The actions' names, joined."""
        return "+".join(dict.fromkeys(a.name for a in self.actions)) or "NoChange"

    @property
    def site(self) -> str:
        """The sites, joined."""
        return "+".join(dict.fromkeys(a.site for a in self.actions if a.site))


def made(candidate: Candidate) -> Counter[tuple[str, str]]:
    """How many new connections enter each unit, by (layer, unit); their sum is how many the candidate makes in all.

    A connection that is taken out and put back at another value is none.
    """
    taken = {(e.link, e.row, e.column) for a in candidate.actions if isinstance(a, Disconnect) for e in a.edges}
    entering: Counter[tuple[str, str]] = Counter()
    for number, action in enumerate(candidate.actions):
        if isinstance(action, Connect | Skip):
            for edge in action.edges:
                if (edge.link, edge.row, edge.column) not in taken:
                    entering[edge.link.rpartition(">")[2], str(edge.row)] += 1
        elif isinstance(action, Widen | Insert):
            for i, unit in enumerate(action.units):
                entering[action.site, f"new {number}.{i}"] += len(unit.fan_in)
                for spoke in unit.fan_out:
                    entering[spoke.layer, str(spoke.slot)] += 1
    return entering
