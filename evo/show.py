"""A run as text: the front, the growth of each network, who descends from whom, what was decided and why."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.padding import Padding
from rich.segment import Segments
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from evo import analysis_table, books, run_folder, scale_table, trust
from evo.progress import sparkline, thinned
from evo.report import failures, idle
from evo.run import Run

WIDE = 300
ROOMY = 150


def console() -> Console:
    """Standard output; wide where it is no terminal, so that a file or pager gets whole lines."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=WIDE, file=sys.stdout)


def print_front(run: Run, to: Console | None = None) -> None:
    """The front as a table, the best by validation in bold."""
    to = to or console()
    front = run.front
    if not len(front):
        to.print(_cell(f"{run.address}: no snapshot was saved yet, so there is no front"))
        return
    quality = "r2" if "r2" in front else "accuracy"
    title = "R²" if quality == "r2" else quality
    columns = {
        "active_parameters": "parameters",
        "peak_parameters": "peak",
        "validation_information_nats": "nats",
        quality: title,
        "test_information_nats": "test nats",
        f"test_{quality}": f"test {title}",
    }
    present = [column for column in columns if column in front]
    table = _table([f"#{columns[column]}" for column in present] + ["network/snapshot"])
    best = run.best
    for _, entry in front.iterrows():
        chosen = (entry["network"], entry["snapshot"]) == (best.network, best.snapshot)
        name = f"{entry['network']}/{entry['snapshot']}{'  best' if chosen else ''}"
        _add(table, [*(_figure(column, entry[column]) for column in present), name], "bold" if chosen else "")
    _head(
        to,
        f"Front of {run.address}: nats a sample, on validation data"
        + ("" if run.test is None else "; test data beside"),
    )
    to.print(table)


def all_runs(out: str | Path) -> list[dict[str, Any]]:
    """Every run in a folder with its best figures; an unreadable one with what ails it."""
    return [_told(folder) for folder in run_folder.folders(out)]


def print_runs(rows: Sequence[dict[str, Any]], out: str | Path, to: Console | None = None) -> None:
    """The runs of a folder, one line each."""
    to = to or console()
    if not rows:
        to.print(_cell(f"no runs in {out}; begin one with `evo grow digits`"))
        return
    heads = ["run", "kind", "task", "created", "#seed", "#networks", "#information", "#parameters", "state"]
    table = _table(heads)
    for row in rows:
        created = str(row["created"] or "")[:16].replace("T", " ")
        figures = [_figure(n, row[n]) for n in ("validation_information_nats", "active_parameters")]
        told = [row["run"], row["kind"], row["task"], created, row["seed"], row["networks"]]
        _add(table, [*told, *figures, row["state"]])
    to.print(table)


def print_run(run: Run, network: str | None = None, to: Console | None = None) -> None:
    """All of a run. network: whose decisions are listed, "all" for everybody's, None for the best and its ancestors."""
    to = to or console()
    names = [str(name) for name in run.networks["network"]]
    if network not in (None, "all", *names):
        known = f"one of {', '.join(names[:12])} or all" if names else "none: no network was born yet"
        raise ValueError(f"--network: expected {known}, got {network!r}")
    _header(run, to)
    print_front(run, to)
    if names:
        _head(to, "Growth, from birth to now")
        to.print(_growth(run))
        _head(to, "Lineage")
        to.print(_lineage(run))
        rows, whose = _whose(run, network)
        _head(to, f"Decisions of {whose}")
        if len(rows):
            _print_decisions(rows, to)
        else:
            to.print(Text("none was taken", style="dim"))
        if network is None and rows["network"].nunique() < len(names) and len(names) > 1:
            to.print(Text("those of others: --network NAME, or --network all", style="dim"))
        if found := analysis_table.table(run):
            _listed("Analyses, before the latest decision", analysis_table.HEADS, found, to)
        _head(to, "Trust")
        for line in trust.lines(run):
            to.print(_cell(line))
        title, scales = scale_table.table(run)
        _listed(title, scale_table.HEADS, scales, to)
    for line in failures(run):
        to.print(_cell(line, "red"))
    for line in idle(run):
        to.print(_cell(line, "dim"))


def _header(run: Run, to: Console) -> None:
    info = run.info
    versions = info["versions"] if isinstance(info.get("versions"), dict) else {}
    state = "finished" if run.finished else f"unfinished: evo resume {run.name}"
    to.print(_cell(f"{run.name}: {info['kind']} {info.get('task')}, seed {info.get('seed')}, {state}", "bold"))
    revision = str(info["git"])[:12] if info.get("git") else "no git revision"
    # A checkout that was never installed has no version: its revision says what it is.
    made = f"meristem {versions.get('meristem', '(not installed)')}, {revision}; torch {versions.get('torch', '?')}"
    to.print(_cell(f"created {info.get('created', '?')}, {made}", "dim"))


def _growth(run: Run) -> Table:
    table = _table(["network", "#born", "#now", "parameters", "#nats", "information", "adopted", "state"])
    for _, row in run.networks.iterrows():
        life = run.events[(run.events["network"] == row["network"]) & run.events["kind"].isin(["started", "decision"])]
        actions = life.loc[life["kind"] == "decision", "action"].fillna("NoChange")
        known = life["information_nats"].dropna()
        state = f"{row['state']}: {row['reason']}" if row["reason"] else row["state"]
        born, now = (_figure(name, row[name]) for name in ("born_parameters", "active_parameters"))
        _add(table, [
            row["network"], born, now, sparkline(thinned([float(v) for v in life["active_parameters"]])),
            _figure("nats", known.iloc[-1] if len(known) else None),
            sparkline(thinned([float(v) for v in life["information_nats"]])),
            f"{int((actions != 'NoChange').sum())} of {row['decisions']}", state,
        ])  # fmt: skip
    return table


def _lineage(run: Run) -> Tree:
    """Networks under the one whose snapshot they started from. Those whose parent is not recorded hang on the root."""
    root = Tree(_cell(run.name), guide_style="dim")
    nodes: dict[str, Tree] = {}
    best = run.front.groupby("network")["validation_information_nats"].max().to_dict() if len(run.front) else {}
    drawn = run.events[run.events["kind"] == "mutation"]
    began = {
        name: f" by {action} ({int(delta):+d})"
        for name, action, delta in zip(drawn["network"], drawn["action"], drawn["delta_parameters"], strict=True)
    }
    for _, row in run.networks.sort_values(["generation", "network"], kind="stable").iterrows():
        parent = row["parent"] if isinstance(row["parent"], str) else ""
        born, now = (_figure(name, row[name]) for name in ("born_parameters", "active_parameters"))
        label = f"{row['network']}  {born} → {now} parameters, from {parent or 'a seed'}{began.get(row['network'], '')}"
        if row["network"] in best:
            label += f", on the front with {best[row['network']]:.3f} nats"
        nodes[row["network"]] = nodes.get(parent.partition("/")[0], root).add(_cell(label))
    return root


def _whose(run: Run, network: str | None) -> tuple[pd.DataFrame, str]:
    """The decisions to list, and whose they are."""
    if network == "all":
        return run.decisions, "all networks"
    if network is not None:
        return run.decisions[run.decisions["network"] == network], network
    name = run.best.network if len(run.front) else str(run.networks["network"].iloc[0])
    rows = books.lived(run.decisions, books.history(run.events, name))
    ancestors = [str(n) for n in dict.fromkeys(rows["network"]) if n != name]
    return rows, f"{name}, the best by validation" + (f", and of {', '.join(ancestors)} before it" if ancestors else "")


def _print_decisions(rows: pd.DataFrame, to: Console) -> None:
    """One line a decision where there is room; else fewer figures, and the reason on a line of its own."""
    heads = ["network", "#cycle", "action", "site", "#Δ", "#now", "#predicted", "#measured", "#audit", "#information"]
    left_out = ("site", "#predicted", "#audit") if to.width < ROOMY else ()
    kept = [i for i, head in enumerate(heads) if head not in left_out]
    table = _table([heads[i] for i in kept] + ([] if left_out else ["reason"]))
    for _, row in rows.iterrows():
        changed = isinstance(row["action"], str) and row["action"] != "NoChange"
        cells = _told_of(row) if changed else _stayed(row)
        style = "" if changed else "dim"
        _add(table, [cells[i] for i in kept] + ([] if left_out else [row["reason"]]), style)
    if not left_out:
        to.print(table)
        return
    # The figures are laid out together, so that their columns agree, and then dealt out between the reasons.
    lines = to.render_lines(table, to.options.update(no_wrap=True, overflow="crop"), pad=False, new_lines=True)
    to.print(Segments(lines[0]), end="")
    for line, reason in zip(lines[1:], rows["reason"], strict=True):
        to.print(Segments(line), end="")
        to.print(Padding(_cell(reason, "dim"), (0, 0, 0, 4)))


def _told_of(row: pd.Series) -> list[object]:
    spread = f" ± {row['se_nats']:.4f}" if pd.notna(row["se_nats"]) else ""
    delta = f"{int(row['delta_parameters']):+,}" if pd.notna(row["delta_parameters"]) else ""
    return [
        row["network"], _figure("cycle", row["cycle"]), row["action"], row["site"], delta,
        _figure("parameters", row["active_parameters"]), _gain(row["predicted_nats"]),
        f"{_gain(row['measured_nats'])}{spread}", _gain(row["audit_nats"]), _figure("nats", row["information_nats"]),
    ]  # fmt: skip


def _stayed(row: pd.Series) -> list[object]:
    now, knows = _figure("parameters", row["active_parameters"]), _figure("nats", row["information_nats"])
    return [row["network"], _figure("cycle", row["cycle"]), row["action"], "", "", now, "", "", "", knows]


def _listed(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]], to: Console) -> None:
    _head(to, title)
    if rows:
        shown = _table(heads)
        for row in rows:
            _add(shown, row)
        to.print(shown)


def _told(folder: Path) -> dict[str, Any]:
    keys = ("kind", "task", "created", "seed", "networks", "validation_information_nats", "active_parameters")
    row: dict[str, Any] = {"run": folder.name, **dict.fromkeys(keys)}
    try:
        run = Run.open(folder)
        row |= {key: run.info.get(key) for key in ("kind", "task", "created", "seed")}
        row |= {"networks": len(run.networks), "state": "finished" if run.finished else "unfinished"}
        if len(run.front):
            best = run.best
            row["validation_information_nats"] = float(best.validation_information_nats)
            row["active_parameters"] = int(best.active_parameters)
    except (ValueError, OSError) as err:
        # One damaged run must not hide the others.
        row |= {"kind": row["kind"] or "?", "task": row["task"] or "?", "state": f"unreadable: {err}"}
    return row


def _head(to: Console, text: str) -> None:
    to.print()
    to.print(_cell(text, "bold"))


def _table(heads: Sequence[str]) -> Table:
    """A head that begins with # is a column of numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in heads:
        number = head[0] == "#"
        short = number or head in ("network", "parameters", "information", "adopted", "network/snapshot")
        table.add_column(head.lstrip("#"), justify="right" if number else "left", overflow="fold", no_wrap=short)
    return table


def _add(table: Table, cells: Sequence[object], style: str = "") -> None:
    table.add_row(*(_cell(cell) for cell in cells), style=style)


def _cell(value: object, style: str = "") -> Text:
    """Text from a file as it is: no markup, and no control characters that a terminal would obey."""
    missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    shown = "" if missing else str(value)
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown), style=style)


def _figure(column: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return "-"
    if column.endswith("accuracy"):
        return f"{float(value):.1%}"
    return f"{round(float(value), 3) + 0.0:.3f}" if column.endswith(("nats", "r2")) else f"{int(value):,}"


def _gain(value: Any) -> str:
    return "" if value is None or pd.isna(value) else f"{round(float(value), 4) + 0.0:.4f}"
