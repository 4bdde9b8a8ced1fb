"""A tournament of made-up rungs: who goes on, who is lost, who is adopted, and what each verdict says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from search_spaces.actions import Connect, Edge, Widen
from search_spaces.randomness import keyed
from tournaments.candidate import Candidate
from tournaments.statistics import paired_gains
from tournaments.tournament import ArmLosses, Decision, hold

SEEDS, SAMPLES = 3, 60


def candidate(cost: int, name: str = "made up") -> Candidate:
    return Candidate((Connect("output", (Edge("input>output", 0, cost),)),), name, "because", cost, 0.0)


class Rungs:
    """gains[arm]: nats that an arm is better than the control, rung by rung. diverges: {(arm, rung)}."""

    def __init__(
        self, gains: Mapping[int, float | Sequence[float]], diverges: set[tuple[int, int]] | None = None
    ) -> None:
        self.gains, self.diverges = gains, diverges or set()
        self.calls: list[tuple[int, tuple[int, ...]]] = []
        self.measured: dict[tuple[int, int], ArmLosses] = {}

    def __call__(self, arms: Sequence[int], rung: int) -> Mapping[int, ArmLosses]:
        self.calls.append((rung, tuple(arms)))
        for arm in arms:
            rng = keyed("rung", arm, rung)
            gain = self.gains.get(arm, 0.0)
            gain = gain if isinstance(gain, float) else gain[rung]
            shared = keyed("samples", rung).gamma(1.0, 1.0, (2, 1, SAMPLES))
            losses = shared - gain + 0.002 * rng.standard_normal((2, SEEDS, SAMPLES))
            lost = (arm, rung) in self.diverges
            self.measured[arm, rung] = ArmLosses(*(losses * (math.nan if lost else 1.0)), diverged=lost)
        return {arm: self.measured[arm, rung] for arm in arms}


def run(rungs: Rungs, costs: Sequence[int], count: int = 2, *, price: float = 1e-4, placebo: bool = False) -> Decision:
    return hold([candidate(c) for c in costs], rungs, count, price, 0.9, placebo=placebo)


def test_the_field_is_halved_after_each_rung_but_the_last():
    rungs = Rungs({1: 0.1, 2: 0.5, 3: 0.2, 4: 0.4, 5: 0.3})
    decision = run(rungs, [10] * 5, 4)
    assert rungs.calls == [(0, (0, 1, 2, 3, 4, 5)), (1, (0, 2, 4, 5)), (2, (0, 2, 4)), (3, (0, 2))]
    assert decision.arm == 2
    assert [v.rungs for v in decision.verdicts] == [1, 4, 1, 3, 2]
    assert [v.reason for v in decision.verdicts] == [
        "out after rung 1",
        "adopted",
        "out after rung 1",
        "out after rung 3",
        "out after rung 2",
    ]


def test_one_rung_judges_everybody():
    rungs = Rungs({1: 0.1, 2: 0.3})
    decision = run(rungs, [10, 10], 1)
    assert rungs.calls == [(0, (0, 1, 2))]
    assert decision.arm == 2
    assert [v.reason for v in decision.verdicts] == ["lost the last rung", "adopted"]


def test_halving_weighs_gains_against_the_price():
    # Arm 1 gains more but costs .2 nats; arms 2 and 3 cost .01.
    rungs = Rungs({1: 0.15, 2: 0.1, 3: 0.05})
    run(rungs, [200, 10, 10], 2, price=1e-3)
    assert rungs.calls[1] == (1, (0, 2, 3))


def test_a_gain_below_its_price_is_no_reason_to_change():
    decision = run(Rungs({1: 0.1}), [200], 1, price=1e-3)
    assert decision.arm == 0
    assert "no candidate beat doing nothing" in decision.reason
    assert decision.verdicts[0].reason == "lost the last rung"


def test_a_verdict_holds_the_paired_gain_the_audit_and_the_first_forks_own_gain():
    rungs = Rungs({1: 0.1, 2: 0.3})
    decision = run(rungs, [10, 10], 2, placebo=True)
    control, winner, placebo = (rungs.measured[a, 1] for a in (0, 2, 3))
    verdict = decision.verdicts[1]
    gains = paired_gains(control.growth, [winner.growth, placebo.growth], 0.9)
    assert verdict.gain == gains[0]
    assert verdict.own == pytest.approx(float((control.growth[0] - winner.growth[0]).mean()))
    assert verdict.audit is not None
    assert verdict.audit.nats == pytest.approx(float((control.audit - winner.audit).mean()))
    assert verdict.audit.difference == pytest.approx(gains[0].nats - verdict.audit.nats)
    assert (verdict.arm, verdict.candidate, verdict.placebo, verdict.diverged) == (2, candidate(10), False, False)
    # The other was judged at its own last rung.
    first = rungs.measured
    pool = [first[a, 0].growth for a in (1, 2, 3)]
    assert decision.verdicts[0].gain == paired_gains(first[0, 0].growth, pool, 0.9)[0]


def test_enumerated_tasks_leave_no_uncertainty_of_samples():
    rungs = Rungs({1: 0.1})
    decision = hold([candidate(10)], rungs, 1, 1e-4, 0.9, enumerated=True)
    gain = decision.verdicts[0].gain
    assert gain is not None
    assert gain.se_samples == 0.0
    assert gain.se_seeds > 0.0


# --- arms that are lost


def test_a_diverged_candidate_loses_and_the_others_go_on():
    rungs = Rungs({1: 0.5, 2: 0.1, 3: 0.3}, diverges={(1, 0)})
    decision = run(rungs, [10] * 3, 2)
    assert rungs.calls == [(0, (0, 1, 2, 3)), (1, (0, 3))]
    assert decision.arm == 3
    lost = decision.verdicts[0]
    assert (lost.arm, lost.diverged, lost.gain, lost.audit, lost.rungs, lost.reason) == (
        1,
        True,
        None,
        None,
        0,
        "diverged",
    )
    assert math.isnan(lost.own)


def test_a_candidate_may_diverge_in_the_last_rung():
    rungs = Rungs({1: 0.5, 2: 0.1}, diverges={(1, 1)})
    decision = run(rungs, [10] * 2, 2)
    assert decision.arm == 0
    assert [(v.arm, v.diverged, v.rungs) for v in decision.verdicts] == [(1, True, 1), (2, False, 1)]
    assert decision.reason == "no candidate finished its trial"


def test_where_all_diverge_the_control_alone_is_trained_to_the_end():
    rungs = Rungs({}, diverges={(1, 0), (2, 0)})
    decision = run(rungs, [10] * 2, 3)
    assert rungs.calls == [(0, (0, 1, 2)), (1, (0,)), (2, (0,))]
    assert decision.arm == 0
    assert all(v.diverged for v in decision.verdicts)


def test_a_control_that_diverges_at_once_leaves_nothing_to_compare():
    rungs = Rungs({1: 0.5, 2: 0.1}, diverges={(0, 0), (2, 0)})
    decision = run(rungs, [10] * 2, 2, placebo=True)
    assert rungs.calls == [(0, (0, 1, 2, 3))]
    assert decision.arm == 0
    assert "control diverged" in decision.reason
    assert [(v.arm, v.placebo, v.diverged, v.gain, v.rungs) for v in decision.verdicts] == [
        (1, False, False, None, 0),
        (2, False, True, None, 0),
        (3, True, False, None, 0),
    ]
    assert [v.candidate for v in decision.verdicts] == [candidate(10), candidate(10), None]


def test_a_control_that_diverges_late_leaves_the_earlier_verdicts_under_their_own_numbers():
    # Arm 1 diverges, arms 2 and 4 are halved away, arms 3, 5 and the placebo meet a diverged control.
    gains = {2: 0.1, 3: 0.4, 4: 0.2, 5: 0.5}
    rungs = Rungs(gains, diverges={(1, 0), (0, 1)})
    decision = run(rungs, [11, 12, 13, 14, 15], 3, placebo=True)
    assert rungs.calls == [(0, (0, 1, 2, 3, 4, 5, 6)), (1, (0, 3, 5, 6))]
    assert decision.arm == 0
    assert [v.arm for v in decision.verdicts] == [1, 2, 3, 4, 5, 6]
    assert [v.candidate.cost if v.candidate else None for v in decision.verdicts] == [11, 12, 13, 14, 15, None]
    assert [v.diverged for v in decision.verdicts] == [True, False, False, False, False, False]
    assert [v.placebo for v in decision.verdicts] == [False] * 5 + [True]
    assert [v.rungs for v in decision.verdicts] == [0, 1, 1, 1, 1, 1]
    assert [v.reason.split(",")[0] for v in decision.verdicts] == [
        "diverged",
        "out after rung 1",
        "the control diverged",
        "out after rung 1",
        "the control diverged",
        "the control diverged",
    ]
    for verdict in (decision.verdicts[1], decision.verdicts[3]):
        assert verdict.gain is not None
        assert verdict.gain.nats == pytest.approx(gains[verdict.arm], abs=0.01)


# --- the placebo


def test_a_placebo_is_never_adopted_however_well_it_does():
    rungs = Rungs({1: 0.01, 2: 5.0})
    decision = run(rungs, [1000], 2, price=1e-3, placebo=True)
    assert decision.arm == 0
    last = decision.verdicts[-1]
    assert (last.arm, last.placebo, last.candidate, last.rungs, last.reason) == (2, True, None, 2, "placebo")
    assert last.gain is not None
    assert last.gain.bound > 4


def test_a_placebo_runs_every_rung_and_takes_no_candidates_place():
    with_it, without = Rungs({1: 0.3, 2: 0.2, 3: 0.1}), Rungs({1: 0.3, 2: 0.2, 3: 0.1})
    one, other = run(with_it, [10] * 3, 2, placebo=True), run(without, [10] * 3, 2)
    assert with_it.calls == [(0, (0, 1, 2, 3, 4)), (1, (0, 1, 2, 4))]
    assert without.calls == [(0, (0, 1, 2, 3)), (1, (0, 1, 2))]
    assert one.arm == other.arm == 1


def test_a_diverged_placebo_is_not_run_again():
    rungs = Rungs({1: 0.3}, diverges={(2, 0)})
    decision = run(rungs, [10], 3, placebo=True)
    assert rungs.calls == [(0, (0, 1, 2)), (1, (0, 1)), (2, (0, 1))]
    assert decision.arm == 1
    assert (decision.verdicts[1].placebo, decision.verdicts[1].diverged, decision.verdicts[1].rungs) == (True, True, 0)


def test_a_placebo_alone_can_be_held():
    rungs = Rungs({})
    decision = run(rungs, [], 2, placebo=True)
    assert rungs.calls == [(0, (0, 1)), (1, (0, 1))]
    assert (decision.arm, [v.placebo for v in decision.verdicts]) == (0, [True])


def test_noise_alone_wins_about_as_often_as_the_confidence_leaves():
    wins = 0
    for draw in range(300):

        def rung(arms: Sequence[int], r: int, draw: int = draw) -> Mapping[int, ArmLosses]:
            shared = keyed("noise", draw).gamma(1.0, 1.0, (2, 1, 50))
            return {a: ArmLosses(*(shared + 0.1 * keyed("noise", draw, a).standard_normal((2, 2, 1)))) for a in arms}

        wins += hold([candidate(1)], rung, 1, 0.0, 0.9).arm
    assert abs(wins / 300 - 0.1) < 0.06


def test_the_name_and_site_of_a_candidate_are_its_actions():
    both = Candidate((Widen("hidden1", ()), Connect("*", ()), Widen("hidden1", ())), "p", "r", 3, 0.0)
    assert (both.name, both.site) == ("Widen+Connect", "hidden1+*")
    assert Candidate((), "p", "r", 0, 0.0).name == "NoChange"
    assert np.isclose(both.raw, 0.0)
