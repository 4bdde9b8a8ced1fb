"""CPU, memory and GPUs in MLflow, as the signs of life tell them: under MLflow's own names, each point once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fake_run
import pytest

from evo import mlflow_mirror, mlflow_system
from evo.live import DRIVER
from evo.mlflow_log import drain
from evo.mlflow_queue import Cursor, default_uri

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own use of SQLAlchemy
NOW = 1_780_000_500.0
MACHINE = {"cpu_percent": 50.04, "cpus": 8, "memory_used_bytes": 4e9, "memory_total_bytes": 64e9}
GPU = {
    "index": 1, "utilization_percent": 97.0, "memory_used_bytes": 3e9, "memory_total_bytes": 80e9, "power_watts": 301.44
}  # fmt: skip


def beat(folder: Path, name: str, when: float, **more: Any) -> None:
    told = {"time": when, "machine": MACHINE, "process": {"cpu_percent": 99.0, "memory_bytes": 5e8}, "gpus": [], **more}
    (folder / "live").mkdir(exist_ok=True)
    (folder / "live" / f"{name}.json").write_text(json.dumps(told))


def run(folder: Path, wanted: bool = True) -> Path:
    fake_run.write(folder, [fake_run.life("n000", cycles=2)], created="2026-05-28T20:00:00+00:00")
    info = json.loads((folder / "run.json").read_text())
    info["config"]["record"] = {"system_metrics": wanted}
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def told(folder: Path, network: str | None) -> dict[str, list[tuple[int, float]]]:
    """System metrics of a network's run, of the run's own where none is named: points as (milliseconds, value)."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(folder.parent))
    experiment = client.get_experiment_by_name("meristem")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    one = next(r for r in found if r.data.tags.get("meristem.network") == network)
    keys = [key for key in one.data.metrics if key.startswith("system/")]
    return {
        key: [(p.timestamp, p.value) for p in client.get_metric_history(one.info.run_id, key)] for key in sorted(keys)
    }


def test_names_are_those_that_mlflow_draws(tmp_path: Path) -> None:
    assert dict(mlflow_system.figures({"machine": MACHINE, "process": {}, "gpus": [GPU]})) == {
        "system/cpu_utilization_percentage": 50.0,
        "system/system_memory_usage_megabytes": 4000.0,
        "system/system_memory_usage_percentage": 6.2,
        "system/gpu_1_utilization_percentage": 97.0,
        "system/gpu_1_memory_usage_megabytes": 3000.0,
        "system/gpu_1_memory_usage_percentage": 3.8,
        "system/gpu_1_power_usage_watts": 301.4,
    }
    assert dict(mlflow_system.figures({})) == {}


def test_each_process_has_its_figures_in_its_own_run_once(tmp_path: Path) -> None:
    folder = run(tmp_path / "a")
    uri = default_uri(tmp_path)
    beat(folder, "n000", NOW, gpus=[GPU])
    beat(folder, DRIVER, NOW + 1)
    beat(folder, "n077", NOW)  # not born yet: it has no run
    assert mlflow_system.fresh(folder, Cursor.read(folder, uri).beats)
    drain(folder)
    beat(folder, "n000", NOW + 4)  # too soon
    drain(folder)
    beat(folder, "n000", NOW + 11)
    drain(folder)
    (folder / "mlflow.json").unlink()  # as a death between logging and remembering would have it
    drain(folder)
    network, driver = told(folder, "n000"), told(folder, None)
    at = [round(1000 * (NOW + after)) for after in (0, 11)]
    assert network["system/cpu_utilization_percentage"] == [(at[0], 50.0), (at[1], 50.0)]
    assert network["system/process_memory_usage_megabytes"] == [(at[0], 500.0), (at[1], 500.0)]
    assert network["system/gpu_1_utilization_percentage"] == [(at[0], 97.0)]
    assert driver["system/cpu_utilization_percentage"] == [(at[0] + 1000, 50.0)]
    assert "system/gpu_1_utilization_percentage" not in driver


def test_switched_off_there_is_none(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", wanted=False)
    beat(folder, "n000", NOW)
    drain(folder)
    assert told(folder, "n000") == {}
    assert not mlflow_mirror._system_metrics(folder)
    assert mlflow_mirror._system_metrics(run(tmp_path / "b"))
    assert not mlflow_mirror._system_metrics(tmp_path)
