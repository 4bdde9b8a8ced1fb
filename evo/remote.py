"""A run whose driver lives on the cluster's head, for `ray://`: this process asks for it, follows it, and may leave.

Tune's callbacks cannot travel to a client. So the whole run is done by one detached actor on the head, which claims no
CPU: it outlives the client that asked for it, however that ends, and goes away once its end has been fetched or
nobody has asked for a while.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evo import attached
from evo.config import Config, UnavailableError
from evo.progress import Progress, Update
from evo.shipping import ShippedTask
from evo.stopping import Interrupted, Stop
from evo.task import Task

POLL_SECONDS = 1.0
FORGOTTEN_SECONDS = 600.0
"""An ended run's actor goes away after this long without anybody who asks."""

NAMESPACE = "evo"


@dataclass(frozen=True)
class Order:
    """folder: of the run to go on with, or its address in a bucket; None: a new one."""

    kind: str
    config: Config
    folder: str | Path | None


@dataclass(frozen=True)
class End:
    """How a run ended: in its folder (its address), or by an error. stopped: the signal that was obeyed, if one was."""

    folder: str | None
    error: Exception | None = None
    message: str = ""
    stopped: int | None = None


class Driver:
    """The actor. Its thread does the run; its methods never wait for it for long."""

    def __init__(self) -> None:
        self._told: list[Update] = []
        self._news = threading.Condition()
        self._end: End | None = None
        self._stop = Stop()
        self._asked = time.monotonic()

    def begin(self, order: Order, data: ShippedTask) -> None:
        threading.Thread(target=self._work, args=(order, data), daemon=True).start()

    def since(self, number: int, wait: float) -> tuple[list[Update], End | None]:
        """What was told after the first `number` updates, at once or when there is some; and the end, if it is over."""
        with self._news:
            self._asked = time.monotonic()
            self._news.wait_for(lambda: len(self._told) > number or self._end is not None, wait)
            return self._told[number:], self._end

    def stop(self, signum: int) -> None:
        """At the next safe point."""
        self._stop.asked = signum

    def pid(self) -> int:
        return os.getpid()

    def _work(self, order: Order, data: ShippedTask) -> None:
        import torch

        from evo import drive
        from evo.network_trial import portable

        try:
            task = data.unpacked(torch.device("cpu"))
            run = drive.carry_out(order.kind, order.config, task, order.folder, self._tell, self._stop)
            end = End(run.address)
        except Interrupted as stopped:
            end = End(None, None, str(stopped), stopped.signum)
        except BaseException as error:
            end = End(None, portable(error) if isinstance(error, Exception) else RuntimeError(repr(error)))
        with self._news:
            self._end, self._asked = end, time.monotonic()
            self._news.notify_all()
        while time.monotonic() - self._asked < FORGOTTEN_SECONDS:
            time.sleep(1.0)
        os._exit(0)

    def _tell(self, update: Update) -> None:
        with self._news:
            self._told.append(dict(update))
            self._news.notify_all()


def carry_out(order: Order, task: Task, progress: Progress) -> str:
    """Has the head do it and follows to the end; the folder of the run, or its address.

    Ctrl-C stops the run at its next safe point and waits for that; a second one leaves it to get there alone. Raises
    what the run raised, and UnavailableError where its driver was lost.
    """
    head = _head()
    driver: Any = (
        ray.remote(Driver)
        .options(
            num_cpus=0, max_restarts=0, max_concurrency=4, lifetime="detached", namespace=NAMESPACE,
            name=f"driver-{os.urandom(6).hex()}",
            scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False),
        )
        .remote()
    )  # fmt: skip
    begun: dict[str, Any] = {}

    def tell(update: Mapping[str, Any]) -> None:
        if update.get("stage") == "start":
            begun.update(update)
        progress(update)

    try:
        ray.get(driver.begin.remote(order, ShippedTask.of(task)))
        end = _follow(driver, tell)
    except (exceptions.RayActorError, exceptions.NodeDiedError, ConnectionError) as err:
        if isinstance(err, BrokenPipeError):  # whoever reads our output has had enough
            raise
        raise UnavailableError(
            f"address: the run's driver on the cluster's head was lost ({attached.last_line(err)}); what was committed "
            f"is kept: go on with `evo resume {begun.get('run', 'RUN')} --address ...`"
        ) from err
    ray.kill(driver)
    if end.stopped is not None:
        raise Interrupted(end.message, end.stopped)
    if end.error is not None:
        raise end.error
    assert end.folder is not None
    return end.folder


def _follow(driver: Any, progress: Callable[[Update], None]) -> End:
    heard, passed_on = 0, False
    patience = {"stage": "note", "text": "stopping after this decision ...", "lasts": True}
    with Stop(lambda: progress(patience)) as stop:
        while True:
            try:
                updates, end = ray.get(driver.since.remote(heard, POLL_SECONDS))
            except KeyboardInterrupt:
                raise Interrupted("left: the run goes on to its next safe point", signal.SIGINT) from None
            heard += len(updates)
            for update in updates:
                progress(update)
            if end is not None:
                found: End = end
                return found
            if stop.asked is not None and not passed_on:
                ray.get(driver.stop.remote(stop.asked))
                passed_on = True


def _head() -> str:
    """Id of the head node, where a driver is as safe as the cluster itself."""
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and "node:__internal_head__" in node["Resources"]:
            return str(node["NodeID"])
    raise UnavailableError("address: the cluster's head is not among its nodes; `ray status` tells more")
