"""Policies: what earns credits and what they buy, and that the ledger stays in order whichever it is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.randomness import keyed
from tournaments.economy import Ledger, from_json, tick, to_json
from tournaments.policies import GROWTH, POLICIES, SPIKE, Seen, Terms

TERMS = Terms(price=0.001, held=200, entropy=math.log(10))
seen = st.builds(Seen, st.floats(-3, 3), st.integers(0, 200), st.integers(0, 5), st.integers(0, 1000))
happened = st.lists(st.one_of(seen, st.integers(-300, 300)), max_size=30)


@pytest.mark.parametrize("name", POLICIES)
class TestContract:
    @given(endowment=st.floats(0, 2), start=seen, events=happened)
    def test_whatever_happens_the_books_hold(self, name, endowment, start, events):
        policy = POLICIES[name]
        ledger = policy.open(endowment, start, TERMS)
        for event in events:
            before = ledger
            if isinstance(event, Seen):
                ledger = policy.earn(ledger, event)
                assert ledger.earned >= before.earned
            elif event <= policy.purse(ledger, TERMS):
                ledger = policy.pay(ledger, event, TERMS)
                assert ledger.spent >= before.spent
            ledger = tick(ledger)
            assert ledger.balance >= -1e-9
            assert ledger.balance <= ledger.endowment + ledger.earned + 1e-9, "pruning mints nothing"
            assert from_json(to_json(ledger)) == ledger

    def test_what_is_too_dear_cannot_be_paid(self, name):
        policy, poor = POLICIES[name], Ledger(0.0, 0.0)
        assert policy.purse(poor, TERMS) == 0
        with pytest.raises(ValueError, match="balance"):
            policy.pay(poor, 5, TERMS)

    def test_growth_rests_after_growth(self, name):
        policy = POLICIES[name]
        rich = policy.pay(Ledger(1e6, 0.0), 3, TERMS, cooldown=2)
        assert policy.purse(rich, TERMS) == 0
        assert policy.purse(tick(tick(tick(rich))), TERMS) > 0

    def test_the_same_seen_twice_earns_once_where_highs_earn(self, name):
        policy = POLICIES[name]
        ledger = policy.open(0.0, Seen(0.1, 20), TERMS)
        once = policy.earn(ledger, Seen(0.5, 30))
        if policy.figure is not None:
            assert once.earned == pytest.approx(policy.figure(Seen(0.5, 30)) - policy.figure(Seen(0.1, 20)))
        assert policy.earn(once, Seen(0.5, 30)) == policy.earn(once, Seen(0.4, 25)) == once


def test_ten_spikes_buy_one_growth_of_any_size():
    policy, ledger = POLICIES["spike"], Ledger(0.0, 0.0)
    for _ in range(9):
        ledger = policy.earn(ledger, Seen(0.0, spikes=1))
    assert policy.purse(ledger, TERMS) == 0
    ledger = policy.earn(ledger, Seen(0.0, spikes=1))
    assert ledger.balance == 10 * SPIKE == GROWTH
    assert policy.purse(ledger, TERMS) > 10**9
    assert policy.pay(ledger, 5000, TERMS).balance == 0
    assert policy.pay(ledger, -50, TERMS) == ledger
    assert policy.open(0.5, Seen(0.0), TERMS).balance == 0, "nats are no spikes"


def test_a_correct_prediction_more_is_a_credit_and_all_are_worth_the_entropy():
    policy = POLICIES["correct"]
    ledger = policy.earn(policy.open(0.0, Seen(0.0, 20), TERMS), Seen(0.0, 27))
    assert ledger.balance == 7
    everything = policy.earn(policy.open(0.0, Seen(0.0, 0), TERMS), Seen(0.0, TERMS.held))
    nats = POLICIES["nats"].earn(POLICIES["nats"].open(0.0, Seen(0.0), TERMS), Seen(TERMS.entropy))
    assert policy.purse(everything, TERMS) == pytest.approx(POLICIES["nats"].purse(nats, TERMS), abs=1)
    endowed = policy.open(0.5, Seen(0.0, 20), TERMS), POLICIES["nats"].open(0.5, Seen(0.0), TERMS)
    assert policy.purse(endowed[0], TERMS) == pytest.approx(POLICIES["nats"].purse(endowed[1], TERMS), abs=1)


def test_a_tenth_of_the_parameters_may_be_added_each_cycle():
    policy = POLICIES["proportional"]
    ledger = policy.earn(Ledger(0.0, 0.0), Seen(0.0, parameters=250))
    assert policy.purse(ledger, TERMS) == 25
    ledger = policy.earn(policy.pay(ledger, 25, TERMS), Seen(9.0, 9, 9))
    assert policy.purse(ledger, TERMS) == 0, "only a cycle earns"


@pytest.mark.parametrize("name", POLICIES)
def test_what_noise_earns_in_a_life(name):
    """Figures that only scatter earn no more than their highest of 16 lies above their first."""
    rng, policy, lives = keyed("noise", name), POLICIES[name], 200
    earned = []
    for _ in range(lives):
        ledger = policy.open(0.0, Seen(0.5, 100), TERMS)
        for _ in range(16):
            ledger = policy.earn(ledger, Seen(0.5 + 0.02 * rng.standard_normal(), int(100 + 2 * rng.standard_normal())))
        earned.append(ledger.earned)
    expected = {"nats": 0.02 * 1.77, "correct": 2 * 1.77, "spike": 0.0, "proportional": 0.0}[name]
    assert sum(earned) / lives == pytest.approx(expected, rel=0.3)
