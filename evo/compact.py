"""Compact form: the elements that are trained, of all parameters, end to end in one vector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Layout:
    """Where the trained elements of each parameter lie.

    active, trained: boolean by parameter name; trained ones are active. index: the flat positions of the trained ones,
    None where that is all there is. names: parameters that have any; what has none is left out of a step altogether.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], active: Mapping[str, Tensor], trained: Mapping[str, Tensor]
    ) -> None:
        self.parameters, self.active, self.trained = parameters, active, trained
        self.index: dict[str, Tensor | None] = {}
        for name, chosen in trained.items():
            flat = chosen.reshape(-1)
            self.index[name] = None if bool(flat.all()) else flat.nonzero().reshape(-1)
        self.names = tuple(name for name in parameters if self.size(name))

    def size(self, name: str) -> int:
        """Trained elements of a parameter."""
        index = self.index[name]
        return self.parameters[name].numel() if index is None else len(index)

    def same(self, trained: Mapping[str, Tensor]) -> bool:
        """Whether these are the elements of this layout."""
        return all(torch.equal(trained[name], chosen) for name, chosen in self.trained.items())

    def pieces(self, compact: Tensor) -> dict[str, Tensor]:
        """Views of each parameter's stretch of a vector."""
        return dict(zip(self.names, torch.split(compact, [self.size(name) for name in self.names]), strict=True))

    def compact(self, values: Mapping[str, Tensor]) -> Tensor:
        """(m,): the trained elements of every parameter, in order; a copy."""
        parts = [self.flat(name, values[name]) for name in self.names]
        return torch.cat(parts) if parts else next(iter(values.values())).new_zeros(0)

    def flat(self, name: str, values: Tensor) -> Tensor:
        """The trained elements of one parameter, or of anything of its shape."""
        flat, index = values.reshape(-1), self.index[name]
        return flat if index is None else flat.index_select(0, index)

    def spread(self, compact: Tensor, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters' shapes again; active elements that are not trained as they are `held`, masked ones 0."""
        pieces, spread = self.pieces(compact), {}
        for name, index in self.index.items():
            full = torch.zeros_like(held[name])
            if self.size(name) < int(self.active[name].sum()):
                full = torch.where(self.active[name], held[name], full)
            if name in pieces:
                if index is None:
                    full.view(-1).copy_(pieces[name])
                else:
                    full.view(-1).index_copy_(0, index, pieces[name])
            spread[name] = full
        return spread
