"""What networks take, and the plan that is made of it, without starting anything."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from small_life import made

from evo import api, cluster, dry_run, footprint
from evo.config import ConfigError
from evo.footprint import Footprint, Shape
from evo.life import Plan
from evo.placement import Need, Node

GIB = 2**30


def test_growth_can_reach_what_stake_limits_and_cap_allow() -> None:
    config, _ = made(**{"growth.stake": 1.0, "search.stake": [0.5, 1.0], "growth.max_parameters": 1000})
    plan = Plan(900, 3, 200, 50, 100)
    # Coarse doubles at most, medium grows by a half, fine by a quarter.
    assert footprint.reachable(config, 80, plan) == 80 * 2 + 80 + 60
    assert footprint.reachable(config, 800, plan) == 1000
    assert footprint.reachable(config, 80, dataclasses.replace(plan, cycles=0)) == 80


def test_seed_and_grown_shape_are_measured() -> None:
    config, task = made()
    found = footprint.measured(config, task)
    assert found.grown.parameters > 1.3 * found.seed.parameters
    assert all(
        seconds > 0 for shape in (found.seed, found.grown) for seconds in (shape.step, shape.fork, shape.decision)
    )
    need = found.need()
    assert need.memory >= footprint.PROCESS_BYTES + found.data
    assert need.gpu_memory == 0
    assert f"{found.grown.parameters:,} parameters" in need.source


def test_a_gpu_holds_data_network_and_context() -> None:
    shape = Shape(9, 0.1, 0.1, 0.1, 100, 7 * GIB)
    assert Footprint(shape, shape, GIB).need().gpu_memory == 8 * GIB + footprint.CONTEXT_BYTES


def test_a_run_measures_once_and_goes_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, task = made()
    roomy, tight = [Node("a", 2, memory=100 * GIB)], [Node("a", 2, memory=GIB // 2)]
    assert footprint.settled(config, task, roomy, tmp_path) == Need(0, 0, "not measured: far below what there is")
    (tmp_path / footprint.FILE).unlink()
    first = footprint.settled(config, task, tight, tmp_path)
    assert first.memory > footprint.PROCESS_BYTES
    monkeypatch.setattr(footprint, "measured", lambda *_: pytest.fail("measured again"))
    assert footprint.settled(config, task, tight, tmp_path) == first
    assert json.loads((tmp_path / footprint.FILE).read_text())["memory"] == first.memory
    (tmp_path / footprint.FILE).write_text("[]")
    with pytest.raises(ValueError, match=r"footprint.json: expected memory, gpu_memory and source"):
        footprint.settled(config, task, tight, tmp_path)


def test_what_cannot_be_measured_is_no_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> Footprint:
        raise MemoryError("no room")

    monkeypatch.setattr(footprint, "measured", starved)
    need = footprint.settled(*made(), [Node("a", 2, memory=GIB // 2)], tmp_path)
    assert need == Need(0, 0, "not measured: no room")


def test_a_dry_run_tells_the_plan_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "nodes", lambda device: [Node("a", 4, memory=64 * GIB), Node("b", 1, memory=64 * GIB)])
    monkeypatch.setattr(cluster, "session", lambda device: pytest.fail("Ray was started"))
    settings = {"data.limit": 300, "search.networks": 8, "workers": 2, "device": "cpu"}
    found = api.foresee("search", "digits", **settings)
    assert (found["at_once"], found["waves"], found["workers"], len(found["bundles"])) == (3, 3, 2, 3)
    assert [(node["name"], node["networks"]) for node in found["nodes"]] == [("a", 2), ("b", 0)]
    assert found["spread"] == 1
    assert 0 < found["seconds"][0] <= found["seconds"][1]
    json.dumps(found)
    text = dry_run.told(found)
    assert "networks    8, 3 at once, 3 after another" in text
    assert "a placement group of 3 bundles (PACK), 0.5 CPU each" in text
    assert not list(tmp_path.iterdir())
    alone = api.foresee("grow", "digits", **{"data.limit": 300, "device": "cpu", "budget": 2.0})
    assert (alone["bundles"], alone["networks"], alone["seconds"]) == ([], 1, [2.0, 2.0])
    with pytest.raises(ConfigError, match=r"there is no run 'nowhere'"):
        api.foresee("grow", "digits", start_from="nowhere", device="cpu")
    # At once, without a measurement.
    monkeypatch.setattr(footprint, "measured", lambda *_: pytest.fail("measured"))
    with pytest.raises(ConfigError, match=r"search.at_once: expected at most 3"):
        api.foresee("search", "digits", **settings, **{"search.at_once": 9})
