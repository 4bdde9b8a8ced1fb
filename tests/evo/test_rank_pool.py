"""Ranks as processes of Ray come to the bits that ranks as threads come to, whoever dies or hangs on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rank_threads import CPU, Threads
from small_life import cut, live, made, same

from evo import cluster, placement
from evo.batches import cosine_rates
from evo.config import Config, ConfigError
from evo.placement import Node
from evo.rank_pool import RankPool
from evo.ranks import RankLostError, RanksDifferError
from evo.segments import Segment, Segmented, digests
from evo.settings import build
from evo.shipping import ShippedBody
from evo.task import Task
from evo.training import Moment
from evo.trials import Body, pack
from evo.workers import make_runner
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import seed

LONG = 1500
"""Steps of a segment in which there is time to die."""
SETTINGS: dict[str, Any] = {"training.ranks": 2, "training.batch_size": 33}


@pytest.fixture(scope="module")
def life() -> tuple[Config, Task]:
    return made(**SETTINGS)


@pytest.fixture(scope="module")
def pool(life: tuple[Config, Task]) -> Iterator[RankPool]:
    _, task = life
    with cluster.session(CPU):
        plan = placement.pool([Node("here", 2)], 0, "cpu", ranks=2)
        with contextlib.closing(RankPool.of(task, plan, CPU)) as made_pool:
            yield made_pool


@pytest.fixture(scope="module")
def unbroken(life: tuple[Config, Task], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ranks as threads of this process come to."""
    config, task = life
    folder = tmp_path_factory.mktemp("unbroken")
    live(config, task, folder, Threads(task, 2))
    return folder


def body_of(task: Task, config: Config) -> Body:
    settings = config.network.model_copy(update={"density": 0.5}).model_dump()
    network = seed(settings, task.shape, task.picture, task.outputs, keyed("test", "ranks"))
    return pack(network, OptimizerState.fresh(network))


def segment_of(config: Config, steps: int) -> Segment:
    rates = cosine_rates(config.training, 0, steps, steps)
    return Segment((7, "n000", 0, "batches", 0), rates, Moment(0, steps), config.training)


@pytest.fixture(scope="module")
def wanted(life: tuple[Config, Task]) -> Segmented:
    config, task = life
    return Threads(task, 2).train(body_of(task, config), segment_of(config, LONG))


def interrupted(pool: RankPool, number: int, after: float) -> threading.Thread:
    """A thread that sends the second rank a signal."""
    pid = pool.pids()[1]

    def work() -> None:
        time.sleep(after)
        os.kill(pid, number)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_life_on_processes_is_one_on_threads_and_survives_a_kill_with_a_resume(
    pool: RankPool, life: tuple[Config, Task], unbroken: Path, tmp_path: Path
) -> None:
    config, task = life
    killer = interrupted(pool, signal.SIGKILL, 1.0)
    live(config, task, tmp_path, pool)
    killer.join()
    assert same(unbroken, tmp_path) == []
    cut(tmp_path, 2)
    assert same(unbroken, tmp_path) != []
    live(config, task, tmp_path, pool)
    assert same(unbroken, tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_hangs_in_a_segment_costs_nothing_but_time(
    pool: RankPool, life: tuple[Config, Task], wanted: Segmented, number: int
) -> None:
    config, task = life
    body, segment = body_of(task, config), segment_of(config, LONG)
    pool.train(body, segment_of(config, 2))
    before = pool.pids()
    pool.silence_seconds = 3.0
    broken = interrupted(pool, number, 0.2)
    found = pool.train(body, segment)
    broken.join()
    pool.silence_seconds = 120.0
    assert set(pool.pids()) & set(before) == set(), "nobody was replaced: the signal came too late"
    assert digests(pack(found.network, found.state)) == digests(pack(wanted.network, wanted.state))
    assert found.trained.losses.tolist() == wanted.trained.losses.tolist()


def test_an_edit_that_reached_one_rank_otherwise_ends_it_with_one_line(
    pool: RankPool, life: tuple[Config, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    config, task = life
    body = body_of(task, config)
    pool.train(body, segment_of(config, 2))
    weights = {name: tensor.clone() for name, tensor in body.weights.items()}
    weights["biases.output"][3] += 1e-7
    other = ray.put(ShippedBody.of(dataclasses.replace(body, weights=weights)))
    address, actors = pool._gathered()

    # The second rank, which is given something else.
    remote = lambda _, segment: actors[1].train.remote(other, segment)  # noqa: E731
    bent = types.SimpleNamespace(train=types.SimpleNamespace(remote=remote))
    with monkeypatch.context() as patched:
        patched.setattr(pool, "_gathered", lambda: (address, [actors[0], bent]))
        with pytest.raises(RanksDifferError, match=r"before step 0, rank 1 of 2 .* in biases\.output; nothing") as told:
            pool.train(body, segment_of(config, 2))
    assert len(str(told.value).splitlines()) == 1
    assert pool.train(body, segment_of(config, 2)).trained.diverged is False


def test_ranks_that_die_again_and_again_are_given_up(
    pool: RankPool, life: tuple[Config, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def dying(*_: object) -> object:
        tries.append(1)
        raise RankLostError("rank 1 died")

    monkeypatch.setattr(pool, "_train", dying)
    monkeypatch.setattr(pool._crew, "renew", lambda: None)
    with pytest.raises(RuntimeError, match=r"training\.ranks: 3 times a rank died or hung .* rank 1 died; see"):
        pool.train(body_of(life[1], life[0]), segment_of(life[0], 2))
    assert len(tries) == 3


# --- where they go


def test_every_rank_has_a_cpu_and_a_gpu_of_its_own_and_the_network_the_rest() -> None:
    plan = placement.plan([Node("a", 8, gpus=4)], build({"training.ranks": 2}), "cuda")
    assert plan.at_once == 2
    assert plan.bundles() == [{"CPU": 0.0999, "GPU": 0.0999}, *[{"CPU": 0.9, "GPU": 0.9}] * 2]
    assert plan.bundle() == {"CPU": 0.9, "GPU": 0.9}
    assert plan.processes == 2
    spread = placement.plan([Node("a", 4, gpus=1), Node("b", 4, gpus=1)], build({"training.ranks": 2}), "cuda")
    assert (spread.at_once, spread.spread) == (1, 1)
    alone = placement.pool([Node("a", 2)], 0, "cpu", ranks=2)
    assert alone.bundles() == [{"CPU": 0.9}] * 2


def test_more_ranks_than_processors_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, life: tuple[Config, Task]
) -> None:
    nodes = [Node("a", 2, gpus=3)]
    with pytest.raises(ConfigError, match=r"training\.ranks: expected at most 2 on 2 CPUs.* got 3; write .*: 2"):
        placement.plan(nodes, build({"training.ranks": 3}), "cpu")
    with pytest.raises(ConfigError, match=r"training\.ranks: expected at most 1 on .* got 2; leave training"):
        placement.pool([Node("a", 4, gpus=1)], 0, "cuda", ranks=2)
    with pytest.raises(ConfigError, match=r"search\.at_once: expected at most 1 with 2 ranks each .* write .*: 1"):
        placement.plan(nodes, build({"training.ranks": 2, "search.at_once": 2}), "cpu")
    monkeypatch.setattr(cluster, "nodes", lambda device: [Node("this machine", 2)])
    with pytest.raises(ConfigError, match=r"at most 2"), make_runner(0, life[1], ranks=5):
        pytest.fail("a runner was given")  # pragma: no cover
