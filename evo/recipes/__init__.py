"""Recipes: short files of settings for one way of growing, each choice with its reason, read from the package.

A recipe is one layer of settings between the defaults and `--config`. Its first comment line says what it is for.
"""

from __future__ import annotations

import difflib
from importlib import resources
from typing import Any

import yaml

from evo.config import ConfigError

ENDING = ".yaml"


def names() -> tuple[str, ...]:
    """The recipes that there are, in order."""
    files = (entry.name for entry in resources.files(__name__).iterdir())
    return tuple(sorted(name.removesuffix(ENDING) for name in files if name.endswith(ENDING)))


def text(name: str) -> str:
    """The recipe's file. Raises ConfigError where there is no such recipe."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        cure = f"write {close[0]}" if close else "`evo recipes` lists them"
        raise ConfigError(f"--recipe: there is no recipe {name!r}; {cure}")
    return resources.files(__name__).joinpath(name + ENDING).read_text(encoding="utf-8")


def summary(name: str) -> str:
    """What it is for, in one line."""
    return text(name).splitlines()[0].removeprefix("#").strip()


def read(name: str) -> dict[str, Any]:
    """Its settings, as one layer for `settings.build`. Raises ConfigError where there is no such recipe."""
    settings: dict[str, Any] = yaml.safe_load(text(name))
    return settings
