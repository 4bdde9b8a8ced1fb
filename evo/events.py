"""Events: everything that happened, as typed rows of one versioned schema.

Columns marked volatile (clocks, hosts, pids, durations) are all that may differ between two runs of one seed.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 3

KINDS = (
    "started",  # a network was born (or inherited): its seed's shape and its settings
    "mutation",  # the action drawn at random that a child began with; the row `started` tells what it made
    "segment",  # training between two decisions
    "candidate",  # one arm of a tournament: prediction, measurement, verdict, reason
    "analysis",  # one figure that an analyzer found before a decision
    "decision",  # what was adopted, and the books of the step
    "snapshot",  # a saved state with its validation figures: a point of the front
    "finished",  # the end of a life, and why
    "failed",  # a life that broke off, and why
    "choice",  # something settled by measuring, replayed on resume instead of measured again
)


def _field(name: str, kind: pa.DataType, unit: str = "", volatile: bool = False) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit, "volatile": "1" if volatile else "0"})


SCHEMA = pa.schema(
    [
        _field("schema_version", pa.int32()),
        _field("network", pa.string()),
        _field("seq", pa.int64(), "row number within the network, from 0, no gaps"),
        _field("kind", pa.string()),
        _field("generation", pa.int32()),
        _field("cycle", pa.int32()),
        _field("step", pa.int64(), "training steps of the network's own life"),
        _field("epoch", pa.float64()),
        _field("parent", pa.string(), "network/snapshot that this one started from"),
        _field("config", pa.string(), "JSON"),
        _field("blueprint", pa.string(), "JSON"),
        _field("reason", pa.string()),
        # parameters
        _field("active_parameters", pa.int64()),
        _field("delta_parameters", pa.int64()),
        _field("peak_parameters", pa.int64()),
        _field("flops", pa.int64(), "multiply-adds a sample"),
        _field("bytes", pa.int64()),
        # one arm of a tournament
        _field("candidate", pa.int32()),
        _field("action", pa.string(), "names joined by +"),
        _field("site", pa.string()),
        _field("action_json", pa.string(), "JSON"),
        _field("proposer", pa.string()),
        _field("placebo", pa.bool_()),
        _field("selected", pa.bool_()),
        _field("diverged", pa.bool_()),
        _field("rungs", pa.int32(), "rungs survived"),
        _field("seeds", pa.int32()),
        _field("predicted_nats", pa.float64(), "nats"),
        _field("measured_nats", pa.float64(), "nats, paired against NoChange on the deciding half"),
        _field("se_nats", pa.float64(), "nats"),
        _field("se_samples_nats", pa.float64(), "nats, first level only"),
        _field("se_seeds_nats", pa.float64(), "nats, second level only"),
        _field("dof", pa.float64()),
        _field("bound_nats", pa.float64(), "nats, lower confidence bound"),
        _field("audit_nats", pa.float64(), "nats, the same gain on the other half"),
        _field("audit_se_nats", pa.float64(), "nats, samples of both halves"),
        _field("own_nats", pa.float64(), "nats, of the first seed's fork alone"),
        _field("trial_steps", pa.int64(), "steps spent on this arm's forks, or lost to training that diverged"),
        # the books: information on the deciding half, nats
        _field("information_nats", pa.float64(), "nats, deciding half of the growth data, after this row"),
        _field("gain_training_nats", pa.float64(), "nats"),
        _field("gain_control_nats", pa.float64(), "nats"),
        _field("gain_fork_nats", pa.float64(), "nats"),
        _field("phase", pa.string(), "coarse, medium or fine"),
        _field("credits_nats", pa.float64(), "balance after this row, in credits_unit; nats where that is empty"),
        _field("credits_unit", pa.string(), "what a credit of economy.policy is"),
        _field("price_nats", pa.float64(), "nats a parameter"),
        # one figure of an analysis, at `site`
        _field("analyzer", pa.string()),
        _field("measure", pa.string()),
        _field("value", pa.float64(), "as unit says"),
        _field("value_se", pa.float64(), "as unit says; 0: exact"),
        _field("unit", pa.string()),
        _field("operations", pa.float64(), "multiply-adds or comparisons that the whole analysis took, about"),
        # training
        _field("train_loss", pa.float64(), "nats"),
        _field("gradient_norm", pa.float64()),
        _field("learning_rate", pa.float64()),
        # the front
        _field("snapshot", pa.string(), "folder under snapshots/NETWORK"),
        _field("validation_information_nats", pa.float64(), "nats"),
        _field("validation_accuracy", pa.float64()),
        _field("validation_r2", pa.float64()),
        # volatile
        _field("time", pa.float64(), "seconds since 1970", volatile=True),
        _field("seconds", pa.float64(), "duration of what the row tells", volatile=True),
        _field("host", pa.string(), volatile=True),
        _field("pid", pa.int64(), volatile=True),
        _field("stored", pa.string(), "folder of this attempt under the snapshot's, in a bucket", volatile=True),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

COLUMNS = tuple(SCHEMA.names)
VOLATILE = tuple(f.name for f in SCHEMA if f.metadata[b"volatile"] == b"1")
STABLE = tuple(name for name in COLUMNS if name not in VOLATILE)


def row(kind: str, **values: Any) -> dict[str, Any]:
    """One event with every column, those not given empty. Raises ValueError for a kind or column there is none of."""
    if kind not in KINDS:
        raise ValueError(f"unknown event kind {kind!r}; write one of {', '.join(KINDS)}")
    unknown = sorted(set(values) - set(COLUMNS))
    if unknown:
        raise ValueError(f"unknown event column {unknown[0]!r}; the schema has {', '.join(COLUMNS)}")
    return {**dict.fromkeys(COLUMNS), "schema_version": SCHEMA_VERSION, "kind": kind, **values}
