"""What strikes a search on real Ray processes: 40 faults of the kinds that a cluster meets."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fault_lives as lives
from fault_cluster import Scene, SkippedError, ray_nodes, scratch_folder, stop_and_go, tree

Strike = Callable[[Scene], str | None]
WAIT = 30.0


@dataclass(frozen=True)
class Kind:
    """before: prepares the scene. after: once the first command has ended. between: after a resume that was refused.
    check: more columns of the line.
    """

    name: str
    strike: Strike
    nodes: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    before: Callable[[Scene], None] | None = None
    after: Callable[[Scene], None] | None = None
    between: Callable[[Scene], None] | None = None
    check: Callable[[Scene, Path, lives.Difference], dict[str, Any]] | None = None


def drawn(scene: Scene, found: list[int]) -> int:
    return found[int(scene.draw.integers(len(found)))]


def alone(scene: Scene, word: str) -> int:
    """A process of the private Ray whose command line holds the word; waits for one."""
    assert scene.driver is not None
    end = time.monotonic() + WAIT
    while time.monotonic() < end and scene.driver.poll() is None:
        if found := sorted(pid for pid, line in tree(scene.driver.pid).items() if word in line):
            return drawn(scene, found)
        time.sleep(0.02)
    raise RuntimeError(f"no process {word!r} under the driver: {sorted(tree(scene.driver.pid).values())}")


def kill_alone(word: str) -> Strike:
    def strike(scene: Scene) -> str:
        os.kill(alone(scene, word), signal.SIGKILL)
        return f"killed {word}"

    return strike


def kill_driver(scene: Scene) -> str:
    scene.end_driver()
    return "killed the driver"


def busy_node(scene: Scene) -> ray_nodes.Node:
    """A worker node that has a trial."""
    assert scene.cluster is not None
    found = [node for node in scene.cluster.workers if node.alive and node.find(TRIAL)]
    return found[int(scene.draw.integers(len(found)))] if found else scene.cluster.workers[0]


def kill_raylet_of_node(scene: Scene) -> str:
    node = busy_node(scene)
    os.kill(node.raylet(), signal.SIGKILL)
    return f"killed the raylet of {node.name}"


def kill_node(scene: Scene) -> str:
    node = busy_node(scene)
    node.kill()
    return f"killed {node.name}"


def kill_head(scene: Scene) -> str:
    """The driver lives there too."""
    assert scene.cluster is not None
    scene.cluster.head.kill()
    return "killed the head"


def freeze_trial(scene: Scene) -> str:
    stop_and_go([alone(scene, TRIAL)], 8.0)
    return "stopped a trial for 8 s"


def freeze_node(scene: Scene) -> str:
    """A machine that hangs until it has been given up and its networks go on elsewhere, and then comes back."""
    node = busy_node(scene)
    node.pause()
    before = scene.commits()
    end = time.monotonic() + 25
    while time.monotonic() < end and scene.commits() < before + 3:
        time.sleep(0.05)
    node.unpause()
    return f"stopped {node.name} for {25 - max(0, end - time.monotonic()):.0f} s ({scene.commits() - before} commits)"


# --- a disk that is full

SIZE = 24 << 20


def mount_small_disk(scene: Scene) -> None:
    """The folder of runs on a file system of 24 MB. Raises SkippedError where this process may not mount one."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(scene.out)], capture_output=True, text=True
    )
    if done.returncode:
        raise SkippedError(f"a small file system cannot be mounted here ({done.stderr.strip()[:100]})")


def fill_disk(scene: Scene) -> str:
    with contextlib.suppress(OSError), (scene.out / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(1 << 16))
    with contextlib.suppress(OSError), (scene.out / "ballast").open("ab", buffering=0) as ballast:
        while True:
            ballast.write(bytes(256))
    return "filled the disk"


def free_disk(scene: Scene) -> None:
    (scene.out / "ballast").unlink()


def unmount(scene: Scene, whole: Path, found: lives.Difference) -> dict[str, Any]:
    """Keeps the run for whoever wants to look at it, on the true disk."""
    aside = scratch_folder() / "a"
    shutil.copytree(scene.run, aside)
    subprocess.run(["umount", "-l", str(scene.out)], check=True)
    shutil.move(str(aside), scene.run)
    aside.parent.rmdir()
    return {}


# --- an object store that is full

HOARD = """
import sys, time, numpy, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=0)
class Hoarder:
    def __init__(self):
        self.held = []
    def hoard(self):
        for _ in range(12):
            self.held.append(ray.put(numpy.zeros(10_000_000, dtype=numpy.uint8)))
        return len(self.held)

held = [Hoarder.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote() for node in ray.nodes()]
print(sum(ray.get([h.hoard.remote() for h in held])), flush=True)
time.sleep(300)
"""


def fill_store(scene: Scene) -> str:
    """Every node's store, of 100 MB, with 120 MB that stay wanted until the search is over."""
    assert scene.cluster is not None
    words = [sys.executable, "-c", HOARD, scene.cluster.address]
    hoarder = scene.cluster.popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    scene.stack.callback(hoarder.wait, 20)
    scene.stack.callback(hoarder.kill)
    assert hoarder.stdout is not None
    return f"put {hoarder.stdout.readline().strip()} objects of 10 MB into stores of 100 MB"


# --- MLflow


def serve_mlflow(scene: Scene) -> None:
    """Points the run at a server of its own, over HTTP. Raises SkippedError where there is none to be had."""
    try:
        import mlflow.server  # noqa: F401
    except ImportError as err:
        raise SkippedError(f"MLflow's server is not installed ({err})") from err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scene.more |= {"record.mlflow": True, "record.tracking_uri": f"http://127.0.0.1:{port}"}
    lives.prepare(scene.out.parent / "empty.db")
    shutil.copy(scene.out.parent / "empty.db", scene.out / lives.STORE)
    scene.stack.callback(end_server, scene)
    start_server(scene)


def start_server(scene: Scene) -> None:
    port = str(scene.more["record.tracking_uri"]).rpartition(":")[2]
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{scene.out / lives.STORE}"]
    words += ["--artifacts-destination", str(scene.out / "mlartifacts")]
    env = {**ray_nodes.without_ray(), "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = subprocess.DEVNULL
    scene.server = subprocess.Popen(words, env=env, stdout=quiet, stderr=quiet, start_new_session=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
            return
        time.sleep(0.1)
    raise RuntimeError("MLflow's server did not come up in a minute")


def end_server(scene: Scene) -> str:
    assert scene.server is not None
    for pid in [scene.server.pid, *tree(scene.server.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    scene.server.wait(20)
    return "killed MLflow's server"


def serve_again(scene: Scene) -> None:
    """The server is back after the run's end: what is still queued is drained when the run is next looked after."""
    start_server(scene)
    scene.notes.append("resumed")
    scene.start()
    scene.finish()


def compare_stores(scene: Scene, whole: Path, found: lives.Difference) -> dict[str, Any]:
    """MLflow's points against those of the twin, drained into a store of its own."""
    from evo.mlflow_log import drain

    aside = scratch_folder()
    try:
        shutil.copytree(whole / "a", aside / "a")
        shutil.copy(scene.out.parent / "empty.db", aside / lives.STORE)
        drain(aside / "a")
        ours, theirs = lives.points(scene.out), lives.points(aside)
    finally:
        shutil.rmtree(aside)
    assert theirs
    return {"lost": found.lost + (theirs - ours).total(), "doubled": found.doubled + (ours - theirs).total()}


# --- what is on the disk is damaged


def damage(what: str, how: str) -> Strike:
    """SIGKILL of the driver, and then of its newest file of events, or snapshot, half is gone or one bit is flipped."""

    def strike(scene: Scene) -> str:
        scene.end_driver()
        time.sleep(2.0)  # its Ray ends
        name = max((scene.run / "events").glob("[!.]*.parquet"), key=lambda p: p.stat().st_mtime_ns)
        if what == "snapshot":
            homes = sorted((scene.run / "snapshots" / network_of(name)).glob("[!.]*"))
            # The newest that the events tell of: the number in a file's name is its cycle's.
            home = next(h for h in reversed(homes) if int(h.name) <= int(name.stem.rpartition("-")[2]))
            name = max(home.glob("*.safetensors"), key=lambda p: p.stat().st_size)
        content = bytearray(name.read_bytes())
        if how == "truncated":
            del content[len(content) // 2 :]
        else:
            # Behind the header, before the footer: among the figures.
            content[int(scene.draw.integers(len(content) // 4, len(content) // 2))] ^= 1 << int(scene.draw.integers(8))
        name.write_bytes(content)
        scene.damaged = name
        return f"{how} {name.relative_to(scene.run)}"

    return strike


def network_of(path: Path) -> str:
    return path.stem.rpartition("-")[0]


def set_aside(scene: Scene) -> None:
    """What the refusal advises. Raises RuntimeError where it did not name the file."""
    assert scene.damaged is not None
    said = scene.log.read_text(errors="replace").strip().splitlines()[-1]
    told = scene.damaged.parent.name if "snapshots" in scene.damaged.parts else scene.damaged.name
    if told not in said or "--set-aside" not in said:
        raise RuntimeError(f"expected a refusal that names {scene.damaged} and --set-aside, got {said!r}")
    network = said.partition("--set-aside ")[2].split("`")[0].split()[0]
    scene.resume_words = ["--set-aside", network]


# --- notices


def notice(scene: Scene) -> str:
    """SIGTERM to a raylet, as a spot machine gets it."""
    node = busy_node(scene)
    os.kill(node.raylet(), signal.SIGTERM)
    return f"SIGTERM to the raylet of {node.name}"


def drain(scene: Scene) -> str:
    """The node is told to end within seconds, and then its power goes."""
    assert scene.cluster is not None
    node = busy_node(scene)
    words = [sys.executable, "-c", DRAIN, scene.cluster.address, node.address]
    done = scene.cluster.run(words, timeout=60)
    time.sleep(3.0)
    node.kill()
    return f"drained {node.name} ({done.stdout.strip()}), killed it 3 s later"


DRAIN = """
import subprocess, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
held = [n["NodeID"] for n in ray.nodes() if n["NodeManagerAddress"] == sys.argv[2] and n["Alive"]]
words = ["--address", sys.argv[1], "--node-id", held[0], "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
words += ["--reason-message", "spot notice", "--deadline-remaining-seconds", "3"]
done = subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "drain-node", *words], capture_output=True)
print("accepted" if done.returncode == 0 else f"exit {done.returncode}")
"""

TRIAL = "ray::NetworkTrial"
WORKER = "ray::Worker"
RAYLET = "raylet/raylet"
GCS = "gcs_server"

_FULL = {"before": mount_small_disk, "after": free_disk, "check": unmount}
_MLFLOW = {"before": serve_mlflow, "after": serve_again, "check": compare_stores}

KINDS: tuple[Kind, ...] = (
    *[Kind("worker, SIGKILL", kill_alone(WORKER), settings={"workers": 1})] * 4,
    *[Kind("trial, SIGKILL", kill_alone(TRIAL))] * 4,
    *[Kind("raylet, SIGKILL", kill_alone(RAYLET))] * 2,
    *[Kind("raylet of a node, SIGKILL", kill_raylet_of_node, nodes=True)] * 2,
    *[Kind("node, SIGKILL", kill_node, nodes=True)] * 2,
    *[Kind("driver, SIGKILL", kill_driver)] * 4,
    *[Kind("GCS, SIGKILL", kill_alone(GCS))] * 2,
    *[Kind("head with the driver, SIGKILL", kill_head, nodes=True)] * 2,
    *[Kind("trial stopped and continued", freeze_trial)] * 2,
    *[Kind("node stopped, given up, continued", freeze_node, nodes=True)] * 2,
    *[Kind("disk full", fill_disk, **_FULL)] * 3,  # type: ignore[arg-type]
    *[Kind("object store full", fill_store, nodes=True)] * 2,
    *[Kind("MLflow down", end_server, **_MLFLOW)] * 3,  # type: ignore[arg-type]
    *[Kind("last events truncated", damage("events", "truncated"), between=set_aside)],
    *[Kind("last events, a bit flipped", damage("events", "flipped a bit of"), between=set_aside)],
    *[Kind("last snapshot truncated", damage("snapshot", "truncated"), between=set_aside)],
    *[Kind("last snapshot, a bit flipped", damage("snapshot", "flipped a bit of"), between=set_aside)],
    *[Kind("notice, SIGTERM to a node's raylet", notice, nodes=True)],
    *[Kind("node drained, then killed", drain, nodes=True)],
)
assert len(KINDS) == 40
