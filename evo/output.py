"""Standard output: kept for what was asked, so that a program can read it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Whatever a library prints meanwhile goes to standard error, from C and from child processes too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def print_json(content: Mapping[str, Any]) -> None:
    """One object, and nothing that JSON has no word for."""
    print(json.dumps(content, allow_nan=False), flush=True)
