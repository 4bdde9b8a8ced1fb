"""A network's vitals as metrics of Ray's own, which its agents serve to Prometheus. Only where Ray runs.

Names, each with Ray's prefix `ray_` and the tags Run and Network: meristem_information_nats,
meristem_active_parameters, meristem_cycles, meristem_candidates_waiting, meristem_candidates_in_flight,
meristem_trials_per_second; and the counter meristem_failures (Prometheus: `ray_meristem_failures_total`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

GAUGES = {
    "information_nats": "information on held-out data, nats",
    "active_parameters": "active weights",
    "cycles": "finished cycles",
    "candidates_waiting": "trials of the tournament at hand that wait for a worker",
    "candidates_in_flight": "trials of the tournament at hand that run",
    "trials_per_second": "trials finished a second, since the sign of life before",
}


class RayMetrics:
    """One network's gauges; call it with what `live.Beat` tells."""

    def __init__(self, run: str, network: str) -> None:
        from ray.util import metrics

        tags = {"Run": run, "Network": network}
        self._gauges = {
            name: metrics.Gauge(f"meristem_{name}", description=said, tag_keys=tuple(tags))
            for name, said in GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags(tags)
        self._before: tuple[float, int] | None = None

    def __call__(self, told: Mapping[str, Any]) -> None:
        trials = told["trials"]
        rate = None
        if self._before is not None and told["time"] > self._before[0]:
            rate = (trials["done"] - self._before[1]) / (told["time"] - self._before[0])
        self._before = (told["time"], trials["done"])
        values = {
            "information_nats": told.get("validation_information_nats"),
            "active_parameters": told.get("active_parameters"),
            "cycles": told.get("cycle"),
            "candidates_waiting": trials["waiting"],
            "candidates_in_flight": trials["in_flight"],
            "trials_per_second": rate,
        }
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self._gauges[name].set(float(value))


def failed(run: str, network: str) -> None:
    """Counts a death that was survived: of a network's process, or of a worker of its trials."""
    _failures().inc(1.0, {"Run": run, "Network": network})


@functools.cache
def _failures() -> Any:
    from ray.util import metrics

    return metrics.Counter("meristem_failures", description="deaths that were survived", tag_keys=("Run", "Network"))
