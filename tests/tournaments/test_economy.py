"""The ledger: credits balance, nothing is earned twice, nothing unaffordable is paid."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tournaments.economy import Ledger, afford, earn, from_json, limit, pay, phase, price, purse, tick, to_json

nats = st.floats(0, 10, allow_nan=False)
prices = st.floats(1e-6, 1.0)
events = st.lists(
    st.one_of(
        st.tuples(st.just("earn"), st.floats(-5, 5)),
        st.tuples(st.just("pay"), st.integers(-200, 200), prices, st.integers(0, 3)),
        st.tuples(st.just("tick")),
    ),
    max_size=40,
)


def play(ledger, event):
    if event[0] == "earn":
        return earn(ledger, event[1])
    if event[0] == "tick":
        return tick(ledger)
    _, delta, cost, cooldown = event
    return pay(ledger, delta, cost, cooldown) if afford(ledger, delta, cost) else ledger


@given(nats, st.floats(-3, 3), events)
def test_whatever_happens_the_books_hold(endowment, start, happened):
    ledger = Ledger(endowment, start)
    highest = start
    for event in happened:
        before, ledger = ledger, play(ledger, event)
        if event[0] == "earn":
            highest = max(highest, event[1])
        assert ledger.balance == ledger.endowment + ledger.earned + ledger.refunded - ledger.spent
        assert ledger.balance >= -1e-12
        assert ledger.balance <= ledger.endowment + ledger.earned + 1e-9  # pruning mints nothing
        assert ledger.earned == pytest.approx(highest - start)
        assert ledger.best == highest
        assert min(ledger.earned, ledger.spent, ledger.refunded, ledger.cooldown) >= 0
        assert ledger.spent >= before.spent
        assert from_json(to_json(ledger)) == ledger


@given(nats, prices, st.integers(1, 500))
def test_the_purse_is_the_most_that_can_be_afforded(endowment, cost, more):
    ledger = Ledger(endowment, 0.0)
    most = purse(ledger, cost)
    assert afford(ledger, most, cost)
    assert not afford(ledger, most + more, cost)


@given(nats, prices, st.integers(0, 500))
def test_growing_and_pruning_at_one_price_costs_nothing(endowment, cost, count):
    ledger = Ledger(endowment, 0.0)
    count = min(count, purse(ledger, cost))
    after = pay(pay(ledger, count, cost), -count, cost)
    assert after.balance == pytest.approx(ledger.balance)


def test_only_new_highs_are_credited():
    ledger = Ledger(0.0, 1.0)
    for information in (1.5, 1.2, 1.5, 0.0, 1.7, math.nan, math.inf, -math.inf):
        ledger = earn(ledger, information)
    assert ledger.earned == pytest.approx(0.7)
    assert ledger.best == 1.7


def test_cheap_parameters_are_not_sold_dear():
    ledger = pay(Ledger(1.0, 0.0), 100, 0.001)
    assert pay(ledger, -100, 0.5).balance == pytest.approx(1.0)
    seeded = Ledger(1.0, 0.0)
    assert pay(seeded, -50, 0.5).balance == 1.0  # the seed's own parameters were a gift


def test_what_cannot_be_afforded_cannot_be_paid():
    ledger = Ledger(0.1, 0.0)
    assert not afford(ledger, 11, 0.01)
    with pytest.raises(ValueError, match="balance"):
        pay(ledger, 11, 0.01)


@pytest.mark.parametrize("cooldown", [0, 1, 3])
def test_so_many_cycles_of_training_alone_follow_growth(cooldown):
    ledger, grew = Ledger(1.0, 0.0), []
    for cycle in range(9):
        ledger = tick(ledger)
        if afford(ledger, 1, 0.01):
            ledger = pay(ledger, 1, 0.01, cooldown)
            grew.append(cycle)
    assert grew == list(range(0, 9, cooldown + 1))


def test_growth_rests_and_pruning_does_not():
    ledger = pay(Ledger(1.0, 0.0), 1, 0.01, cooldown=2)
    assert ledger.resting
    assert purse(ledger, 0.01) == 0
    assert not afford(ledger, 1, 0.01)
    assert afford(ledger, -3, 0.01)
    assert afford(ledger, 0, 0.01)
    assert pay(ledger, -1, 0.01, cooldown=2).cooldown == ledger.cooldown
    with pytest.raises(ValueError, match="cool-down"):
        pay(ledger, 1, 0.01)
    assert tick(Ledger(1.0, 0.0)).cooldown == 0


def test_the_price_rises_geometrically_in_units_of_description_length():
    unit = 0.5 * math.log(1000) / 1000
    assert price(0.0, 1000, 0.02, 0.5) == pytest.approx(0.02 * unit)
    assert price(1.0, 1000, 0.02, 0.5) == pytest.approx(0.5 * unit)
    assert price(0.5, 1000, 0.02, 0.5) == pytest.approx(0.1 * unit)
    assert price(2.0, 1000, 0.02, 0.5) == price(1.0, 1000, 0.02, 0.5)
    assert price(0.3, 1000, 0.1, 0.1) == pytest.approx(0.1 * unit)


@pytest.mark.parametrize(
    ("progress", "name", "allowed"),
    [(0.0, "coarse", 100), (0.33, "coarse", 100), (0.34, "medium", 50), (0.67, "fine", 25), (1.0, "fine", 25)],
)
def test_phases_are_thirds_and_cap_growth(progress, name, allowed):
    assert phase(progress) == name
    assert limit(phase(progress), 100, (1.0, 0.5, 0.25)) == allowed


def test_a_small_network_may_always_grow_by_one_unless_growth_is_off():
    assert limit("fine", 2, (1.0, 0.5, 0.25)) == 1
    assert limit("fine", 1000, (1.0, 0.5, 0.0)) == 0


@pytest.mark.parametrize(
    ("epoch", "name", "allowed"), [(0.0, "coarse", 10), (49.9, "coarse", 10), (50, "medium", 50), (100, "fine", 200)]
)
def test_phases_may_begin_at_epochs_and_have_caps_of_their_own(epoch, name, allowed):
    assert phase(0.9, epoch, (50.0, 100.0)) == name
    assert limit(phase(0.9, epoch, (50.0, 100.0)), 7, (1.0, 0.5, 0.25), (10, 50, 200)) == allowed


@pytest.mark.parametrize("text", ["{}", "[]", "3", "not json", '{"endowment":1,"best":0,"owed":3}',
                                  '{"endowment":-1,"best":0}', '{"endowment":1,"best":NaN}'])  # fmt: skip
def test_a_broken_ledger_is_refused(text):
    with pytest.raises(ValueError, match="ledger"):
        from_json(text)


def test_json_is_plain():
    assert json.loads(to_json(Ledger(0.5, -0.1))) == {
        "endowment": 0.5, "best": -0.1, "earned": 0.0, "spent": 0.0, "refunded": 0.0, "cooldown": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: price(0.5, 1, 0.1, 0.1), "n_samples"),
        (lambda: price(0.5, 10, 0.0, 0.1), "economy.price"),
        (lambda: afford(Ledger(1.0, 0.0), 1, math.nan), "price"),
        (lambda: Ledger(1.0, -math.inf), "best"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
