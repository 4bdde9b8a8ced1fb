"""Bringing MLflow up to what a run has committed, once, on demand."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from evo import foreign
from evo.mlflow_queue import TrackingDown, default_uri, locked
from evo.recorder import RecordError

__all__ = ["TrackingDown", "drain", "experiment"]


def drain(folder: Path, tracking_uri: str | None = None) -> int:
    """Brings MLflow up to the committed events and the report; returns how many rows that were.

    Raises TrackingDown when MLflow cannot be reached, RecordError when the run cannot be read or is not taken, and
    ForeignError for a folder that no run of ours has written.
    """
    folder = Path(folder).resolve()
    foreign.check(folder)
    uri = tracking_uri or default_uri(folder.parent)
    # Set before MLflow is imported. A dead server must be noticed in seconds: its own default is minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with locked(folder):
        _reach(uri)
        from mlflow.exceptions import MlflowException

        from evo.mlflow_view import View

        try:
            return View(folder, uri).drain()
        except RecordError:
            raise
        except (MlflowException, OSError) as error:
            told = " ".join(str(error).split())[:120]
            if getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE":  # the fault of this run alone
                raise RecordError(f"{folder}: MLflow does not take what it holds ({told})") from error
            raise TrackingDown(f"MLflow at {uri} does not answer; the events stay queued ({told})") from error


def experiment(uri: str) -> str:
    """Id of the experiment that holds every run of a store; MLflow's default one before the first drain."""
    from mlflow import MlflowClient

    from evo.mlflow_view import EXPERIMENT

    found = MlflowClient(tracking_uri=uri, registry_uri=uri).get_experiment_by_name(EXPERIMENT)
    return "0" if found is None else str(found.experiment_id)


def _reach(uri: str) -> None:
    """Notices a local store that cannot be written, which MLflow itself would try again for two minutes."""
    if not uri.startswith("sqlite:///"):
        return
    try:
        store = sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=10, isolation_level=None)
        with contextlib.closing(store):
            store.execute("BEGIN IMMEDIATE")
            store.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise TrackingDown(f"MLflow's store {uri} cannot be written ({error}); the events stay queued") from error
