"""How often a network is asked for whose trial breaks off before it began."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from evo.population import Birth, number_of
from evo.schedulers import MAX_FAILURES, Asker


class People:
    """One network."""

    exhausted = True

    def __init__(self) -> None:
        self.births = [Birth("n000", 0, None, {})]
        self.lives: dict[str, Any] = {}

    def birth(self) -> Birth | None:
        return self.births.pop() if self.births else None

    def ended(self, network: str, life: Any) -> None:
        self.lives[network] = life


def asker(people: People) -> Asker:
    return Asker(people, SimpleNamespace(life=lambda network: None, broken=None), "Tune")  # type: ignore[arg-type]


def broken_off(one: Asker, number: int, machines: bool) -> bool:
    assert one.suggest(f"t{number}")["birth"]["network"] == "n000"
    one.on_trial_complete(f"t{number}", error=True)
    return one.broken_off(False, machines)


def test_a_network_whose_process_dies_before_it_began_is_given_up_in_the_end() -> None:
    people = People()
    one = asker(people)
    assert [broken_off(one, i, machines=False) for i in range(MAX_FAILURES + 1)] == [True] * MAX_FAILURES + [False]
    assert people.lives == {"n000": []}


def test_machines_that_are_lost_before_it_began_are_not_held_against_it() -> None:
    people = People()
    one = asker(people)
    assert all(broken_off(one, i, machines=True) for i in range(20))
    assert people.lives == {}


def test_networks_are_known_by_number() -> None:
    assert [number_of(name) for name in ("n000", "n012", "n1234")] == [0, 12, 1234]
