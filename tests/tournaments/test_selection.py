"""Selection by hand-computed cases."""

from __future__ import annotations

import pytest

from tournaments.selection import Contender, net, select


def arm(number: int, cost: int, bound: float) -> Contender:
    return Contender(number, cost, bound)


def test_the_largest_bound_per_parameter_wins_among_growers():
    # .03 for 10 is .003 a parameter, .05 for 40 only .00125.
    assert select([arm(1, 40, 0.05), arm(2, 10, 0.03)], price=1e-4).arm == 2
    assert select([arm(1, 40, 0.05), arm(2, 60, 0.09)], price=1e-4).arm == 2


def test_a_grower_must_be_worth_its_price():
    # 20 parameters at .002 cost .04 nats.
    assert select([arm(1, 20, 0.039)], price=0.002).arm == 0
    assert select([arm(1, 20, 0.04)], price=0.002).arm == 0
    assert select([arm(1, 20, 0.041)], price=0.002).arm == 1


def test_a_grower_must_exceed_the_floor():
    assert select([arm(1, 1, 0.01)], price=0.0, floor=0.01).arm == 0
    assert select([arm(1, 1, 0.011)], price=0.0, floor=0.01).arm == 1
    assert select([arm(1, 1, 0.0)], price=0.0).arm == 0


def test_negative_gains_are_never_ranked_by_ratio():
    # By ratio the larger one would look better: −.01 over 1000 is closer to zero than −.001 over 10.
    choice = select([arm(1, 10, -0.001), arm(2, 1000, -0.01)], price=0.0)
    assert choice.arm == 0
    assert "-0.0010" in choice.reason
    # Of two shrinkers the larger sum wins: .01·10 − .02 = .08 against .01·40 − .35 = .05.
    assert select([arm(1, -10, -0.02), arm(2, -40, -0.35)], price=0.01).arm == 1


def test_a_shrinker_may_lose_what_it_saves():
    # 12 parameters at .001 save .012 nats.
    assert select([arm(1, -12, -0.013)], price=0.001).arm == 0
    assert select([arm(1, -12, -0.012)], price=0.001).arm == 0
    choice = select([arm(1, -12, -0.011)], price=0.001)
    assert choice.arm == 1
    assert "saves 12 parameters at a loss below 0.0110 nats" in choice.reason
    assert "gains 0.0200 nats" in select([arm(1, -12, 0.02)], price=0.001).reason


def test_the_floor_is_no_hurdle_for_what_gives_parameters_back():
    assert select([arm(1, -10, -0.001)], price=0.001, floor=0.5).arm == 1


def test_a_rewiring_of_zero_cost_must_exceed_the_floor_alone():
    assert select([arm(1, 0, 0.0)], price=1.0).arm == 0
    assert select([arm(1, 0, 0.002)], price=1.0, floor=0.002).arm == 0
    choice = select([arm(1, 0, 0.003)], price=1.0, floor=0.002)
    assert choice.arm == 1
    assert "same count" in choice.reason


def test_of_the_best_grower_and_the_best_shrinker_the_larger_net_wins():
    grower, shrinker = arm(1, 10, 0.05), arm(2, -10, 0.0)
    # Net at .001: .05 − .01 = .04 against .01; at .004: .01 against .04.
    assert select([grower, shrinker], price=0.001).arm == 1
    assert select([grower, shrinker], price=0.004).arm == 2
    assert (net(grower, 0.004), net(shrinker, 0.004)) == (pytest.approx(0.01), pytest.approx(0.04))


def test_the_best_grower_by_ratio_is_the_one_that_meets_the_shrinker():
    # Arm 2 has the larger net, .08, but arm 1 the better ratio; arm 1's net, .009, then loses to the shrinker's .02.
    field = [arm(1, 1, 0.01), arm(2, 20, 0.1), arm(3, -20, 0.0)]
    assert select(field, price=0.001).arm == 3


def test_ties_go_to_the_lower_arm():
    assert select([arm(2, 10, 0.05), arm(1, 10, 0.05)], price=0.0).arm == 1
    assert select([arm(3, -5, 0.0), arm(2, -5, 0.0)], price=0.1).arm == 2
    # A grower and a swap of the same net.
    assert select([arm(2, 0, 0.04), arm(1, 10, 0.05)], price=0.001).arm == 1


def test_nobody_left_means_no_change():
    assert select([], price=0.1).arm == 0
    assert select([], price=0.1).reason == "no candidate finished its trial"
