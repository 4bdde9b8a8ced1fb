"""Ray's agents serve every network's figures to Prometheus, tagged by run and network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import scraped_metrics

from evo.ray_metrics import GAUGES

ROOT = Path(__file__).parents[2]


def test_prometheus_sees_every_metric_of_a_network() -> None:
    pytest.importorskip("prometheus_client", reason="pip install 'meristem[cluster]'")
    done = subprocess.run(
        [sys.executable, scraped_metrics.__file__, str(len(GAUGES) + 1), "90"],
        capture_output=True, text=True, timeout=200, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = {}
    for line in json.loads(done.stdout.splitlines()[-1]):
        assert 'Run="my run"' in line
        assert 'Network="n007"' in line
        name = re.match(r"[a-z_]+", line)
        assert name is not None
        found[name[0].removeprefix("ray_meristem_")] = float(line.rsplit(" ", 1)[1])
    rate = found.pop("trials_per_second")
    assert 0 < rate <= 6.5
    assert found == {
        "information_nats": 1.5, "active_parameters": 123.0, "cycles": 2.0, "candidates_waiting": 4.0,
        "candidates_in_flight": 2.0, "failures_total": 1.0,
    }  # fmt: skip
