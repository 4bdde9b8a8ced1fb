"""`evo recipes`: what recipes there are, and what one of them says."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from evo.complaints import plainly
from evo.options import Json

Which = Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one as YAML. Default: list them all.")]


@plainly
def recipes(name: Which = None, as_json: Json = False) -> None:
    """List the recipes, or print one; `evo grow --recipe NAME` uses it."""
    from evo import recipes as known

    if name is not None:
        text = known.text(name)
        print(json.dumps({"name": name, "settings": known.read(name)}) if as_json else text.rstrip("\n"))
        return
    lines = {found: known.summary(found) for found in known.names()}
    if as_json:
        print(json.dumps({"recipes": [{"name": found, "summary": line} for found, line in lines.items()]}))
        return
    width = max(map(len, lines))
    for found, line in lines.items():
        print(f"{found:<{width}}  {line}")
