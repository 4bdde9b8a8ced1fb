from __future__ import annotations

import math

import pandas as pd
import pytest
from fake_run import life

from evo import books, events


def frame(*lives: list[dict]) -> pd.DataFrame:
    return pd.DataFrame([row for rows in lives for row in rows], columns=list(events.COLUMNS))


def test_books_of_an_honest_life_balance_and_name_their_parts() -> None:
    table = books.books(frame(life("n000", seed=1)))
    [row] = table.to_dict("records")
    assert abs(row["residual"]) < 1e-12
    assert row["forks"] > 0
    assert row["end"] == pytest.approx(row["start"] + row["training"] + row["control"] + row["forks"])


def test_a_lost_row_unbalances_the_books() -> None:
    rows = [r for r in life("n000") if not (r["kind"] == "segment" and r["cycle"] == 3)]
    assert abs(books.books(frame(rows))["residual"].iloc[0]) > 1e-3


def test_books_without_a_recorded_start_say_so_rather_than_balance() -> None:
    rows = life("n000")
    rows[0]["information_nats"] = None
    assert math.isnan(books.books(frame(rows))["residual"].iloc[0])


def test_decisions_carry_the_winners_figures_and_the_number_of_rivals() -> None:
    told = frame(life("n000", cycles=6))
    table = books.decisions(told)
    assert list(table.columns) == list(books.DECISION_COLUMNS)
    assert list(table["cycle"]) == list(range(6))
    assert set(table["candidates"]) == {3}
    grown = table[table["action"] != "NoChange"]
    won = told[(told["kind"] == "candidate") & (told["selected"] == True) & (told["action"] != "NoChange")]  # noqa: E712
    assert list(grown["measured_nats"]) == list(won["measured_nats"])
    assert list(grown["audit_nats"]) == list(won["audit_nats"])


def test_a_decision_without_a_tournament_has_no_rivals() -> None:
    rows = [r for r in life("n000", cycles=2) if r["kind"] != "candidate"]
    assert list(books.decisions(frame(rows))["candidates"]) == [0, 0]


def test_coverage_counts_audits_inside_and_placebos_above_zero() -> None:
    def arm(audit: float | None, **values: object) -> dict:
        return events.row("candidate", network="n000", cycle=0, action="Widen", measured_nats=0.02, se_nats=0.01,
                          audit_nats=audit, audit_se_nats=0.01, **values)  # fmt: skip

    placebos = [
        events.row("candidate", network="n000", action="NoChange", placebo=True, bound_nats=bound)
        for bound in (0.001, -0.001, None)
    ]
    told = frame([arm(0.02), arm(0.0391), arm(0.0401), arm(None), *placebos])
    facts = books.calibration(told, 0.9)
    assert (facts.candidates.hits, facts.candidates.n) == (2, 3)
    assert (facts.winners.hits, facts.winners.n) == (0, 0)
    assert (facts.placebos.hits, facts.placebos.n) == (1, 2)
    assert facts.stated == pytest.approx(0.1)
    assert facts.predictions == 0
    assert math.isnan(facts.rank)


def test_predictions_that_rank_perfectly_at_half_the_scale() -> None:
    arms = [
        events.row("candidate", network="n000", action="Skip", predicted_nats=2 * m, measured_nats=m)
        for m in (0.01, 0.02, 0.03)
    ]
    facts = books.calibration(frame(arms), None)
    assert facts.rank == pytest.approx(1)
    assert facts.ratio == pytest.approx(0.5)
    assert facts.stated is None


def test_no_trials_leave_the_rate_open() -> None:
    none = books.Share(0, 0)
    assert math.isnan(none.rate)
    assert none.interval == (0.0, 1.0)
    low, high = books.Share(10, 100).interval
    assert low < 0.1 < high


def test_history_puts_ancestors_first_up_to_the_snapshot_that_was_passed_on() -> None:
    told = frame(life("n000", cycles=6), life("n001", parent="n000/000002", generation=1, cycles=3))
    past = books.history(told, "n001")
    assert list(dict.fromkeys(past["network"])) == ["n000", "n001"]
    assert past.loc[past["network"] == "n000", "cycle"].max() == 2
    assert past["life_step"].is_monotonic_increasing
    assert past["life_step"].max() == 3 * 160 + 3 * 160
    assert len(books.lived(books.decisions(told), past)) == 6


@pytest.mark.parametrize("parent", ["n000/000001", "n777/000001", "nonsense"])
def test_history_ends_where_parents_go_in_circles_or_nowhere(parent: str) -> None:
    past = books.history(frame(life("n000", parent=parent, cycles=2)), "n000")
    assert set(past["network"]) == {"n000"}


def test_effort_counts_steps_lived_and_thrown_away() -> None:
    assert books.effort(frame(life("n000", cycles=4), life("n001", cycles=2))) == (6 * 160, 6 * 240)
