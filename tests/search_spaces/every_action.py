"""Every action on every family where it is legal, and what makes two networks equal."""

from __future__ import annotations

import torch
from random_actions import (
    SEEDS,
    random_action,
    seed_network,
)
from torch import Tensor

from search_spaces import surgery
from search_spaces.actions import (
    ACTIONS,
    Action,
)
from search_spaces.families import FAMILIES
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed

LEGAL = {
    seed: {"NoChange", *(k for place in FAMILIES[b["family"]].from_blueprint(b).places() for k in place.grows)}
    for seed, b in SEEDS.items()
}
NOWHERE = [("mlp-without-hidden-layers", "Skip")]
"""Legal, but every pair of layers is linked already."""
CASES = [(seed, kind) for seed in SEEDS for kind in ACTIONS if kind in LEGAL[seed] and (seed, kind) not in NOWHERE]
REFUSED = [(seed, kind) for seed in SEEDS for kind in ACTIONS if kind not in LEGAL[seed]]
FIRST = {"Narrow": "Widen", "Disconnect": "Connect", "Remove": "Insert"}
"""What must come first so that there is something to take out without harm."""


def drawn(seed: str, kind: str, keep: bool, number: int, dtype: torch.dtype = torch.float64) -> tuple[Network, Action]:
    """A network, and an action of that kind on it."""
    rng = keyed("drawn", seed, kind, number)
    network = seed_network(seed, rng, dtype)
    # A layer that others need cannot go: one is put in first.
    if kind in FIRST and (keep or kind == "Remove"):
        network, _ = surgery.apply(network, [random_action(network, rng, keep=keep, kind=FIRST[kind])])
    action = random_action(network, rng, keep, kind)
    assert action.name == kind
    return network, action


def same_tensors(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def same_state(a: OptimizerState | None, b: OptimizerState | None) -> bool:
    assert a is not None
    assert b is not None
    return all(same_tensors(a.parts()[part][0], b.parts()[part][0]) for part in a.parts())


@torch.no_grad()
def gap(a: Network, b: Network, x: Tensor) -> float:
    """Largest difference of the outputs; relative to the largest output in float32, to that or 1 in float64."""
    found, wanted = a(x), b(x)
    floor = 1.0 if x.dtype == torch.float64 else 0.0
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=floor))


def tolerance(dtype: torch.dtype) -> float:
    return 1e-12 if dtype == torch.float64 else 1e-6
