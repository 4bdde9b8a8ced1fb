"""A job is the life that growing would be: the same figures, for exactly the work it was given."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from small_jobs import config, job, outcome

from evo.data import load_task
from evo.grower import Grower
from evo.instruments.jobs import STATIC, Job, Outcome, draw_anew, run_job
from evo.settings import build
from evo.training import held_out_losses
from evo.workers import make_runner
from search_spaces.families import Mlp
from search_spaces.randomness import keyed


def test_a_job_comes_to_what_growing_comes_to(tmp_path: Path) -> None:
    one = job()
    settings = build(one.settings)
    task = load_task(settings)
    with make_runner(0, task) as runner:
        grower = Grower(settings, task, tmp_path, runner=runner)
        while not grower.done:
            grower.advance()
    found, files = run_job(one)
    lost = held_out_losses(grower.body, task.splits["validation"], task.kind)
    assert found.validation_information == task.entropy - float(lost.mean())
    assert found.active_parameters == grower.body.count()
    assert found.work == grower.life.step + grower.life.spent > found.line_steps == 90
    assert found.tournaments == grower.life.tournaments > 0
    assert files == {}


def test_a_static_job_holds_no_tournament() -> None:
    found, _ = run_job(job(change=STATIC))
    assert (found.tournaments, found.work, found.line_steps) == (0, 90, 90)
    assert found.active_parameters == found.born_parameters
    assert found.adopted == {}


@pytest.mark.parametrize("work", [50, 137, 400])
@pytest.mark.parametrize("change", [{}, STATIC, {"growth.triggers": "plateau"}])
def test_metered_lives_work_equally_to_the_step(work: int, change: dict[str, object]) -> None:
    assert run_job(job(change=dict(change), work=work))[0].work == work


def test_the_key_tells_computations_apart_and_nothing_else() -> None:
    one = job()
    assert one.key == job("another label").key
    assert one.key == Job.of("a", 3, config(out="elsewhere", workers=2, name="x", budget=3)).key
    others = [job(seed=4), job(change={"training.learning_rate": 0.02}), job(work=100), job(shape_of="0")]
    assert len({one.key, *(other.key for other in others)}) == 5


def test_a_shape_is_taken_over_with_weights_drawn_anew() -> None:
    grown, files = run_job(job(keeps=True))
    found, _ = run_job(job(change=STATIC, shape_of="grown"), files)
    assert (found.born_parameters, found.active_weights) == (grown.active_parameters, grown.active_weights)
    assert found.density == pytest.approx(grown.density) == found.active_weights / (64 * 6 + 6 * 10)
    assert found.validation_information != grown.validation_information


def test_drawing_anew_keeps_the_wiring_and_scales_to_the_whole_fan_in() -> None:
    """Two links feed the output: the squares of a row of both together are 1 on average, He's scale for 12 inputs."""
    layers = [("input", 8), ("hidden1", 4), ("output", 3)]
    network = Mlp(layers, [("input", "hidden1"), ("hidden1", "output"), ("input", "output")])
    for mask in network.masks().values():
        network.get_buffer(mask).fill_(True)
    closed = network.get_buffer(network.masks()["links.input>hidden1"])
    closed[0, :5] = False
    squares = []
    for i in range(200):
        draw_anew(network, keyed(i, "test"))
        rows = [network.get_parameter(f"links.{source}>output").detach()[0] for source in ("hidden1", "input")]
        squares.append(sum(float((row**2).sum()) for row in rows))
        assert not bool(network.get_parameter("links.input>hidden1").detach()[0, :5].any())
    assert np.mean(squares) == pytest.approx(1.0, abs=4 * math.sqrt(2 / 12 / 200))
    assert int(closed.sum()) == 27


def test_an_outcome_survives_json() -> None:
    one = outcome(adopted={"widen": 2})
    assert Outcome.from_json({**one.__dict__}) == one
    assert one.per_parameter == pytest.approx(10.0)
