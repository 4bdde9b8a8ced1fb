"""Triggers: a contract for all, and expressions of them. Their rates on noise are tested with their modules."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from search_spaces.randomness import keyed
from tournaments.history import BLOCKS, SHORTEST, Credit, Evaluation, Firing, History, Settings, Spread
from tournaments.trajectory import Shape
from tournaments.triggers import EVERYTHING, NEEDS, TRIGGERS, judge, needed, parse

SETTINGS = Settings(every=3)
FLAT = 1 + 0.05 * keyed("flat").standard_normal(480)
NOISE = keyed("noise").random(480)
BURST = np.r_[NOISE[:360], 3 * NOISE[360:]]


def looked(chance):
    return tuple(Evaluation(0.01, Shape(5.0, 4.9, 60.0, 14, chance)) for _ in range(3))


FIRES = {
    "plateau": History(FLAT, NOISE),
    "spike": History(FLAT, BURST),
    "extrema": History(FLAT, NOISE, 9, 12),
    "active": History(FLAT, NOISE, activity={"hidden1": ((5, 12),) * 3, "hidden2": ((12, 12),) * 3}),
    "variance": History(FLAT, NOISE, spreads={"hidden1": Spread((3.0, 0.5), (0.1, 0.1), 1000)}),
    "stagnation": History(FLAT, NOISE, evaluations=looked(0.1)),
    "schedule": History(FLAT, NOISE, cycles=3),
    "credits": History(FLAT, NOISE, credit=Credit(40, 40, 30)),
}
QUIET = {
    "plateau": History(FLAT * np.linspace(2, 1, 480), NOISE),
    "spike": History(FLAT, NOISE),
    "extrema": History(FLAT, NOISE, 1, 12),
    "active": History(FLAT, NOISE, activity={"hidden1": ((5, 12),) * 3}),
    "variance": History(FLAT, NOISE, spreads={"hidden1": Spread((2.1, 0.5), (0.1, 0.1), 1000)}),
    "stagnation": History(FLAT, NOISE, evaluations=looked(0.4)),
    "schedule": History(FLAT, NOISE, cycles=2),
    "credits": History(FLAT, NOISE, credit=Credit(29, 29, 30)),
}


def test_every_trigger_says_what_it_reads():
    assert NEEDS.keys() == TRIGGERS.keys()
    assert frozenset().union(*NEEDS.values()) == EVERYTHING
    names = {field.name for field in dataclasses.fields(History)}
    assert names >= EVERYTHING


# the contract


@pytest.mark.parametrize("name", TRIGGERS)
class TestContract:
    def test_it_fires_when_it_should_and_says_why(self, name):
        firing = TRIGGERS[name](FIRES[name], SETTINGS)
        assert firing.fired is True
        assert firing.name == name
        assert "; beyond" in firing.reason

    def test_it_is_quiet_when_it_should_be_and_says_why(self, name):
        firing = TRIGGERS[name](QUIET[name], SETTINGS)
        assert firing.fired is False
        assert "; not beyond" in firing.reason

    def test_it_is_deterministic_and_leaves_the_history_alone(self, name):
        history = FIRES[name]
        before = json.dumps(dataclasses.asdict(history), default=np.ndarray.tolist)
        assert TRIGGERS[name](history, SETTINGS) == TRIGGERS[name](history, SETTINGS)
        assert json.dumps(dataclasses.asdict(history), default=np.ndarray.tolist) == before

    def test_it_reads_only_what_it_says(self, name):
        for history in (FIRES[name], QUIET[name]):
            kept = {field: getattr(history, field) for field in NEEDS[name]}
            kept |= {"units": history.units} if "extreme_units" in kept else {}
            bare = History(history.losses, history.gradient_norms, **kept)
            assert TRIGGERS[name](bare, SETTINGS) == TRIGGERS[name](history, SETTINGS)

    def test_it_is_json(self, name):
        for history in (FIRES[name], QUIET[name], History(np.empty(0), np.empty(0))):
            firing = TRIGGERS[name](history, SETTINGS)
            assert json.loads(json.dumps(dataclasses.asdict(firing), allow_nan=False))["name"] == name

    @pytest.mark.parametrize("steps", [0, 1, BLOCKS * SHORTEST - 1])
    def test_a_short_history_never_fires(self, name, steps):
        firing = TRIGGERS[name](History(np.zeros(steps), np.arange(steps, dtype=float)), SETTINGS)
        assert firing.fired is False
        assert firing.reason.startswith("not known")

    def test_a_diverged_history_never_fires(self, name):
        broken = np.full(480, math.nan)
        assert TRIGGERS[name](History(broken, broken), SETTINGS).fired is False

    def test_a_constant_history_does_not_break_it(self, name):
        firing = TRIGGERS[name](History(np.zeros(480), np.zeros(480)), SETTINGS)
        assert firing.fired is (name == "plateau")

    def test_only_the_window_counts(self, name):
        history = FIRES[name]
        older = {
            "losses": np.r_[1e3 * np.arange(700)[::-1], history.losses],
            "gradient_norms": np.r_[1e3 * NOISE[:300], history.gradient_norms],
            "activity": {layer: ((0, looks[0][1]), *looks) for layer, looks in history.activity.items()},
            "evaluations": (Evaluation(9.0, Shape(1.0, 0.0, 1.0, 14, 1.0)), *history.evaluations),
        }
        narrow = dataclasses.replace(SETTINGS, window=480)
        longer = dataclasses.replace(history, **{k: older[k] for k in older if getattr(history, k) is not None})
        if not history.evaluations:
            longer = dataclasses.replace(longer, evaluations=())
        assert TRIGGERS[name](longer, narrow) == TRIGGERS[name](history, narrow)

    def test_it_can_be_combined(self, name):
        both = judge(f"{name} and {name}", FIRES[name], SETTINGS)
        assert both == TRIGGERS[name](FIRES[name], SETTINGS)
        assert not judge(f"spike and {name} or {name}", QUIET[name], SETTINGS).fired


# expressions


@pytest.mark.parametrize(
    ("expression", "groups"),
    [
        ("always", (("always",),)),
        ("plateau", (("plateau",),)),
        ("plateau or spike", (("plateau",), ("spike",))),
        ("plateau and spike", (("plateau", "spike"),)),
        ("extrema or plateau and spike", (("extrema",), ("plateau", "spike"))),
        ("plateau and spike or extrema", (("plateau", "spike"), ("extrema",))),
    ],
)
def test_expressions(expression, groups):
    assert parse(expression) == groups


@pytest.mark.parametrize(
    "expression",
    ["", "never", "plateau spike", "or spike", "spike or", "plateau or or spike", "spike xor plateau",
     "always or spike", "plateau (spike)", "Plateau"],
)  # fmt: skip
def test_what_cannot_be_read_is_named(expression):
    with pytest.raises(ValueError, match=r"growth\.triggers: .*write 'always'.*plateau, spike, extrema, active"):
        parse(expression)


def test_and_binds_before_or():
    history = History(FLAT, NOISE, 9, 12)  # plateau and extrema fire, spike does not
    verdicts = {
        "plateau": True, "spike": False, "plateau and spike": False, "spike or plateau": True,
        "spike and plateau or extrema": True, "extrema and spike or spike": False, "always": True,
    }  # fmt: skip
    for expression, fired in verdicts.items():
        firing = judge(expression, history, SETTINGS)
        assert firing.fired is fired, expression
        assert firing.name == expression
        assert firing.reason


def test_a_combined_reason_tells_of_every_trigger_named():
    reason = judge("spike or plateau", History(FLAT, NOISE), SETTINGS).reason
    assert "spike did not fire: " in reason
    assert "plateau fired: " in reason


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"false_alarm": 0.0}, "false_alarm"), ({"window": 50}, "window"), ({"patience": 0}, "patience")],
)
def test_bad_settings_are_named(settings, word):
    with pytest.raises(ValueError, match=word):
        Settings(**settings)


def test_what_is_collected_is_what_the_expression_reads():
    assert needed("always") == needed("plateau and spike") == frozenset()
    assert needed("schedule or variance and plateau") == {"cycles", "spreads"}


def test_a_trigger_from_elsewhere_gets_everything(monkeypatch):
    def odd(history, settings):
        return Firing("odd", history.cycles == 7, None, None, "the cycles say so")

    monkeypatch.setitem(TRIGGERS, "odd", odd)
    assert needed("odd") == EVERYTHING
    assert judge("plateau and odd", dataclasses.replace(FIRES["plateau"], cycles=7), SETTINGS).fired


# a user's own


def answer(fired=True, statistic=1.0, threshold=0.5, reason="a whim"):
    return lambda history, settings: Firing("whim", fired, statistic, threshold, reason)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda history, settings: 1 / 0, r"failed with ZeroDivisionError\('division by zero'\); mend it, or leave it"),
        (lambda history: None, "failed with TypeError"),
        (lambda history, settings: None, "expected a tournaments.history.Firing, got None; return Firing"),
        (lambda history, settings: True, "expected a tournaments.history.Firing, got True; return Firing"),
        (answer(fired=0.7), "expected fired to be True or False .* got 0.7 and 'a whim'; return Firing"),
        (answer(fired=np.ones(3, bool)), "expected fired to be True or False"),
        (answer(reason=None), "expected fired .* and a reason in words, got True and None"),
        (
            answer(statistic=math.nan),
            r"expected statistic .* to be numbers or None, got \(nan, 0.5\); where it cannot tell, return .*unknown",
        ),
        (answer(threshold="high"), r"expected statistic and threshold to be numbers or None, got \(1.0, 'high'\)"),
    ],
)
def test_one_from_outside_that_is_wrong_is_told_so_by_name(monkeypatch, wrong, said):
    monkeypatch.setitem(TRIGGERS, "whim", wrong)
    with pytest.raises(ValueError, match=f"^growth.triggers: whim:? {said}") as caught:
        judge("plateau or whim", FIRES["plateau"], SETTINGS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("statistic", [None, np.float32(2), math.inf])
def test_one_from_outside_that_is_right_is_heard(monkeypatch, statistic):
    monkeypatch.setitem(TRIGGERS, "whim", answer(np.bool_(True), statistic, None))
    look = judge("whim", QUIET["plateau"], SETTINGS)
    assert (look.fired, look.reason) == (True, "a whim")
    assert type(look.fired) is bool
