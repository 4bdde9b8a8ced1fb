"""Real Ray clusters on this machine: every node is a `ray start` with its own raylet, folder, ports and address.

    with ray_nodes.started(workers=2) as cluster:
        cluster.run([sys.executable, "-m", "mine"], timeout=60)   # a driver, on the head's node
        cluster.workers[0].kill()                                # SIGKILL for the whole node
        cluster.add(cpus=2)

Where the system allows it (root), each node lies in a network namespace of its own behind a bridge, so that nodes see
each other through the network alone; elsewhere they share this machine's address. A driver must run on a node (`run`,
`popen`); only `ray://` clients may stand outside. Every process here is ended by its id. CPUs are claims, not cores.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

FAST = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
    # Processes that nobody asked for yet: each costs a second of one of few cores.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "OMP_NUM_THREADS": "1",
}
PATIENCE = 90.0
"""Seconds that a node may take to come up, on a machine with much else to do."""


def without_ray() -> dict[str, str]:
    """This process's environment without what would lead a child to another Ray, or to the modules of the tests."""
    dropped = ("RAY_", "MERISTEM_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "PYTHONPATH": str(ROOT)}


@functools.cache
def namespaces_allowed() -> bool:
    """Whether this process may make network namespaces."""
    name = f"evo-probe-{os.getpid()}"
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", f"evop{os.getpid()}", "type", "bridge")
        _ip("link", "del", f"evop{os.getpid()}")
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            _ip("netns", "del", name)
    return True


@dataclass
class Node:
    """One node. prefix: what a command line begins with to run there."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes]
    prefix: tuple[str, ...]
    namespace: str | None
    alive: bool = True

    def pids(self) -> list[int]:
        """All processes of the node that are there now, drivers in its namespace included."""
        found = {self.process.pid} if self.process.poll() is None else set[int]()
        if self.namespace is not None:
            told = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
            found |= {int(word) for word in told.stdout.split()}
        for pid, (session, _) in _processes().items():
            if session == self.process.pid:
                found.add(pid)
        # Who leaves the session (a job of the dashboard's) is known by the folder, which its command line names.
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != os.getpid():
                    found.add(pid)
        return sorted(found)

    def await_start(self) -> None:
        """Returns once it has joined its cluster."""
        end = time.monotonic() + PATIENCE
        while "will now block forever" not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.1)

    def raylet(self) -> int:
        """The raylet's process id."""
        return self.find("raylet/raylet")[0]

    def find(self, word: str) -> list[int]:
        """Process ids of those whose command line holds the word, such as `ray::` or `gcs_server`."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                if word.encode() in words and b"ray_nodes" not in words:
                    found.append(pid)
        return found

    def kill(self) -> None:
        """As a machine that loses its power: everything at once, nobody is told."""
        self.alive = False
        end = time.monotonic() + 20
        while (left := self.pids()) and time.monotonic() < end:
            _signal(left, signal.SIGKILL)
            if self.process.poll() is None:
                self.process.wait(10)
            time.sleep(0.05)
        assert not left, f"{self.name}: {left} outlived SIGKILL"

    def pause(self) -> None:
        """As a machine that hangs, until `unpause`."""
        _signal(self.pids(), signal.SIGSTOP)

    def unpause(self) -> None:
        _signal(self.pids(), signal.SIGCONT)

    def log(self) -> str:
        """What `ray start` printed."""
        return (self.folder / "ray-start.log").read_text(errors="replace")


@dataclass
class Cluster:
    """address: for --address on a node. client: the same from anywhere on this machine, as ray://."""

    home: Path
    token: str
    env: Mapping[str, str]
    network: Network | None
    head: Node = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    address: str = ""
    client: str = ""
    dashboard: str | None = None

    @property
    def workers(self) -> list[Node]:
        """All but the head, the dead among them too."""
        return self.nodes[1:]

    def add(
        self, cpus: float = 2, resources: str = "", gpus: int = 0, wait: bool = True, hidden: Path | None = None,
    ) -> Node:  # fmt: skip
        """Another worker node; returns once it has joined.

        resources: JSON, as `ray start --resources` takes it. hidden: a folder in whose place the node sees an empty one
        of its own; only where nodes have namespaces.
        """
        more = [f"--resources={resources}"] if resources else []
        return self._start(
            [f"--address={self.address}", f"--num-cpus={cpus:g}", f"--num-gpus={gpus}", *more], wait, hidden
        )

    def popen(self, words: Sequence[str], node: Node | None = None, **options: Any) -> subprocess.Popen[Any]:
        """A command on a node, the head's unless told, with the cluster's token; the caller waits for it or ends it."""
        node = node or self.head
        env = {**self.env, **options.pop("env", {})}
        return subprocess.Popen([*node.prefix, *words], env=env, **options)

    def run(self, words: Sequence[str], timeout: float = 120.0, **options: Any) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        process = self.popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        if self.network is not None:
            self.network.close()

    def _begin(self, cpus: float, dashboard: bool) -> None:
        ports = {name: _port() for name in ("gcs", "client", "dashboard")}
        words = ["--head", f"--port={ports['gcs']}", f"--num-cpus={cpus:g}", "--num-gpus=0"]
        words += [f"--ray-client-server-port={ports['client']}", "--no-monitor"]
        words += [f"--include-dashboard={str(dashboard).lower()}", f"--dashboard-port={ports['dashboard']}"]
        self.head = self._start(words)
        self.address = f"{self.head.address}:{ports['gcs']}"
        self.client = f"ray://{self.head.address}:{ports['client']}"
        self.dashboard = f"http://127.0.0.1:{ports['dashboard']}" if dashboard else None

    def _start(self, words: Sequence[str], wait: bool = True, hidden: Path | None = None) -> Node:
        name = f"node{len(self.nodes)}"
        folder = self.home / name
        folder.mkdir()
        namespace, address, prefix = None, _own_address(), ()
        if self.network is not None:
            namespace, address = self.network.join()
            prefix = ("ip", "netns", "exec", namespace)
        options = [f"--node-ip-address={address}", f"--temp-dir={folder}", "--object-store-memory=100000000"]
        # Nodes that share an address must not share ports, and Ray's own choice has fixed defaults.
        apart = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
        options += ["--min-worker-port=0", "--max-worker-port=0", *(f"--{port}={_port()}" for port in apart)]
        blind: tuple[str, ...] = ()
        if hidden is not None:
            assert namespace is not None
            blind = ("sh", "-ec", f'mount -t tmpfs tmpfs "{hidden}"; exec "$@"', "sh")  # `ip netns exec` has own mounts
        command = [*prefix, *blind, sys.executable, "-m", "ray.scripts.scripts", "start", *words, *options, "--block"]
        with (folder / "ray-start.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        node = Node(name, address, folder, process, prefix, namespace)
        self.nodes.append(node)
        if wait:
            node.await_start()
        return node


@contextlib.contextmanager
def started(
    workers: int | Sequence[float] = 2, head_cpus: float = 0, dashboard: bool = False, apart: bool | None = None,
    env: Mapping[str, str] | None = None, hidden: Path | None = None,
) -> Iterator[Cluster]:  # fmt: skip
    """A cluster with the token on, ended with the block.

    workers: how many of 2 CPUs each, or the CPUs of each. head_cpus: 0, as `cluster.yaml` has it.
    apart: in network namespaces; None: where that is allowed. env: for all nodes and for what `run` starts. hidden:
    from the workers, where there are namespaces (see `add`).
    """
    token = secrets.token_hex(32)
    home = Path(tempfile.mkdtemp(prefix="evn-", dir="/tmp"))  # a socket's path holds about 100 characters
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    given = {**without_ray(), **FAST, **own, **(env or {})}
    network = Network.made() if (namespaces_allowed() if apart is None else apart) else None
    cluster = Cluster(home, token, given, network)
    try:
        cluster._begin(head_cpus, dashboard)
        for cpus in [2.0] * workers if isinstance(workers, int) else workers:
            cluster.add(cpus, wait=False, hidden=hidden if network else None)
        for node in cluster.workers:
            node.await_start()
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(home, ignore_errors=True)


@dataclass
class Network:
    """A bridge of this machine and the namespaces behind it."""

    prefix: str
    bridge: str
    namespaces: list[str] = field(default_factory=list)

    @staticmethod
    def made() -> Network:
        number = os.getpid()
        taken = subprocess.run(["ip", "-br", "addr"], capture_output=True, text=True, check=True).stdout
        while (prefix := f"10.{64 + number // 250 % 150}.{number % 250}.") in taken:
            number += 1
        bridge = f"evo{number}"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{prefix}1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        return Network(prefix, bridge)

    def join(self) -> tuple[str, str]:
        """A new namespace: its name, and the address of its end."""
        number = len(self.namespaces) + 2
        name, outer, address = f"{self.bridge}-{number}", f"{self.bridge}v{number}", f"{self.prefix}{number}"
        _ip("netns", "add", name)
        self.namespaces.append(name)
        _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outer, "master", self.bridge, "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "route", "add", "default", "via", f"{self.prefix}1")
        return name, address

    def cut(self, number: int) -> None:
        """Pulls the cable of the so-manieth namespace, from 0."""
        _ip("link", "set", f"{self.bridge}v{number + 2}", "down")

    def close(self) -> None:
        for name in self.namespaces:
            _ip("netns", "del", name)
        _ip("link", "del", self.bridge)


def listening(port: int, pid: int | str = "self") -> set[str]:
    """The addresses at which somebody listens on the port, in the network that the process sees; any: 0.0.0.0."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            host, _, at = local.rpartition(":")
            if state == "0A" and int(at, 16) == port:
                four = bytes.fromhex(host[-8:])[::-1]
                mapped = table == "tcp" or host.startswith("0000000000000000FFFF0000")
                found.add(socket.inet_ntoa(four) if mapped or not int(host, 16) else "IPv6")
    return found


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _own_address() -> str:
    """Of this machine, as its neighbours see it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _processes() -> dict[int, tuple[int, int]]:
    """Session and parent of every process."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(pid)] = (int(fields[3]), int(fields[1]))
    return found


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
