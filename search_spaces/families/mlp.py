"""mlp: a sparse feed-forward network, a graph of layers in which any layer may feed any later one.

z_d = b_d + sum over links s>d of (W_sd * M_sd) h_s,  h_d = activation(z_d),  z_output is what the network puts out.
A link that jumps over layers is a skip. Masked weights are zero, stay zero, and are no parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.actions import Action, Connect, Disconnect, Insert, Narrow, NoChange, Remove, Skip, Unit, Widen
from search_spaces.axes import is_name
from search_spaces.edits import Edit, IndexMap
from search_spaces.families.links import (
    Link,
    Writes,
    dropped,
    existing,
    fold,
    rewired,
    switched_on,
    unit_at,
    unit_writes,
    widened,
)
from search_spaces.network import Blueprint, Network, Place, Tap

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}

Layers = Sequence[tuple[str, int]]
Links = Sequence[tuple[str, str]]


class Mlp(Network):
    """layers: (name, units) from input to output. links: (source, target), source before target."""

    family: ClassVar[str] = "mlp"

    def __init__(self, layers: Layers, links: Links, activation: str = "relu") -> None:
        super().__init__()
        self.layers = tuple((str(name), int(units)) for name, units in layers)
        self.sizes = dict(self.layers)
        order = {name: i for i, name in enumerate(self.sizes)}
        _check_shape(self.layers, links, activation, order)
        self.linked = tuple(sorted(((s, t) for s, t in links), key=lambda link: (order[link[1]], order[link[0]])))
        self.activation = activation
        self.links = nn.ParameterDict(
            {f"{s}>{t}": nn.Parameter(torch.zeros(self.sizes[t], self.sizes[s])) for s, t in self.linked}
        )
        self.biases = nn.ParameterDict({n: nn.Parameter(torch.zeros(u)) for n, u in self.layers[1:]})
        self.mask = nn.Module()
        for s, t in self.linked:
            self.mask.register_buffer(f"{s}>{t}", torch.zeros(self.sizes[t], self.sizes[s]))

    # --- what it is

    def blueprint(self) -> Blueprint:
        active = {f"{s}>{t}": int(self.mask.get_buffer(f"{s}>{t}").sum()) for s, t in self.linked}
        return {**self._shape(self.layers, self.linked), "active": active}

    def _shape(self, layers: Layers, links: Iterable[tuple[str, str]]) -> Blueprint:
        return {
            "family": self.family,
            "activation": self.activation,
            "layers": [[name, units] for name, units in layers],
            "links": [[s, t] for s, t in links],
        }

    @classmethod
    def from_blueprint(cls, blueprint: Blueprint) -> Mlp:
        try:
            layers = [(str(name), int(units)) for name, units in blueprint["layers"]]
            links = [(str(s), str(t)) for s, t in blueprint["links"]]
            return cls(layers, links, str(blueprint["activation"]))
        except (KeyError, TypeError, OverflowError) as err:
            raise ValueError(f"blueprint of an mlp: expected layers, links and activation, got {err!r}") from err

    def axes(self) -> Mapping[str, str]:
        by_link = {f"{s}>{t}": f"{t} {s}" for s, t in self.linked}
        return {
            **{f"links.{link}": along for link, along in by_link.items()},
            **{f"mask.{link}": along for link, along in by_link.items()},
            **{f"biases.{name}": name for name, _ in self.layers[1:]},
        }

    def axis_sizes(self) -> Mapping[str, int]:
        return self.sizes

    def masks(self) -> Mapping[str, str]:
        return {f"links.{s}>{t}": f"mask.{s}>{t}" for s, t in self.linked}

    @property
    def nonlinearity(self) -> Callable[[Tensor], Tensor]:
        return ACTIVATIONS[self.activation]

    def places(self) -> tuple[Place, ...]:
        names = [name for name, _ in self.layers]
        hidden = frozenset({"Widen", "Narrow", "Remove"})
        edges = frozenset({"Connect", "Disconnect", "Skip", "Insert"})
        return tuple(
            Place(name, tuple(names[:i]), edges | (hidden if name != names[-1] else frozenset()))
            for i, name in enumerate(names)
            if i > 0
        )

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        act = ACTIVATIONS[self.activation]
        outputs = {"input": x}
        for target, into in itertools.groupby(self.linked, key=lambda link: link[1]):
            z: Tensor | None = None
            for source, _ in into:
                link = f"{source}>{target}"
                weight = self.links[link] * self.mask.get_buffer(link)
                if z is None:
                    z = functional.linear(outputs[source], weight, self.biases[target])
                else:
                    z = torch.addmm(z, outputs[source], weight.t())
            assert z is not None
            if tap is not None:
                z = tap(f"pre:{target}", z)
            if target == "output":
                return z
            h = act(z)
            outputs[target] = h if tap is None else tap(f"act:{target}", h)
        raise AssertionError("an mlp ends in its layer 'output'")

    def unit(self, layer: str, slot: int) -> Unit:
        at = existing(slot, self._hidden(layer, "unit"), layer)
        links, weights = self._reaches(self.layers, self.linked), dict(self.links.items())
        return unit_at(layer, at, links, weights, self._masks(), float(self.biases[layer].detach()[at]))

    # --- what it may become

    def edit(self, action: Action) -> Edit:
        match action:
            case NoChange():
                return Edit(self._shape(self.layers, self.linked))
            case Widen():
                return self._widen(action)
            case Narrow():
                return self._narrow(action)
            case Insert():
                return self._insert(action)
            case Remove():
                return self._remove(action)
            case Connect() | Disconnect():
                writes = rewired(action, self._reaches(self.layers, self.linked), self._masks())
                return Edit(self._shape_of_self(), {}, writes)
            case Skip():
                return self._skip(action)

    def _widen(self, action: Widen) -> Edit:
        old = self._hidden(action.site, "Widen")
        layers = [(n, u + len(action.units) * (n == action.site)) for n, u in self.layers]
        links = self._reaches(layers, self.linked)
        writes = unit_writes(action.site, old, action.units, links, f"biases.{action.site}")
        return Edit(self._shape(layers, self.linked), {action.site: widened(action, old)}, writes)

    def _narrow(self, action: Narrow) -> Edit:
        old = self._hidden(action.site, "Narrow")
        slots = dropped(action, old)
        layers = [(n, u - len(slots) * (n == action.site)) for n, u in self.layers]
        writes: Writes = {}
        if any(action.folds):
            for name, link in self._reaches(self.layers, self.linked).items():
                source, _, target = name.partition(">")
                if source == action.site:
                    weight = self.links[name] * self.mask.get_buffer(name)
                    writes[f"biases.{target}"] = (fold(action, weight, self.biases[target], link),)
        return Edit(self._shape(layers, self.linked), {action.site: IndexMap.keep(old, drop=slots)}, writes)

    def _insert(self, action: Insert) -> Edit:
        names = [n for n, _ in self.layers]
        if action.site in names or action.before not in names[1:]:
            raise ValueError(
                f"Insert {action.site!r} before {action.before!r}: the new name must be free and `before` one of "
                f"{', '.join(names[1:])}"
            )
        if not action.units:
            raise ValueError(f"Insert {action.site}: a layer needs at least one unit")
        at = names.index(action.before)
        layers = [*self.layers[:at], (action.site, len(action.units)), *self.layers[at:]]
        sources = {s.layer for u in action.units for s in u.fan_in}
        targets = {s.layer for u in action.units for s in u.fan_out}
        links = [*self.linked, *((s, action.site) for s in sources), *((action.site, t) for t in targets)]
        shape = Mlp(layers, links, self.activation)._shape_of_self()
        writes = unit_writes(action.site, 0, action.units, self._reaches(layers, links), f"biases.{action.site}")
        return Edit(shape, {}, writes)

    def _remove(self, action: Remove) -> Edit:
        self._hidden(action.site, "Remove")
        links = [link for link in self.linked if action.site not in link]
        bare = {t for _, t in self.linked} - {action.site} - {t for _, t in links}
        if bare:
            raise ValueError(
                f"Remove {action.site}: {', '.join(sorted(bare))} would have no input; write a Skip to it first"
            )
        return Edit(self._shape([x for x in self.layers if x[0] != action.site], links))

    def _skip(self, action: Skip) -> Edit:
        source, _, target = action.site.partition(">")
        if (source, target) in self.linked:
            raise ValueError(f"Skip {action.site}: the link exists; write Connect instead")
        shape = Mlp(self.layers, [*self.linked, (source, target)], self.activation)._shape_of_self()
        if any(edge.link != action.site for edge in action.edges) or not action.edges:
            raise ValueError(f"Skip {action.site}: needs edges, all of them of that link")
        link = self._reaches(self.layers, [(source, target)])[action.site]
        return Edit(shape, {}, switched_on(action.site, action.edges, link))

    def _shape_of_self(self) -> Blueprint:
        return self._shape(self.layers, self.linked)

    def _reaches(self, layers: Layers, links: Links) -> dict[str, Link]:
        sizes = dict(layers)
        return {f"{s}>{t}": Link(sizes[t], sizes[s]) for s, t in links}

    def _masks(self) -> dict[str, Tensor]:
        return {f"{s}>{t}": self.mask.get_buffer(f"{s}>{t}") for s, t in self.linked}

    def _hidden(self, site: str, verb: str) -> int:
        hidden = [n for n, _ in self.layers[1:-1]]
        if site not in hidden:
            raise ValueError(f"{verb}: {site!r} is no hidden layer; write one of {', '.join(hidden) or '(none)'}")
        return self.sizes[site]


def _check_shape(layers: Layers, links: Links, activation: str, order: Mapping[str, int]) -> None:
    names = [n for n, _ in layers]
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if len(names) < 2 or names[0] != "input" or names[-1] != "output" or len(order) != len(names):
        raise ValueError(f"layers: expected distinct names from 'input' to 'output', got {names}")
    unfit = [n for n in names if not is_name(n)]
    if unfit:
        raise ValueError(f"layers: {unfit[0]!r} is no name; write letters, digits and _, not beginning with a digit")
    if any(units < 1 for _, units in layers):
        raise ValueError(f"layers: every layer needs at least one unit, got {list(layers)}")
    for s, t in links:
        if s not in order or t not in order or order[s] >= order[t]:
            raise ValueError(f"links: {s}>{t} must lead from a layer to a later one of {', '.join(names)}")
    if len(set(links)) != len(links):
        raise ValueError(f"links: each may be given once, got {list(links)}")
    fed = {t for _, t in links}
    bare = [n for n in names[1:] if n not in fed]
    if bare:
        raise ValueError(f"links: {', '.join(bare)} has no input; link an earlier layer to it")
