"""A search on a real cluster of three nodes: the same bits as in one process, also when a node dies.

The head claims no CPU, two workers claim two each; each in a network namespace of its own where the system allows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ray_nodes import Cluster, Node, listening
from small_life import same
from three_nodes import COMMAND, commits, ended, networks_on, piped, until

from evo.recorder import read_events

pytestmark = pytest.mark.timeout(600)


def test_three_nodes_compute_what_one_process_does(home: Path, alone: Path, cluster: Cluster) -> None:
    search = cluster.popen([*COMMAND, "--name", "three", "--address", "auto"], cwd=home, **piped(cluster))
    both = set()

    def seen() -> bool:
        both.update(node.name for node in cluster.workers if networks_on(node))
        return search.poll() is not None

    until(seen, "the search ended")
    code, err = ended(search)
    assert code == 0, err
    assert "process died" not in err
    assert both == {"node1", "node2"}
    assert same(alone, home / "runs" / "three") == []
    # Whoever was joined goes on without us.
    assert (
        cluster.run([sys.executable, "-m", "ray.scripts.scripts", "status", "--address", cluster.address]).returncode
        == 0
    )


def test_without_the_token_nobody_comes_in(home: Path, cluster: Cluster, tmp_path: Path) -> None:
    bare = {name: value for name, value in cluster.env.items() if not name.startswith("RAY_AUTH_")}
    bare["HOME"] = str(tmp_path)  # where no token lies
    unknown = "does not know the token of this process (InvalidAuthToken)"
    cases: list[tuple[str, dict[str, str], str]] = [
        (cluster.address, {}, "asks for a token, and this process has none"),
        (cluster.address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, unknown),
        (cluster.client, {"RAY_AUTH_TOKEN": "wrong"}, unknown),
        (cluster.client, {"RAY_AUTH_MODE": "disabled"}, "asks for a token, but RAY_AUTH_MODE=disabled here"),
    ]
    for address, env, told in cases:
        code, err = refused(bare | env, address, tmp_path, cluster.head)
        assert (code, err.count("\n")) == (2, 1), err
        assert f"{told}; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's token" in err
        assert "`ray get-auth-token` prints it on the head" in err
    assert not (tmp_path / "runs").exists()


def refused(env: dict[str, str], address: str, cwd: Path, node: Node) -> tuple[int, str]:
    """Exit code and standard error of a client, without the note that it is joining."""
    program = (
        "import sys; from evo import address, complaints\n"
        "@complaints.plainly\ndef knock(): address.knock(address.door(sys.argv[1]))\n"
        "knock()"
    )
    done = subprocess.run(
        [*node.prefix, sys.executable, "-c", program, address],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


def test_the_command_itself_is_refused_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    wrong = {"RAY_AUTH_TOKEN": "wrong"}
    done = cluster.run([*COMMAND, "--address", cluster.address], cwd=tmp_path, env=wrong)
    assert done.returncode == 2
    assert done.stdout == ""
    *notes, last = done.stderr.splitlines()
    assert notes == [f"joining {cluster.address} ..."]
    assert last.startswith(f"evo: address: {cluster.address} does not know the token")
    assert list(tmp_path.iterdir()) == []


def test_the_dashboard_is_for_the_head_alone(cluster: Cluster) -> None:
    assert cluster.dashboard is not None
    port = int(cluster.dashboard.rpartition(":")[2])
    assert listening(port, cluster.head.raylet()) == {"127.0.0.1"}


def test_data_reach_a_node_once(cluster: Cluster, home: Path) -> None:
    """Two processes on one node, one after the other: the second reads the memory that the first one's came to."""
    program = """
import json, re, sys, numpy, ray, torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from evo.attached import attached, living
from evo.shipping import ShippedTask
from evo.task import Split, Task

class Trial:
    def come(self, boxed):
        before = received()
        task = ray.get(boxed[0]).unpacked(torch.device("cpu"))
        x = task.splits["train"].x
        place = x.data_ptr()
        for line in open("/proc/self/maps"):
            span, _, offset, device, inode, *_ = line.split()
            low, high = (int(end, 16) for end in span.split("-"))
            if low <= place < high:
                return received() - before, [device, inode, int(offset, 16) + place - low], float(x.sum())

def received():
    return sum(int(line.split()[1]) for line in open("/proc/self/net/dev") if "eth0:" in line)

x = torch.ones(2_000_000)
names = ("train", "growth", "audit", "validation", "test")
task = Task("t", "classification", (1,), 2, dict.fromkeys(names, Split(x[:, None], x.long())), 0.69, {})
with attached("auto"):
    boxed = (ray.put(ShippedTask.of(task)),)
    here = ray.get_runtime_context().get_node_id()
    there = next(node.id for node in living() if node.id != here)
    trial = ray.remote(Trial)
    where = NodeAffinitySchedulingStrategy(there, soft=False)
    found = []
    for _ in range(2):
        one = trial.options(num_cpus=1, scheduling_strategy=where).remote()
        found.append(ray.get(one.come.remote(boxed)))
        keep = one
    print(json.dumps(found))
"""
    done = cluster.run([sys.executable, "-c", program], cwd=home, env={"RAY_ADDRESS": cluster.address})
    assert done.returncode == 0, done.stderr
    (first, place, total), (second, again, same_total) = json.loads(done.stdout)
    assert total == same_total == 2_000_000
    assert place == again
    if cluster.network is not None:
        assert first > 20_000_000
        assert second < 1_000_000


def test_a_node_that_does_not_share_the_folder_of_runs_is_named(cluster: Cluster, tmp_path: Path) -> None:
    if cluster.network is None:
        pytest.skip("without namespaces nodes share all folders")
    out = tmp_path / "own"
    out.mkdir()
    blind = cluster.add(1, hidden=out)
    done = cluster.run([*COMMAND, "--address", cluster.address, "--out", str(out)], cwd=tmp_path)
    blind.kill()
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("evo: out: expected a place that every node can read and write, but node ")
    assert f"({blind.address}) and this process do not share '{out}'" in last
    assert "write --out s3://BUCKET/runs" in last
    assert list(out.iterdir()) == []


def test_a_node_that_dies_changes_nothing(home: Path, alone: Path, cluster: Cluster) -> None:
    run = home / "runs" / "node-lost"
    search = cluster.popen([*COMMAND, "--name", "node-lost", "--address", cluster.address], cwd=home, **piped(cluster))
    until(lambda: commits(run) >= 1, "a first commit", search)
    until(lambda: any(map(networks_on, cluster.workers)), "a network at work")
    victim = next(node for node in cluster.workers if node.alive and node.find("ray::"))
    victim.kill()
    code, err = ended(search)
    assert code == 0, err
    assert "its machine was lost" in err
    assert same(alone, run) == []
    assert "failed" not in set(read_events(run)["kind"])
    cluster.add(2)
