"""MLflow as a view of the record: a parent run for the whole, a child run for each network.

Logging is safe to repeat: runs are found by their tags, and a point's step and time are its event's, so that a point
logged twice is one point. Hence a crash between logging and remembering how far it got, or a tracking server that was
down for days, loses and doubles nothing.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from evo import faults, foreign, live, mlflow_system
from evo.mlflow_queue import Cursor, TrackingDown, report_files
from evo.recorder import RecordError, networks, read_table

EXPERIMENT = "meristem"
# Which rows become points of which curves. Candidates stay in Parquet; a snapshot repeats its decision's books.
BOOKS = ("information_nats", "active_parameters", "credits_nats")
CURVES = {
    "started": BOOKS,
    "segment": ("train_loss", *BOOKS),
    "decision": BOOKS,
    "snapshot": ("validation_information_nats", "validation_accuracy", "validation_r2"),
}
PARAMS = (
    "task",
    "seed",
    "network.family",
    "network.hidden",
    "network.density",
    "network.activation",
    "training.epochs",
    "training.batch_size",
    "training.learning_rate",
    "growth.cycles",
    "growth.stake",
    "growth.max_parameters",
    "tournament.candidates",
    "tournament.seeds",
    "tournament.rungs",
    "economy.final_price",
)
SEARCH_PARAMS = ("search.algorithm", "search.networks", "search.population")
ENDS = {"finished": "FINISHED", "failed": "FAILED"}
METRICS = tuple(dict.fromkeys(key for keys in CURVES.values() for key in keys))
NEEDED = ("seq", "kind", "step", "time", "generation", "parent", "config", "gain_fork_nats", *METRICS)
BATCH = 900  # points a request; MLflow takes 1,000


class View:
    """One run's folder beside its runs in MLflow."""

    def __init__(self, folder: Path, uri: str) -> None:
        from mlflow import MlflowClient

        self.folder = folder
        self.info, self.config = _described(folder)
        self.client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.cursor = Cursor.read(folder, uri)
        self.experiment = self._experiment(uri)

    def drain(self) -> int:
        parent = self._parent()
        if parent.info.lifecycle_stage == "deleted":  # somebody threw it away in the UI, and meant it
            return 0
        if self.cursor.parent != parent.info.run_id:
            self.cursor = Cursor(self.cursor.uri, parent.info.run_id)
        children = {
            run.data.tags.get("meristem.network"): run for run in self._find(f"mlflow.parentRunId={self.parent}")
        }
        rows = 0
        ends: list[int | None] = []
        for network in networks(self.folder):
            drained, end = self._network(network, children.get(network))
            rows += drained
            ends.append(end)
        self._close(parent, ends)
        if _dig(self.config, "record.system_metrics"):
            gone = {name for name, run in children.items() if run.info.lifecycle_stage == "deleted"}
            self._log_system(gone)
        self._log_report()
        return rows

    @property
    def parent(self) -> str:
        return self.cursor.parent

    def _experiment(self, uri: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            # A local store keeps artifacts beside itself; a server knows its own place for them.
            root = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" if uri.startswith("sqlite:///") else None
            tags = {"mlflow.experimentKind": "custom_model_development"}
            with contextlib.suppress(MlflowException):  # another process was faster
                self.client.create_experiment(EXPERIMENT, root.as_uri() if root else None, tags)
            found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None or found.lifecycle_stage == "deleted":
            raise TrackingDown(f"MLflow's experiment {EXPERIMENT} was deleted: restore it, or remove it for good")
        return str(found.experiment_id)

    def _find(self, *tags: str) -> Iterator[Any]:
        """Runs, deleted ones too, that carry every tag, each written as name=value."""
        from mlflow.entities import ViewType

        wanted = " and ".join("tags.`{}` = '{}'".format(*tag.split("=", 1)) for tag in tags)
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment], wanted, run_view_type=ViewType.ALL, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _parent(self) -> Any:
        name, created = str(self.info.get("name") or self.folder.name), str(self.info.get("created", ""))
        found = next(self._find(f"meristem.run={name}", f"meristem.created={created}"), None)
        if found is None:
            tags = {
                "meristem.run": name,
                "meristem.created": created,  # two folders may hold runs of one name
                "mlflow.source.name": f"evo {self.info.get('kind', '')} {self.info.get('task', '')}".strip(),
                "mlflow.note.content": f"Every decision and its candidates: `evo show {name}`, or {self.folder}/events",
            }
            found = self.client.create_run(self.experiment, _milliseconds(created), tags, name)
            faults.point("mlflow.created")
        if self.cursor.parent != found.info.run_id:
            keys = PARAMS + (SEARCH_PARAMS if self.info.get("kind") == "search" else ())
            self._log_params(found.info.run_id, {**self.config, **_top(self.info)}, keys)
        return found

    def _network(self, network: str, child: Any) -> tuple[int, int | None]:
        """Logs one network's new rows; returns how many, and when its life ended if it has."""
        run_id, seq = self.cursor.networks.get(network, ("", 0))
        if child is None or child.info.run_id != run_id:
            seq = 0
        rows = read_table(self.folder, network, seq).select(NEEDED).to_pylist()
        if not rows:
            return 0, child.info.end_time if child is not None and child.info.status in ENDS.values() else None
        if child is None:
            child = self._born(network, rows[0])
        run_id = child.info.run_id
        if child.info.lifecycle_stage != "deleted":
            if seq == 0:
                own = json.loads(rows[0]["config"]) if rows[0]["config"] else {}
                self._log_params(run_id, {**self.config, **own, **_top(self.info)}, PARAMS)
            points = [point for row in rows for point in _points(row)]
            for start in range(0, len(points), BATCH):
                self.client.log_batch(run_id, metrics=points[start : start + BATCH])
            faults.point("mlflow.logged")
            end = ENDS.get(rows[-1]["kind"])
            if end:
                self.client.set_terminated(run_id, end, _time(rows[-1]))
            elif child.info.status != "RUNNING":
                self.client.update_run(run_id, "RUNNING")  # resumed
        self.cursor.networks[network] = (run_id, rows[-1]["seq"] + 1)
        self.cursor.write(self.folder)
        return len(rows), _time(rows[-1]) if rows[-1]["kind"] in ENDS else None

    def _born(self, network: str, row: dict[str, Any]) -> Any:
        tags = {
            "meristem.run": str(self.info.get("name") or self.folder.name),
            "meristem.network": network,
            "mlflow.parentRunId": self.parent,
            "meristem.generation": str(row["generation"] or 0),
        }
        if row["parent"]:
            tags["meristem.parent"] = row["parent"]
        child = self.client.create_run(self.experiment, _time(row), tags, network)
        faults.point("mlflow.created")
        return child

    def _close(self, parent: Any, ends: list[int | None]) -> None:
        """The whole has finished when every network that was to live has."""
        wanted = _dig(self.config, "search.networks") if self.info.get("kind") == "search" else 1
        times = [end for end in ends if end is not None]
        finished = len(times) == len(ends) >= (wanted if isinstance(wanted, int) else 1)
        if finished and parent.info.status != "FINISHED":
            self.client.set_terminated(self.parent, "FINISHED", max(times))
        elif not finished and parent.info.status != "RUNNING":
            self.client.update_run(self.parent, "RUNNING")

    def _log_params(self, run_id: str, config: dict[str, Any], keys: tuple[str, ...]) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        values = {key: _dig(config, key) for key in keys}
        params = [Param(key, str(value)) for key, value in values.items() if value is not None]
        try:
            self.client.log_batch(run_id, params=params)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":  # that: other values are there already, and stay
                raise

    def _log_system(self, gone: set[str | None]) -> None:
        """The latest sign of life of every process that has a run of its own here."""
        from mlflow.entities import Metric

        born = _milliseconds(str(self.info.get("created", ""))) / 1000
        for name, beat in mlflow_system.due(self.folder, self.cursor.beats).items():
            run_id = self.parent if name == live.DRIVER else self.cursor.networks.get(name, ("", 0))[0]
            if run_id and name not in gone:
                when, step = int(beat["time"] * 1000), max(0, int(beat["time"] - born))
                metrics = [Metric(key, value, when, step) for key, value in mlflow_system.figures(beat)]
                self.client.log_batch(run_id, metrics=metrics)
                self.cursor.beats[name] = beat["time"]

    def _log_report(self) -> None:
        files = report_files(self.folder)
        if files and files != self.cursor.report:
            self.client.log_artifacts(self.parent, str(self.folder / "report"), "report")
            self.cursor.report = files
        self.cursor.write(self.folder)


def _points(row: dict[str, Any]) -> Iterator[Any]:
    """An event's points. The steps and times are the event's own, so that logging it again changes nothing."""
    from mlflow.entities import Metric

    values = {key: row[key] for key in CURVES.get(row["kind"], ())}
    if row["kind"] == "decision":
        values["gain_nats"] = row["gain_fork_nats"]
    for key, value in values.items():
        if value is not None and math.isfinite(value):
            yield Metric(key, float(value), _time(row), int(row["step"] or 0))


def _time(row: dict[str, Any]) -> int:
    seconds = row["time"] or 0.0
    return int(seconds * 1000) if 0 <= seconds < 1e11 else 0


def _milliseconds(created: str) -> int:
    try:
        return int(datetime.fromisoformat(created).timestamp() * 1000)
    except ValueError:
        return 0


def _described(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What run.json says, and the config in it. Raises RecordError where it says nothing of a run."""
    path = folder / "run.json"
    try:
        info = foreign.read_json(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); put it back from a copy of the run") from error
    config = info.get("config", {}) if isinstance(info, dict) else None
    if not isinstance(config, dict):
        raise RecordError(f"{path}: expected a section config, got {config!r:.60}; put it back from a copy of the run")
    return info, config


def _top(info: dict[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in ("task", "seed") if key in info}


def _dig(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
