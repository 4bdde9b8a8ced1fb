"""Transfer: weights from one network into another of a kindred architecture, with a report of what matched.

A tensor of the source is matched with one of the network by its name, by a rule {"old": "new"} (a whole name, or its
beginning up to a dot), or, where no name matches at all, by position: the numbered layers of a sequence of PyTorch
modules ("0.weight", "0.bias", "2.weight" ...) are the links from each layer to the next, in order.

Where sizes differ, the slots that both have are copied and the others stay as they were, but that what a carried unit
reads from a unit of the network's own starts at zero: more units leave the function as it was. A link takes its
connections along: the source's mask where it has one, else every weight that is not zero.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from search_spaces import checkpoint, surgery
from search_spaces.axes import Axis, parse
from search_spaces.checkpoint_files import read_tensors
from search_spaces.network import Network


class TransferError(ValueError):
    """Weights that cannot be taken over: what was expected and the cure."""


@dataclass(frozen=True)
class Match:
    """name: in the network. source: in the file. shape, found: of the two. elements: how many were copied."""

    name: str
    source: str
    shape: tuple[int, ...]
    found: tuple[int, ...]
    elements: int

    @property
    def whole(self) -> bool:
        return self.shape == self.found


@dataclass(frozen=True)
class Report:
    """matches: what was copied. missing: the network's tensors that stay as they were. unused: the source's left over.

    Masks are told with their links.
    """

    matches: tuple[Match, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """One line: counts, then names, the cut ones with both shapes."""
        whole = [m for m in self.matches if m.whole]
        cut = [m for m in self.matches if not m.whole]
        told = [f"{len(whole)} tensors matched" + _listed([_arrow(m) for m in whole])]
        if cut:
            sizes = [f"{_arrow(m)} {_times(m.found)} into {_times(m.shape)}" for m in cut]
            told.append(f"{len(cut)} overlap in part" + _listed(sizes))
        if self.missing:
            told.append(f"{len(self.missing)} stay as drawn" + _listed(list(self.missing)))
        if self.unused:
            told.append(f"{len(self.unused)} of the file are not used" + _listed(list(self.unused)))
        return "; ".join(told)


def start(network: Network, source: Path, rules: Mapping[str, str] | None = None) -> Report:
    """Copies weights from a snapshot's folder or a .safetensors file into the network.

    Raises TransferError or CheckpointError, before anything is changed, where nothing could be taken over.
    """
    if source.is_dir():
        found = surgery.tensors(checkpoint.load(source).network)
    elif source.suffix == ".safetensors" and source.is_file():
        found = read_tensors({source.name: source.read_bytes()}, source.name, str(source.parent))
    else:
        raise TransferError(
            f"network.start: expected the folder of a snapshot or a .safetensors file, got {str(source)!r}; "
            "write for example runs/NAME/snapshots/n000/000016"
        )
    try:
        return transfer(network, found, rules)
    except TransferError as err:
        raise TransferError(f"network.start: {source}: {err}") from None


@torch.no_grad()
def transfer(network: Network, source: Mapping[str, Tensor], rules: Mapping[str, str] | None = None) -> Report:
    """Copies what matches; rules: {"old": "new"}. Raises TransferError, before anything is changed, if nothing does."""
    wanted = surgery.tensors(network)
    named = _named(network, source, rules or {})
    masks = network.masks()
    kinds = [n for n in wanted if n not in masks.values()]
    fitting = {n: named[n] for n in kinds if n in named and _overlap(network, n, source[named[n]]) is not None}
    if not fitting:
        raise TransferError(
            f"none of its tensors ({_some(list(source))}) matches one of the network's ({_some(kinds)}); remap their "
            "names by rules, or leave network.start out"
        )
    odd = [old for old in fitting.values() if not bool(source[old].isfinite().all())]
    if odd:
        raise TransferError(f"tensor {odd[0]!r} holds values that are not finite; take an earlier snapshot")
    matches = []
    for name, old in fitting.items():
        taken, at = source[old], _overlap(network, name, source[old])
        assert at is not None
        wanted[name][at[:1]] = 0
        wanted[name][at] = taken[at].to(wanted[name])
        if name in masks:
            mask = wanted[masks[name]]
            known = source.get(named.get(masks[name], ""))
            on = taken[at] != 0 if known is None or known.shape != taken.shape else known[at] != 0
            mask[at] = on.to(mask)
            wanted[name][at] *= on.to(wanted[name])
        shape = tuple(wanted[name].shape)
        matches.append(Match(name, old, shape, tuple(taken.shape), math.prod(taken[at].shape)))
    used = {*fitting.values(), *(named[masks[n]] for n in fitting if n in masks and masks[n] in named)}
    return Report(
        tuple(matches), tuple(n for n in kinds if n not in fitting), tuple(k for k in source if k not in used)
    )


def _named(network: Network, source: Mapping[str, Tensor], rules: Mapping[str, str]) -> dict[str, str]:
    """Name in the network -> name in the source."""
    wanted = surgery.tensors(network)
    strange = [new for new in rules.values() if not any(n == new or n.startswith(f"{new}.") for n in wanted)]
    if strange:
        raise TransferError(f"rules: the network has no tensor {strange[0]!r}; write one of {_some(list(wanted))}")
    idle = [old for old in rules if not any(k == old or k.startswith(f"{old}.") for k in source)]
    if idle:
        raise TransferError(f"rules: the file has no tensor {idle[0]!r}; write one of {_some(list(source))}")
    found: dict[str, str] = {}
    for key in source:
        # The longest rule counts, so that one tensor of a layer can go elsewhere than the others.
        rule = max((old for old in rules if key == old or key.startswith(f"{old}.")), key=len, default=None)
        new = key if rule is None else rules[rule] + key.removeprefix(rule)
        if new in wanted:
            if new in found:
                raise TransferError(
                    f"rules: {found[new]!r} and {key!r} both become {new!r}; write another name for one"
                )
            found[new] = key
    return found or _by_position(network, source)


def _by_position(network: Network, source: Mapping[str, Tensor]) -> dict[str, str]:
    """Weights and biases of a sequence of modules, by number, for the links from layer to layer."""
    layers = ["input", *(place.layer for place in network.places())]
    links = [name for pair in itertools.pairwise(layers) if (name := f"links.{pair[0]}>{pair[1]}") in network.masks()]
    weights = [k for k in source if k.rpartition(".")[2] == "weight" and source[k].dim() > 1]
    found: dict[str, str] = {}
    for name, key in zip(links, sorted(weights, key=_number), strict=False):
        found[name] = key
        bias, own = key.removesuffix("weight") + "bias", f"biases.{name.rpartition('>')[2]}"
        if bias in source and own in dict(network.named_parameters()):
            found[own] = bias
    return found


def _number(key: str) -> list[tuple[int, str]]:
    """In the order of numbers: "2.weight" before "10.weight"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", key)]


def _overlap(network: Network, name: str, found: Tensor) -> tuple[slice, ...] | None:
    """The slots that a tensor of the network shares with this one; None where that cannot be told.

    A dimension on which several axes lie, such as the places of a flattened picture, must have the same size.
    """
    wanted = surgery.tensors(network)[name]
    if found.dim() != wanted.dim() or found.is_floating_point() != wanted.is_floating_point():
        return None
    cuts = []
    for dimension, one, other in zip(parse(network.axes()[name]), wanted.shape, found.shape, strict=True):
        if one != other and (not isinstance(dimension, Axis) or dimension.name.isdigit()):
            return None
        cuts.append(slice(0, min(one, other)))
    return tuple(cuts)


def _arrow(match: Match) -> str:
    return match.name if match.name == match.source else f"{match.source} as {match.name}"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape) or "1"


def _listed(names: list[str]) -> str:
    return f" ({_some(names)})" if names else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
