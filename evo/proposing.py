"""From findings to the candidates that are trialled: who is asked, what may be, what is worth a trial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evo.config import ConfigError
from evo.life import Life
from evo.surroundings import Surroundings
from search_spaces import surgery
from search_spaces.randomness import keyed
from tournaments import economy, screening
from tournaments.candidate import Candidate, made
from tournaments.findings import Findings
from tournaments.proposals import PROPOSERS

TRIMMERS = frozenset({"narrow", "disconnect", "rewire", "magnitude", "remove", "rewire_forward"})
"""Proposers that take something away: off where nothing may be."""


def candidates(around: Surroundings, life: Life, findings: Findings, price: float) -> tuple[list[Candidate], int]:
    """The survivors of the screening, their first steps searched, and how many were proposed."""
    config = around.config
    # In the registry's order, so that a config's order changes nothing.
    asked = [name for name in PROPOSERS if name in config.growth.proposers and (findings.trim or name not in TRIMMERS)]
    proposed = [c for name in asked for c in _asked(name, findings)]
    open_ = [c for c in proposed if c.cost <= findings.grow and _promising(c, price) and _within(around, life, c)]
    rng = keyed(config.seed, around.network, life.cycle, "shortlist")
    chosen = screening.shortlist(open_, config.tournament.candidates, price, config.tournament.random_share, rng)
    return [screening.line_search(findings.network, c, findings.evidence) for c in chosen], len(proposed)


def _asked(name: str, findings: Findings) -> Sequence[Candidate]:
    """What a proposer proposes. One from outside may be wrong, and is told so by name before a trial is spent on it."""
    propose = PROPOSERS[name]
    if str(getattr(propose, "__module__", "")).startswith("tournaments."):
        return propose(findings)
    said, before = f"growth.proposers: {name}", findings.network.count()
    try:
        found = list(propose(findings))
    except Exception as err:  # whatever a user's function does
        raise ConfigError(f"{said} failed with {err!r}; mend it, or leave it out") from err
    for candidate in found:
        if not isinstance(candidate, Candidate):
            raise ConfigError(
                f"{said}: expected a list of Candidate, got {candidate!r:.60} in it; mend it, or leave it out"
            )
        try:
            cost = surgery.apply(findings.network, candidate.actions)[0].count() - before
        except (ValueError, TypeError, AttributeError) as err:
            raise ConfigError(f"{said}: proposed what cannot be done here: {err}; mend it, or leave it out") from err
        if cost != candidate.cost or not np.isfinite(candidate.predicted + candidate.raw):
            raise ConfigError(
                f"{said}: expected a cost of {cost} parameters and finite predictions, got {candidate.cost}, "
                f"{candidate.predicted} and {candidate.raw}; mend it, or leave it out"
            )
    return found


def _within(around: Surroundings, life: Life, candidate: Candidate) -> bool:
    """Whether it makes no more connections than one event may, in all and into one unit, where that is limited."""
    entering, most = made(candidate), around.config.growth.incoming
    allowed = connections(around, life)
    if allowed is not None and entering.total() > allowed:
        return False
    return most is None or max(entering.values(), default=0) <= most


def connections(around: Surroundings, life: Life) -> int | None:
    """How many connections an event may make where the phases have caps."""
    e = around.config.economy
    return None if e.caps is None else economy.limit(around.phase(life), 0, e.limits, e.caps)


def _promising(candidate: Candidate, price: float) -> bool:
    """Whether a trial might pay. Predictions rank but are not calibrated (measured/predicted .3 to .8), so the margin
    is wide; random and cloned units, which promise nothing, are left to chance.
    """
    if candidate.cost < 0:
        return -candidate.raw < -5 * price * candidate.cost
    return candidate.raw == 0 or candidate.raw > price * candidate.cost
