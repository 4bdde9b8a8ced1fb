"""A made-up run on disk, with the true schema, so that what reads runs can be tested without training one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evo import events

ACTIONS = ("Widen", "Connect", "Skip", "Insert", "Disconnect", "Narrow", "NoChange")
ENTROPY = 2.3026


def life(
    network: str,
    *,
    generation: int = 0,
    parent: str | None = None,
    cycles: int = 20,
    parameters: int = 80,
    information: float = 0.0,
    ceiling: float = 1.9,
    seed: int = 0,
    regression: bool = False,
    ends: bool = True,
    placebo_every: int = 4,
) -> list[dict[str, Any]]:
    """Events of one network whose books balance and whose audits agree with their standard errors."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    clock = 1.78e9 + 100.0 * generation
    common = {"network": network, "generation": generation, "host": "here", "pid": 1}

    def add(kind: str, **values: Any) -> None:
        nonlocal clock
        clock += 0.1
        rows.append(events.row(kind, **common, seq=len(rows), time=clock, seconds=0.1, **values))

    peak, step = parameters, 0
    add(
        "started",
        cycle=0,
        step=0,
        epoch=0.0,
        parent=parent,
        active_parameters=parameters,
        peak_parameters=peak,
        information_nats=information,
        credits_nats=0.5,
        price_nats=1e-4,
        reason="seed" if parent is None else "child",
    )
    for cycle in range(cycles):
        step += 120
        gain = (ceiling * (1 - math.exp(-parameters / 160)) - information) * 0.5 + 0.004 * rng.standard_normal()
        information += gain
        state = {"cycle": cycle, "step": step, "epoch": step / 16}
        add(
            "segment",
            **state,
            gain_training_nats=gain,
            information_nats=information,
            active_parameters=parameters,
            peak_parameters=peak,
            train_loss=ENTROPY - information,
        )
        arms = rng.choice(len(ACTIONS) - 1, size=3, replace=False)
        true = np.abs(rng.normal(0.03, 0.03, 3)) * math.exp(-cycle / 12)
        se = 0.004
        measured = true + se * rng.standard_normal(3)
        bounds = measured - 1.4 * se
        deltas = np.array(
            [(-1 if ACTIONS[a] in ("Narrow", "Disconnect") else 1) * int(rng.integers(4, 30)) for a in arms]
        )
        best = int(np.argmax(bounds)) if bounds.max() > 0 else None
        step += 40
        state = {"cycle": cycle, "step": step, "epoch": step / 16}
        control = 0.003 * math.exp(-cycle / 6)
        add(
            "candidate",
            **state,
            candidate=0,
            action="NoChange",
            selected=best is None,
            placebo=False,
            trial_steps=80,
            rungs=2,
            seeds=2,
            measured_nats=0.0,
            reason="the control",
        )
        for i, a in enumerate(arms):
            add(
                "candidate",
                **state,
                candidate=1 + i,
                action=ACTIONS[a],
                site="hidden1",
                placebo=False,
                selected=i == best,
                diverged=False,
                delta_parameters=int(deltas[i]),
                trial_steps=80,
                rungs=2,
                seeds=2,
                proposer="screening" if i else "random",
                dof=12.0,
                predicted_nats=float(true[i] / rng.uniform(0.3, 0.9)),
                measured_nats=float(measured[i]),
                se_nats=se,
                bound_nats=float(bounds[i]),
                audit_nats=float(true[i] + se * rng.standard_normal()),
                audit_se_nats=se * math.sqrt(2),
                reason="largest bound per parameter" if i == best else "bound below the winner's per parameter",
            )
        if placebo_every and cycle % placebo_every == 0:
            add(
                "candidate",
                **state,
                candidate=9,
                action="NoChange",
                placebo=True,
                selected=False,
                trial_steps=80,
                measured_nats=0.001,
                se_nats=se,
                bound_nats=0.001 - 1.4 * se,
                reason="placebo",
            )
        fork = float(measured[best]) if best is not None else 0.0
        delta = int(deltas[best]) if best is not None else 0
        action = ACTIONS[arms[best]] if best is not None else "NoChange"
        parameters, information = parameters + delta, information + control + fork
        peak = max(peak, parameters)
        add(
            "decision",
            **state,
            action=action,
            site="hidden1" if best is not None else None,
            delta_parameters=delta,
            active_parameters=parameters,
            peak_parameters=peak,
            gain_control_nats=control,
            trial_steps=240,
            gain_fork_nats=fork,
            information_nats=information,
            credits_nats=0.4,
            price_nats=2e-4,
            reason=f"{action} bought {fork:.4f} nats for {delta} parameters"
            if best is not None
            else "no candidate's bound exceeds zero",
        )
        quality = (
            {"validation_r2": min(information / 2, 1.0)}
            if regression
            else {"validation_accuracy": 0.1 + 0.88 * (1 - math.exp(-max(information, 0) * 1.6))}
        )
        add(
            "snapshot",
            **state,
            snapshot=f"{cycle:06d}",
            information_nats=information,
            active_parameters=parameters,
            peak_parameters=peak,
            validation_information_nats=information - 0.02 + 0.01 * rng.standard_normal(),
            **quality,
        )
    if ends:
        add(
            "finished",
            cycle=cycles,
            step=step,
            epoch=step / 16,
            active_parameters=parameters,
            peak_parameters=peak,
            information_nats=information,
            gain_training_nats=sum(r["gain_training_nats"] or 0.0 for r in rows),
            reason="the end of its epochs",
        )
    return rows


def write(folder: Path, lives: list[list[dict[str, Any]]], kind: str = "grow", **info: Any) -> Path:
    (folder / "events").mkdir(parents=True)
    for rows in lives:
        if rows:
            name = f"{rows[0]['network']}-000000.parquet"
            numbered = [{**r, "seq": i} for i, r in enumerate(rows)]
            pq.write_table(pa.Table.from_pylist(numbered, schema=events.SCHEMA), folder / "events" / name)
    config = {
        "task": "digits",
        "seed": 7,
        "device": "cpu",
        "tournament": {"confidence": 0.9, "placebo_every": 4},
        "search": {"networks": len(lives)},
    }
    page = {
        "name": folder.name,
        "kind": kind,
        "task": "digits",
        "seed": 7,
        "config": config,
        "versions": {"torch": "2.13.0", "meristem": "0.1.0"},
        "git": None,
        "created": "2026-07-01T12:00:00+00:00",
    }
    (folder / "run.json").write_text(json.dumps({**page, **info}))
    return folder


def record_test(folder: Path, entries: list[dict[str, Any]], figure: str = "accuracy") -> None:
    """report/front.json as `evaluate_test` would write it."""
    (folder / "report").mkdir(exist_ok=True)
    seen = [
        {**e, "test_information_nats": e["validation_information_nats"] - 0.03, f"test_{figure}": e[figure] - 0.01}
        for e in entries
    ]
    (folder / "report" / "front.json").write_text(
        json.dumps(
            {
                "task": "digits",
                "kind": "classification",
                "enumerated": False,
                "entropy_nats": ENTROPY,
                "front": seen,
                "samples": {"train": 988, "growth": 135, "audit": 134, "validation": 180, "test": 360},
                "evaluated": "2026-07-01T12:10:00+00:00",
            }
        )
    )


def search(folder: Path, networks: int = 8, regression: bool = False) -> Path:
    """Two generations: the second one's networks start from snapshots of the first."""
    rng = np.random.default_rng(3)
    half = networks // 2
    lives = [
        life(
            f"n{i:03d}",
            cycles=14,
            parameters=int(rng.integers(60, 95)),
            seed=i,
            regression=regression,
            ceiling=float(rng.uniform(1.7, 2.1)),
        )
        for i in range(half)
    ]
    for i in range(half, networks):
        origin = lives[int(rng.integers(0, min(3, half)))]
        saved = [r for r in origin if r["kind"] == "snapshot"][int(rng.integers(5, 14))]
        lives.append(
            life(
                f"n{i:03d}",
                generation=1,
                parent=f"{saved['network']}/{saved['snapshot']}",
                cycles=14,
                parameters=saved["active_parameters"],
                information=saved["information_nats"],
                seed=i,
                ceiling=float(rng.uniform(1.9, 2.25)),
                regression=regression,
            )
        )
    return write(folder, lives, "search")
