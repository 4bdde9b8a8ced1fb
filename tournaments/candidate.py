"""A candidate: what might be done, why, what it costs and what it promises."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.actions import Action


@dataclass(frozen=True)
class Candidate:
    """actions: applied one after the other. cost: ΔParams, active weights and biases. predicted: ΔMI, nats.

    raw: nats before the noise threshold, which ranks where all predictions are zero. proposer, reason: who and why.
    """

    actions: tuple[Action, ...]
    proposer: str
    reason: str
    cost: int
    predicted: float
    raw: float = 0.0

    @property
    def name(self) -> str:
        """The actions' names, joined."""
        return "+".join(dict.fromkeys(a.name for a in self.actions)) or "NoChange"

    @property
    def site(self) -> str:
        """The sites, joined."""
        return "+".join(dict.fromkeys(a.site for a in self.actions if a.site))
