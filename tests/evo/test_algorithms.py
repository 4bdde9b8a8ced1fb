"""The contract of every search algorithm, without Ray: births, resuming, failures, extensions, and bad settings."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from evo.algorithms import ALGORITHMS, objective, population
from evo.config import Config, ConfigError, SearchConfig
from evo.population import Birth, Ground, Point, name_of
from evo.settings import build
from evo.suggestions import growth_space
from search_spaces.randomness import keyed

EVERY = sorted(ALGORITHMS)
GENERATIONAL = [name for name in EVERY if ALGORITHMS[name].generational]
ORIGIN = "first.n003/000004"


def ground(algorithm: str, parent: str | None = None, **search: object) -> Ground:
    settings = {"networks": 14, "population": 4, **search, "algorithm": algorithm}
    config = build({"seed": 3, **{f"search.{key}": value for key, value in settings.items()}})
    return Ground(config, 64, 10, 1e-3, parent)


def life_of(birth: Birth) -> list[Point]:
    """Figures that follow from who it is and its settings, as a life's do."""
    draw = keyed("life", birth.network, str(sorted(birth.settings.items())), str(birth.parent))
    count = 1 + int(draw.integers(12))
    return [
        Point(f"{birth.network}/{i:06d}", float(draw.random()) + i / 10, int(draw.integers(50, 400)))
        for i in range(count)
    ]


def run(
    about: Ground, order: str = "one", failed: frozenset[str] = frozenset(), before: dict[str, Birth] | None = None
) -> list[Birth]:
    """All births, where of the networks that live at any time a random one ends next; those `before` have ended."""
    people, draw = population(about), keyed("order", order)
    births: list[Birth] = []
    living: list[Birth] = []
    while True:
        birth = people.birth()
        if birth is not None:
            births.append(birth)
            if before and birth.network in before:
                people.ended(birth.network, [] if birth.network in failed else life_of(before[birth.network]))
            else:
                living.append(birth)
        elif living:
            ended = living.pop(int(draw.integers(len(living))))
            people.ended(ended.network, [] if ended.network in failed else life_of(ended))
        else:
            assert people.exhausted
            return births


def test_every_algorithm_of_the_config_is_registered_and_no_other() -> None:
    assert sorted(get_args(SearchConfig.model_fields["algorithm"].annotation)) == EVERY
    assert all(a.about and a.objectives for a in ALGORITHMS.values())


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize(("networks", "size"), [(14, 4), (12, 4), (1, 2), (3, 8), (2, 2)])
def test_exactly_as_many_are_born_in_the_order_of_their_names(algorithm: str, networks: int, size: int) -> None:
    births = run(ground(algorithm, networks=networks, population=size))
    assert [b.network for b in births] == [name_of(i) for i in range(networks)]


@pytest.mark.parametrize("algorithm", EVERY)
def test_settings_are_valid_and_parents_have_ended_before(algorithm: str) -> None:
    about = ground(algorithm)
    births = run(about)
    generation = {b.network: b.generation for b in births}
    for birth in births:
        made = build(about.config.model_dump(), birth.settings)
        for name, space in growth_space(about.config).items():
            assert space.low <= birth.settings[name] <= space.high
        if birth.parent is None:
            assert made.network.hidden[0] <= 16
            assert birth.generation == 0
        else:
            parent, _, snapshot = birth.parent.partition("/")
            assert generation[parent] < birth.generation
            assert int(snapshot) < 12
            assert "network.hidden" not in birth.settings
    if ALGORITHMS[algorithm].generational:
        assert {b.parent is None for b in births if b.generation} == {False}


@pytest.mark.parametrize("algorithm", GENERATIONAL)
def test_the_order_of_ends_changes_nothing_and_the_seed_does(algorithm: str) -> None:
    about = ground(algorithm)
    births = run(about)
    assert births == run(about, "another")
    other = Ground(about.config.model_copy(update={"seed": 4}), 64, 10, 1e-3)
    assert [b.settings for b in run(other)] != [b.settings for b in births]


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("failed", [frozenset(), frozenset({"n001", "n006"})])
def test_resumed_after_any_number_of_ends_it_is_the_same_search(algorithm: str, failed: frozenset[str]) -> None:
    about = ground(algorithm)
    whole = run(about, failed=failed)
    for ended in range(len(whole) + 1):
        again = run(about, "another", failed, {b.network: b for b in whole[:ended]})
        assert [b.network for b in again] == [b.network for b in whole]
        if ALGORITHMS[algorithm].generational:
            assert again == whole, ended


@pytest.mark.parametrize("algorithm", EVERY)
def test_failed_networks_are_nobodys_parents_and_the_search_goes_on(algorithm: str) -> None:
    failed = frozenset({"n001", "n002", "n006"})
    births = run(ground(algorithm), failed=failed)
    assert len(births) == 14
    assert not {str(b.parent).partition("/")[0] for b in births} & failed


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("parent", [None, ORIGIN])
def test_where_all_fail_every_one_starts_anew(algorithm: str, parent: str | None) -> None:
    births = run(ground(algorithm, parent), failed=frozenset(name_of(i) for i in range(14)))
    assert [b.parent for b in births] == [parent] * 14
    assert all(("network.hidden" in b.settings) == (parent is None) for b in births)


@pytest.mark.parametrize("algorithm", EVERY)
def test_a_warm_start_is_the_first_ones_parent(algorithm: str) -> None:
    births = run(ground(algorithm, ORIGIN))
    first = [b for b in births if b.generation == 0]
    assert {b.parent for b in first} == {ORIGIN}
    assert len({str(b.settings) for b in first}) == len(first)
    assert not any({"network.hidden", "network.density"} & b.settings.keys() for b in births)


@pytest.mark.parametrize("algorithm", GENERATIONAL)
@pytest.mark.parametrize("networks", [1, 2, 6, 9, 12])
def test_asked_for_more_networks_the_first_births_are_unchanged(algorithm: str, networks: int) -> None:
    shorter = run(ground(algorithm, networks=networks))
    assert run(ground(algorithm, networks=14))[:networks] == shorter


@pytest.mark.parametrize("algorithm", ["tpe", "regularised"])
def test_by_score_other_parents_are_found(algorithm: str) -> None:
    by_rank, by_score = (run(ground(algorithm, networks=24, objective=o)) for o in (None, "score"))
    assert [b.parent for b in by_rank] != [b.parent for b in by_score]
    assert by_rank == run(ground(algorithm, networks=24, objective="pareto"))


@pytest.mark.parametrize(
    ("algorithm", "asked", "able"),
    [
        ("nsga2", "score", "pareto"),
        ("nsga3", "score", "pareto"),
        ("asha", "pareto", "score"),
        ("pbt", "pareto", "score"),
    ],
)
def test_an_objective_that_it_cannot_go_by_is_one_line(algorithm: str, asked: str, able: str) -> None:
    about = ground(algorithm, objective=asked)
    with pytest.raises(ConfigError) as caught:
        population(about)
    told = str(caught.value)
    assert told.startswith(f"search.objective: expected {able} with search.algorithm: {algorithm}, got {asked}; ")
    assert "\n" not in told
    assert objective(ground(algorithm).config) == able


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("algorithm", "nsga4", "search.algorithm: expected one of nsga2, nsga3, tpe, regularised, asha, pbt, got 'n"),
        ("objective", "best", "search.objective: expected one of pareto, score or null, got 'best'"),
        ("sample", 0, "search.sample: expected a whole number ≥ 1, got 0; write for example search.sample: 3"),
        ("batch", 0, "search.batch: expected a whole number ≥ 1 or null, got 0"),
        ("child_life", 0.0, "search.child_life: expected a number > 0 and ≤ 1, got 0.0"),
        ("networks", 0, "search.networks: expected a whole number ≥ 1, got 0"),
        ("population", 1, "search.population: expected a whole number ≥ 2 and ≤ 64, got 1"),
    ],
)  # fmt: skip
def test_bad_settings_are_one_line(setting: str, value: object, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build({f"search.{setting}": value})
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


# --- regularised evolution


def living_at_each_birth(about: Ground, failed: frozenset[str] = frozenset()) -> list[tuple[Birth, tuple[str, ...]]]:
    from evo.aging import Aging

    people, told = Aging(about, objective(about.config)), []
    batch: list[Birth] = []
    while True:
        birth = people.birth()
        if birth is not None:
            told.append((birth, people.living))
            batch.append(birth)
        elif batch:
            for ended in batch:
                people.ended(ended.network, [] if ended.network in failed else life_of(ended))
            batch = []
        else:
            return told


def test_the_oldest_are_aged_out_and_the_living_stay_as_many() -> None:
    told = living_at_each_birth(ground("regularised", networks=20, population=6, batch=3))
    for birth, living in told[6:]:
        born_before = 6 + 3 * (birth.generation - 1)
        assert living == tuple(name_of(i) for i in range(born_before - 6, born_before))
        assert str(birth.parent).partition("/")[0] in living
    assert [b.generation for b, _ in told] == [0] * 6 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5] * 2


def test_a_child_inherits_lives_shorter_and_begins_with_one_action() -> None:
    about = ground("regularised", child_life=0.25, child_tournaments=False)
    births = {b.network: b for b in run(about)}
    for birth in births.values():
        made = build(about.config.model_dump(), birth.settings)
        if birth.parent is None:
            assert (made.growth.mutate, made.growth.cycles, made.training.steps) == (False, 16, 18_000)
            continue
        parent = births[birth.parent.partition("/")[0]]
        assert all(birth.settings[key] == parent.settings[key] for key in growth_space(about.config))
        assert birth.parent == life_of(parent)[-1].snapshot
        assert (made.growth.mutate, made.growth.cycles, made.training.steps) == (True, 4, 4500)
        assert made.growth.settle == 1.0
    longer = ground("regularised", child_life=0.5)
    child = next(b for b in run(longer) if b.parent)
    made = build({"training.epochs": 40.0}, child.settings)
    assert made.growth.settle == Config().growth.settle


def test_epochs_are_shared_out_as_steps_are() -> None:
    about = ground("regularised", child_life=0.25)
    config = build(about.config.model_dump(), {"training.epochs": 40.0})
    child = next(b for b in run(Ground(config, 64, 10, 1e-3)) if b.parent)
    assert child.settings["training.epochs"] == 10.0


def test_the_best_of_the_sample_is_the_parent() -> None:
    """With a sample so large that all living are surely in it, the best of them has all the children."""
    told = living_at_each_birth(ground("regularised", networks=40, sample=200, objective="score"))
    births = {b.network: b for b, _ in told}
    for birth, living in told:
        if birth.parent:
            ends = {name: life_of(births[name])[-1] for name in living}
            best = max(ends.values(), key=lambda p: p.information - 1e-3 * p.parameters)
            assert birth.parent == best.snapshot
    told = living_at_each_birth(ground("regularised", networks=200, sample=1))[4:]
    one, alive = [b for b, _ in told], [living for _, living in told]
    taken = [living.index(str(b.parent)[:4]) for b, living in zip(one, alive, strict=True)]
    assert np.bincount(taken, minlength=4).min() > 25  # a sample of one is chance alone


def test_failures_leave_fewer_living_until_others_are_born() -> None:
    failed = frozenset({"n000", "n001", "n002"})
    told = living_at_each_birth(ground("regularised", networks=12, population=4, batch=2), failed)
    living = {birth.generation: alive for birth, alive in told}
    assert living[1] == ("n003",)
    assert living[2] == ("n003", "n004", "n005")
    assert living[3] == ("n004", "n005", "n006", "n007")
