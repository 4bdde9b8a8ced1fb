"""What the analyzers of a run found before each network's latest decision, as `evo show` prints it."""

from __future__ import annotations

from evo.run import Run

HEADS = ("network", "#cycle", "analyzer", "site", "measure", "#value", "#±", "unit")


def table(run: Run) -> list[list[str]]:
    """A row a figure; none where the config lists no analyzer."""
    rows = run.events[run.events["kind"] == "analysis"]
    latest = rows[rows["cycle"] == rows.groupby("network")["cycle"].transform("max")]
    return [
        [
            *(str(row[name]) for name in ("network", "cycle", "analyzer", "site", "measure")),
            f"{row['value']:.4g}",
            f"{row['value_se']:.2g}" if row["value_se"] else "",
            str(row["unit"]),
        ]
        for _, row in latest.iterrows()
    ]
