"""The crew's leases, with actors that only answer, or never come."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import cloudpickle
from ray.exceptions import RayTaskError

import evo.crew
from evo import cluster
from evo.crew import Crew


class Doubler:
    """Answers with the double; "die" kills it, "die once PATH" for the first time only, "err" raises."""

    def run(self, shared: Any, requests: list[Any]) -> list[Any]:
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> Any:
        if request == "err":
            raise ValueError("no number")
        if isinstance(request, str):
            mark = request.removeprefix("die once ")
            if request == "die" or not os.path.exists(mark):
                Path(mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return 0
        return 2 * request

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(scope="module", autouse=True)
def ray_running() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(__import__(__name__))
    with cluster.session(torch.device("cpu")):
        yield


def never(number: int) -> Any:
    raise AssertionError(f"request {number} was answered here")


def crew_of(count: int, **options: Any) -> Crew:
    made = ray.remote(Doubler).options(num_cpus=0, **options)
    return Crew(lambda index: made.remote(), count)


def test_answers_come_in_order_and_deaths_are_counted(tmp_path: Path) -> None:
    crew = crew_of(2)
    shared = ray.put(None)
    assert crew.run(shared, list(range(20)), never) == [2 * i for i in range(20)]
    assert crew.run(shared, [], never) == []
    once = f"die once {tmp_path / 'mark'}"
    assert crew.run(shared, [1, once, "die", 2], never) == [2, 0, None, 4]
    with pytest.raises(RuntimeError, match="3 workers died over each of 1 trials"):
        crew.run(shared, ["die"], never)
    with pytest.raises(RayTaskError, match="no number"):
        crew.run(shared, [1, "err", 2, 3], never)
    assert crew.run(shared, list(range(9)), never) == [2 * i for i in range(9)]
    crew.close()


def test_requests_for_which_no_worker_comes_are_answered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evo.crew, "START_SECONDS", 0.5)
    crew = crew_of(2, resources={"a-machine-that-was-lost": 1})
    assert crew.run(ray.put(None), [5, 6, 7], lambda number: f"here {number}") == ["here 0", "here 1", "here 2"]
    crew.close()
