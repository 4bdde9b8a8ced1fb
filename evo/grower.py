"""Grower: holds one growing network, makes each cycle durable, and resumes by itself.

A cycle is committed in two durable operations: its snapshot, then its events. The events are the word that counts: what
a killed process had saved beyond them is done again, and comes out the same. Of two growers of one network (a process
that was taken for dead, a job that was started twice) one commits a cycle, and the other goes on from there.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evo import events, faults, live, memory, replica, stored_snapshots
from evo.birth import seeded
from evo.config import Config
from evo.cycle import born, figures, run_cycle
from evo.data import Task
from evo.front import snapshot_folder
from evo.life import Life
from evo.memory import WHOLE
from evo.mutation import mutated
from evo.recorder import Fenced, Recorder, read_table
from evo.rows import memory_row, settings_json
from evo.storage import abandoned
from evo.surroundings import Surroundings
from evo.trials import Body, TrialRequest, TrialResult, TrialRunner
from evo.vitals import Vitals, Watched
from evo.workers import attempt
from search_spaces import actions, checkpoint, deltas
from search_spaces.checkpoint import CheckpointError
from search_spaces.content import Content
from search_spaces.deltas import Base, Slots
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState

WHOLE_EVERY = 8
"""Cycles from one snapshot that needs no other to the next, where `record.deltas` is on."""


class Grower:
    """One network's life in a run folder. Makes it, or takes up where the folder's newest commit left it.

    parent: "NETWORK/SNAPSHOT" in the same folder to start from, else a seed of the config's shape. runner: runs trials;
    in this process where none is given. Raises ValueError, CheckpointError, RecordError.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        folder: Path,
        network: str = "n000",
        generation: int = 0,
        parent: str | None = None,
        runner: TrialRunner | None = None,
    ) -> None:
        self.config, self.task, self.folder = config, task, Path(folder)
        self.network, self.generation, self.parent = network, generation, parent
        self._began = time.monotonic()
        self.vitals = Vitals(network, generation)
        self._beat: live.Beat | None = None
        watched = Watched.over(runner or self._run_here, self.vitals)
        self._around = Surroundings.of(config, task, network, watched)
        self.vitals.cycles = self._around.plan.cycles + 1
        self._recorder = Recorder(self.folder, network)
        self._lineage: list[str] = []
        self._peak_before = 0
        self._base: Base | None = None
        self.life: Life
        self.body: Network
        self.state: OptimizerState
        found = self._newest()
        self._sweep()
        if found is None:
            self._be_born()
        else:
            self._take_up(found)

    @property
    def done(self) -> bool:
        """Whether its life is over."""
        return self.life.done

    @property
    def cycle(self) -> int:
        """Finished cycles."""
        return self.life.cycle

    def advance(self) -> dict[str, float | int | str | bool]:
        """One cycle, durable when this returns, with its figures. Raises RecordError or OSError if the disk fails."""
        assert not self.done, "its life is over"
        began = time.perf_counter()
        limit = self.config.training.seconds
        plan = self._around.plan
        if limit is not None and time.monotonic() - self._began > limit and self.cycle < plan.cycles:
            # Out of time: straight to the last stretch, where the rate falls to its end.
            self._around = dataclasses.replace(self._around, plan=plan.cut(self.cycle, self.life.step))
        before = self.body
        self.vitals.enter("training")
        self.life, self.body, self.state, rows = run_cycle(self._around, self.life, self.body, self.state)
        if self._base is not None:
            self._base = dataclasses.replace(self._base, slots=_followed(before, rows))
        self.vitals.enter("saving")
        try:
            found = self._commit(rows, time.perf_counter() - began)
        except Fenced as fenced:
            rows = self._catch_up(fenced)
            shot = next(row for row in rows if row["kind"] == "snapshot")
            found = {name: shot[name] for name in shot if name.startswith("validation_") and shot[name] is not None}
        decision = next((r for r in rows if r["kind"] == "decision"), None)
        update: dict[str, float | int | str | bool] = {
            "cycle": self.life.cycle,
            "step": self.life.step,
            "epoch": float(rows[-1]["epoch"] or 0.0),
            "information_nats": self.life.information,
            **found,
            "active_parameters": self.body.count(),
            "peak_parameters": self.life.peak,
            "train_loss": next((float(r["train_loss"]) for r in rows if r["train_loss"] is not None), float("nan")),
            "action": str(decision["action"]) if decision else "",
            "delta_parameters": int(decision["delta_parameters"]) if decision else 0,
            "credits_nats": self.life.ledger.balance,
            "price_nats": self._around.price(self.life),
            "seconds": time.perf_counter() - began,
            "done": self.done,
        }
        self.vitals.lived(update)
        return update

    def watch(
        self, also: Callable[[Mapping[str, Any]], None] | None = None, lost: Callable[[], None] | None = None
    ) -> None:
        """Gives signs of life until `close`, as `record.heartbeat` says, and puts lost workers on record.

        also: told what `live.Beat` tells. lost: called for every worker of its trials that was lost.
        """
        self._beat = live.of_network(
            replica.address(self.folder), self.vitals, self.config.record.heartbeat, also, lost
        )

    def close(self) -> None:
        """Ends the signs of life. Nothing else is open between cycles."""
        if self._beat is not None:
            self._beat.close()
            self._beat = None

    # --- beginnings

    def _be_born(self) -> None:
        told: list[dict[str, Any]] = []
        if self.parent is None:
            self.body, said = seeded(self.config, self.task, self.network, self._around.evidence.x)
            self.state = OptimizerState.fresh(self.body)
            told = [events.row("choice", cycle=0, step=0, epoch=0.0, reason=said)] if said else []
        else:
            network, _, snapshot = self.parent.partition("/")
            found = checkpoint.load(snapshot_folder(self.folder, network, snapshot))
            self._check_fit(found.network)
            self.body, self.state = found.network, found.state or OptimizerState.fresh(found.network)
            self._lineage = [*found.lineage, self.parent]
            self._peak_before = int(found.extra.get("life", {}).get("peak", 0))
        self._to_device()
        self.life = born(self._around, self.body)
        if self.parent is not None and self.config.growth.mutate:
            self.body, self.state, row = mutated(self._around, self.life, self.body, self.state)
            self.life, told = born(self._around, self.body), [row]
        self.life = dataclasses.replace(self.life, peak=max(self.life.peak, self._peak_before))
        if self.life.parts != WHOLE:
            told.append(memory_row(self._around, self.life, "the growth data", self.life.parts))
        started = events.row(
            "started",
            cycle=0,
            step=0,
            epoch=0.0,
            parent=self.parent,
            config=settings_json(self.config),
            blueprint=_json(self.body.blueprint()),
            active_parameters=self.body.count(),
            delta_parameters=0,
            peak_parameters=self.life.peak,
            information_nats=self.life.information,
            credits_nats=self.life.ledger.balance,
        )
        try:
            self._commit([started, *told], 0.0)
        except Fenced as fenced:
            self._catch_up(fenced)

    def _newest(self) -> str | None:
        """Folder name of the newest committed snapshot."""
        rows = read_table(self.folder, self.network).select(["kind", "snapshot"]).to_pylist()
        committed = [str(r["snapshot"]) for r in rows if r["kind"] == "snapshot"]
        # A name that leads elsewhere must be found before anything is removed in its favour.
        return snapshot_folder(self.folder, self.network, committed[-1]).name if committed else None

    def _sweep(self) -> None:
        """Removes what a killed process had only begun to save.

        What it had saved whole but not committed stays: the process may be frozen, not dead, and commit it yet. It is
        saved again when its cycle is reached, and comes out the same.
        """
        home = self._snapshots()
        for stray in home.iterdir() if home.is_dir() else ():
            if stray.name.startswith(".") and abandoned(stray):
                shutil.rmtree(stray, ignore_errors=True)

    def _catch_up(self, fenced: Fenced) -> list[dict[str, Any]]:
        """Takes up the newest commit of a writer that was first, and returns the rows of its cycle.

        A life is deterministic, so who wrote it makes no difference. Raises `fenced` where there is nothing new.
        """
        behind = self._recorder.last_seq
        self._recorder = Recorder(self.folder, self.network)
        newest = self._newest()
        if newest is None or self._recorder.last_seq <= behind:
            raise fenced
        self._take_up(newest)
        rows = read_table(self.folder, self.network).to_pylist()
        if rows[-1]["kind"] in ("finished", "failed") and not self.life.done:  # the search has ended it
            self.life = dataclasses.replace(self.life, done=True, reason=str(rows[-1]["reason"]))
        return [row for row in rows if row["cycle"] == self.life.cycle]

    def _take_up(self, name: str) -> None:
        home = self._snapshots()
        try:
            found = checkpoint.load(home / name)
        except CheckpointError as err:
            cure = f"`evo resume RUN --set-aside {self.network}` lives its last cycle again"
            raise CheckpointError(f"{err}; or {cure}") from err
        if found.state is None or "life" not in found.extra:
            gone = "optimizer.safetensors" if found.state is None else "state.json"
            raise CheckpointError(
                f"{home / name}/{gone}: expected what a network goes on with, got nothing; put the file back "
                "from a copy of the run, or start a new one"
            )
        self._check_fit(found.network)
        self.body, self.state, self._lineage = found.network, found.state, found.lineage
        if self.config.record.deltas:
            self._base = Base(name, Content.of(self.body, self.state))
        self._to_device()
        try:
            self.life = Life.from_json(found.extra["life"])
        except ValueError as err:
            raise CheckpointError(f"checkpoint {home / name}: {err}") from err

    def _check_fit(self, network: Network) -> None:
        inputs, outputs = math.prod(network.input_shape()), network.axis_sizes()["output"]
        if (inputs, outputs) != (math.prod(self.task.shape), self.task.outputs):
            raise CheckpointError(
                f"checkpoint of {self.network}: the network has {inputs} inputs and {outputs} outputs, task "
                f"{self.task.name} has {math.prod(self.task.shape)} and {self.task.outputs}; resume with the data that "
                "the run began with"
            )

    def _to_device(self) -> None:
        device = self.task.splits["train"].x.device
        self.body.to(device)
        self.state = OptimizerState(
            **{part: {k: t.to(device) for k, t in values.items()} for part, (values, _) in self.state.parts().items()}
        )

    # --- commits

    def _commit(self, rows: list[dict[str, Any]], seconds: float) -> dict[str, float]:
        found, parts = memory.fitted(self.life.parts, 1, lambda parts: figures(self.task, self.body, parts.rows))
        if parts != self.life.parts:
            self.life = dataclasses.replace(self.life, parts=parts)
            rows.append(memory_row(self._around, self.life, "the validation data", parts))
        name = f"{self.life.cycle:06d}"
        last = rows[-1]
        rows.append(
            events.row(
                "snapshot",
                cycle=self.life.cycle,
                step=self.life.step,
                epoch=last["epoch"],
                snapshot=name,
                phase=self._around.phase(self.life),
                blueprint=_json(self.body.blueprint()),
                active_parameters=self.body.count(),
                peak_parameters=self.life.peak,
                flops=self.body.multiply_adds(),
                bytes=4 * self.body.count(),
                information_nats=self.life.information,
                credits_nats=self.life.ledger.balance,
                seconds=seconds,
                **found,
            )
        )
        if self.done:
            rows.append(
                events.row(
                    "finished",
                    cycle=self.life.cycle,
                    step=self.life.step,
                    epoch=last["epoch"],
                    reason=self.life.reason,
                    active_parameters=self.body.count(),
                    delta_parameters=0,
                    peak_parameters=self.life.peak,
                    information_nats=self.life.information,
                    gain_training_nats=self.life.gain_training,
                    gain_control_nats=self.life.gain_control,
                    gain_fork_nats=self.life.gain_fork,
                    trial_steps=self.life.spent,
                )
            )
        self._recorder.check()  # what follows may come to replace files
        faults.point("snapshot.begin")
        extra = {
            "life": self.life.to_json(),
            "task": {"name": self.task.name, "kind": self.task.kind, "outputs": self.task.outputs},
            "preprocessing": self.task.preprocessing,
        }

        def part(name: str) -> None:
            if name == "checkpoint.replacing":  # what somebody has committed is replaced by nobody
                self._recorder.check()
            faults.point("snapshot.part")

        packed = self.config.record.deltas
        # By the number of the cycle, so that a life that was killed and resumed leaves the same files.
        base = None if self.life.cycle % WHOLE_EVERY == 0 else self._base
        content = checkpoint.save(
            self._snapshots() / name, self.body, self.state, extra, self._lineage, part, packed, base
        )
        self._base = None if content is None else Base(name, content)
        faults.point("snapshot.saved")
        stored = stored_snapshots.push(self.folder, self.network, name, part)
        for row in rows:
            row["stored"] = stored if row["kind"] == "snapshot" else None
        stamp = {"time": time.time(), "host": socket.gethostname(), "pid": os.getpid(), "generation": self.generation}
        try:
            self._recorder.commit([{**row, **stamp} for row in rows])
        except Fenced:
            stored_snapshots.drop(self.folder, self.network, name, stored)
            raise
        faults.point("snapshot.committed")
        return found

    def _snapshots(self) -> Path:
        return self.folder / "snapshots" / self.network

    def _run_here(self, parent: Body, requests: Any) -> list[TrialResult]:
        wanted: list[TrialRequest] = list(requests)
        return [attempt(self.task, parent, request) for request in wanted]


def _followed(before: Network, rows: list[dict[str, Any]]) -> Slots:
    """Where each slot was before the cycle, as the adopted actions say.

    It only makes the delta shorter: where the actions are not all that happened, slots count by their numbers.
    """
    chosen = [r["action_json"] for r in rows if r["kind"] == "candidate" and r["selected"] and r["action_json"]]
    try:
        return deltas.followed(before, [action for text in chosen for action in actions.from_json(text)])
    except ValueError:
        return {}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
