"""The census of a search: which networks live, which have ended and how, as the run folder's events say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evo import events, replica
from evo.config import Config
from evo.population import Point, name_of
from evo.progress import Progress
from evo.recorder import Fenced, Recorder, networks, read_table
from evo.storage import StorageError

_SHOWN = (
    "generation", "cycle", "step", "epoch", "information_nats", "validation_information_nats", "validation_accuracy",
    "validation_r2", "active_parameters", "peak_parameters",
)  # fmt: skip


class Census:
    """broken: what ended the search early, if anything did."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.broken: BaseException | None = None
        self._progress = progress
        self._ended = 0

    def life(self, network: str) -> list[Point] | None:
        """The snapshots of a network that has ended, none if it failed; None for one that lives or is not born yet."""
        rows = self._rows(network)
        ends = {row["kind"] for row in rows} & {"finished", "failed"}
        return None if not ends else [] if "failed" in ends else points(network, rows)

    def begun(self) -> dict[str, Config]:
        """Every network that was born, with its config, in the order of their names."""
        replica.refresh(self.folder)
        born = ((name, read_table(self.folder, name).slice(0, 1).to_pylist()[0]) for name in networks(self.folder))
        return {name: Config.model_validate_json(row["config"]) for name, row in born if row["kind"] == "started"}

    def end(self, network: str, kind: str, reason: str) -> list[Point]:
        """Closes the record of a network that did not end by itself, and numbers it among such: their order counts.

        What it has committed until then counts; whoever writes for it after that is fenced.
        """
        self._ended += 1
        for last_try in (False, False, True):
            rows = self._rows(network)
            if rows and rows[-1]["kind"] in ("finished", "failed"):
                break
            last = _last_snapshot(rows)
            kept = {name: last.get(name) for name in ("generation", "cycle", "step", "epoch", "active_parameters")}
            row = events.row(kind, reason=f"{reason} (number {self._ended} that the search ended)", **kept)
            try:
                Recorder(self.folder, network).commit([row])
                break
            except Fenced:  # a process of it that was taken for dead wrote once more
                if last_try:
                    raise
            except StorageError as error:
                self.broken = self.broken or error
                break
        return [] if kind == "failed" else points(network, rows)

    def tell(self, update: Mapping[str, Any]) -> None:
        """Passes a cycle on to whoever watches, MLflow's mirror of this folder among them."""
        if "network" in update:
            self._pull(str(update["network"]))
        self._say({"stage": "cycle", **update})

    def note(self, text: str) -> None:
        self._say({"stage": "note", "text": text})

    def tell_ended(self, network: str) -> None:
        """Shows a network whose life was over before this process began."""
        last = _last_snapshot(self._rows(network))
        shown = {name: last[name] for name in _SHOWN if last.get(name) is not None}
        self.tell({"network": network, **shown, "done": True})

    def complete(self, count: int) -> bool:
        """Whether the first `count` networks and all later ones have ended; shows them if so."""
        replica.refresh(self.folder)
        names = sorted({name_of(i) for i in range(count)} | set(networks(self.folder)))
        if any(self.life(name) is None for name in names):
            return False
        for name in names:
            self.tell_ended(name)
        return True

    def _say(self, update: Mapping[str, Any]) -> None:
        try:
            self._progress(update)
        except BaseException as error:  # Ctrl-C among them: the networks are to end between two cycles first
            self.broken = self.broken or error

    def _pull(self, network: str) -> None:
        try:
            replica.refresh(self.folder, network)
        except StorageError as error:  # the search is to end with it, and not as if a network had failed
            self.broken = self.broken or error

    def _rows(self, network: str) -> list[dict[str, Any]]:
        self._pull(network)
        rows: list[dict[str, Any]] = read_table(self.folder, network).to_pylist()
        return rows


def points(network: str, rows: list[dict[str, Any]]) -> list[Point]:
    """The snapshots among a network's events, as points of the front."""
    return [
        Point(f"{network}/{row['snapshot']}", row["validation_information_nats"], row["active_parameters"])
        for row in rows
        if row["kind"] == "snapshot"
    ]


def _last_snapshot(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return next((row for row in reversed(rows) if row["kind"] == "snapshot"), {})
