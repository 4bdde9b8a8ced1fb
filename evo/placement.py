"""Placement: what a network claims of a cluster, how many claims fit, and on which nodes. Pure functions, no Ray.

A network's trial owns one placement group: a bundle for itself and one for each of its candidate workers, all alike, so
that any node that can hold one can hold any. A bundle never spans nodes; a group that fits no node whole is spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evo.config import Config, ConfigError, UnavailableError

WORKER_CPUS = 0.5
"""Claimed by a worker, and by a network that has workers: one idles while the other works."""

RANK_SHARE = 0.9
"""Of a CPU, and of a GPU if any, claimed by a rank: no two can share one. The rest is for the network's own process,
which works while its ranks idle.
"""

ALONE_CPUS = 1.0
"""Claimed by a network that runs its trials itself."""

WAIT_SECONDS = 3600.0
"""For room on a full cluster."""

_UNIT = 10_000
"""Ray counts resources in ten-thousandths."""

_MANY = 1_000_000_000


@dataclass(frozen=True)
class Node:
    """A machine as Ray counts it. memory, gpu_memory (of its smallest GPU): bytes, 0 where unknown."""

    name: str
    cpus: float
    gpus: int = 0
    memory: int = 0
    gpu_memory: int = 0


@dataclass(frozen=True)
class Need:
    """What one process of a network takes at its largest, in bytes; 0: not measured. source: how that is known."""

    memory: int = 0
    gpu_memory: int = 0
    source: str = "not measured"


@dataclass(frozen=True)
class Plan:
    """ranks: where more than one, a network has these in the place of workers, and a bundle is a rank's CPU and GPU.

    at_once: networks side by side, each with `workers`. limited: fewer than would fit. own: whether a network has a
    bundle of its own; that of `evo grow` is this process. cpus, gpus, memory (bytes): of each bundle. groups: (node,
    whole groups that it holds). spread: groups that lie on several nodes. idle: what is left of each node. why: in
    words.
    """

    at_once: int
    workers: int
    limited: bool
    own: bool
    cpus: float
    gpus: float
    memory: int
    groups: tuple[tuple[str, int], ...]
    spread: int
    idle: tuple[Node, ...]
    why: tuple[str, ...]
    strategy: str = "PACK"
    ranks: int = 1

    @property
    def processes(self) -> int:
        """Of one network, beside its own."""
        return self.ranks if self.ranks > 1 else self.workers

    def bundles(self) -> list[dict[str, float]]:
        """The placement group of one network: its own bundle first, then its workers', or its ranks'."""
        own = self._rank(1 - RANK_SHARE) if self.ranks > 1 else self.bundle()
        return [own] * self.own + [self.bundle() for _ in range(self.processes)]

    def bundle(self) -> dict[str, float]:
        """What a worker, or a rank, claims."""
        if self.ranks > 1:
            return self._rank(RANK_SHARE)
        claim = {"CPU": self.cpus}
        if self.gpus:
            claim["GPU"] = self.gpus
        if self.memory:
            claim["memory"] = float(self.memory)
        return claim

    def _rank(self, share: float) -> dict[str, float]:
        """A share of what one rank and the network's own process claim together."""
        claim = {name: _floored(amount * share) for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}
        return {**claim, "memory": float(self.memory // 2)} if self.memory else claim


@dataclass(frozen=True)
class _Claim:
    """One bundle. per_gpu: so many share a GPU, 0 where none is used."""

    cpus: float
    per_gpu: int
    memory: int

    def fits(self, node: Node) -> int:
        """Bundles that the node holds."""
        by_cpu = math.floor(node.cpus / self.cpus + 1e-9)
        by_gpu = node.gpus * self.per_gpu if self.per_gpu else _MANY
        by_memory = node.memory // self.memory if self.memory and node.memory else _MANY
        return min(by_cpu, by_gpu, by_memory)


def plan(nodes: Sequence[Node], config: Config, device: str, need: Need = Need(), begun: bool = False) -> Plan:
    """Where a search's networks go. device: "cpu" or "cuda".

    begun: a search that goes on takes what there is, which may be less than where it began. Raises ConfigError naming
    the setting, and the most that fits, where not even one network does or where more side by side were asked for than
    do, and UnavailableError where there is no node to grow on.
    """
    workers, asked, ranks = config.workers, config.search.at_once, config.training.ranks
    present = _usable(nodes, device)
    if ranks > 1:
        claim = _rank(present, ranks, device, need)
        most = _groups(present, claim, ranks)
        if asked is not None and asked > most and not begun:
            raise ConfigError(
                f"search.at_once: expected at most {most} with {ranks} ranks each on {_told(present, claim, need)}, "
                f"got {asked}; write search.at_once: {most}"
            )
        at_once = min(asked or most, most, max(config.search.networks, 1))
        return _planned(nodes, present, claim, at_once, 0, True, need, asked, most, ranks)
    cpus = WORKER_CPUS if workers else ALONE_CPUS
    bundles, memory = 1 + workers, need.memory
    roomy = _Claim(min(cpus, max(n.cpus for n in present)), _most_a_gpu(present, device, need), memory)
    if asked is not None and not workers and _groups(present, roomy, 1) < asked:
        roomy = _Claim(_shared(present, asked), roomy.per_gpu, memory)
    most = _groups(present, roomy, bundles)
    if most < 1:
        raise _no_room(present, roomy, workers, beside=1, need=need)
    if asked is not None and asked > most and not begun:
        raise ConfigError(
            f"search.at_once: expected at most {most}{_with(workers)} on {_told(present, roomy, need)}, got {asked}; "
            f"write search.at_once: {most}"
        )
    at_once = min(asked or most, most, max(config.search.networks, 1))
    claim = _evened(present, roomy, at_once, bundles)
    return _planned(nodes, present, claim, at_once, workers, own=True, need=need, asked=asked, most=most)


def pool(nodes: Sequence[Node], workers: int, device: str, need: Need = Need(), ranks: int = 1) -> Plan:
    """Where the workers, or the ranks, of a single network go, that is in a process outside of any group.

    Raises ConfigError naming the most that fits.
    """
    present = _usable(nodes, device)
    if ranks > 1:
        return _planned(nodes, present, _rank(present, ranks, device, need), 1, 0, False, need, 1, 1, ranks)
    claim = _Claim(WORKER_CPUS, _most_a_gpu(present, device, need), need.memory)
    if workers and _groups(present, claim, workers) < 1:
        raise _no_room(present, claim, workers, beside=0, need=need)
    if workers:
        claim = _evened(present, claim, 1, workers)
    return _planned(nodes, present, claim, 1, workers, own=False, need=need, asked=1, most=1)


# --- counting


def _usable(nodes: Sequence[Node], device: str) -> list[Node]:
    """The nodes that can hold a bundle at all."""
    usable = [n for n in nodes if n.cpus > 0 and (n.gpus > 0 or device != "cuda")]
    if usable:
        return usable
    if device == "cuda":
        raise ConfigError(
            f"device: expected a node with a GPU and CPUs, got {len(nodes)} without; write device: cpu, or start Ray's "
            "nodes with their GPUs"
        )
    raise UnavailableError(
        f"workers: expected a node with CPUs, got {len(nodes)} with none; wait for the cluster's workers (`ray status` "
        "lists them), or start Ray's nodes with --num-cpus"
    )


def _most_a_gpu(nodes: Sequence[Node], device: str, need: Need) -> int:
    """Bundles that may share a GPU, by the memory of the smallest; a network that needs more than it is alone there."""
    if device != "cuda":
        return 0
    known = [n.gpu_memory for n in nodes if n.gpu_memory]
    if not (known and need.gpu_memory):
        return math.ceil(max(n.cpus for n in nodes) / WORKER_CPUS)
    return min(max(1, min(known) // need.gpu_memory), _UNIT)


def _rank(nodes: Sequence[Node], ranks: int, device: str, need: Need) -> _Claim:
    """Of a rank, and of the network's own process beside the first of them. Raises ConfigError where too few fit."""
    claim = _Claim(1.0, 1 if device == "cuda" else 0, 2 * need.memory)
    most = sum(claim.fits(node) for node in nodes)
    if ranks > most:
        each = "a GPU and a CPU" if device == "cuda" else "a CPU"
        cure = f"write training.ranks: {most}" if most > 1 else "leave training.ranks out"
        told = _told(nodes, claim, need)
        raise ConfigError(f"training.ranks: expected at most {most} on {told}, {each} for each, got {ranks}; {cure}")
    return claim


def _groups(nodes: Sequence[Node], claim: _Claim, bundles: int) -> int:
    """Groups that fit: as all bundles are alike, what one node cannot take whole another can take the rest of."""
    return sum(claim.fits(node) for node in nodes) // bundles


def _shared(nodes: Sequence[Node], count: int) -> float:
    """The largest share of a CPU of which the nodes hold `count`."""
    shares = {_floored(node.cpus / parts) for node in nodes for parts in range(1, count + 1)}
    holds = (s for s in sorted(shares, reverse=True) if s > 0 and _groups(nodes, _Claim(s, 0, 0), 1) >= count)
    return next(holds, 1 / _UNIT)


def _evened(nodes: Sequence[Node], claim: _Claim, at_once: int, bundles: int) -> _Claim:
    """As few bundles a GPU as will do: Ray fills one GPU before it takes the next, and would leave some idle."""
    if not claim.per_gpu:
        return claim
    fewer = (_Claim(claim.cpus, k, claim.memory) for k in range(1, claim.per_gpu + 1))
    return next((c for c in fewer if _groups(nodes, c, bundles) >= at_once), claim)


def _floored(share: float) -> float:
    return math.floor(share * _UNIT) / _UNIT


# --- telling


def _planned(
    nodes: Sequence[Node], present: Sequence[Node], claim: _Claim, at_once: int, workers: int, own: bool, need: Need,
    asked: int | None, most: int, ranks: int = 1,
) -> Plan:  # fmt: skip
    bundles = ranks if ranks > 1 else own + workers
    fits = {node.name: claim.fits(node) if node in present else 0 for node in nodes}
    whole, left = [], at_once
    for node in nodes:
        here = min(fits[node.name] // bundles, left) if bundles else 0
        whole.append((node.name, here))
        left -= here
    spread = left if bundles else 0
    taken = {name: count * bundles for name, count in whole}
    rest = spread * bundles
    for node in nodes:
        more = min(fits[node.name] - taken[node.name], rest)
        taken[node.name] += more
        rest -= more
    gpus = _floored(1 / claim.per_gpu) if claim.per_gpu else 0.0
    # Memory is claimed only where it, and not the CPUs, is what keeps more networks away.
    lax = _Claim(claim.cpus, claim.per_gpu, 0)
    scarce = claim.memory if any(claim.fits(node) < lax.fits(node) for node in present) else 0
    idle = tuple(
        Node(
            node.name,
            round(node.cpus - claim.cpus * taken[node.name], 4),
            node.gpus - math.ceil(taken[node.name] / claim.per_gpu) if claim.per_gpu else node.gpus,
            max(0, node.memory - claim.memory * taken[node.name]) if node.memory else 0,
            node.gpu_memory,
        )
        for node in nodes
    )
    said = []
    unusable = [node.name for node in nodes if node not in present]
    if unusable:
        said.append(f"{', '.join(unusable)}: no {'GPU' if claim.per_gpu else 'CPU'} to be had, so nothing runs there")
    if asked is not None and asked > most:
        said.append(f"{at_once} at once, as many as fit; search.at_once asks for {asked}")
    elif asked is not None and own:
        said.append(f"{at_once} at once, as search.at_once asks; {most} would fit")
    elif own and at_once < most:
        said.append(f"{at_once} networks in all, so {at_once} at once; {most} would fit")
    elif own:
        said.append(f"{at_once} at once, as many as fit, limited by {'memory' if scarce else 'CPUs or GPUs'}")
    if scarce:
        said.append(f"a process takes {_bytes(claim.memory)} of memory ({need.source}), which is claimed")
    if ranks > 1:
        said.append(
            f"{ranks} ranks train each network together, each on a {'GPU' if claim.per_gpu else 'CPU'} of its own"
        )
    elif claim.per_gpu:
        memory = f"{_bytes(need.gpu_memory)} ({need.source})" if need.gpu_memory else "memory that was not measured"
        said.append(f"{claim.per_gpu} processes share a GPU, each with {memory}")
    if spread:
        said.append(f"{spread} group{'s' * (spread > 1)} spread over nodes, as no node holds them whole")
    return Plan(
        at_once=at_once, workers=workers, limited=at_once < most, own=own, cpus=claim.cpus, gpus=gpus, memory=scarce,
        groups=tuple(whole), spread=spread, idle=idle, why=tuple(said), ranks=ranks,
    )  # fmt: skip


def _no_room(nodes: Sequence[Node], claim: _Claim, workers: int, beside: int, need: Need) -> ConfigError:
    """Not even one network fits with so many workers. beside: bundles that it needs besides them."""
    most = max(0, sum(claim.fits(node) for node in nodes) - beside)
    if not workers or (most == 0 and claim.memory and not any(claim.fits(node) for node in nodes)):
        return ConfigError(
            f"growth.max_parameters: expected networks that fit on {_told(nodes, claim, need)}; "
            "write a lower growth.max_parameters or tournament.evidence_samples"
        )
    return ConfigError(
        f"workers: expected at most {most} on {_told(nodes, claim, need)} ({claim.cpus:g} of a CPU each), "
        f"got {workers}; write workers: {most}"
    )


def _told(nodes: Sequence[Node], claim: _Claim, need: Need) -> str:
    """What there is, and what limits it."""
    cpus, gpus = sum(n.cpus for n in nodes), sum(n.gpus for n in nodes)
    told = f"{cpus:g} CPU{'s' * (cpus != 1)}"
    if claim.per_gpu:
        told += f" and {gpus} GPU{'s' * (gpus > 1)}, {claim.per_gpu} processes each,"
    lax = _Claim(claim.cpus, claim.per_gpu, 0)
    if claim.memory and any(claim.fits(n) < lax.fits(n) for n in nodes):
        told += (
            f" and {_bytes(sum(n.memory for n in nodes))} of memory, {_bytes(claim.memory)} a process ({need.source})"
        )
    return told + (f" of {len(nodes)} nodes" if len(nodes) > 1 else "")


def _with(workers: int) -> str:
    return f" with {workers} worker{'s' * (workers > 1)} each" if workers else ""


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
