"""Ranks on GPUs: the same bits on every rank, eager and captured, and what one GPU trains, to rounding."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from grown_networks import KINDS
from rank_processes import Found, on_gpus, trained
from small_life import made

from evo.batches import cosine_rates
from evo.rank_pool import RankPool
from evo.segments import Segment, digests
from evo.training import Moment
from evo.trials import pack
from evo.workers import make_runner
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import seed

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here")

MARGIN = 10.0
"""As in test_ranks: how much farther off than another order of sums ranks may be."""


def distance(one: Found, other: Found) -> float:
    return max(float(np.abs(one[0][name] - other[0][name]).max()) for name in one[0] if one[0][name].size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capture", [False, True])
def test_two_gpus_train_what_one_trains(kind: str, capture: bool) -> None:
    alone = trained(kind, capture, 0, 1, None)
    rounding = max(distance(alone, trained(kind, capture, 0, 1, None, shuffle)) for shuffle in (1, 2, 3, 4))
    first, second = on_gpus(2, kind, capture)
    assert first[1] == second[1], "ranks hold other bits"
    assert first[2] == second[2]
    assert 0 < rounding < 1e-3
    assert distance(alone, first) <= MARGIN * rounding


def test_the_same_again_is_the_same_and_capture_changes_nothing_but_rounding() -> None:
    once, again, eager = on_gpus(2, "mlp", True), on_gpus(2, "mlp", True), on_gpus(2, "mlp", False)
    assert once[0][1] == again[0][1]
    assert distance(once[0], eager[0]) < 1e-4


def test_a_rank_on_a_gpu_is_killed_and_the_segment_comes_out_the_same() -> None:
    config, on_cpu = made(**{"training.ranks": 2, "training.batch_size": 33, "device": "cuda"})
    task = on_cpu.to(torch.device("cuda"))
    settings = config.network.model_copy(update={"density": 0.5}).model_dump()
    network = seed(settings, task.shape, task.picture, task.outputs, keyed("test", "ranks")).to("cuda")
    body = pack(network, OptimizerState.fresh(network))
    segment = Segment(
        (7, "n000", 0), cosine_rates(config.training, 0, 20_000, 20_000), Moment(0, 20_000), config.training
    )
    with make_runner(0, task, ranks=2) as pool:
        assert isinstance(pool, RankPool)
        wanted = pool.train(body, segment)
        before = pool.pids()

        def kill() -> None:
            time.sleep(0.5)
            os.kill(before[1], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = pool.train(body, segment)
        killer.join()
        assert set(pool.pids()) & set(before) == set(), "nobody was replaced: the signal came too late"
    assert digests(pack(found.network, found.state)) == digests(pack(wanted.network, wanted.state))
