"""Arguments and options of the commands, and what they come to as settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Task = Annotated[
    str | None,
    typer.Argument(help="digits, mnist, parity:N, spirals or table (with --data and --target). Default: digits."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML with settings, as `evo config` prints them.")]
Recipe = Annotated[
    str | None,
    typer.Option("--recipe", metavar="NAME", help="Settings for one way of growing; `evo recipes` lists them."),
]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as a.b=c.")]
Seed = Annotated[int | None, typer.Option(help="Every random number follows from it.")]
Out = Annotated[str, typer.Option(metavar="DIR", help="Folder of runs, or s3://BUCKET/PREFIX.")]
OutSetting = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="Folder of runs, or s3://BUCKET/PREFIX. Default: runs.")
]
Name = Annotated[str | None, typer.Option(help="Of the run. Default: task and time.")]
Workers = Annotated[int | None, typer.Option(help="Trial workers of each network; 0: in its own process.")]
Address = Annotated[
    str | None,
    typer.Option(metavar="WHERE", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT. Default: a private Ray."),
]
Budget = Annotated[
    str | None,
    typer.Option(help="90, 90s, 5m or 1h: stop then, after the current decision. 40epochs: the length of a life."),
]
Epochs = Annotated[float | None, typer.Option(help="Length of a network's life; trials are not counted.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Data = Annotated[Path | None, typer.Option(help="A table (.parquet, .csv), or mnist's folder of IDX files.")]
Target = Annotated[str | None, typer.Option(help="The table's target column.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would run where and for how long; start nothing, make no folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="RUN[:NETWORK/SNAPSHOT]", help="Go on from a network of an earlier run: its best."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, its folder, or its address.")]
Within = Annotated[int | None, typer.Option("--max-parameters", help="The best network of at most so many parameters.")]


def settings(
    file: Path | None, assign: list[str] | None, seed: int | None, out: str | None, name: str | None,
    workers: int | None, budget: str | None, epochs: float | None, device: str | None, data: Path | None,
    target: str | None, task: str | None, recipe: str | None = None, under: Mapping[str, Any] | None = None,
    address: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """All that the command line says, as one layer: the recipe, over it the file, --set, and at last the options.

    under: the command's own defaults, beneath all of these.
    """
    from evo import recipes
    from evo.settings import assignment, build, read_yaml

    limits = read_budget(budget)
    if epochs is not None and "training.epochs" in limits:
        raise ValueError(f"--epochs: given twice, as {epochs:g} and by --budget {budget}; write one of them")
    options = {
        "task": task, "seed": seed, "out": out, "name": name, "workers": workers, "training.epochs": epochs,
        "device": device, "data.path": data, "data.target": target, "address": address, **limits,
    }  # fmt: skip
    given = {k: str(v) if isinstance(v, Path) else v for k, v in options.items() if v is not None}
    below = [under or {}, {} if recipe is None else recipes.read(recipe), {} if file is None else read_yaml(file)]
    below += map(assignment, assign or [])
    # A file of columns can only be the table task, so that `evo grow --data my.csv --target y` says it all.
    if task is None and data is not None and data.suffix in (".csv", ".parquet"):
        given["task"] = "table"
    return build(*below, given).model_dump()


def read_budget(text: str | None) -> dict[str, float]:
    if text is None:
        return {}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|epochs?)?\s*", text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"--budget: expected a time or a number of epochs, got {text!r}; write 90s, 5m or 40epochs")
    number, unit = float(match[1]), match[2] or "s"
    if unit.startswith("epoch"):
        return {"training.epochs": number}
    return {"budget": number * {"s": 1, "m": 60, "h": 3600}[unit]}
