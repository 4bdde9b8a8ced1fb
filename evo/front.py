"""The front: snapshots that no other snapshot beats in both validation information and active parameters.

The front is chosen by validation data alone. `evaluate_test` then reads the test set, once in the life of a run, and
writes what it saw to report/front.json; whoever comes later reads that file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from evo import stored_snapshots
from evo.foreign import read_json
from evo.storage import replace_file

if TYPE_CHECKING:
    from evo.task import Task

FRONT_FILE = Path("report") / "front.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


class FrontError(ValueError):
    """A front that cannot be read or evaluated: one line with the file, what was expected and the cure."""


def metric(events: pd.DataFrame) -> str:
    """'r2' for a regression, 'accuracy' for everything else: whichever the snapshots carry."""
    return "r2" if bool(events["validation_r2"].notna().any()) else "accuracy"


def snapshots(events: pd.DataFrame) -> pd.DataFrame:
    """Every snapshot with a finite validation information, as a row of the front's columns, in the events' order."""
    figure = metric(events)
    rows = events[events["kind"] == "snapshot"]
    points = pd.DataFrame(
        {
            "network": rows["network"],
            "snapshot": rows["snapshot"],
            "information_nats": rows["information_nats"].astype(float),
            "validation_information_nats": rows["validation_information_nats"].astype(float),
            figure: rows[f"validation_{figure}"].astype(float),
            "active_parameters": pd.to_numeric(rows["active_parameters"]),
            "peak_parameters": pd.to_numeric(rows["peak_parameters"]),
        }
    )
    finite = points["validation_information_nats"].map(lambda v: math.isfinite(v))
    return points[finite & points["active_parameters"].notna()].reset_index(drop=True)


def front(events: pd.DataFrame) -> pd.DataFrame:
    """The non-dominated snapshots by active parameters, ascending. Of equal ones, the first by name stands.

    A snapshot that knows less than the constant answer is on no front, unless there is nothing better.
    """
    points = snapshots(events)
    informed = points["validation_information_nats"] > 0
    points = (points[informed] if informed.any() else points).sort_values(
        ["active_parameters", "validation_information_nats", "network", "snapshot"],
        ascending=[True, False, True, True],
        kind="stable",
    )
    best_before = points["validation_information_nats"].cummax().shift(fill_value=-math.inf)
    kept = points[points["validation_information_nats"] > best_before].reset_index(drop=True)
    return kept.astype({"active_parameters": "int64"})


def snapshot_folder(folder: Path, network: str, snapshot: str) -> Path:
    """Where a snapshot lies, fetched there where the run is in a bucket.

    Raises FrontError for names that would lead out of the run's folder.
    """
    for what, name in (("network", network), ("snapshot", snapshot)):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise FrontError(
                f"{folder}: {what} {str(name)[:40]!r} in the events is no plain name; the record is foreign"
            )
    stored_snapshots.fetch(folder, network, snapshot)
    return folder / "snapshots" / network / snapshot


def evaluate_test(folder: Path, front: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The front with test_information_nats and test_accuracy or test_r2.

    The first call reads the test set and writes report/front.json; every later one reads that file, whatever the
    front has become since. Entries that joined after it stay without test figures.
    """
    recorded = read_test(folder)
    if recorded is not None:
        return with_test(front, recorded)
    from search_spaces import checkpoint

    # A checkpoint that cannot be read must be found before the test set is.
    networks = [
        checkpoint.load(snapshot_folder(folder, str(n), str(s))).network
        for n, s in zip(front["network"], front["snapshot"], strict=True)
    ]
    figures = [on_test(network, task) for network in networks]
    entries = [
        {**{str(k): _plain(v) for k, v in entry.items()}, **figure}
        for entry, figure in zip(front.to_dict("records"), figures, strict=True)
    ]
    record = {
        "task": task.name,
        "kind": task.kind,
        "enumerated": task.enumerated,
        "entropy_nats": float(task.entropy),
        "samples": {name: len(split.y) for name, split in task.splits.items()},
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        "front": entries,
    }
    write_atomically(folder / FRONT_FILE, json.dumps(record, indent=1, allow_nan=False) + "\n")
    return with_test(front, record)


def on_test(network: Any, task: Task) -> dict[str, float | None]:
    """Test information (nats) and accuracy or r2 of one network; None where the network's outputs are not finite."""
    from evo import memory
    from evo.training import predict
    from tournaments.objective import losses, score

    test = task.splits["test"]
    network = network.to(test.x.device)
    outputs, _ = memory.fitted(memory.WHOLE, 1, lambda parts: predict(network, test.x, parts.rows))
    outputs = outputs.double()
    y = test.y if task.kind == "classification" else test.y.double()
    information = float(task.entropy) - float(losses(task.kind, outputs, y).mean())
    name = "accuracy" if task.kind == "classification" else "r2"
    return {"test_information_nats": _plain(information), f"test_{name}": _plain(score(task.kind, outputs, y))}


def read_test(folder: Path) -> dict[str, Any] | None:
    """What report/front.json says, None where the test set was not read yet."""
    path = folder / FRONT_FILE
    cure = "move the file away to have the test set evaluated again"
    try:
        record = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as err:
        raise FrontError(f"{path}: expected the front with its test figures as JSON ({err}); {cure}") from err
    entries = record.get("front") if isinstance(record, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("network"), str) and isinstance(e.get("snapshot"), str)
        for e in entries
    ):
        raise FrontError(f"{path}: expected an object with a list 'front' of networks and snapshots; {cure}")
    assert isinstance(record, dict)
    return record


def with_test(front: pd.DataFrame, record: Mapping[str, Any]) -> pd.DataFrame:
    """The front with the recorded test figures beside each entry, NaN for entries that were not evaluated."""
    figure = "r2" if "r2" in front.columns else "accuracy"
    seen = {(e["network"], e["snapshot"]): e for e in record["front"]}
    keys = list(zip(front["network"], front["snapshot"], strict=True))
    return front.assign(
        **{
            name: [_number(seen.get(key, {}).get(name)) for key in keys]
            for name in ("test_information_nats", f"test_{figure}")
        }
    )


def write_atomically(path: Path, content: str | bytes) -> None:
    """Either the whole file is there afterwards or what was there before. Raises OSError, and then leaves no draft."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.encode("utf-8") if isinstance(content, str) else content)


def _plain(value: Any) -> Any:
    """A value as JSON takes it: NumPy scalars as Python's, what is missing or not finite as None."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
