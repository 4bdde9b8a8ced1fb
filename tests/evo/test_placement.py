"""What fits where: pure figures, no Ray."""

from __future__ import annotations

import pytest

from evo import placement
from evo.config import Config, ConfigError, UnavailableError
from evo.placement import Need, Node, Plan
from evo.settings import build
from search_spaces.randomness import keyed

GIB = 2**30


def config_of(workers: int = 0, at_once: int | None = None, networks: int = 16) -> Config:
    return build({"workers": workers, "search.at_once": at_once, "search.networks": networks})


def on(*cpus: float, **more: int) -> list[Node]:
    return [Node(f"node{i}", c, **more) for i, c in enumerate(cpus)]


def plan(nodes: list[Node], workers: int = 0, at_once: int | None = None, need: Need = Need(), **more: int) -> Plan:
    device = "cuda" if any(node.gpus for node in nodes) else "cpu"
    return placement.plan(nodes, config_of(workers, at_once, **more), device, need)


def test_networks_fill_one_machine_and_no_more() -> None:
    alone = plan(on(2))
    assert (alone.at_once, alone.bundles(), alone.limited) == (2, [{"CPU": 1.0}], False)
    assert plan(on(2), 1).bundles() == [{"CPU": 0.5}, {"CPU": 0.5}]
    assert plan(on(2), 1).at_once == 2
    two = plan(on(2), 2)
    assert (two.at_once, two.idle[0].cpus, len(two.bundles())) == (1, 0.5, 3)
    assert plan(on(2), 0, 4).bundles() == [{"CPU": 0.5}]
    assert plan(on(0.5), 0).bundles() == [{"CPU": 0.5}]


def test_groups_are_counted_by_what_fits_each_node() -> None:
    # Together 4.5 CPUs, but no CPU in halves: 1 + 1 + 1, not 4.
    assert plan(on(1.5, 1.5, 1.5)).at_once == 3
    assert plan(on(0.7, 0.7, 0.7), 1, networks=9).at_once == 1
    whole = plan(on(4, 2, 0), 3)
    assert (whole.groups, whole.spread, whole.at_once) == ((("node0", 2), ("node1", 1), ("node2", 0)), 0, 3)
    assert any("node2: no CPU to be had" in line for line in whole.why)
    spread = plan(on(1, 1, 1), 4)
    assert (spread.at_once, spread.spread, [node.cpus for node in spread.idle]) == (1, 1, [0.0, 0.0, 0.5])


def test_a_limit_that_was_asked_for_is_kept() -> None:
    few = plan(on(8, 8), 1, 3)
    assert (few.at_once, few.limited) == (3, True)
    assert any("16 would fit" in line for line in few.why)
    assert plan(on(8, 8), networks=4).at_once == 4


def test_gpus_are_shared_by_as_few_as_will_do() -> None:
    nodes = [Node("head", 8), Node("a", 8, 2, gpu_memory=80 * GIB), Node("b", 4, 1, gpu_memory=80 * GIB)]
    spread = plan(nodes, 1, 2)
    assert (spread.gpus, spread.bundles()[0], spread.groups) == (
        0.5,
        {"CPU": 0.5, "GPU": 0.5},
        (("head", 0), ("a", 2), ("b", 0)),
    )
    assert any("head: no GPU" in line for line in spread.why)
    assert plan(nodes, 0, 3).gpus == 1.0
    assert plan(nodes).at_once == 12
    assert plan(nodes).gpus == 0.25


def test_measured_memory_bounds_the_networks_a_gpu() -> None:
    nodes = [Node("a", 16, 1, gpu_memory=80 * GIB)]
    assert plan(nodes).at_once == 16
    measured = plan(nodes, need=Need(0, 30 * GIB, "measured"))
    assert (measured.at_once, measured.gpus, measured.idle[0].cpus) == (2, 0.5, 14.0)
    assert plan(nodes, need=Need(0, 27 * GIB, "measured")).gpus == 0.5
    # Three, two or one a GPU: a third rounded down, so that three of them are no more than a GPU.
    thirds = plan(nodes, at_once=3, need=Need(0, 26 * GIB, "measured"))
    assert thirds.gpus == 0.3333
    assert plan(nodes, need=Need(0, 90 * GIB, "measured")).at_once == 1
    with pytest.raises(ConfigError, match=r"search.at_once: expected at most 2 on 16 CPUs and 1 GPU.*got 3;"):
        plan(nodes, at_once=3, need=Need(0, 30 * GIB, "measured"))


def test_measured_memory_bounds_the_networks_of_a_machine() -> None:
    nodes = on(8, memory=10 * GIB)
    assert plan(nodes, need=Need(GIB, 0, "measured")).bundles() == [{"CPU": 1.0}]
    heavy = plan(nodes, need=Need(4 * GIB, 0, "measured"))
    assert (heavy.at_once, heavy.bundles()) == (2, [{"CPU": 1.0, "memory": 4.0 * GIB}])
    assert any("a process takes 4.0 GiB" in line for line in heavy.why)
    with pytest.raises(ConfigError, match=r"search.at_once: expected at most 2 .*4.0 GiB a process \(measured\)"):
        plan(nodes, at_once=5, need=Need(4 * GIB, 0, "measured"))
    with pytest.raises(ConfigError, match=r"growth.max_parameters: expected networks that fit .* write a lower"):
        plan(nodes, need=Need(11 * GIB, 0, "measured"))
    with pytest.raises(ConfigError, match=r"workers: expected at most 1 on .*got 4; write workers: 1"):
        plan(nodes, 4, need=Need(4 * GIB, 0, "measured"))


@pytest.mark.parametrize(
    ("nodes", "workers", "at_once", "said"),
    [
        (on(2), 4, None, r"workers: expected at most 3 on 2 CPUs .*got 4; write workers: 3"),
        (
            on(2),
            2,
            2,
            r"search.at_once: expected at most 1 with 2 workers each on 2 CPUs, got 2; write .*: 1",
        ),
        (on(1, 1), 4, None, r"workers: expected at most 3 on 2 CPUs of 2 nodes .*got 4; write workers: 3"),
        (on(0), 0, None, r"workers: expected a node with CPUs, got 1 with none"),
    ],
)
def test_what_cannot_fit_is_told_with_the_most_that_does(
    nodes: list[Node], workers: int, at_once: int | None, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(nodes, workers, at_once)


def test_a_search_that_goes_on_takes_what_there_is() -> None:
    nodes = on(2)
    config = build({"workers": 2, "search.at_once": 2})
    with pytest.raises(ConfigError, match=r"search.at_once: expected at most 1"):
        placement.plan(nodes, config, "cpu")
    made = placement.plan(nodes, config, "cpu", begun=True)
    assert made.at_once == 1
    assert any("1 at once, as many as fit; search.at_once asks for 2" in line for line in made.why)
    ranks = build({"training.ranks": 2, "search.at_once": 3})
    assert placement.plan(nodes, ranks, "cpu", begun=True).at_once == 1
    assert placement.plan(on(4), ranks, "cpu", begun=True).at_once == 2
    # What does not fit at all is refused all the same.
    with pytest.raises(ConfigError, match="workers: expected at most 3"):
        placement.plan(nodes, build({"workers": 4, "search.at_once": 2}), "cpu", begun=True)


def test_a_cluster_whose_workers_are_not_there_yet_may_have_them_later() -> None:
    with pytest.raises(UnavailableError, match=r"got 2 with none; wait for the cluster's workers"):
        plan(on(0, 0))


def test_a_device_that_no_node_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device: expected a node with a GPU and CPUs, got 2 without"):
        placement.plan(on(4, 4), config_of(), "cuda")


def test_a_pool_of_ones_own_has_no_bundle_for_the_network() -> None:
    own = placement.pool(on(2), 3, "cpu")
    assert own.bundles() == [{"CPU": 0.5}] * 3
    with pytest.raises(ConfigError, match=r"workers: expected at most 4 on 2 CPUs .*got 5; write workers: 4"):
        placement.pool(on(2), 5, "cpu")


def test_random_clusters_hold_what_is_planned_for_them() -> None:
    """Bundles put one by one on the first node that has room, as worst a scheduler might."""
    draw = keyed("test", "clusters")
    for _ in range(300):
        nodes = [
            Node(
                f"n{i}",
                float(draw.integers(0, 9)) / 2,
                int(draw.integers(0, 3)),
                int(draw.integers(1, 9)) * GIB,
                40 * GIB,
            )
            for i in range(int(draw.integers(1, 5)))
        ]
        device = "cuda" if draw.random() < 0.5 else "cpu"
        need = Need(int(draw.integers(0, 3)) * GIB, int(draw.integers(0, 50)) * GIB, "drawn")
        asked = int(draw.integers(1, 6)) if draw.random() < 0.5 else None
        try:
            made = placement.plan(nodes, config_of(int(draw.integers(0, 4)), asked), device, need)
        except ConfigError:
            continue
        free = [[n.cpus, [1.0] * n.gpus, float(n.memory)] for n in nodes]
        bundle = made.bundle()
        for _ in range(made.at_once * len(made.bundles())):
            assert any(_put(node, bundle) for node in free), (nodes, made)
        assert made.at_once == sum(count for _, count in made.groups) + made.spread
        assert all(node.cpus >= 0 and node.gpus >= 0 and node.memory >= 0 for node in made.idle)


def _put(node: list, bundle: dict[str, float]) -> bool:  # type: ignore[type-arg]
    cpus, gpus, memory = node
    wanted = bundle.get("GPU", 0.0)
    fitting = [i for i, free in enumerate(gpus) if free >= wanted - 1e-9]
    if cpus < bundle["CPU"] - 1e-9 or memory < bundle.get("memory", 0.0) or (wanted and not fitting):
        return False
    node[0] -= bundle["CPU"]
    node[2] -= bundle.get("memory", 0.0)
    if wanted:
        gpus[fitting[0]] -= wanted
    return True
