"""The seed finder's answer: the smallest that passes in full lives, whatever short lives said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from small_jobs import config, outcome

from evo.config import ConfigError
from evo.instruments import seed as seeds
from evo.instruments.instrument import Request
from evo.instruments.jobs import Job, Outcome, check

STEPS = 1600


class Pretended:
    """A bench whose lives know what `knows(steps, sprout's name)` says."""

    def __init__(self, request: Request, knows: Callable[[int, str], float]) -> None:
        self.task, self.knows = check(request.config), knows
        self.lived: list[tuple[int, str]] = []

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        told = [(int(job.settings["training"]["steps"]), job.label) for job in jobs]
        self.lived += told
        return [outcome(validation_information=self.knows(*each), validation_se=0.0) for each in told]


def asked(knows: Callable[[int, str], float], **more: Any) -> tuple[Any, Pretended, list[str]]:
    """The result, the bench, and the names of all seeds, smallest first."""
    request = Request("seed", config(**{"training.steps": STEPS}), {"margin": 0.1, **more}, 2)
    bench: Any = Pretended(request, knows)
    names = [seeds._name(sprout) for sprout in seeds.grid(request, bench)]
    return seeds.seed(request, bench), bench, names


def sizes() -> list[str]:
    return asked(lambda steps, name: 0.0)[2]


def test_one_that_a_short_life_cut_is_found_if_it_passes_in_a_full_one() -> None:
    names = sizes()
    slow = set(names[20:24])  # know nothing until the end, and are smaller than all that learn at once

    def knows(steps: int, name: str) -> float:
        rank = names.index(name)
        if name in slow:
            return 1.0 if steps == STEPS else -1.0
        return 1.0 if rank >= 24 else 0.05 * rank / 24

    result, bench, _ = asked(knows)
    assert result.summary["found"]["layers"] == names[20]
    assert result.summary["checked"]["complete"]
    full = {name for steps, name in bench.lived if steps == STEPS}
    assert set(names[17:24]) <= full
    assert set(result.summary["checked"]["tried_again"]) >= slow
    assert bench.lived.count((STEPS, names[20])) == 2, "in each of the seeds"
    told = " ".join(result.notes)
    assert "had been cut by a short life" in told
    assert f"the next smaller failed in one: {', '.join(reversed(names[17:20]))}" in told
    assert len(result.table) == len(full)
    assert (result.table["verdict"] == "the smallest").sum() == 1


def test_the_check_ends_at_its_limit_and_says_so() -> None:
    names = sizes()

    def knows(steps: int, name: str) -> float:
        return 1.0 if steps == STEPS or names.index(name) >= 40 else -1.0 + names.index(name) / 100

    result, _, _ = asked(knows)
    # Of the 40 that short lives find wanting the better half goes on, twice; all of these pass in full ones.
    assert result.summary["found"]["layers"] == names[30 - seeds.MOST]
    assert result.summary["checked"]["tried_again"] == names[30 - seeds.MOST : 30][::-1]
    assert not result.summary["checked"]["complete"]
    assert f"{seeds.MOST} were tried again, the most that are" in " ".join(result.notes)


def test_where_nothing_passes_larger_ones_that_were_cut_are_tried() -> None:
    names = sizes()

    def knows(steps: int, name: str) -> float:
        rank = names.index(name)
        if steps == STEPS:
            return 1.0 if rank >= 12 else 0.0
        return 1.0 if rank >= 8 else -1.0  # at first it seems that less would do

    result, _, _ = asked(knows)
    assert result.summary["found"]["layers"] == names[12]
    assert result.summary["checked"]["complete"]


def test_none_is_found_only_where_none_passed() -> None:
    result, bench, names = asked(lambda steps, name: 0.0)
    assert result.summary["found"] is None
    full = {name for steps, name in bench.lived if steps == STEPS}
    assert len(full) < len(names)
    assert f"none of the {len(full)} seeds that lived a full life is 0.1 nats above chance" in result.notes[0]


@pytest.mark.parametrize("margin", [math.nan, math.inf, -0.1, 5.0])
def test_a_margin_that_cannot_be_is_one_line(margin: float) -> None:
    with pytest.raises(ConfigError, match=r"^--margin: expected .*, got (nan|inf|-0.1|5); write .*\.1$"):
        asked(lambda steps, name: 0.0, margin=margin)
