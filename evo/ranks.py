"""Ranks: processes that train one network together, each on its share of every batch.

Every rank holds the same weights and the same optimiser, and takes the same step by the sum of all ranks' gradients: a
vector of the trained elements alone, so that what is masked is not even sent. The weights are not broadcast to keep
them alike: they are alike by construction, and `agree` checks that they are, to the bit.

R ranks, k steps, b batch.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

SILENCE_SECONDS = 120.0
"""Without a sign of progress for so long, ranks count as hung. A step of one batch takes a small part of it."""

BEAT_SECONDS = 1.0
"""Between two signs of progress."""


class RankLostError(RuntimeError):
    """A rank died, or does not answer: what was being trained is lost, and can be trained again."""


class RanksDifferError(RuntimeError):
    """Ranks do not hold the same bits: one line with the tensors and the ranks."""


@dataclass(frozen=True)
class Address:
    """Where the ranks of one group find each other. name: of the group, as a meeting may see several."""

    host: str
    port: int
    name: str


class Meeting:
    """A store, in the process that has the ranks work, where they find each other and leave signs of progress.

    host: the address of this machine that the ranks can reach; nothing listens on any other.
    """

    def __init__(self, host: str) -> None:
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._host, self._port = host, int(listener.getsockname()[1])
        self._store = TCPStore(
            host, self._port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach(),
            timeout=timedelta(seconds=SILENCE_SECONDS),
        )  # fmt: skip
        self._count = 0

    def convene(self) -> Address:
        """For the next group."""
        self._count += 1
        return Address(self._host, self._port, f"group{self._count}")

    def beats(self, address: Address, size: int) -> tuple[bytes, ...]:
        """The latest sign of each rank, as far as there is one; progress is that any of them has changed."""
        group = PrefixStore(address.name, self._store)
        return tuple(group.get(key) for key in map(_beat, range(size)) if group.check([key]))


class Ranks:
    """This process as one of `size` ranks. Made by `join`, which waits for the others; `close` when it is done.

    Collectives raise RankLostError where another rank is gone, or silent for too long.
    """

    def __init__(self, group: Any, rank: int, size: int, device: torch.device, store: Any) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._group, self._store = group, store
        self._beats, self._beaten = 0, time.monotonic()

    @staticmethod
    def join(
        address: Address, rank: int, size: int, device: torch.device, host: str, timeout: float = SILENCE_SECONDS
    ) -> Ranks:
        """host: the address of this machine that the other ranks can reach."""
        within = timedelta(seconds=timeout)
        try:
            store: Any = TCPStore(address.host, address.port, is_master=False, wait_for_workers=False, timeout=within)
            store = PrefixStore(address.name, store)
            ranks = Ranks(_group(store, rank, size, device, host, within), rank, size, device, store)
            # Connections are made by the first collective: whoever cannot reach the others is told so here.
            ranks.sum(torch.zeros(1, device=device))
        except (RuntimeError, ValueError) as error:
            raise RankLostError(f"rank {rank} of {size} did not find the others: {error}") from error
        return ranks

    def share(self, orders: NDArray[np.int64]) -> NDArray[np.int64]:
        """(k, ⌊b/R⌋ or one more): this rank's places of every batch; the shares of all ranks are the batch."""
        width = orders.shape[1]
        assert width >= self.size, f"a batch of {width} for {self.size} ranks"
        return orders[:, self.rank * width // self.size : (self.rank + 1) * width // self.size]

    def sum(self, vector: Tensor) -> Tensor:
        """In place, the sum over all ranks: the same bits on every one of them."""
        try:
            self._group.allreduce([vector]).wait()
        except RuntimeError as error:
            raise _lost(self.rank, error) from error
        return vector

    def gather(self, vector: Tensor) -> Tensor:
        """(R, *shape): every rank's, in order of their ranks."""
        found = [torch.empty_like(vector) for _ in range(self.size)]
        try:
            self._group.allgather([found], [vector.contiguous()]).wait()
        except RuntimeError as error:
            raise _lost(self.rank, error) from error
        return torch.stack(found)

    def beat(self) -> None:
        """A sign of progress now and then: all that was asked of the device until now has been done."""
        self._beats += 1
        if time.monotonic() - self._beaten < BEAT_SECONDS:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._beaten = time.monotonic()
        try:
            self._store.set(_beat(self.rank), str(self._beats))
        except RuntimeError as error:
            raise _lost(self.rank, error) from error

    def agree(self, told: Mapping[str, str], when: str) -> None:
        """Raises RanksDifferError, on every rank, where what is told by name is not the same on all of them."""
        whole = hashlib.blake2b(json.dumps(sorted(told.items())).encode(), digest_size=32).digest()
        seen = self.gather(self._bytes(whole))
        if bool((seen == seen[0]).all()):
            return
        everyone = [dict(json.loads(text)) for text in self._texts(json.dumps(dict(told)).encode())]
        first = everyone[0]
        names = sorted(
            {name for one in everyone for name in one.keys() | first.keys() if one.get(name) != first.get(name)}
        )
        differing = [rank for rank, one in enumerate(everyone) if one != first]
        more = f" (and {len(names) - 3} more)" if len(names) > 3 else ""
        plural = len(differing) > 1
        raise RanksDifferError(
            f"training.ranks: {when}, rank{'s' * plural} {', '.join(map(str, differing))} of {self.size} "
            f"hold{'s' * (not plural)} other bits than rank 0 in {', '.join(names[:3])}{more}; nothing of it was "
            "committed; ranks must run on devices of one kind with the same libraries: mend that, then resume"
        )

    def close(self) -> None:
        self._group = None

    def _bytes(self, data: bytes) -> Tensor:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)

    def _texts(self, mine: bytes) -> list[bytes]:
        """Every rank's text, of any length."""
        lengths = self.gather(torch.tensor([len(mine)], device=self.device)).view(-1).tolist()
        texts = self.gather(self._bytes(mine.ljust(max(lengths), b" ")))
        return [bytes(text[:length].cpu().numpy()) for text, length in zip(texts, lengths, strict=True)]


def _group(store: Any, rank: int, size: int, device: torch.device, host: str, timeout: timedelta) -> Any:
    """Made directly, not as torch's one default group of a process: it ends with its holder, and another can follow."""
    if device.type == "cuda":
        options: Any = distributed.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return distributed.ProcessGroupNCCL(store, rank, size, options)
    options = distributed.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    # By itself gloo takes whatever address this machine's name stands for, which others may not be able to reach.
    options._devices = [distributed.ProcessGroupGloo.create_device(hostname=host)]
    options._timeout = timeout
    return distributed.ProcessGroupGloo(store, rank, size, options)


def _beat(rank: int) -> str:
    return f"beat/{rank}"


def _lost(rank: int, error: RuntimeError) -> RankLostError:
    return RankLostError(f"rank {rank} lost the others: {error}")
