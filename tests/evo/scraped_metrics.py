"""Sets a network's metrics in a Ray of its own; prints what its agent serves to Prometheus as JSON, a list of lines."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.request

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_metrics_report_interval_ms": "500"}

import ray

from evo import ray_metrics


def scraped(port: int) -> list[str]:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as page:
        return [line for line in page.read().decode().splitlines() if line.startswith("ray_meristem_")]
    return []


def main(wanted: int, patience: float) -> list[str]:
    """What is served once there are `wanted` lines of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="evo-", dir="/tmp")
    try:
        ray.init(
            address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _metrics_export_port=port,
            _temp_dir=folder,
        )  # fmt: skip
        tell = ray_metrics.RayMetrics("my run", "n007")
        ray_metrics.failed("my run", "n007")
        trials, end, found = 0, time.monotonic() + patience, list[str]()
        while len(found) < wanted and time.monotonic() < end:
            trials += 3
            queue = {"done": trials, "waiting": 4, "in_flight": 2}
            figures = {"validation_information_nats": 1.5, "active_parameters": 123, "cycle": 2}
            tell({"time": time.time(), "trials": queue, **figures})
            time.sleep(0.5)
            found = scraped(port)
        return found
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), float(sys.argv[2]))))
