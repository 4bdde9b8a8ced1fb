"""Progressive resolution: what teaches and decides is coarse, what judges is not, and trials see what training sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_life import live, made, same

from evo import resolution
from evo.birth import seeded
from evo.config import ConfigError
from evo.cycle import born
from evo.grower import Grower
from evo.recorder import read_events
from evo.surroundings import Surroundings, information
from evo.task import Task
from evo.training import held_out_losses
from evo.trials import TrialRequest, pack, run_trial
from evo.workers import make_runner
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed
from search_spaces.spaces import seed as seed_network

SCALES = {"training.scales": [4, 2, 1], "growth.cycles": 3}


@pytest.fixture(scope="module")
def digits() -> Task:
    return made()[1]


def test_a_coarse_picture_is_the_means_of_its_blocks(digits: Task) -> None:
    coarse = resolution.at_scale(digits, 4)
    for name in ("train", "growth", "audit"):
        plain = digits.splits[name].x.reshape(-1, 2, 4, 2, 4)
        seen = coarse.splits[name].x.reshape(-1, 2, 4, 2, 4)
        assert torch.allclose(seen, plain.mean(dim=(2, 4), keepdim=True).expand_as(plain), atol=1e-6)
        assert coarse.splits[name].y is digits.splits[name].y
    assert coarse.splits["validation"] is digits.splits["validation"]
    assert coarse.splits["test"] is digits.splits["test"]


@pytest.mark.parametrize("picture", [(1, 7, 5), (3, 4, 6)])
def test_blocks_cut_short_by_the_edge_are_the_means_of_what_is_left(picture: tuple[int, int, int]) -> None:
    channels, height, width = picture
    rng = keyed("cut", *picture)
    x = torch.from_numpy(rng.standard_normal((4, channels * height * width))).float()
    found = resolution.block_means(x, picture, 3).reshape(4, *picture).numpy()
    pictures = x.reshape(4, *picture).numpy()
    for i, j in np.ndindex(height, width):
        v, u = i // 3 * 3, j // 3 * 3
        block = pictures[:, :, v : v + 3, u : u + 3].mean(axis=(2, 3))
        assert found[:, :, i, j] == pytest.approx(block, abs=1e-6)


def test_a_scale_is_made_once_and_forgotten_with_the_next(digits: Task) -> None:
    first = resolution.at_scale(digits, 4).splits["train"]
    assert resolution.at_scale(digits, 4).splits["train"] is first
    second = resolution.at_scale(digits, 2).splits["train"]
    assert second is not first
    assert resolution.at_scale(digits, 2).splits["train"] is second
    assert resolution.at_scale(digits, 1) is digits


def test_the_scales_share_the_cycles_and_the_last_one_stays(digits: Task) -> None:
    assert [resolution.scale([4, 2, 1], cycle, 6) for cycle in range(8)] == [4, 4, 2, 2, 1, 1, 1, 1]
    assert [resolution.next_scale([4, 2, 1], cycle, 6) for cycle in range(6)] == [4, 2, 2, 1, 1, 1]
    assert [resolution.blocks([4, 2, 1], cycle, 6) for cycle in range(4)] == [(4, 4), (4, 2), (2, 2), (2, 1)]
    assert resolution.blocks([], 0, 6) == (2, 1)
    assert [resolution.scale([], cycle, 6) for cycle in (0, 6)] == [1, 1]


def test_the_decision_that_ends_a_scale_sees_the_next_one(digits: Task) -> None:
    ends = resolution.at(digits, [4, 2, 1], 0, 3)
    coarse, finer = (resolution.block_means(digits.splits["train"].x, (1, 8, 8), side) for side in (4, 2))
    assert torch.equal(ends.splits["train"].x, coarse)
    assert not torch.equal(coarse, finer)
    assert torch.equal(ends.splits["growth"].x, resolution.block_means(digits.splits["growth"].x, (1, 8, 8), 2))
    goes_on = resolution.at(digits, [4, 2, 1], 0, 6)
    assert torch.equal(goes_on.splits["audit"].x, resolution.block_means(digits.splits["audit"].x, (1, 8, 8), 4))
    assert resolution.at(digits, [4, 2, 1], 2, 3) is digits
    assert resolution.at(digits, [], 0, 3) is digits


def test_a_task_without_pictures_is_refused_in_one_line() -> None:
    config, task = made(**{"task": "spirals", "training.scales": [2, 1]})
    with pytest.raises(ConfigError, match=r"^training.scales: expected a task of pictures, got 'spirals'"):
        Surroundings.of(config, task, "n000", lambda parent, requests: [])
    with pytest.raises(ConfigError, match="spirals"):
        Grower(config, task, Path("nowhere"))


def test_training_evidence_and_trials_see_the_same_pictures() -> None:
    config, task = made(**{**SCALES, "training.scales": [4, 4, 1]})
    around = Surroundings.of(config, task, "n000", lambda parent, requests: [])
    network = seed_network(config.network.model_dump(), task.shape, task.picture, task.outputs, keyed("seed"))
    life = born(around, network)
    coarse = around.seen(life)
    held = coarse.task.splits["growth"]
    assert life.information == life.born == life.best == information(task, held_out_losses(network, held, task.kind))
    assert life.born != information(task, held_out_losses(network, task.splits["growth"], task.kind))
    assert torch.equal(coarse.evidence.x, resolution.block_means(around.evidence.x, (1, 8, 8), 4))
    assert coarse.evidence is around.seen(life).evidence, "kept, so that its products are too"
    request = TrialRequest((0, "n000", 0), 0, 0, 0, "", None, 0, 5, 100, 1.0, 0.0, around.config.training, scale=4)
    plain = dataclasses.replace(request, scale=1)
    body = pack(network, OptimizerState.fresh(network))
    there, here, full = (
        run_trial(task, body, request),
        run_trial(coarse.task, body, plain),
        run_trial(task, body, plain),
    )
    assert np.array_equal(there.growth, here.growth)
    assert not np.array_equal(there.growth, full.growth)


def test_what_measures_a_seed_sees_what_it_is_taught_first() -> None:
    chosen = {"network.initial": "lsuv", "growth.cycles": 3}
    config, task = made(**chosen, **{"training.scales": [4, 2, 1]})
    x = task.splits["train"].x[:200]
    coarse = resolution.block_means(x, (1, 8, 8), 4)
    network, _ = seeded(config, task, "n000", x)
    plain = made(**chosen)[0]
    expected, other = (seeded(plain, task, "n000", pictures)[0] for pictures in (coarse, x))
    same_as = [all(torch.equal(a, b) for a, b in zip(network.parameters(), n.parameters(), strict=True))
               for n in (expected, other)]  # fmt: skip
    assert same_as == [True, False]


def test_a_life_through_all_scales_balances_its_books_and_is_the_same_with_workers(tmp_path: Path) -> None:
    config, task = made(**SCALES)
    alone = live(config, task, tmp_path / "alone")
    rows = read_events(tmp_path / "alone")
    life = alone.life
    gains = life.gain_training + life.gain_control + life.gain_fork
    assert life.information == pytest.approx(life.born + gains, abs=1e-9)
    assert (rows["kind"] == "decision").sum() == 3
    with make_runner(2, task) as runner:
        live(config, task, tmp_path / "pool", runner=runner)
    assert same(tmp_path / "alone", tmp_path / "pool") == []
