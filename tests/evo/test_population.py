"""Who is born of whom: the same whatever the order in which networks end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evo.config import Config
from evo.generations import Generations
from evo.independents import Draws, Independents
from evo.population import Birth, Ground, Point, Population, choose_parent, places, ranks, score
from evo.settings import build
from evo.suggestions import growth_space
from search_spaces.randomness import keyed
from search_spaces.spaces import seed


def config_of(**search: object) -> Config:
    return build({"seed": 3, **{f"search.{key}": value for key, value in search.items()}})


def life_of(network: str) -> list[Point]:
    draw = keyed("life", network)
    return [Point(f"{network}/{i:06d}", float(draw.random()) + i / 10, int(draw.integers(50, 400))) for i in range(12)]


def run(population: Population, order: np.random.Generator, failed: frozenset[str] = frozenset()) -> list[Birth]:
    """All births, where of the networks that live at any time a random one ends next."""
    births: list[Birth] = []
    living: list[str] = []
    while True:
        birth = population.birth()
        if birth is not None:
            births.append(birth)
            living.append(birth.network)
        elif living:
            network = living.pop(int(order.integers(len(living))))
            population.ended(network, [] if network in failed else life_of(network))
        else:
            return births


def test_generations_do_not_depend_on_the_order_of_ends() -> None:
    config = config_of(networks=14, population=4)
    births = run(Generations(Ground(config, 64, 10)), keyed("one"))
    assert births == run(Generations(Ground(config, 64, 10)), keyed("another"))
    assert [b.network for b in births] == [f"n{i:03d}" for i in range(14)]
    assert [b.generation for b in births] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2
    other = run(Generations(Ground(config.model_copy(update={"seed": 4}), 64, 10)), keyed("one"))
    assert [b.settings for b in other] != [b.settings for b in births]


def test_a_generation_waits_for_the_whole_one_before_it() -> None:
    population = Generations(Ground(config_of(networks=6, population=3), 64, 10))
    born = [population.birth() for _ in range(3)]
    assert all(born)
    for birth in born[:2]:
        assert birth is not None
        assert population.birth() is None
        assert not population.exhausted
        population.ended(birth.network, life_of(birth.network))
    assert population.birth() is None
    population.ended("n002", life_of("n002"))
    later = [population.birth() for _ in range(3)]
    assert [b.network for b in later if b] == ["n003", "n004", "n005"]
    assert population.exhausted
    assert population.birth() is None


def test_children_have_a_parent_of_an_earlier_generation_and_other_growth_settings() -> None:
    births = run(Generations(Ground(config_of(networks=24, population=6), 64, 10)), keyed("one"))
    generation = {b.network: b.generation for b in births}
    for birth in births:
        if birth.generation == 0:
            assert birth.parent is None
            assert {"network.hidden", "network.density"} < birth.settings.keys()
        else:
            assert birth.parent is not None
            assert generation[birth.parent.split("/")[0]] < birth.generation
            assert set(birth.settings) == {"training.learning_rate", "economy.final_price", "growth.stake"}
    assert len({b.parent for b in births}) > 6
    assert len({tuple(b.settings.values())[:3] for b in births}) > 12


def test_settings_stay_within_the_ranges_and_make_a_valid_config() -> None:
    config = config_of(networks=12, population=6, hidden=[4, 9], seed_parameters=[70, 90])
    for birth in run(Generations(Ground(config, 64, 10)), keyed("one")):
        made = build(config.model_dump(), birth.settings)
        for name, space in growth_space(config).items():
            assert space.low <= birth.settings[name] <= space.high
        if birth.parent is None:
            assert 4 <= made.network.hidden[0] <= 9
            body = seed(made.network.model_dump(), (64,), None, 10, keyed("seed"))
            assert 69 <= body.count() <= 91


def test_a_failed_network_is_nobodys_parent_and_the_search_goes_on() -> None:
    config = config_of(networks=12, population=4)
    failed = frozenset({"n001", "n006"})
    births = run(Generations(Ground(config, 64, 10)), keyed("one"), failed)
    assert len(births) == 12
    assert not {str(b.parent).split("/")[0] for b in births} & failed
    all_failed = run(Generations(Ground(config, 64, 10)), keyed("one"), frozenset(f"n{i:03d}" for i in range(12)))
    assert [b.parent for b in all_failed] == [None] * 12


def test_ranks_are_those_of_the_definition() -> None:
    draw = keyed("ranks")
    points = [Point("", float(draw.integers(6)), int(draw.integers(6))) for _ in range(40)]

    def beats(a: Point, b: Point) -> bool:
        return a.information >= b.information and a.parameters <= b.parameters and (
            a.information > b.information or a.parameters < b.parameters
        )  # fmt: skip

    expected, rank = np.full(len(points), -1), 0
    while (expected < 0).any():
        left = [i for i in range(len(points)) if expected[i] < 0]
        expected[[i for i in left if not any(beats(points[j], points[i]) for j in left)]] = rank
        rank += 1
    assert np.array_equal(ranks(points), expected)
    assert ranks([]).size == 0


def test_parents_know_at_least_half_of_what_is_known_and_are_undominated_in_their_own_life() -> None:
    lives = {
        "n000": [Point("n000/0", 0.2, 60), Point("n000/1", 1.0, 90), Point("n000/2", 0.9, 95)],
        "n001": [Point("n001/0", 0.1, 50), Point("n001/1", 1.2, 200)],
        "n002": [],
    }
    chosen = {choose_parent(7, f"n{i:03d}", lives) for i in range(3, 60)}
    assert chosen == {"n000/1", "n001/1"}
    assert choose_parent(7, "n003", lives) == choose_parent(7, "n003", dict(reversed(lives.items())))
    assert choose_parent(7, "n003", {}) is None


def test_independents_and_draws_have_no_parents() -> None:
    config = config_of(networks=7, population=3)
    for population in (Independents(Ground(config, 64, 10, 1e-3)), Draws(Ground(config, 64, 10))):
        births = run(population, keyed("one"), frozenset({"n002"}))
        assert [b.network for b in births] == [f"n{i:03d}" for i in range(7)]
        assert {(b.parent, b.generation) for b in births} == {(None, 0)}


def test_independents_keep_the_settings_of_networks_that_have_begun() -> None:
    config = config_of(networks=4, population=2)
    begun = build(config.model_dump(), {"training.learning_rate": 0.0077, "network.hidden": [9]})
    first = Independents(Ground(config, 64, 10, 1e-3, None, [begun])).birth()
    assert first is not None
    assert first.settings["training.learning_rate"] == 0.0077
    assert first.settings["network.hidden"] == [9]


@pytest.mark.parametrize("algorithm", [Generations, Draws, Independents])
def test_a_search_keeps_a_shape_that_was_given_unless_it_is_asked_to_vary_it(algorithm: Any) -> None:
    def first(**given: Any) -> Birth:
        birth = algorithm(Ground(build({"seed": 3, **given}), 64, 10, 1e-3)).birth()
        assert isinstance(birth, Birth)
        return birth

    growth = set(growth_space(config_of()))
    assert set(first().settings) == growth | {"network.hidden", "network.density"}
    kept = {"network": {"hidden": [16, 9], "density": 0.3}}
    assert set(first(**kept).settings) == growth
    assert set(first(**{"network.hidden": [16, 9]}).settings) == growth
    assert set(first(**{"network.density": 0.3}).settings) == growth | {"network.hidden"}
    varied = first(**kept, **{"search.hidden": [4, 6]}).settings
    assert set(varied) == growth | {"network.hidden"}
    assert len(varied["network.hidden"]) == 2
    assert all(4 <= units <= 6 for units in varied["network.hidden"])
    sparse = first(**kept, **{"search.seed_parameters": [90, 90]}).settings
    assert set(sparse) == growth | {"network.density"}
    assert sparse["network.density"] == pytest.approx((90 - 35) / (64 * 16 + 16 * 9 + 9 * 10))


def test_a_resumed_search_of_one_shape_goes_on_with_it() -> None:
    config = build({"seed": 3, "network.hidden": []})
    begun = build(config.model_dump(), {"training.learning_rate": 0.0077})
    birth = Independents(Ground(config, 64, 10, 1e-3, None, [begun])).birth()
    assert birth is not None
    assert birth.settings["training.learning_rate"] == 0.0077
    assert "network.hidden" not in birth.settings


def test_score_is_information_less_the_price_of_the_parameters() -> None:
    assert score(2.0, 100, 0.001) == pytest.approx(1.9)


def test_places_follow_the_objective() -> None:
    points = [Point("a", 1.0, 100), Point("b", 1.1, 400), Point("c", 0.9, 400)]
    assert places(points, "pareto", 0.0).tolist() == [0.0, 0.0, 1.0]
    assert places(points, "score", 0.001).argsort().tolist() == [0, 1, 2]
    assert places(points, "score", 0.0).argsort().tolist() == [1, 0, 2]
    lives = {"a": points[:1], "b": points[1:2]}
    assert {choose_parent(7, f"n{i:03d}", lives, "score", 1.0) for i in range(40)} == {"a", "b"}
    chosen = [choose_parent(7, f"n{i:03d}", lives, "score", 1.0) for i in range(400)]
    assert 0.65 < chosen.count("a") / 400 < 0.85  # loses only where both drawn are the other
