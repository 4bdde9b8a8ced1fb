"""`evo mechanisms`: everything that may take part in growth, by the name that a config gives it."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from evo.complaints import plainly
from evo.options import ConfigFile, Json, Set

if TYPE_CHECKING:
    from evo.config import Config

FIELDS = {
    "proposers": "growth.proposers",
    "analyzers": "growth.analyzers",
    "triggers": "growth.triggers",
    "rates": "training.rates",
    "policies": "economy.policy",
}
"""Kinds of mechanisms, and the settings that name them."""


@dataclass(frozen=True)
class Mechanism:
    """default: whether it is on where nothing else is said."""

    name: str
    default: bool
    summary: str


@plainly
def mechanisms(config: ConfigFile = None, assign: Set = None, as_json: Json = False) -> None:
    """List proposers, analyzers, triggers, learning-rate rules and policies, plug-ins included."""
    from evo.settings import assignment, build, read_yaml

    found = listed(build({} if config is None else read_yaml(config), *map(assignment, assign or [])))
    if as_json:
        print(json.dumps({kind: [asdict(one) for one in many] for kind, many in found.items()}))
        return
    width = max(len(one.name) for many in found.values() for one in many)
    for kind, many in found.items():
        print(f"{kind} ({FIELDS[kind]}; * on by default)")
        for one in many:
            print(f"  {'*' if one.default else ' '} {one.name:<{width}}  {one.summary}".rstrip())


def listed(config: Config) -> dict[str, list[Mechanism]]:
    """All of them by kind, in their registries' order, with the plug-ins that the config names."""
    from evo import plugins
    from evo.config import Config
    from tournaments.policies import POLICIES

    plugins.load(config)
    by_default = Config()
    on = {
        "proposers": set(by_default.growth.proposers),
        "analyzers": set(by_default.growth.analyzers),
        "triggers": set(by_default.growth.triggers.split()),
        "rates": {part.strip() for part in by_default.training.rates.split("*")},
    }
    found = {
        kind: [Mechanism(name, name in on[kind], summary(function)) for name, function in registry.items()]
        for kind, registry in plugins.registries().items()
    }
    policies = [
        Mechanism(name, name == by_default.economy.policy, f"counts in {policy.unit}")
        for name, policy in POLICIES.items()
    ]
    return {**found, "policies": policies}


def summary(function: Any) -> str:
    """The first sentence of its docstring, on one line."""
    first = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
    return re.split(r"\.\s+(?=[A-Z])", first)[0].rstrip(".:")
