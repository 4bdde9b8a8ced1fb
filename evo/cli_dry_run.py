"""`--dry-run` of `evo grow` and `evo search`: the plan, and nothing else."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from evo.output import print_json, quiet_stdout


def show(kind: str, wanted: Any, start: str | None, as_json: bool) -> None:
    """Prints the plan, as text or as one JSON object. Raises ConfigError where it does not fit or start."""
    from evo import api, dry_run

    def note(update: Any) -> None:
        if update.get("stage") == "note":
            print(f"evo: {update['text']}", file=sys.stderr)

    with quiet_stdout() if as_json else contextlib.nullcontext():
        found = api.foresee(kind, config=wanted, start_from=start, progress=note)
    if as_json:
        print_json(found)
    else:
        print(dry_run.told(found))
