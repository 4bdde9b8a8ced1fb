"""Plug-ins: a user's own proposers, analyzers, triggers and learning-rate rules, from outside of the package.

The registries are plain dicts, and a plug-in is a module that puts functions into them when it is imported. `plugins`
in the config names such modules; an installed package may list its functions as entry points of the groups
`meristem.proposers`, `meristem.analyzers`, `meristem.triggers` and `meristem.rates` instead. Every process that grows
networks or runs trials loads them before it begins: `load` in the one that was asked, `bring` in Ray's.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from evo.config import Config, ConfigError

Registry = dict[str, Callable[..., Any]]
Carried = tuple[tuple[str, str], ...]
"""(module, folder that it lies in) of every plug-in."""

SINGULAR = {"proposers": "proposer", "analyzers": "analyzer", "triggers": "trigger", "rates": "learning-rate rule"}
GROUP = "meristem."
OURS = frozenset({"evo", "tournaments", "search_spaces"})

_folders: dict[str, str] = {}
_points: dict[tuple[str, str], str] = {}


def registries() -> dict[str, Registry]:
    """The four registries by the last word of their entry points' group."""
    from evo.learning_rates import RATES
    from tournaments.analyzers import ANALYZERS
    from tournaments.proposals import PROPOSERS
    from tournaments.triggers import TRIGGERS

    return {"proposers": PROPOSERS, "analyzers": ANALYZERS, "triggers": TRIGGERS, "rates": RATES}


def load(config: Config) -> None:
    """Imports what `config.plugins` names, from the current folder too, and everything that is installed.

    Raises ConfigError where a module cannot be imported, or takes a name that another mechanism has.
    """
    folder = os.getcwd()
    if config.plugins and folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    for module in config.plugins:
        _import(module)
    _load_entry_points()


def carried() -> Carried:
    """What this process has loaded, for `bring` in another."""
    return tuple(_folders.items())


def sources() -> list[str]:
    """The files and packages that plug-ins lie in, for Ray to carry to other machines; modules beside them stay."""
    found: dict[str, None] = {}
    for module, folder in _folders.items():
        top = Path(folder, module.partition(".")[0])
        found[str(top if top.is_dir() else top.with_suffix(".py"))] = None
    return [path for path in found if Path(path).exists() and "site-packages" not in Path(path).parts]


def bring(plugins: Carried) -> None:
    """Loads in this process what another has `carried`."""
    for _, folder in plugins:
        if folder not in sys.path:
            sys.path.append(folder)
    for module, _ in plugins:
        _import(module)
    _load_entry_points()


def check(config: Config, elsewhere: bool = False) -> None:
    """Raises ConfigError, with a close match, for a name in the config that no mechanism has.

    elsewhere: whether other processes take part, which know only what they can import.
    """
    from evo import learning_rates
    from tournaments.triggers import ALWAYS

    known = registries()
    words = config.growth.triggers.split()[::2]
    used: Mapping[str, tuple[str, Iterable[str]]] = {
        "proposers": ("growth.proposers", config.growth.proposers),
        "analyzers": ("growth.analyzers", config.growth.analyzers),
        "triggers": ("growth.triggers", [word for word in words if word != ALWAYS]),
        "rates": ("training.rates", [part.strip() for part in config.training.rates.split("*")]),
    }
    for kind, (field, names) in used.items():
        for name in names:
            if name not in known[kind]:
                close = difflib.get_close_matches(name, known[kind], n=1)
                cure = f"write {close[0]}" if close else "`evo mechanisms` lists all; plugins names modules with more"
                raise ConfigError(f"{field}: there is no {SINGULAR[kind]} {name!r}; {cure}")
            if elsewhere and not _importable(kind, name, known[kind][name]):
                raise ConfigError(
                    f"{field}: {name!r} is known to this process alone, not to its workers; "
                    "put it into a module, and name that in plugins"
                )
    learning_rates.parse(config.training.rates)


def _import(name: str) -> None:
    """One module. What it does to the registries is undone where it replaces, or takes away, what is there."""
    known = registries()
    before = {kind: dict(registry) for kind, registry in known.items()}
    fresh = name not in sys.modules
    try:
        module = importlib.import_module(name)
        for kind, registry in known.items():
            _compare(name, kind, before[kind], registry)
    except Exception as err:
        for kind, registry in known.items():
            registry.clear()
            registry.update(before[kind])
        if fresh:
            sys.modules.pop(name, None)
        if isinstance(err, ConfigError):
            raise
        absent = isinstance(err, ModuleNotFoundError) and f"{name}.".startswith(f"{err.name}.")
        cure = "check its name, and that it lies in this folder or is installed" if absent else "mend the module"
        raise ConfigError(f"plugins: {name!r} cannot be imported ({type(err).__name__}: {err}); {cure}") from err
    _folders[name] = _home(name, getattr(module, "__file__", None))


def _compare(module: str, kind: str, before: Registry, now: Mapping[str, Any]) -> None:
    for key, function in before.items():
        if key not in now or not _same(function, now[key]):
            raise ConfigError(
                f"plugins: {module} would replace the {SINGULAR[kind]} {key!r}; register yours under another name"
            )
    for key in now.keys() - before.keys():
        if not isinstance(key, str) or not callable(now[key]):
            raise ConfigError(f"plugins: {module} lists {key!r} as a {SINGULAR[kind]}, which is no function; give one")


def _load_entry_points() -> None:
    for kind, registry in registries().items():
        for point in importlib.metadata.entry_points(group=GROUP + kind):
            source = f"{point.group} {point.name!r} of {point.dist.name if point.dist else 'a package'}"
            if _points.get((kind, point.name)) == point.value:
                continue
            try:
                function = point.load()
            except Exception as err:
                told = f"{type(err).__name__}: {err}"
                raise ConfigError(f"plugins: {source} cannot be loaded ({told}); mend or uninstall it") from err
            if not callable(function):
                raise ConfigError(f"plugins: {source} is no function; mend or uninstall it")
            if point.name in registry and not _same(registry[point.name], function):
                raise ConfigError(
                    f"plugins: {source} would replace the {SINGULAR[kind]} of that name; rename it, or uninstall it"
                )
            registry[point.name] = function
            _points[kind, point.name] = point.value


def _importable(kind: str, name: str, function: Callable[..., Any]) -> bool:
    """Whether another process will have this function once it has loaded the same plug-ins."""
    home = str(getattr(function, "__module__", ""))
    own = any(home == module or home.startswith(f"{module}.") for module in _folders)
    return own or home.partition(".")[0] in OURS or (kind, name) in _points


def _same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether they are one function, or the same one of a file that was loaded twice, as a script and as a module."""
    first, second = getattr(one, "__code__", None), getattr(other, "__code__", None)
    if one is other or first is None or second is None:
        return one is other
    return bool(
        first.co_qualname == second.co_qualname
        and os.path.realpath(first.co_filename) == os.path.realpath(second.co_filename)
    )


def _home(module: str, file: str | None) -> str:
    """The folder from which a module is imported."""
    if file is None:
        return os.getcwd()
    path = Path(file).resolve()
    return str((path.parent if path.name == "__init__.py" else path).parents[module.count(".")])
