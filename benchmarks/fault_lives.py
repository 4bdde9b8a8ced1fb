"""Short runs of every kind for the fault table, begun or taken up by one call, and what differs between two of them.

A run lives in OUT/a, in this process, on one thread, in about a second. `LIVES` names the kinds.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evo import api, recorder, report, retention
from evo.census import Census
from evo.config import Config
from evo.events import STABLE
from evo.generations import Generations
from evo.grower import Grower
from evo.population import Birth, Ground
from evo.recorder import read_events
from evo.run import Run
from evo.settings import build
from evo.task import Task, fingerprint
from search_spaces import checkpoint

SMALL: dict[str, Any] = {
    "device": "cpu",  # the promise of equal bits is for CPUs
    "task": "digits", "data.limit": 300, "training.steps": 60, "training.warmup": 2, "growth.cycles": 2,
    "network.density": 0.15, "tournament.rungs": [2, 3], "tournament.candidates": 2, "tournament.placebo_every": 2,
    "tournament.evidence_samples": 64, "record.mlflow": False, "name": "a",
}  # fmt: skip
STORE = "mlflow.db"


def settings(seed: int, out: Path, **more: Any) -> dict[str, Any]:
    return {**SMALL, "seed": seed, "out": str(out), **more}


def grow(seed: int, out: Path, **more: Any) -> None:
    """What a user does who finds a run broken off: resumes it if it is there, else starts it."""
    if (out / "a" / "run.json").exists():
        api.resume(out / "a")
    else:
        api.grow(config=settings(seed, out, **more))


def plain(seed: int, out: Path) -> None:
    grow(seed, out, **{"record.deltas": False})


def kept(seed: int, out: Path) -> None:
    """Retention as well: at the end only the front's snapshots stay."""
    grow(seed, out, **{"record.keep": "front", "training.steps": 120, "growth.cycles": 4})


def mirrored(seed: int, out: Path) -> None:
    """A run whose events are drained into MLflow's store after it, in this process."""
    from evo.mlflow_log import drain

    grow(seed, out)
    drain(out / "a")


def search(seed: int, out: Path) -> None:
    """Two generations of two networks, one after another, by the search's own population and census, without Ray.

    Compacted and tidied as a search is. What Ray adds is the other half of the table.
    """
    more = {"search.networks": 4, "search.population": 2, "training.steps": 40, "growth.cycles": 1}
    config = build(settings(seed, out, **more))
    task = api._load(config, None)
    folder = out / "a"
    if not (folder / "run.json").exists():
        from evo import run_folder

        run_folder.create("search", api._settled(config, task), data_sha256=fingerprint(task))
    census = Census(folder, lambda update: None)
    population = Generations(Ground(config, math.prod(task.shape), task.outputs))
    while (birth := population.birth()) is not None:
        life = census.life(birth.network)
        population.ended(birth.network, _lived(config, task, folder, census, birth) if life is None else life)
    run = Run.open(folder)
    assert run.finished
    recorder.compact(folder)
    retention.tidy(folder, retention.kept(run.events, run.front, config.record))


def _lived(config: Config, task: Task, folder: Path, census: Census, birth: Birth) -> Any:
    own = build(config.model_dump(), birth.settings)
    grower = Grower(own, task, folder, birth.network, birth.generation, birth.parent)
    while not grower.done:
        grower.advance()
    grower.close()
    return census.life(birth.network)


LIVES: dict[str, Callable[[int, Path], None]] = {
    "grow": grow, "grow, no deltas": plain, "retention": kept, "search": search, "MLflow": mirrored,
}  # fmt: skip


def prepared(store: Path) -> list[str]:
    """The kinds of run that can be lived here: without MLflow's database (a small installation) not that one."""
    quick()
    try:
        prepare(store)
    except Exception as err:
        print(f"no store of MLflow can be made here, so its runs are left out: {type(err).__name__}: {err}", flush=True)
        return [life for life in LIVES if life != "MLflow"]
    return list(LIVES)


def quick() -> None:
    """Quick pictures: they draw what has been saved and save nothing else. One thread."""
    torch.set_num_threads(1)
    report.PICTURES = {"front": lambda run: None}  # type: ignore[dict-item]
    report.png = lambda figure: b"a picture"  # type: ignore[assignment]


def prepare(store: Path) -> None:
    """An empty MLflow store to copy."""
    if not store.exists():
        from mlflow import MlflowClient

        with contextlib.redirect_stdout(sys.stderr):
            MlflowClient(tracking_uri=f"sqlite:///{store}").search_experiments()


def furnish(out: Path, life: str, store: Path) -> None:
    """A fresh folder for a run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if life == "MLflow":
        shutil.copy(store, out / STORE)


@dataclass(frozen=True)
class Difference:
    """What a broken and resumed run has that its unbroken twin has not, or the other way round.

    lost, doubled: events (and, where mirrored, points in MLflow's store). unequal: snapshots with another tensor,
    moment, age or state, or that one of the two does not have. drafts: files that nobody cleared away.
    """

    lost: int
    doubled: int
    unequal: int
    drafts: int

    @property
    def none(self) -> bool:
        return not (self.lost or self.doubled or self.unequal or self.drafts)


def difference(whole: Path, broken: Path) -> Difference:
    """Compares OUT folders of two runs. Raises what reading them raises."""
    ours, theirs = told(broken / "a"), told(whole / "a")
    if (whole / STORE).exists():
        ours, theirs = ours + points(broken), theirs + points(whole)
    left, right = saved(broken / "a"), saved(whole / "a")
    unequal = sum(1 for name in left.keys() | right.keys() if not _same(left.get(name), right.get(name)))
    drafts = [p for p in (broken / "a").rglob(".*") if p.name not in (".lock", ".mlflow.lock")]
    return Difference((theirs - ours).total(), (ours - theirs).total(), unequal, len(drafts))


def told(folder: Path) -> Counter[str]:
    """Every event's columns that may not differ between two runs of a seed."""
    rows = read_events(folder)[list(STABLE)].astype(object)
    return Counter(repr(tuple(row)) for row in rows.itertuples(index=False, name=None))


def points(out: Path) -> Counter[str]:
    """Every point of every living run in MLflow's store."""
    query = (
        "select runs.name, key, step, value from metrics join runs using (run_uuid) "
        "where runs.lifecycle_stage = 'active' and metrics.key not like 'system/%' and metrics.key not like '%seconds%'"
    )
    with contextlib.closing(sqlite3.connect(out / STORE)) as store:
        return Counter(repr(row) for row in store.execute(query))


def saved(folder: Path) -> dict[str, dict[str, Any]]:
    """Every snapshot's tensors, optimiser state, blueprint and state, by network/snapshot."""
    return {f"{home.parent.name}/{home.name}": dict(_contents(home)) for home in _homes(folder)}


def _homes(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "snapshots").glob("*/*") if p.is_dir() and not p.name.startswith("."))


def _contents(home: Path) -> Iterator[tuple[str, Any]]:
    found = checkpoint.load(home)
    for name, tensor in found.network.state_dict().items():
        yield f"weights/{name}", tensor
    if found.state is not None:
        for part, (values, _) in found.state.parts().items():
            for name, tensor in values.items():
                yield f"{part}/{name}", tensor
    yield "blueprint", json.dumps(found.network.blueprint(), sort_keys=True)
    yield "extra", json.dumps(found.extra, sort_keys=True)
    yield "lineage", found.lineage


def _same(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    if one is None or other is None or one.keys() != other.keys():
        return False
    return all(_equal(value, other[name]) for name, value in one.items())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)
