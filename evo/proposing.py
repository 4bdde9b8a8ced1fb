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
    proposed = [c for made in _proposed(around, findings).values() for c in made]
    open_ = [c for c in proposed if c.cost <= findings.grow and _promising(c, price) and _within(around, life, c)]
    rng = keyed(config.seed, around.network, life.cycle, "shortlist")
    chosen = screening.shortlist(open_, config.tournament.candidates, price, config.tournament.random_share, rng)
    return [screening.line_search(findings.network, c, findings.evidence) for c in chosen], len(proposed)


def any_legal(
    around: Surroundings, life: Life, findings: Findings, rng: np.random.Generator
) -> tuple[Candidate | None, int]:
    """One candidate drawn at random from those that may be here, whatever it promises, and how many were proposed: a
    proposer first, then one of its own, so that who proposes many is not drawn more often for it.
    """
    proposed = _proposed(around, findings)
    legal = [[c for c in made if c.cost <= findings.grow and _within(around, life, c)] for made in proposed.values()]
    legal = [made for made in legal if made]
    count = sum(map(len, proposed.values()))
    if not legal:
        return None, count
    made = legal[int(rng.integers(len(legal)))]
    return made[int(rng.integers(len(made)))], count


def _proposed(around: Surroundings, findings: Findings) -> dict[str, Sequence[Candidate]]:
    """By proposer, in the registry's order, so that a config's order changes nothing."""
    listed = around.config.growth.proposers
    asked = [name for name in PROPOSERS if name in listed and (findings.trim or name not in TRIMMERS)]
    return {name: _asked(name, findings) for name in asked}


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
