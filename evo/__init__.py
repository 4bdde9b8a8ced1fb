"""Networks that grow by tournament: the most information per added parameter, or nothing.

`run = evo.grow("digits", seed=7)`, then `run.front`, `run.decisions`, `run.best.module`. Names are loaded
when first used, so that `import evo` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo.api import grow, resume, search
    from evo.config import Config, ConfigError
    from evo.run import Run
    from evo.stopping import Interrupted

__all__ = ["Config", "ConfigError", "Interrupted", "Run", "grow", "resume", "search"]

_HOMES = {
    "Config": "evo.config",
    "ConfigError": "evo.config",
    "Interrupted": "evo.stopping",
    "Run": "evo.run",
    "grow": "evo.api",
    "resume": "evo.api",
    "search": "evo.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evo' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
