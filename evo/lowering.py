"""Lowering: a network's forward as a `torch.fx.GraphModule` that needs nothing but PyTorch to run, save or load.

The forward is traced by x, whatever does not depend on x is computed once (a mask is folded into its weight by that),
and every matrix becomes a `Linear`. A matrix that is zero all over is left out.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from search_spaces.network import Network


@torch.no_grad()
def lower(network: Network) -> fx.GraphModule:
    """The forward of a network in the mode that it is in, with weights of its own that ask for no gradient."""
    return _Lowering(fx.symbolic_trace(_Untapped(network))).run()


class _Untapped(nn.Module):
    """A network called with x alone, as the tracer needs it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)
        return result


class _Lowering:
    """One pass that copies a traced graph into a new one.

    copies: what stands for each old node in the new graph. constants: nodes that are known, with the name of the
    parameter that they come from. bare: nodes that are x·0 + bias, as (x, zero weight, bias, name), held back in case
    another matrix is added, which then takes over the bias.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.constants: dict[fx.Node, tuple[Any, str]] = {}
        self.bare: dict[fx.Node, tuple[fx.Node, Tensor, Tensor, str]] = {}

    def run(self) -> fx.GraphModule:
        for node in self.traced.graph.nodes:
            if not self._constant(node) and not self._matrix(node) and not self._added(node):
                copied = self.copies[node] = self.graph.node_copy(node, self._copy)
                # These name the traced classes, and types as text that cannot be pickled.
                copied.meta.clear()
                copied.type = None
                if node.op == "call_module":
                    copied.target = self._register(str(node.target), self.traced.get_submodule(str(node.target)))
        self.graph.lint()
        plain = fx.GraphModule(self.root, self.graph, "Plain")
        plain.graph.eliminate_dead_code()
        plain.delete_all_unused_submodules()
        plain.recompile()
        return plain.eval().requires_grad_(False)

    # --- the kinds of nodes

    def _constant(self, node: fx.Node) -> bool:
        """Compute a node all of whose arguments are known."""
        if node.op == "get_attr":
            path = str(node.target).split(".")
            self.constants[node] = functools.reduce(getattr, path, self.traced), str(node.target)
            return True
        known = all(n in self.constants for n in node.all_input_nodes)
        if not known or not node.all_input_nodes or node.op not in ("call_function", "call_method"):
            return False
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.constants[n][0])
        function = node.target if callable(node.target) else getattr(type(args[0]), node.target)
        value = function(*args, **kwargs)
        self.constants[node] = value, self.constants[node.all_input_nodes[0]][1]
        return True

    def _matrix(self, node: fx.Node) -> bool:
        """linear(x, weight, bias) with a known weight and bias."""
        given: list[Any] = [*node.args, *(node.kwargs[k] for k in ("weight", "bias") if k in node.kwargs)]
        if node.target is not functional.linear or len(given) != 3:
            return False
        x, weight, bias = given
        if x in self.constants or weight not in self.constants or bias not in self.constants:
            return False
        (matrix, name), (offset, _) = self.constants[weight], self.constants[bias]
        if bool((matrix == 0).all()):
            self.bare[node] = self._copy(x), matrix, offset, name
        else:
            self.copies[node] = self._call(self._copy(x), matrix, offset, name)
        return True

    def _added(self, node: fx.Node) -> bool:
        """addmm(z, x, weight) with a known weight: another matrix whose product is added to z."""
        if node.target is not torch.addmm or len(node.args) != 3 or node.kwargs:
            return False
        arguments: tuple[Any, ...] = node.args
        z, x, weight = arguments
        if z in self.constants or x in self.constants or weight not in self.constants:
            return False
        transposed, name = self.constants[weight]
        if bool((transposed == 0).all()):
            if z in self.bare:
                self.bare[node] = self.bare[z]
            else:
                self.copies[node] = self._copy(z)
        elif z in self.bare:
            self.copies[node] = self._call(self._copy(x), transposed.t(), self.bare[z][2], name)
        else:
            product = self._call(self._copy(x), transposed.t(), None, name)
            self.copies[node] = self.graph.call_function(torch.add, (self._copy(z), product))
        return True

    # --- the new graph

    def _copy(self, node: fx.Node) -> fx.Node:
        """What stands for an old node in the new graph."""
        if node not in self.copies:
            if node in self.bare:
                self.copies[node] = self._call(*self.bare[node])
            else:
                value, name = self.constants[node]
                if not isinstance(value, Tensor):
                    raise TypeError(f"{node}: a constant of type {type(value).__name__} has no place in a plain module")
                self.copies[node] = self.graph.get_attr(self._register(name, value.detach().clone()))
        return self.copies[node]

    def _call(self, x: fx.Node, weight: Tensor, bias: Tensor | None, name: str) -> fx.Node:
        rows, columns = weight.shape
        # On "meta" first: drawing weights to throw them away would move the user's random numbers.
        linear = nn.Linear(columns, rows, bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.clone())
        if bias is not None:
            linear.bias = nn.Parameter(bias.clone())
        return self.graph.call_module(self._register(name, linear), (x,))

    def _register(self, name: str, value: Tensor | nn.Module) -> str:
        """Put a value under a free name of the new root: "network.links.input>hidden1" becomes input_to_hidden1."""
        short = re.sub(r"\W+", "_", name.removeprefix("network.").removeprefix("links.").replace(">", "_to_"))
        free = next(n for n in (short, *(f"{short}_{i}" for i in range(2, 10_000))) if not hasattr(self.root, n))
        if isinstance(value, nn.Module):
            self.root.add_module(free, value)
        elif value.is_floating_point():
            self.root.register_parameter(free, nn.Parameter(value))
        else:
            self.root.register_buffer(free, value)
        return free
