"""A Ray cluster that others started: joined for a while, given our code, looked over, and left as it was.

Nothing here ends what is not ours. Our three packages and the user's plug-ins travel with the job, so that every node
runs the source that this process runs; the libraries beneath must be on the nodes already (`Containerfile`).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray._private import services
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evo import address as addresses
from evo import cluster, nodes, plugins, storage
from evo.config import Config, ConfigError, UnavailableError
from evo.progress import Progress

PACKAGES = ("search_spaces", "tournaments", "evo")
PATIENCE = 60.0
"""Seconds that a node may take to unpack our code and answer."""

_LOST = (exceptions.NodeDiedError, exceptions.WorkerCrashedError, exceptions.TaskUnschedulableError)


@contextlib.contextmanager
def attached(address: str) -> Iterator[None]:
    """Ray as the cluster at `address` runs it; this process only takes its leave afterwards.

    Raises ConfigError, within seconds, where nothing listens there, the token is missing or wrong, versions differ, or
    this machine is no node of it.
    """
    if ray.is_initialized():
        raise ConfigError(
            f"address: expected a process without Ray to join {address}, but this one runs with Ray already; leave "
            "address out to use that, or call ray.shutdown() first"
        )
    door = addresses.door(address)
    addresses.knock(door)
    if not door.remote and not services.find_node_ids():  # type: ignore[no-untyped-call]
        raise _no_node(door.text)
    try:
        with cluster.quiet_environment(), cluster.own_handlers():
            ray.init(
                address=door.text, runtime_env=runtime_env(), log_to_driver=False, logging_level=logging.ERROR,
            )  # fmt: skip
    except Exception as err:
        raise _told(err, door) from err
    try:
        with cluster.silence():
            yield
    finally:
        with cluster.own_handlers():
            ray.shutdown()


def runtime_env() -> dict[str, Any]:
    """What Ray is to give every process of ours: our source, the user's plug-ins, and how to behave."""
    ours = [str(Path(str(importlib.import_module(name).__file__)).parent) for name in PACKAGES]
    kept = {name: value for name, value in os.environ.items() if name.startswith("MERISTEM_")}
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return {"py_modules": [*ours, *plugins.sources()], "env_vars": {**cluster.ENVIRONMENT, **threads, **kept}}


# --- the nodes


@dataclass(frozen=True)
class Node:
    """As Ray lists it."""

    id: str
    host: str
    address: str

    @property
    def text(self) -> str:
        return f"{self.host} ({self.address})" if self.host != self.address else self.address


def living() -> list[Node]:
    """The nodes of the cluster that are up."""
    listed = [n for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
    return [Node(str(n["NodeID"]), str(n["NodeManagerHostname"]), str(n["NodeManagerAddress"])) for n in listed]


def look_over(config: Config, progress: Progress, remote: bool = False) -> None:
    """Checks on every node what a run needs there; what may change its last bits is told as a note.

    remote: this process is on none of the nodes, and must see the runs too. Raises ConfigError, naming the node, where
    a library is missing, or where a node and this process do not share the folder of runs.
    """
    present = living()
    shared = remote or len(present) > 1 or storage.is_remote(config.out)
    with _nonce(config.out) if shared else contextlib.nullcontext() as nonce:
        answers = _ask(present, nonce)
    ours = nodes.versions()
    for node in present:
        answer = answers.get(node.id)
        if answer is None:
            told = f"{node.text} did not answer within {PATIENCE:.0f} s; it may do so later"
            progress({"stage": "note", "text": told, "lasts": True})
            continue
        _check(node, answer, config.out)
        for name, version in ours.items():
            if answer["versions"].get(name) not in (None, version):
                text = f"{node.text} has {name} {answer['versions'][name]}, this process {version}: "
                progress({"stage": "note", "text": f"{text}results may differ in the last bits", "lasts": True})


def _check(node: Node, answer: Mapping[str, Any], out: str) -> None:
    if answer["failed"]:
        raise ConfigError(
            f"address: node {node.text} cannot run our code ({answer['failed']}); give every node the image of "
            "Containerfile, or run pip install -c constraints.txt -e . there"
        )
    if answer["missing"]:
        raise ConfigError(
            f"address: expected the same libraries on every node, but node {node.text} lacks "
            f"{', '.join(answer['missing'])}; run pip install -c constraints.txt -e . there, or use the image of "
            "Containerfile"
        )
    if answer["store"]:
        raise ConfigError(
            f"out: expected a place that every node can read and write, but node {node.text} and this process do not "
            f"share {out!r} ({answer['store']}); write --out s3://BUCKET/runs, or a folder that is mounted on all nodes"
        )


def _ask(present: list[Node], nonce: nodes.Nonce | None) -> dict[str, dict[str, Any]]:
    """What the nodes say of themselves, by their ids; a node that is silent or died is missing."""
    look: Any = ray.remote(nodes.look)
    asked = {}
    for node in present:
        strategy = NodeAffinitySchedulingStrategy(node.id, soft=False)
        asked[look.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(nonce)] = node
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=PATIENCE)
    answers: dict[str, dict[str, Any]] = {}
    for future in ready:
        try:
            answers[asked[future].id] = ray.get(future)
        except _LOST:
            continue
        except (exceptions.RayError, ImportError) as err:
            answers[asked[future].id] = {"failed": last_line(err), "versions": {}, "missing": [], "store": ""}
    for future in late:
        ray.cancel(future, force=True)
    return answers


@contextlib.contextmanager
def _nonce(out: str) -> Iterator[nodes.Nonce]:
    """A file that only whoever sees this very folder can read back, and that is gone afterwards."""
    uri = out if storage.is_remote(out) else str(Path(out).absolute())
    made = nodes.Nonce(uri, f"probe-{secrets.token_hex(8)}", secrets.token_hex(16))
    store = storage.open_store(uri)
    before = None if storage.is_remote(uri) else next(p for p in (Path(uri), *Path(uri).parents) if p.exists())
    store.create(made.name, made.secret.encode())
    try:
        yield made
    finally:
        for name in store.names(made.name):
            store.remove(name)
        if before is not None:
            storage.remove_empty(Path(uri), before)


# --- what Ray says, in one line


def _told(err: Exception, door: addresses.Door) -> ConfigError:
    text = " ".join(f"{err} {err.__cause__ or ''}".split())
    if "Version mismatch" in text:
        theirs = text.partition("started with:")[2].partition("This process")[0].strip(" .") or "others"
        return addresses.other_versions(door.text, theirs)
    if "InvalidAuthToken" in text or isinstance(err, exceptions.AuthenticationError):
        return ConfigError(f"address: {door.text} refuses the token of this process; {addresses.SAME_TOKEN}")
    if "No node info found" in text or "node info for possible node ids" in text:
        return _no_node(door.text)
    if isinstance(err, exceptions.RuntimeEnvSetupError):
        return ConfigError(f"address: {door.text} cannot set up our code ({last_line(err)}); see the logs of its nodes")
    return UnavailableError(
        f"address: {door.text} cannot be joined ({last_line(err)}); `ray status` on its head tells more"
    )


def _no_node(where: str) -> ConfigError:
    return UnavailableError(
        f"address: this machine is no node of the cluster at {where}; write --address ray://HOST:10001 with the head's "
        f"name, or make it a node with `ray start --address={where}`"
    )


def last_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return (lines[-1] if lines else type(err).__name__)[:300]
