"""Which deaths count against a network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from evo import causes
from evo.losses import PATIENCE_SECONDS, Losses


class World:
    """Machines that have died, and the time."""

    def __init__(self) -> None:
        self.dead = {"long gone"}
        self.now = 100.0
        self.losses = Losses(lambda: set(self.dead), lambda: self.now)

    def death(self, trial: Any, network: str = "n000", cause: str = causes.UNREACHABLE) -> None:
        trial.run_metadata.num_failures += 1  # as Tune does before it tells
        self.losses.died(trial, network, f"{cause} [pid 7]")

    def look(self) -> list[str]:
        self.now += 5
        return self.losses.look()


@pytest.fixture
def world() -> World:
    return World()


def trial() -> Any:
    return SimpleNamespace(run_metadata=SimpleNamespace(num_failures=0))


def failures(of: Any) -> int:
    return int(of.run_metadata.num_failures)


@pytest.mark.parametrize("cause", [causes.MACHINE_LOST, causes.MACHINE_TAKEN])
def test_a_lost_machine_is_no_fault_of_its_networks(world: World, cause: str) -> None:
    one = trial()
    for _ in range(9):
        world.death(one, cause=cause)
    assert failures(one) == 0
    assert world.look() == []


def test_a_process_that_was_killed_counts(world: World) -> None:
    one = trial()
    world.death(one, cause="its process was killed (SIGKILL, or the kernel for memory)")
    world.dead.add("node")
    assert world.look() == []
    assert failures(one) == 1


def test_what_could_not_be_reached_counts_until_its_machine_is_found_dead(world: World) -> None:
    one = trial()
    world.death(one)
    assert world.look() == []
    assert failures(one) == 1
    world.dead.add("node")
    assert world.look() == ["n000"]
    assert failures(one) == 0
    assert world.look() == []


def test_a_machine_found_dead_first_explains_it_too(world: World) -> None:
    one = trial()
    world.dead.add("node")
    world.death(one)
    assert world.look() == ["n000"]
    assert failures(one) == 0


def test_a_machine_explains_one_death_of_each_network(world: World) -> None:
    one, two = trial(), trial()
    world.death(one, "n000")
    world.death(two, "n001")
    world.dead.add("node")
    assert world.look() == ["n000", "n001"]
    world.death(one, "n000")
    assert world.look() == []
    world.dead.add("another node")
    assert world.look() == ["n000"]
    assert (failures(one), failures(two)) == (0, 0)


def test_a_machine_that_dies_much_later_explains_nothing(world: World) -> None:
    one = trial()
    world.death(one)
    world.now += PATIENCE_SECONDS
    assert world.look() == []
    world.dead.add("node")
    assert world.look() == []
    assert failures(one) == 1


def test_the_cluster_is_asked_only_while_there_is_something_to_explain() -> None:
    asked = []

    def dead() -> set[str]:
        asked.append(1)
        return set()

    now = [100.0]
    losses = Losses(dead, lambda: now[0])
    for _ in range(50):
        losses.look()
    assert len(asked) == 1
    losses.died(trial(), "n000", causes.UNREACHABLE)
    for _ in range(50):
        now[0] += 0.1
        losses.look()
    assert 2 <= len(asked) <= 8
