"""The books: what was decided and why, where the information came from, and whether the error bars told the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from scipy import stats

DECISION_COLUMNS = (
    "network", "generation", "cycle", "step", "epoch", "action", "site", "delta_parameters", "active_parameters",
    "predicted_nats", "measured_nats", "se_nats", "dof", "bound_nats", "audit_nats", "audit_se_nats",
    "gain_control_nats", "gain_fork_nats", "information_nats", "credits_nats", "price_nats", "candidates", "reason",
)  # fmt: skip
_FROM_WINNER = (
    "predicted_nats", "measured_nats", "se_nats", "dof", "bound_nats", "audit_nats", "audit_se_nats", "site",
)  # fmt: skip
Z95 = 1.959964
ASIDE = ("candidate", "choice", "analysis", "mutation")
"""Kinds that tell no state of the network itself, or tell it twice."""


def arms(events: pd.DataFrame) -> pd.DataFrame:
    """The candidates that a tournament measured, without controls and placebos."""
    rows = events[events["kind"] == "candidate"]
    return rows[(rows["action"] != "NoChange") & ~true(rows["placebo"])]


def decisions(events: pd.DataFrame) -> pd.DataFrame:
    """One row a decision, with the winner's figures and how many candidates (beside NoChange) stood for election."""
    rows = events[events["kind"] == "decision"].copy()
    contests = events[events["kind"] == "candidate"]
    winners = contests[true(contests["selected"])].drop_duplicates(["network", "cycle"]).set_index(["network", "cycle"])
    counts = arms(events).groupby(["network", "cycle"]).size()
    keys = pd.MultiIndex.from_frame(rows[["network", "cycle"]])
    for name in _FROM_WINNER:  # the decision's own word comes first
        rows[name] = rows[name].where(rows[name].notna(), pd.Series(winners[name].reindex(keys).array, rows.index))
    rows["candidates"] = counts.reindex(keys, fill_value=0).array.astype("int64")
    return rows[list(DECISION_COLUMNS)].reset_index(drop=True)


def books(events: pd.DataFrame) -> pd.DataFrame:
    """Where each network's information came from, in nats on the deciding half of the growth data.

    end − start = training + control + forks + residual; the books balance when the residual is nothing but rounding.
    start is NaN where the record does not say what the network knew at birth.
    """
    rows = []
    for network, life in events.groupby("network", sort=True):
        told = life[~life["kind"].isin(ASIDE)]
        steps = told[told["kind"].isin(["segment", "decision"])]  # the last row of a life repeats the sums
        known = told["information_nats"].dropna()
        birth = told.loc[told["kind"] == "started", "information_nats"].dropna()
        start = float(birth.iloc[0]) if len(birth) else math.nan
        end = float(known.iloc[-1]) if len(known) else math.nan
        parts = {
            name: math.fsum(steps[f"gain_{column}_nats"].dropna())
            for name, column in (("training", "training"), ("control", "control"), ("forks", "fork"))
        }
        rows.append(
            {"network": network, "start": start, **parts, "end": end,
             "residual": end - start - math.fsum(parts.values())}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["network", "start", "training", "control", "forks", "end", "residual"])


@dataclass(frozen=True)
class Share:
    """`hits` of `n`, with the 95% Wilson interval in which the true rate lies."""

    hits: int
    n: int

    @property
    def rate(self) -> float:
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        if not self.n:
            return (0.0, 1.0)
        low, high = stats.binomtest(self.hits, self.n).proportion_ci(0.95, method="wilson")
        return (float(low), float(high))


@dataclass(frozen=True)
class Calibration:
    """winners, candidates: audits that fell into their 95% intervals. placebos: false alarms, expected at `stated`.

    predictions: candidates with both figures; rank: Spearman of predicted and measured; ratio: median of
    measured/predicted.
    """

    winners: Share
    candidates: Share
    placebos: Share
    stated: float | None
    predictions: int
    rank: float
    ratio: float


def calibration(events: pd.DataFrame, confidence: float | None) -> Calibration:
    """confidence: tournament.confidence of the run; a placebo's bound exceeds zero at the rate of 1 − confidence."""
    measured = arms(events)
    adopted = decisions(events)
    adopted = adopted[adopted["action"] != "NoChange"]
    contests = events[(events["kind"] == "candidate") & true(events["placebo"])]
    bounds = contests["bound_nats"].dropna()
    pairs = measured[["predicted_nats", "measured_nats"]].astype(float).dropna()
    pairs = pairs[pairs["predicted_nats"].map(math.isfinite) & pairs["measured_nats"].map(math.isfinite)]
    positive = pairs[pairs["predicted_nats"] > 0]
    varied = len(pairs) > 2 and pairs["predicted_nats"].nunique() > 1 and pairs["measured_nats"].nunique() > 1
    return Calibration(
        winners=_covered(adopted),
        candidates=_covered(measured),
        placebos=Share(int((bounds > 0).sum()), len(bounds)),
        stated=None if confidence is None else 1 - confidence,
        predictions=len(pairs),
        rank=float(stats.spearmanr(pairs["predicted_nats"], pairs["measured_nats"]).statistic) if varied else math.nan,
        ratio=float((positive["measured_nats"] / positive["predicted_nats"]).median()) if len(positive) else math.nan,
    )


def history(events: pd.DataFrame, network: str) -> pd.DataFrame:
    """A network's life with those of its ancestors before it, up to the snapshots that were passed on.

    Rows are those of the events without candidates and analyses; `life_step` counts training steps from the first
    ancestor's birth.
    """
    lives: list[pd.DataFrame] = []
    seen: set[str] = set()
    until: str | None = None
    name: str | None = network
    while name is not None and name not in seen:
        seen.add(name)
        life = events[(events["network"] == name) & ~events["kind"].isin(ASIDE)]
        saved = life.index[(life["kind"] == "snapshot") & (life["snapshot"] == until)]
        if until is not None:
            life = life.loc[: saved[-1]] if len(saved) else life.iloc[:0]
        lives.append(life)
        parent = life["parent"].dropna()
        name, _, until = str(parent.iloc[0]).partition("/") if len(parent) else (None, "", None)
        if name is not None and not (events["network"] == name).any():
            break
    offset, told = 0, []
    for life in reversed(lives):
        told.append(life.assign(life_step=life["step"].fillna(0).astype("int64") + offset))
        offset += int(life["step"].max()) if life["step"].notna().any() else 0
    return pd.concat(told, ignore_index=True)


def lived(decisions: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The decisions that lie in a history: a network's own and its ancestors' up to what they passed on."""
    kept = history.loc[history["kind"] == "decision", ["network", "cycle"]]
    return kept.merge(decisions, on=["network", "cycle"], how="left")[list(DECISION_COLUMNS)]


def effort(events: pd.DataFrame) -> tuple[int, int]:
    """(steps that the networks lived, adopted forks' included; steps that were thrown away: those of forks that
    lost, and of training that diverged).
    """
    lived = events.groupby("network")["step"].max().dropna().sum()
    lost = events.loc[events["kind"].isin(["decision", "choice"]), "trial_steps"]
    return int(lived), int(lost.dropna().sum())


def _covered(rows: pd.DataFrame) -> Share:
    audited = rows[["measured_nats", "audit_nats", "audit_se_nats"]].astype(float).dropna()
    inside = (audited["audit_nats"] - audited["measured_nats"]).abs() <= Z95 * audited["audit_se_nats"]
    return Share(int(inside.sum()), len(audited))


def true(flags: pd.Series) -> pd.Series:
    """Flags with missing ones as False."""
    return flags.map(lambda flag: flag is not pd.NA and flag is not None and flag == True).astype(bool)  # noqa: E712
