"""The books of growth on MNIST: do they balance, do logged standard errors tell the truth, is the placebo honest?

    python benchmarks/books.py --data FOLDER_OF_IDX_FILES [--seeds 3] [--cycles 60] [--steps 15000] [--device cpu]

Grows one 784-16-10 network a seed from .5% density, with a placebo in every tournament, and prints, as JSON:
- books: information at the end - at the start - (gains of training + of the control + of the adopted forks), nats,
  read back from the recorded events;
- coverage: how often the winners' gain on the other half of the growth data (which decided nothing) lies within the 95%
  interval that the logged standard errors give around the deciding half's, for winners and for all candidates;
- placebo: how often a second NoChange beats its lower confidence bound, against the stated rate, 1 - confidence.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pandas as pd
from scipy import stats

import evo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=60)
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--stake", type=float, default=0.15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="seeds side by side")
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        frames = list(pool.map(_grown, [args] * args.seeds, seeds))
    balances = [_balance(events) for events in frames]
    events = pd.concat(frames)
    arms = events[events.kind == "candidate"]
    arms = arms[~arms.diverged.astype(bool)]
    winners = arms[arms.selected.astype(bool)]
    trialled = arms[~arms.placebo.astype(bool)]
    placebos = arms[arms.placebo.astype(bool)]
    confidence = json.loads(events[events.kind == "started"].config.iloc[0])["tournament"]["confidence"]
    decisions = events[events.kind == "decision"]
    print(
        json.dumps(
            {
                "arguments": vars(args),
                "decisions": len(decisions),
                "tournaments": int((decisions.trial_steps > 0).sum()),
                "books": balances,
                "winners": _coverage(winners),
                "all candidates": _coverage(trialled),
                "placebo": _rate(placebos.bound_nats > 0, 1 - confidence),
                "predicted against measured": {
                    "rank correlation": round(float(stats.spearmanr(*_both(trialled)).statistic), 3),
                    "median measured/predicted": round(float(np.median(_both(trialled)[1] / _both(trialled)[0])), 3),
                },
                "trial steps / all steps": round(
                    float(decisions.trial_steps.sum() / (decisions.trial_steps.sum() + args.steps * args.seeds)), 3
                ),
            },
            indent=1,
        )
    )


def _grown(args: argparse.Namespace, seed: int) -> pd.DataFrame:
    run = evo.grow(
        "mnist",
        seed=seed,
        device=args.device,
        out=tempfile.mkdtemp(),
        data={"path": args.data},
        network={"hidden": [16], "density": 0.005},
        training={"steps": args.steps},
        growth={"cycles": args.cycles, "stake": args.stake},
        tournament={"placebo_every": 1},
        record={"mlflow": False},
    )
    return run.events.assign(seed=seed)


def _balance(events: pd.DataFrame) -> dict[str, float]:
    """One network's account, from its rows alone; losses were float64 means over the same samples throughout."""
    steps = events[events.kind.isin(["segment", "decision"])]
    parts = {name: float(steps[f"gain_{name}_nats"].fillna(0).sum()) for name in ("training", "control", "fork")}
    start = float(events[events.kind == "started"].information_nats.iloc[0])
    end = float(events[events.kind == "snapshot"].information_nats.iloc[-1])
    return {
        "start": start,
        "end": end,
        **parts,
        "off_by": end - start - sum(parts.values()),
        "density_at_birth": float(events.active_parameters.iloc[0]),
        "parameters": float(events.active_parameters.dropna().iloc[-1]),
        "parameters_off_by": float(
            events.active_parameters.dropna().iloc[-1]
            - events.active_parameters.dropna().iloc[0]
            - events[events.kind == "decision"].delta_parameters.sum()
        ),
    }


def _coverage(arms: pd.DataFrame) -> dict[str, float]:
    z = (arms.measured_nats - arms.audit_nats) / arms.audit_se_nats
    inside = (z.abs() <= stats.norm.ppf(0.975)).to_numpy()
    return {**_rate(inside, 0.95), "mean z": round(float(z.mean()), 3), "sd z": round(float(z.std()), 3)}


def _rate(hits: object, stated: float) -> dict[str, float]:
    """A rate with its exact 95% interval."""
    values = np.asarray(hits, dtype=bool)
    n, k = len(values), int(values.sum())
    interval = stats.binomtest(k, n).proportion_ci(0.95) if n else None
    return {
        "n": n,
        "rate": round(k / n, 4) if n else float("nan"),
        "low": round(float(interval.low), 4) if interval else float("nan"),
        "high": round(float(interval.high), 4) if interval else float("nan"),
        "stated": round(stated, 4),
    }


def _both(arms: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    told = arms[(arms.predicted_nats > 0) & (arms.delta_parameters > 0)]
    return told.predicted_nats.to_numpy(), told.measured_nats.to_numpy()


if __name__ == "__main__":
    main()
