"""Whether a run's books balance and its error bars tell the truth, a line each, as `evo show` prints them."""

from __future__ import annotations

import math

import pandas as pd

from evo import books
from evo.run import Run


def lines(run: Run) -> list[str]:
    """Of what does not occur in the run there is no line."""
    residual = books.books(run.events)["residual"].abs().max()
    facts = books.calibration(run.events, _confidence(run))
    lived, spent = books.effort(run.events)
    balance = "the start of a life is not recorded" if pd.isna(residual) else f"they balance to {residual:.0e} nats"
    told = [
        f"books: {balance}",
        f"effort: {lived:,} training steps lived, {spent:,} ({spent / max(lived + spent, 1):.0%}) in forks that lost "
        "or training that diverged",
    ]
    if facts.winners.n:
        told.append(f"audits: {facts.winners.hits} of {facts.winners.n} winners' gains inside their 95% intervals "
                    f"({facts.winners.rate:.0%}), {facts.candidates.rate:.0%} of all candidates'")  # fmt: skip
    if facts.placebos.n:
        stated = "" if facts.stated is None else f", {facts.stated:.0%} expected"
        told.append(f"placebos: {facts.placebos.hits} false alarms of {facts.placebos.n}{stated}")
    if facts.predictions:
        rank = "" if math.isnan(facts.rank) else f", rank correlation {facts.rank:.2f}"
        told.append(f"screening: {facts.predictions:,} predictions{rank}, median measured/predicted {facts.ratio:.2f}")
    return told


def _confidence(run: Run) -> float | None:
    value = run.setting("tournament", "confidence")
    return float(value) if isinstance(value, int | float) else None
