"""convnet: blocks of 3x3 convolution, batch norm, activation and 2x2 max-pool, then a flatten and dense layers.

input > channel1 > channel2 > ... > hidden1 > ... > output, each feeding the next. Every weight is masked, kernels too,
weight by weight. A kernel has no bias: batch norm's shift is the bias of a channel, and its scale a parameter of its
own. `families/links.py` says how the weights of kernels and of the layer behind the flatten are counted in actions.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.actions import Action, Connect, Disconnect, Narrow, NoChange, Spoke, Unit, Widen
from search_spaces.edits import Edit, IndexMap
from search_spaces.families.links import Link, Writes, dropped, existing, fold, rewired, unit_at, unit_writes, widened
from search_spaces.families.mlp import ACTIVATIONS, Layers
from search_spaces.network import Blueprint, Network, Place, Tap

Picture = tuple[int, int, int]

KERNEL, POOL = 3, 2


class Convnet(Network):
    """picture: (c, h, w). layers: (name, units) of input (c), channel1, ..., hidden1, ... if any, output."""

    family: ClassVar[str] = "convnet"

    def __init__(self, picture: Sequence[int], layers: Layers, activation: str = "relu") -> None:
        super().__init__()
        self.layers = tuple((str(name), int(units)) for name, units in layers)
        self.sizes = dict(self.layers)
        self.channels = tuple(name for name in self.sizes if name.startswith("channel"))
        self.picture = _checked(picture, self.layers, len(self.channels), activation)
        self.activation = activation
        self.linked = tuple(itertools.pairwise(self.sizes))
        self.links = nn.ParameterDict()
        self.mask = nn.Module()
        for s, t in self.linked:
            self.links[f"{s}>{t}"] = nn.Parameter(torch.zeros(self._weight_shape(s, t)))
            self.mask.register_buffer(f"{s}>{t}", torch.zeros(self._weight_shape(s, t)))
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(self.sizes[name]) for name in self.channels})
        dense = [name for name in self.sizes if name != "input" and name not in self.channels]
        self.biases = nn.ParameterDict({name: nn.Parameter(torch.zeros(self.sizes[name])) for name in dense})

    # --- what it is

    def blueprint(self) -> Blueprint:
        active = {f"{s}>{t}": int(self.mask.get_buffer(f"{s}>{t}").sum()) for s, t in self.linked}
        return {**self._shape(self.layers), "active": active}

    def _shape(self, layers: Layers) -> Blueprint:
        return {
            "family": self.family,
            "activation": self.activation,
            "picture": list(self.picture),
            "layers": [[name, units] for name, units in layers],
        }

    @classmethod
    def from_blueprint(cls, blueprint: Blueprint) -> Convnet:
        try:
            layers = [(str(name), int(units)) for name, units in blueprint["layers"]]
            return cls([int(x) for x in blueprint["picture"]], layers, str(blueprint["activation"]))
        except (KeyError, TypeError, OverflowError) as err:
            raise ValueError(f"blueprint of a convnet: expected picture, layers and activation, got {err!r}") from err

    def axes(self) -> Mapping[str, str]:
        by_link = {}
        for s, t in self.linked:
            if t in self.channels:
                by_link[f"{s}>{t}"] = f"{t} {s} {KERNEL} {KERNEL}"
            else:
                by_link[f"{s}>{t}"] = f"{t} ({s} h w)" if s in self.channels else f"{t} {s}"
        norms: dict[str, str] = {}
        for name in self.channels:
            for part in ("weight", "bias", "running_mean", "running_var"):
                norms[f"norms.{name}.{part}"] = name
            norms[f"norms.{name}.num_batches_tracked"] = ""
        return {
            **{f"links.{link}": along for link, along in by_link.items()},
            **{f"mask.{link}": along for link, along in by_link.items()},
            **norms,
            **{f"biases.{name}": name for name in self.biases},
        }

    def axis_sizes(self) -> Mapping[str, int]:
        h, w = self._side(len(self.channels))
        return {**self.sizes, "h": h, "w": w}

    def input_shape(self) -> tuple[int, ...]:
        return self.picture

    def masks(self) -> Mapping[str, str]:
        return {f"links.{s}>{t}": f"mask.{s}>{t}" for s, t in self.linked}

    @property
    def nonlinearity(self) -> Callable[[Tensor], Tensor]:
        return ACTIVATIONS[self.activation]

    def lift(self, source: str, target: str, activation: Tensor) -> Tensor:
        if target not in self.channels:
            return activation.flatten(1).unsqueeze(1)
        if source == "input":
            activation = activation.reshape(-1, *self.picture)
        return functional.unfold(activation, KERNEL, padding=KERNEL // 2).mT

    def lower(self, target: str, gradient: Tensor) -> Tensor:
        return gradient.flatten(2).mT if target in self.channels else gradient.unsqueeze(1)

    def places(self) -> tuple[Place, ...]:
        edges, units = frozenset({"Connect", "Disconnect"}), frozenset({"Widen", "Narrow"})
        return tuple(
            Place(
                target,
                (source,),
                edges if target == "output" else edges | units,
                math.prod(self._side(self.channels.index(target))) if target in self.channels else 1,
            )
            for source, target in self.linked
        )

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """x: (n, c, h, w), or (n, c*h*w)."""
        act = self.nonlinearity
        h = x.reshape(x.shape[0], *self.picture)
        for source, target in self.linked:
            weight = self.links[f"{source}>{target}"] * self.mask.get_buffer(f"{source}>{target}")
            if target in self.channels:
                z = functional.conv2d(h, weight, padding=KERNEL // 2)
            else:
                z = functional.linear(h.flatten(1), weight, self.biases[target])
            if tap is not None:
                z = tap(f"pre:{target}", z)
            if target == "output":
                return z
            h = functional.max_pool2d(act(self.norms[target](z)), POOL) if target in self.channels else act(z)
            if tap is not None:
                h = tap(f"act:{target}", h)
        raise AssertionError("a convnet ends in its layer 'output'")

    def unit(self, layer: str, slot: int) -> Unit:
        at = existing(slot, self._hidden(layer, "unit"), layer)
        unit = unit_at(layer, at, self._reaches(self.layers), dict(self.links.items()), self._masks(), 0.0)
        if layer not in self.channels:
            return Unit(unit.fan_in, unit.fan_out, float(self.biases[layer].detach()[at]))
        norm: Any = self.norms[layer]
        mean, variance = float(norm.running_mean[at]), float(norm.running_var[at])
        factor = float(norm.weight.detach()[at]) / math.sqrt(variance + norm.eps)
        # What a fresh norm divides by is the square root of 1 + eps, not 1.
        fan_in = tuple(Spoke(s.layer, s.slot, s.value * factor * math.sqrt(1 + norm.eps)) for s in unit.fan_in)
        return Unit(fan_in, unit.fan_out, float(norm.bias.detach()[at]) - mean * factor)

    # --- what it may become

    def edit(self, action: Action) -> Edit:
        match action:
            case NoChange():
                return Edit(self._shape(self.layers))
            case Widen():
                old = self._hidden(action.site, "Widen")
                layers = [(n, u + len(action.units) * (n == action.site)) for n, u in self.layers]
                writes = unit_writes(
                    action.site, old, action.units, self._reaches(layers), self._bias_name(action.site)
                )
                return Edit(self._shape(layers), {action.site: widened(action, old)}, writes)
            case Narrow():
                return self._narrow(action)
            case Connect() | Disconnect():
                return Edit(self._shape(self.layers), {}, rewired(action, self._reaches(self.layers), self._masks()))
        raise ValueError(
            f"{action.name} {action.site}: the layers of a convnet are fixed, each feeds the next; "
            "write Widen, Narrow, Connect or Disconnect, or grow an mlp"
        )

    def _narrow(self, action: Narrow) -> Edit:
        old = self._hidden(action.site, "Narrow")
        slots = dropped(action, old)
        layers = [(n, u - len(slots) * (n == action.site)) for n, u in self.layers]
        writes: Writes = {}
        if any(action.folds):
            target = dict(self.linked)[action.site]
            if target in self.channels:
                raise ValueError(
                    f"Narrow {action.site}: a constant other than 0 reaches {target} with zeros padded around it, so "
                    "no bias can take it over; write folds of 0, or leave the channel in"
                )
            link = f"{action.site}>{target}"
            weight = self.links[link] * self.mask.get_buffer(link)
            folded = fold(action, weight, self.biases[target], self._reaches(self.layers)[link])
            writes[f"biases.{target}"] = (folded,)
        return Edit(self._shape(layers), {action.site: IndexMap.keep(old, drop=slots)}, writes)

    def _hidden(self, site: str, verb: str) -> int:
        hidden = [name for name, _ in self.layers[1:-1]]
        if site not in hidden:
            raise ValueError(f"{verb}: {site!r} is no hidden layer; write one of {', '.join(hidden)}")
        return self.sizes[site]

    def _bias_name(self, layer: str) -> str:
        return f"norms.{layer}.bias" if layer in self.channels else f"biases.{layer}"

    def _side(self, blocks: int) -> tuple[int, int]:
        """Height and width of the picture after so many blocks."""
        return self.picture[1] // POOL**blocks, self.picture[2] // POOL**blocks

    def _reaches(self, layers: Layers) -> dict[str, Link]:
        sizes = dict(layers)
        return {
            f"{s}>{t}": Link(sizes[t], sizes[s], math.prod(self._weight_shape(s, t)) // (self.sizes[s] * self.sizes[t]))
            for s, t in self.linked
        }

    def _weight_shape(self, source: str, target: str) -> tuple[int, ...]:
        if target in self.channels:
            return self.sizes[target], self.sizes[source], KERNEL, KERNEL
        reach = math.prod(self._side(len(self.channels))) if source in self.channels else 1
        return self.sizes[target], self.sizes[source] * reach

    def _masks(self) -> dict[str, Tensor]:
        return {f"{s}>{t}": self.mask.get_buffer(f"{s}>{t}") for s, t in self.linked}


def _checked(picture: Sequence[int], layers: Layers, blocks: int, activation: str) -> Picture:
    """The picture, where everything fits together. Raises ValueError otherwise."""
    names = [name for name, _ in layers]
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if not re.fullmatch(r"input( channel\d+)+( hidden\d+)* output", " ".join(names)) or len(set(names)) < len(names):
        raise ValueError(
            f"layers: expected input, channel1, ..., perhaps hidden1, ..., output, each once and in this order, "
            f"got {', '.join(names)}"
        )
    if any(units < 1 for _, units in layers):
        raise ValueError(f"layers: every layer needs at least one unit, got {list(layers)}")
    if len(picture) != 3 or picture[0] != layers[0][1]:
        raise ValueError(
            f"picture: expected [channels, height, width] with input's {layers[0][1]} channels, got {list(picture)}"
        )
    c, h, w = (int(x) for x in picture)
    if min(h, w) < POOL**blocks:
        raise ValueError(
            f"picture: {h}x{w} cannot be halved {blocks} times; write fewer channel layers, or a larger picture"
        )
    return c, h, w
