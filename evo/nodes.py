"""What a node of a cluster says of itself: its libraries, its processor, and whether it sees our folder of runs.

Runs on nodes that may lack everything: nothing is imported here that Python itself does not bring.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import metadata
from typing import Any

NEEDED = (
    "torch", "numpy", "scipy", "pandas", "pyarrow", "pydantic", "yaml", "sklearn", "optuna", "safetensors", "networkx",
    "ripser",
)  # fmt: skip
"""Modules without which no network grows."""

EXACT = ("torch", "numpy", "scipy")
"""Libraries whose arithmetic may change with their version."""


@dataclass(frozen=True)
class Nonce:
    """A file in the folder of runs, and what it says."""

    uri: str
    name: str
    secret: str


def look(nonce: Nonce | None) -> dict[str, Any]:
    """versions: of what decides the last bits. missing: modules. store: why the folder of runs cannot be used here."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    store = "" if nonce is None or missing else _store(nonce)
    return {"versions": versions(), "missing": missing, "store": store, "failed": ""}


def versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in EXACT if importlib.util.find_spec(name) is not None}
    return {**found, "processor": processor()}


def processor() -> str:
    """The type of CPU: results repeat bit for bit on one type."""
    from evo.run_folder import processor as told

    return told()


def _store(nonce: Nonce) -> str:
    """Why this node cannot read what the asker wrote there, and write beside it; empty where it can."""
    import ray

    from evo.storage import open_store

    try:
        store = open_store(nonce.uri)
        if store.read(nonce.name).decode() != nonce.secret:
            return "it holds another file there"
        store.create(f"{nonce.name}-{ray.get_runtime_context().get_node_id()}", b"seen")
    except FileNotFoundError:
        return "it does not see what was written there"
    except (OSError, ValueError) as err:
        return " ".join(str(err).split())
    return ""
