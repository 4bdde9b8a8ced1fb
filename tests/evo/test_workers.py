"""A pool of workers computes what one process does, and loses nothing with a worker."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from evo import cluster, placement
from evo.config import ConfigError, TrainingConfig
from evo.pool import RayPool
from evo.shipping import ShippedBody, ShippedTask
from evo.task import Split, Task
from evo.trials import Body, TrialRequest, TrialResult, pack
from evo.workers import InProcess, attempt, make_runner
from search_spaces import actions
from search_spaces.families.mlp import Mlp
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed

CPU = torch.device("cpu")


def small_task() -> Task:
    draw = keyed("test", "task")

    def split(n: int) -> Split:
        x = torch.from_numpy(draw.normal(size=(n, 6)).astype(np.float32))
        return Split(x, (x[:, 0] + x[:, 1] > 0).long())

    held = split(80)
    names = {"train": split(200), "growth": held, "audit": held, "validation": split(50), "test": split(50)}
    return Task("small", "classification", (6,), 2, names, 0.69, {})


def small_parent() -> Body:
    network = Mlp([("input", 6), ("hidden1", 3), ("output", 2)], [("input", "hidden1"), ("hidden1", "output")])
    draw = keyed("test", "parent")
    with torch.no_grad():
        for name, mask in network.masks().items():
            network.get_buffer(mask).fill_(1.0)
            weight = network.get_parameter(name)
            weight.copy_(torch.from_numpy(draw.normal(size=tuple(weight.shape))))
    return pack(network, OptimizerState.fresh(network))


def requests(arms: int, start: Body | None = None, steps: int = 8) -> list[TrialRequest]:
    one = TrialRequest(
        key=(7, "n000", 1), arm=0, seed=0, rung=0, actions="", start=start, step=0, steps=steps, total=1000,
        rate=1.0, jitter=0.1, training=TrainingConfig(),
    )  # fmt: skip
    return [dataclasses.replace(one, arm=arm, seed=seed) for arm in range(arms) for seed in range(2)]


def same(left: list[TrialResult], right: list[TrialResult]) -> None:
    assert [(r.arm, r.seed) for r in left] == [(r.arm, r.seed) for r in right]
    for a, b in zip(left, right, strict=True):
        assert np.array_equal(a.growth, b.growth, equal_nan=True)
        assert np.array_equal(a.audit, b.audit, equal_nan=True)
        assert a.body.blueprint == b.body.blueprint
        assert (a.train_loss, a.norm, a.diverged) == (b.train_loss, b.norm, b.diverged)
        for mine, other in ((a.body.weights, b.body.weights), (a.body.optimizer, b.body.optimizer)):
            assert mine.keys() == other.keys()
            for name, tensor in mine.items():
                assert tensor.dtype == other[name].dtype
                assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module")
def pool() -> Iterator[RayPool]:
    with cluster.session(CPU):
        plan = placement.pool(cluster.nodes(CPU), 2, "cpu")
        with contextlib.closing(RayPool.of(small_task(), plan, CPU)) as made:
            yield made


def test_shipping_keeps_every_bit_and_what_is_shared() -> None:
    task, body = small_task(), small_parent()
    weights = {"flag": torch.tensor([True, False]), "zero": torch.tensor(3.5)}
    odd = Body("{}", weights, {"age/a": torch.ones(2, 2).int()})
    for one in (body, odd):
        back = ShippedBody.of(one).unpacked(CPU)
        assert back.blueprint == one.blueprint
        assert all(torch.equal(back.weights[k], t) and back.weights[k].dtype == t.dtype for k, t in one.weights.items())
        assert all(torch.equal(back.optimizer[k], t) for k, t in one.optimizer.items())
    again = ShippedTask.of(task).unpacked(CPU)
    assert again.splits["growth"] is again.splits["audit"]
    assert list(again.splits) == list(task.splits)
    assert all(torch.equal(again.splits[name].x, split.x) for name, split in task.splits.items())


def test_pool_gives_what_one_process_gives_over_two_rungs(pool: RayPool) -> None:
    task, parent = small_task(), small_parent()
    here = InProcess(task)
    first = requests(3)
    same(pool(parent, first), here(parent, first))
    kept = here(parent, first)[2].body
    second = [dataclasses.replace(r, rung=1, step=8) for r in requests(2, start=kept)]
    same(pool(parent, second), here(parent, second))
    assert pool(parent, []) == []


def test_killed_workers_trials_run_again(pool: RayPool, monkeypatch: pytest.MonkeyPatch) -> None:
    task, parent = small_task(), small_parent()
    causes: list[str] = []
    monkeypatch.setattr(pool.queue, "failed", causes.append)
    asked = requests(4, steps=300)
    before, done = pool.pids(), pool.queue.done

    def kill_one() -> None:
        time.sleep(0.2)
        os.kill(before[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    found = pool(parent, asked)
    killer.join()
    assert pool.pids() != before
    same(found, InProcess(task)(parent, asked))
    assert len(causes) == 1
    assert causes[0].startswith("a worker of its trials: its process was killed (SIGKILL")
    assert (pool.queue.done - done, pool.queue.in_flight, pool.queue.waiting) == (len(asked), 0, 0)


def test_hung_worker_is_replaced(pool: RayPool, monkeypatch: pytest.MonkeyPatch) -> None:
    task, parent = small_task(), small_parent()
    causes: list[str] = []
    monkeypatch.setattr(pool.queue, "failed", causes.append)
    asleep = pool.pids()
    pool.lease_seconds = 1.0
    patient = threading.Timer(0.5, lambda: setattr(pool, "lease_seconds", 60.0))
    patient.start()
    os.kill(asleep[0], signal.SIGSTOP)
    found = pool(parent, requests(2))
    patient.join()
    assert pool.pids()[0] != asleep[0]
    same(found, InProcess(task)(parent, requests(2)))
    assert causes == ["a worker of its trials: held its lease for too long, and was replaced"]


def test_too_little_memory_loses_the_trial_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> TrialResult:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 TB")

    monkeypatch.setattr("evo.workers.run_trial", starved)
    task, parent = small_task(), small_parent()
    found = attempt(task, parent, requests(1)[0])
    assert found.diverged
    assert np.isnan(found.growth).all()
    assert len(found.growth) == 80
    assert found.body is parent


def test_other_errors_are_not_hidden() -> None:
    wrong = dataclasses.replace(requests(1)[0], actions=actions.to_json((actions.Narrow("nowhere", (0,)),)))
    with pytest.raises(ValueError, match="nowhere"):
        InProcess(small_task())(small_parent(), [wrong])


def test_no_workers_needs_no_ray_and_computes_on_one_thread() -> None:
    torch.set_num_threads(2)
    with make_runner(0, small_task()) as runner:
        assert isinstance(runner, InProcess)
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_more_workers_than_fit_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "cpus", lambda: 2)
    monkeypatch.setattr(cluster, "session", lambda device: pytest.fail("Ray was started"))
    with (
        pytest.raises(ConfigError, match=r"workers: expected at most 4 on 2 CPUs .*got 5; write workers: 4"),
        make_runner(5, small_task()),
    ):
        pytest.fail("a runner was given")  # pragma: no cover
