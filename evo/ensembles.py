"""Ensembles: any set of a run's snapshots as one predictor, against the best single one of them.

Labels: the members' probabilities are averaged; values: their means. Which snapshots belong is said by name, by phase,
or chosen greedily on validation data; the test set takes part in no choice. It is read only where that is asked for,
and what it said is kept in report/ensembles.json, once for each set: everybody can see that it was read, and how often.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo import front as fronts
from evo import retention
from evo.foreign import read_json
from evo.task import Kind, Split, Task
from evo.training import predict
from search_spaces import checkpoint
from search_spaces.network import Network
from tournaments.objective import losses, score

if TYPE_CHECKING:
    from evo.run import Run

Name = tuple[str, str]
"""Network and snapshot."""

POOL = 200
"""Candidates of the greedy choice: the best single ones, as all answers of each are held in memory."""

ENSEMBLES_FILE = Path("report") / "ensembles.json"


class EnsembleError(ValueError):
    """An ensemble that cannot be: what was expected and the cure."""


class Average(nn.Module):
    """The members' averaged probabilities as logits (their logarithms), or their averaged values."""

    def __init__(self, networks: Sequence[Network], kind: Kind) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks).eval()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """x: (n, inputs) -> (n, outputs)."""
        told = torch.stack([answers(network(x), self.kind) for network in self.networks])
        return combined(told, self.kind).to(x.dtype)


@dataclass(frozen=True)
class Ensemble:
    """module: takes x (n, inputs), gives logits or values (n, outputs). members: network and snapshot. how: chosen.

    validation, test: information_nats and accuracy or r2 of the ensemble, of the best member by validation (best_...),
    gain_nats of the ensemble over that one with its paired standard error gain_se_nats, and how many samples said so.
    test is None where it was not read. each: validation information of the members, nats.
    """

    module: Average
    members: tuple[Name, ...]
    how: str
    each: tuple[float, ...]
    validation: dict[str, float]
    test: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        members = [
            {"network": n, "snapshot": s, "validation_information_nats": v}
            for (n, s), v in zip(self.members, self.each, strict=True)
        ]
        return {"members": members, "how": self.how, "validation": self.validation, "test": self.test}


def ensemble(
    run: Run,
    members: Sequence[str] | None = None,
    greedy: int | None = None,
    test: bool = False,
    task: Task | None = None,
) -> Ensemble:
    """The ensemble of these "NETWORK/SNAPSHOT", or of at most `greedy` chosen on validation data, or else of the best
    snapshot of each phase of the best network's life. test: read the test set too. task: where data came from memory.

    Raises ValueError with one line.
    """
    if members is not None and greedy is not None:
        raise EnsembleError("members: given together with greedy; write one of them")
    if greedy is not None and greedy < 1:
        raise EnsembleError(f"greedy: expected 1 member or more, got {greedy}; write 5, say")
    task = task or run.load_task()
    held = task.splits["validation"]
    loaded = _Loaded(run, task)
    how = f"at most {greedy} chosen greedily on validation data"
    if members is not None:
        names, how = [_name(run, text) for text in dict.fromkeys(members)], "as named"
    elif greedy is not None:
        pool = [name for name in _best(run) if loaded.folder(name).is_dir()][:POOL]
        names = choose(np.array([loaded.answers(n, held) for n in pool]), held.y, task.kind, greedy, pool)
    else:
        names, how = _by_phase(run, loaded), f"the best of each phase of {run.best.network}"
    if not names:
        raise EnsembleError("members: expected one snapshot at least, got none; write n000/000004, say")
    each = [_information(torch.as_tensor(loaded.answers(n, held)), held, task) for n in names]
    best = names[int(np.argmax([v if math.isfinite(v) else -math.inf for v in each]))]
    module = Average([loaded.network(n) for n in names], task.kind)
    made = Ensemble(module, tuple(names), how, tuple(each), _figures(loaded, names, best, held, task))
    return made if not test else _tested(run, made, loaded, best, task)


def answers(outputs: Tensor, kind: Kind) -> Tensor:
    """(n, q) float64: probabilities, or values."""
    return outputs.double().softmax(dim=-1) if kind == "classification" else outputs.double()


def combined(told: Tensor, kind: Kind) -> Tensor:
    """(members, n, q) answers -> (n, q) logits or values of their average."""
    average = told.mean(dim=0)
    return average.clamp_min(torch.finfo(average.dtype).tiny).log() if kind == "classification" else average


def choose(told: NDArray[np.float64], y: Tensor, kind: Kind, count: int, names: Sequence[Name]) -> list[Name]:
    """Forward selection (Caruana et al. 2004, here each at most once): the best member, then whichever makes the
    average best, as long as it gets better, `count` in all. told: (candidates, n, q) answers; of equals the first.
    """
    chosen: list[int] = []
    total, best = np.zeros(told.shape[1:]) if len(told) else np.zeros(0), math.inf
    while len(chosen) < count:
        tries = {}
        for i in (i for i in range(len(told)) if i not in chosen):
            average = torch.from_numpy((total + told[i]) / (len(chosen) + 1))
            mean = float(losses(kind, combined(average[None], kind), _targets(y, kind)).mean())
            tries[i] = mean if math.isfinite(mean) else math.inf
        if not tries or (found := min(tries.values())) >= best:
            break
        picked = min(tries, key=lambda i: tries[i])
        chosen.append(picked)
        total, best = total + told[picked], found
    return [names[i] for i in chosen]


@dataclass(frozen=True)
class _Loaded:
    """A run's snapshots and what they say, each read and asked once."""

    run: Run
    task: Task
    networks: dict[Name, Network] = field(default_factory=dict)
    said: dict[tuple[Name, int], NDArray[np.float64]] = field(default_factory=dict)

    def folder(self, name: Name) -> Path:
        return fronts.snapshot_folder(self.run.folder, *name)

    def network(self, name: Name) -> Network:
        if name not in self.networks:
            if not self.folder(name).is_dir():
                raise EnsembleError(
                    f"members: the snapshot {'/'.join(name)} was not kept; write one that lies in "
                    f"{self.run.folder}/snapshots, or run with record.keep all"
                )
            network = checkpoint.load(self.folder(name)).network
            fits = (math.prod(network.input_shape()), network.axis_sizes()["output"])
            if fits != (math.prod(self.task.shape), self.task.outputs):
                raise EnsembleError(
                    f"members: {'/'.join(name)} has {fits[0]} inputs and {fits[1]} outputs, but {self.task.name} "
                    f"{math.prod(self.task.shape)} and {self.task.outputs}; restore the data that the run learned from"
                )
            self.networks[name] = network
        return self.networks[name]

    @torch.no_grad()
    def answers(self, name: Name, split: Split) -> NDArray[np.float64]:
        """(n, q) of the split's samples."""
        key = (name, id(split))
        if key not in self.said:
            network = self.network(name).to(split.x.device)
            self.said[key] = answers(predict(network, split.x), self.task.kind).cpu().numpy()
        return self.said[key]


def _names(run: Run) -> list[Name]:
    shots = fronts.snapshots(run.events)
    return [(str(n), str(s)) for n, s in zip(shots["network"], shots["snapshot"], strict=True)]


def _best(run: Run) -> list[Name]:
    """By validation information, the best first."""
    shots = fronts.snapshots(run.events)
    order = shots["validation_information_nats"].sort_values(ascending=False, kind="stable").index
    names = _names(run)
    return [names[int(i)] for i in order]


def _name(run: Run, text: str) -> Name:
    network, _, snapshot = text.strip().partition("/")
    known = _names(run)
    if (network, snapshot) not in known:
        shown = ", ".join("/".join(name) for name in known[:6]) + (", ..." if len(known) > 6 else "")
        raise EnsembleError(f"members: run {run.name} has no snapshot {text!r}; write NETWORK/SNAPSHOT, of {shown}")
    return network, snapshot


def _by_phase(run: Run, loaded: _Loaded) -> list[Name]:
    """The best kept snapshot of each phase of the best network's life."""
    best = run.best.network
    shots = retention.phases(run.events[run.events["network"] == best])
    kept = shots[[loaded.folder((best, str(s))).is_dir() for s in shots["snapshot"]]]
    judged = kept[kept["validation_information_nats"].notna()]
    top = judged.groupby("phase", sort=False)["validation_information_nats"].idxmax()
    return [(best, str(judged.loc[i, "snapshot"])) for i in top]


def _targets(y: Tensor, kind: Kind) -> Tensor:
    return y.cpu() if kind == "classification" else y.cpu().double()


def _information(told: Tensor, split: Split, task: Task) -> float:
    outputs = combined(told[None], task.kind)
    return task.entropy - float(losses(task.kind, outputs, _targets(split.y, task.kind)).mean())


def _figures(loaded: _Loaded, names: Sequence[Name], best: Name, split: Split, task: Task) -> dict[str, float]:
    """Of the ensemble and of the best single one, and their difference, on the samples of a split."""
    y, kind = _targets(split.y, task.kind), task.kind
    together = combined(torch.from_numpy(np.stack([loaded.answers(n, split) for n in names])), kind)
    alone = combined(torch.from_numpy(loaded.answers(best, split))[None], kind)
    ours, theirs = losses(kind, together, y), losses(kind, alone, y)
    gain = theirs - ours
    figure = "accuracy" if kind == "classification" else "r2"
    return {
        "information_nats": task.entropy - float(ours.mean()),
        figure: score(kind, together, y),
        "best_information_nats": task.entropy - float(theirs.mean()),
        f"best_{figure}": score(kind, alone, y),
        "gain_nats": float(gain.mean()),
        "gain_se_nats": float(gain.std(correction=1)) / math.sqrt(len(gain)) if len(gain) > 1 else math.nan,
        "samples": len(gain),
    }


def _tested(run: Run, made: Ensemble, loaded: _Loaded, best: Name, task: Task) -> Ensemble:
    """With test figures: those recorded for this set, else read now and recorded."""
    path = run.folder / ENSEMBLES_FILE
    record = _recorded(path)
    key = sorted("/".join(name) for name in made.members)
    for entry in record:
        if entry["key"] == key:
            return dataclasses.replace(made, test=entry["test"])
    figures = _figures(loaded, made.members, best, task.splits["test"], task)
    tested = dataclasses.replace(made, test=figures)
    said = {"key": key, "evaluated": datetime.now(UTC).isoformat(timespec="seconds"), **plain(tested.to_json())}
    fronts.write_atomically(path, json.dumps({"ensembles": [*record, said]}, indent=1, allow_nan=False) + "\n")
    return tested


def _recorded(path: Path) -> list[dict[str, Any]]:
    cure = "move the file away to have the test set evaluated again"
    try:
        record = read_json(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as err:
        raise EnsembleError(f"{path}: expected ensembles with their test figures as JSON ({err}); {cure}") from err
    entries = record.get("ensembles") if isinstance(record, dict) else None
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("key"), list) and isinstance(e.get("test"), dict) for e in entries
    ):
        raise EnsembleError(f"{path}: expected an object with a list 'ensembles' of sets with test figures; {cure}")
    return entries


def plain(value: Any) -> Any:
    """A value as JSON takes it: what is not finite as None."""
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
