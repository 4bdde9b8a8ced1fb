"""The search under Ray Tune, with lives that only pretend to train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fake_life
import pytest
import ray
import torch
from fake_life import FakeLife
from ray import cloudpickle

from evo import cluster, live
from evo.config import Config, UnavailableError
from evo.events import STABLE
from evo.recorder import networks, read_events
from evo.settings import build
from evo.sweep import run_search
from evo.task import Split, Task

# Ray's processes find installed modules, not those of a folder of tests.
cloudpickle.register_pickle_by_value(fake_life)

CPU = torch.device("cpu")


def tiny_task() -> Task:
    names = dict.fromkeys(("train", "growth", "audit", "validation", "test"))
    data = Split(torch.zeros(200, 6), torch.zeros(200, dtype=torch.int64))
    return Task("tiny", "classification", (6,), 2, dict.fromkeys(names, data), 0.69, {})


def config_of(**more: Any) -> Config:
    return build({"seed": 5, "growth.cycles": 3, "search.networks": 6, "search.population": 3}, more)


def search(folder: Path, config: Config, stop: Any = lambda: False) -> list[Mapping[str, Any]]:
    heard: list[Mapping[str, Any]] = []
    run_search(config, tiny_task(), folder, heard.append, stop, begin=FakeLife)
    return [update for update in heard if update["stage"] == "cycle"]


def same_events(one: Path, other: Path) -> None:
    left, right = (read_events(folder)[list(STABLE)] for folder in (one, other))
    assert left.equals(right)


@pytest.fixture(scope="module", autouse=True)
def ray_running() -> Iterator[None]:
    with cluster.session(CPU):
        yield


@pytest.fixture(scope="module")
def unbroken(ray_running: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Mapping[str, Any]]]:
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, search(folder, config_of())


def test_two_generations(unbroken: tuple[Path, list[Mapping[str, Any]]], capfd: pytest.CaptureFixture[str]) -> None:
    folder, heard = unbroken
    assert networks(folder) == [f"n{i:03d}" for i in range(6)]
    rows = read_events(folder)
    started = rows[rows["kind"] == "started"].set_index("network")
    assert list(started["generation"]) == [0, 0, 0, 1, 1, 1]
    assert started["parent"].isna().tolist() == [True] * 3 + [False] * 3
    assert all(parent.split("/")[0] in ("n000", "n001", "n002") for parent in started["parent"][3:])
    assert (rows["kind"] == "finished").sum() == 6
    assert {(u["network"], u["cycle"]) for u in heard} == {(f"n{i:03d}", c) for i in range(6) for c in (1, 2, 3)}
    assert sum(bool(u["done"]) for u in heard) == 6
    assert capfd.readouterr() == ("", "")


def test_a_killed_network_changes_nothing(tmp_path: Path, unbroken: tuple[Path, Any]) -> None:
    for name in ("kill-n001-1", "kill-n004-2"):
        (tmp_path / name).touch()
    search(tmp_path, config_of())
    assert not list(tmp_path.glob("kill-*"))
    same_events(tmp_path, unbroken[0])
    told = sorted((f["network"], f["cause"].split(" [")[0], f["then"]) for f in live.failures(tmp_path).values())
    killed, then = "its process was killed (SIGKILL, or the kernel for memory)", "it goes on from its last commit"
    assert told == [("n001", killed, then), ("n004", killed, then)]


def test_killed_between_two_networks_the_second_is_started_again(tmp_path: Path, unbroken: tuple[Path, Any]) -> None:
    """Tune gives a trial up whose actor dies while it is handed on."""
    for name in ("kill-n000-closing", "kill-n002-closing"):
        (tmp_path / name).touch()
    search(tmp_path, config_of())
    assert not list(tmp_path.glob("kill-*"))
    same_events(tmp_path, unbroken[0])
    assert "it is started again" in {f["then"] for f in live.failures(tmp_path).values()}


@pytest.mark.parametrize("algorithm", ["tpe", "regularised"])
def test_other_generational_algorithms_repeat_themselves_killed_stopped_and_resumed(
    tmp_path: Path, algorithm: str
) -> None:
    settings = {"search.algorithm": algorithm, "search.batch": 2, "growth.cycles": 2, "search.child_life": 1.0}
    settings["network.parent"] = "/old/first:n000/000002"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        (folder / "snapshots" / "first.n000" / "000002").mkdir(parents=True)
    search(whole, config_of(**settings))
    rows = read_events(whole)
    assert (rows["kind"] == "finished").sum() == 6
    parents = list(rows.loc[rows["kind"] == "started", "parent"])
    assert parents[:3] == ["first.n000/000002"] * 3
    assert all(parent.split("/")[0] in ("n000", "n001", "n002") for parent in parents[3:])
    for name in ("kill-n002-1", "kill-n004-1"):
        (broken / name).touch()
    heard: list[Mapping[str, Any]] = []
    run_search(config_of(**settings), tiny_task(), broken, heard.append, lambda: len(heard) > 6, begin=FakeLife)
    assert (read_events(broken)["kind"] == "finished").sum() < 6
    search(broken, config_of(**settings))
    assert not list(broken.glob("kill-*"))
    same_events(broken, whole)


def test_asked_for_more_it_goes_on_as_if_asked_so_at_first(tmp_path: Path, unbroken: tuple[Path, Any]) -> None:
    search(tmp_path, config_of(**{"search.networks": 4}))
    before = read_events(tmp_path)
    assert len(networks(tmp_path)) == 4
    search(tmp_path, config_of())
    same_events(tmp_path, unbroken[0])
    kept = read_events(tmp_path)
    assert kept[kept["network"] < "n004"].equals(before)


@pytest.mark.parametrize("cycles", [2, 11])
def test_stopped_and_resumed_ends_as_unbroken(tmp_path: Path, unbroken: tuple[Path, Any], cycles: int) -> None:
    heard: list[Mapping[str, Any]] = []
    run_search(config_of(), tiny_task(), tmp_path, heard.append, lambda: len(heard) > cycles, begin=FakeLife)
    before = read_events(tmp_path)
    assert (before["kind"] == "finished").sum() < 6
    told = search(tmp_path, config_of())
    same_events(tmp_path, unbroken[0])
    ended = set(before.loc[before["kind"] == "finished", "network"])
    assert {u["network"] for u in told if u["done"]} == set(networks(tmp_path))
    assert all(sum(u["network"] == name for u in told) == 1 for name in ended)


def test_a_search_that_is_over_is_told_again_without_ray(
    unbroken: tuple[Path, list[Mapping[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "session", lambda device: pytest.fail("Ray was started"))
    folder, heard = unbroken
    again = search(folder, config_of())
    assert [u["network"] for u in again] == networks(folder)
    last = {u["network"]: u for u in heard}
    for update in again:
        assert update["done"]
        assert update["generation"] == last[update["network"]]["generation"]
        assert update["active_parameters"] == last[update["network"]]["active_parameters"]


def test_an_exception_of_the_watcher_ends_the_search_and_is_raised(tmp_path: Path) -> None:
    def watch(update: Mapping[str, Any]) -> None:
        if update["stage"] == "cycle":
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        run_search(config_of(), tiny_task(), tmp_path, watch, begin=FakeLife)
    assert (read_events(tmp_path)["kind"] == "finished").sum() == 0


def test_what_no_second_try_mends_is_raised_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "refuse-n001").touch()
    with pytest.raises(ValueError, match="expected a whole file, got half of one"):
        search(tmp_path, config_of())
    assert "n004" not in networks(tmp_path)
    ends = read_events(tmp_path).query("kind == 'finished'")
    assert "n001" not in set(ends["network"])


def test_a_network_that_always_dies_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo.schedulers.MAX_FAILURES", 1)
    (tmp_path / "doom-n001").touch()
    search(tmp_path, config_of())
    rows = read_events(tmp_path)
    failed = rows[rows["kind"] == "failed"]
    assert list(failed["network"]) == ["n001"]
    assert "died 2 times" in failed["reason"].iloc[0]
    assert [f["then"] for f in live.failures(tmp_path).values()] == ["it goes on from its last commit", "given up"]
    assert (rows["kind"] == "finished").sum() == 5
    assert not rows.loc[rows["kind"] == "started", "parent"].dropna().str.startswith("n001").any()


def test_a_network_that_dies_for_good_with_its_end_committed_has_lived(
    tmp_path: Path, unbroken: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo.schedulers.MAX_FAILURES", 0)
    (tmp_path / "kill-n001-ended").touch()
    told = search(tmp_path, config_of())
    assert not list(tmp_path.glob("kill-*"))
    same_events(tmp_path, unbroken[0])
    assert [(u["network"], u["done"]) for u in told].count(("n001", True)) == 1
    assert [(f["network"], f["then"]) for f in live.failures(tmp_path).values()] == [("n001", "its life was over")]


def test_asha_ends_networks_early_and_says_so(tmp_path: Path) -> None:
    config = config_of(**{"search.algorithm": "asha", "growth.cycles": 8, "search.networks": 6})
    search(tmp_path, config)
    rows = read_events(tmp_path)
    ends = rows[rows["kind"] == "finished"]
    assert len(ends) == 6
    early = ends[ends["reason"].str.startswith("stopped by ASHA")]
    assert 0 < len(early) < 6
    assert (early["cycle"] < 8).all()


@pytest.mark.parametrize("killed", [(), ("n000", "n001", "n002", "n003")])
def test_pbt_goes_on_from_copies(tmp_path: Path, killed: tuple[str, ...]) -> None:
    """killed: while their networks give way or end, which is when actors would be handed over.

    The poorest of those at work is always copied over, but Tune forgets those whose actors were killed, and one that is
    left alone has nobody to copy.
    """
    (tmp_path / "poor-n000").touch()
    for name in killed:
        (tmp_path / f"kill-{name}-closing").touch()
    settings = {"search.algorithm": "pbt", "growth.cycles": 10, "search.networks": 4, "search.population": 4}
    search(tmp_path, config_of(**settings))
    rows = read_events(tmp_path)
    assert not list(tmp_path.glob("kill-*"))
    started = rows[rows["kind"] == "started"].set_index("network")
    copies = started[started["parent"].notna()]
    assert len(copies) or killed
    assert (copies.index >= "n004").all()
    ends = rows[rows["kind"] == "finished"].set_index("network")
    assert set(ends.index) == set(started.index)
    assert ends["reason"].str.startswith("gave way to").sum() == len(copies)
    for name, row in copies.iterrows():
        made = Config.model_validate_json(row["config"])
        assert made.growth.cycles < 10, name


def test_a_full_cluster_is_waited_for_with_one_line(tmp_path: Path) -> None:
    """Others' work holds every CPU until the line is read."""
    everything = ray.util.placement_group([{"CPU": float(cluster.cpus())}])
    assert everything.wait(30)
    heard: list[str] = []

    def watch(update: Mapping[str, Any]) -> None:
        heard.append(str(update.get("text", update["stage"])))
        if heard[-1].startswith("the cluster is full: waiting for 1 CPU to be free"):
            ray.util.remove_placement_group(everything)

    run_search(
        config_of(**{"search.networks": 2, "search.population": 2}), tiny_task(), tmp_path, watch, begin=FakeLife
    )
    assert sum(line.startswith("the cluster is full") for line in heard) == 1
    assert (read_events(tmp_path)["kind"] == "finished").sum() == 2


def test_a_cluster_that_stays_full_is_given_up_in_one_line(tmp_path: Path) -> None:
    everything = ray.util.placement_group([{"CPU": float(cluster.cpus())}])
    assert everything.wait(30)
    try:
        with pytest.raises(UnavailableError, match=r"wait: expected 1 CPU to be free within 1 s, .* resume the"):
            search(tmp_path, config_of(wait=1.0))
    finally:
        ray.util.remove_placement_group(everything)
    assert networks(tmp_path) == []
