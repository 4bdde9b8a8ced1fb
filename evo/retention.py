"""Retention: which snapshots outlive the end of a run, and why."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from evo import faults
from evo.config import RecordConfig
from evo.foreign import read_json
from search_spaces import checkpoint
from tournaments import economy

IMPROVEMENT = 0.02
"""Relative gain of held-out information over the best before at which a snapshot is kept."""

Name = tuple[str, str]
"""Network and snapshot."""


def kept(events: pd.DataFrame, front: pd.DataFrame, record: RecordConfig) -> dict[Name, str]:
    """The snapshots that stay, each with the reason; a pure function.

    The front's and each network's last always do, and what was copied from an earlier run. Beyond them `keep` says all,
    none (front), or by scales: at each adopted growth, at each information on the deciding half more than 2% above the
    best before it, and the best (by validation information) and the last of each phase. Of those beyond, a network and
    phase keep `keep_each` at most, the best by validation information.
    """
    found: dict[Name, str] = {}
    for network, life in events.groupby("network", sort=True):
        shots = _phased(life)
        if not len(shots):
            continue
        found[str(network), str(shots["snapshot"].iloc[-1])] = "the network's last"
        wanted = {"all": _all, "front": lambda *_: iter(()), "scales": _scales}[record.keep]
        reasons = dict[str, str]()
        for name, reason in wanted(life, shots):
            reasons.setdefault(name, reason)
        for _, phase in shots[shots["snapshot"].isin(reasons)].groupby("phase", sort=False):
            order = phase["validation_information_nats"].astype(float).sort_values(ascending=False, kind="stable")
            for name in phase.loc[order.index[: record.keep_each], "snapshot"]:
                found.setdefault((str(network), str(name)), reasons[name])
    names = set(events["network"])
    for parent in events.loc[events["kind"] == "started", "parent"].dropna():
        network, _, name = str(parent).partition("/")
        if network not in names:
            found[network, name] = "what the run started from"
    for network, name in zip(front["network"], front["snapshot"], strict=True):
        found[str(network), str(name)] = "on the front"
    return found


def phases(events: pd.DataFrame) -> pd.DataFrame:
    """Every snapshot's row, with its phase: as recorded, else by the third of its network's life."""
    lives = [_phased(life) for _, life in events.groupby("network", sort=True)]
    shots = [life for life in lives if len(life)]
    return pd.concat(shots) if shots else events.iloc[:0]


def tidy(folder: Path, stay: dict[Name, str]) -> None:
    """Removes every snapshot that is not among those that stay. Killed at any moment it may be done again.

    One that stays and builds on one that goes is first rewritten so that it needs no other.
    """
    homes = sorted((folder / "snapshots").glob("*/*"))
    staying = [home for home in homes if (home.parent.name, home.name) in stay]
    for home in staying:
        base = _base(home)
        if base is None or (home.parent.name, base) not in stay:
            checkpoint.stand_alone(home, lambda _: faults.point("retention.written"))
    for home in homes:
        if (home.parent.name, home.name) not in stay:
            shutil.rmtree(home)
            faults.point("retention.removed")


def _base(home: Path) -> str | None:
    """What a snapshot says that it builds on."""
    try:
        base = read_json(home / "blueprint.json").get("base")
    except (OSError, ValueError, AttributeError):
        return None  # a damaged one is told of when somebody reads it
    return base if isinstance(base, str) else None


def _phased(life: pd.DataFrame) -> pd.DataFrame:
    shots = life[life["kind"] == "snapshot"]
    total = max(float(shots["step"].max()), 1.0) if len(shots) else 1.0
    thirds = shots["step"].map(lambda step: economy.phase(float(step) / total))
    known = shots["phase"] if "phase" in shots else pd.Series(index=shots.index, dtype=object)
    return shots.assign(phase=known.where(known.notna(), thirds))


def _all(life: pd.DataFrame, shots: pd.DataFrame) -> Iterator[tuple[str, str]]:
    for name in shots["snapshot"]:
        yield str(name), "all are kept"


def _scales(life: pd.DataFrame, shots: pd.DataFrame) -> Iterator[tuple[str, str]]:
    grown = life[(life["kind"] == "decision") & (life["delta_parameters"].fillna(0) > 0)]
    for seq, action in zip(grown["seq"], grown["action"], strict=True):
        after = shots[shots["seq"] > seq]
        if len(after):
            yield str(after["snapshot"].iloc[0]), f"grown by {action}"
    best = max(float(shots["information_nats"].iloc[0]), 0.0)
    for name, information in zip(shots["snapshot"], shots["information_nats"].astype(float), strict=True):
        if information > (1 + IMPROVEMENT) * best:
            yield str(name), f"more than {IMPROVEMENT:.0%} better than any before"
        best = max(best, information)
    for phase, those in shots.groupby("phase", sort=False):
        judged = those["validation_information_nats"].astype(float)
        if judged.notna().any():
            yield str(those["snapshot"].iloc[int(judged.fillna(-math.inf).argmax())]), f"the best of the {phase} phase"
        yield str(those["snapshot"].iloc[-1]), f"the last of the {phase} phase"
