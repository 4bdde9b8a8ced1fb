"""A tournament: rungs of paired trials, halving, and a verdict. It knows how to judge, not how to run a trial.

Arm 0 is the control, NoChange; arms 1 … k are the candidates; arm k+1, where there is one, the placebo: a second
NoChange that is trained and judged exactly as a candidate is, and cannot be adopted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tournaments.candidate import Candidate
from tournaments.selection import Contender, select
from tournaments.statistics import Audit, PairedGain, audit, paired_gains

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ArmLosses:
    """growth, audit: (S, n) float64 held-out losses in nats of the arm's forks, on the deciding and the other half."""

    growth: Array
    audit: Array
    diverged: bool = False


Rung = Callable[[Sequence[int], int], Mapping[int, ArmLosses]]
"""Trains the forks of these arms through rung number r and measures them."""


@dataclass(frozen=True)
class Verdict:
    """What became of an arm. gain: on the deciding half, at its last rung; None where it or the control diverged.

    audit: the gain on the other half. own: ΔMI of its first seed's fork alone, nats. rungs: how many it finished.
    """

    arm: int
    candidate: Candidate | None
    placebo: bool
    gain: PairedGain | None
    audit: Audit | None
    own: float
    rungs: int
    diverged: bool
    reason: str


@dataclass(frozen=True)
class Decision:
    """arm: the adopted one, 0 = NoChange. verdicts: of every other arm, by its number."""

    arm: int
    reason: str
    verdicts: tuple[Verdict, ...]


def hold(
    candidates: Sequence[Candidate],
    rung: Rung,
    rungs: int,
    price: float,
    confidence: float,
    floor: float = 0.0,
    placebo: bool = False,
    enumerated: bool = False,
) -> Decision:
    """Run the rungs, halve the field after each but the last, judge, select. price: nats a parameter.

    A control that diverges leaves nothing to compare with: NoChange is adopted, and the reason says so.
    """
    k = len(candidates)
    placebo_arm = k + 1 if placebo else None
    field = list(range(1, k + 1))
    done: dict[int, Verdict] = {}
    latest: dict[int, Verdict] = {}
    for r in range(rungs):
        arms = [0, *field, *([placebo_arm] if placebo_arm is not None and placebo_arm not in done else [])]
        measured = rung(arms, r)
        if measured[0].diverged:
            lost = "the control diverged, so nothing could be compared"
            done.update({a: _lost(a, candidates, placebo_arm, r, lost, measured[a].diverged) for a in arms[1:]})
            return Decision(0, lost, tuple(done[a] for a in sorted(done)))
        for arm in [a for a in arms[1:] if measured[a].diverged]:
            done[arm] = _lost(arm, candidates, placebo_arm, r, "diverged", diverged=True)
        alive = [a for a in arms[1:] if a not in done]
        gains = paired_gains(measured[0].growth, [measured[a].growth for a in alive], confidence, enumerated=enumerated)
        for arm, gain in zip(alive, gains, strict=True):
            held = measured[arm]
            latest[arm] = Verdict(
                arm,
                candidates[arm - 1] if arm <= k else None,
                arm == placebo_arm,
                gain,
                audit(measured[0].growth, held.growth, measured[0].audit, held.audit),
                float(measured[0].growth[0].mean() - held.growth[0].mean()),
                r + 1,
                False,
                "",
            )
        field = [a for a in field if a not in done]
        if r < rungs - 1 and len(field) > 1:
            ranked = sorted(field, key=lambda a: (-_promise(latest[a], price), a))
            kept = sorted(ranked[: (len(field) + 1) // 2])
            for arm in set(field) - set(kept):
                done[arm] = _closed(latest[arm], f"out after rung {r + 1}")
            field = kept
    choice = select([_contender(latest[a]) for a in field], price, floor)
    for arm in field:
        done[arm] = _closed(latest[arm], "adopted" if arm == choice.arm else "lost the last rung")
    if placebo_arm is not None and placebo_arm not in done:
        done[placebo_arm] = _closed(latest[placebo_arm], "placebo")
    return Decision(choice.arm, choice.reason, tuple(done[a] for a in sorted(done)))


def _contender(verdict: Verdict) -> Contender:
    assert verdict.gain is not None
    assert verdict.candidate is not None
    return Contender(verdict.arm, verdict.candidate.cost, verdict.gain.bound)


def _promise(verdict: Verdict, price: float) -> float:
    assert verdict.gain is not None
    assert verdict.candidate is not None
    return verdict.gain.nats - price * verdict.candidate.cost


def _lost(
    arm: int, candidates: Sequence[Candidate], placebo: int | None, rungs: int, reason: str, diverged: bool
) -> Verdict:
    candidate = candidates[arm - 1] if arm <= len(candidates) else None
    return Verdict(arm, candidate, arm == placebo, None, None, float("nan"), rungs, diverged, reason)


def _closed(verdict: Verdict, reason: str) -> Verdict:
    return Verdict(**{**verdict.__dict__, "reason": reason})
