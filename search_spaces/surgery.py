"""Surgery: the one gather by which a tensor ever changes shape.

Weights, masks, buffers, moments, ages and update scales of a network all move by the same index maps. An element is
*kept* when every slot it lies on is an old one and nothing rescales it; kept elements stay bit-equal, with their
optimiser state, and all others start with moments 0 and age 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces import axes
from search_spaces.actions import Action
from search_spaces.edits import FRESH, Edit, IndexMap, Write
from search_spaces.network import Network
from search_spaces.optimizer_state import ORIGINS, OptimizerState


def apply(
    network: Network, actions: Sequence[Action], state: OptimizerState | None = None
) -> tuple[Network, OptimizerState | None]:
    """The network after `actions`, one after the other, and its optimiser state. The originals stay untouched.

    Raises ValueError, before anything is built, where an action is not legal here.
    """
    for action in actions:
        network, state = _apply_edit(network, network.edit(action), state, action.name)
    return network, state


@torch.no_grad()
def _apply_edit(
    network: Network, edit: Edit, state: OptimizerState | None, by: str
) -> tuple[Network, OptimizerState | None]:
    """by: name of the action, which becomes the origin of what is fresh."""
    like = next(network.parameters())
    grown = type(network).from_blueprint(edit.blueprint).to(device=like.device, dtype=like.dtype)
    grown.train(network.training)
    sizes, expressions, old_expressions = network.axis_sizes(), grown.axes(), network.axes()
    old = tensors(network)
    parameters = {name for name, _ in grown.named_parameters()}
    moved: dict[str, list[IndexMap | None]] = {}
    for name, tensor in tensors(grown).items():
        axes.check(expressions[name], tuple(tensor.shape), grown.axis_sizes(), name)
        if name in old:
            assert expressions[name] == old_expressions[name], f"{name} changed its axes"
            maps = [axes.index_map(d, sizes, edit.maps) for d in axes.parse(expressions[name])]
            moved[name] = maps
            tensor.copy_(_gather(old[name], maps, tensor, scaled=name in parameters))
        for write in edit.writes.get(name, ()):
            _put(tensor, write, write.value)
    if state is None:
        return grown, None
    new_state = OptimizerState.fresh(grown)
    for part, (values, blank) in new_state.parts().items():
        source = state.parts()[part][0]
        if part == "origin":
            blank = ORIGINS.index(by) if by in ORIGINS else 0
        for name, tensor in values.items():
            tensor.fill_(blank)
            if name in moved:
                carried = _gather(source[name], moved[name], tensor)
                tensor.copy_(torch.where(_kept(moved[name], tensor), carried, tensor))
            for write in edit.writes.get(name, ()):
                if write.fresh:
                    _put(tensor, write, np.full(len(write.position), blank))
    return grown, new_state


def tensors(network: Network) -> dict[str, Tensor]:
    """Every parameter and buffer by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _gather(old: Tensor, maps: Sequence[IndexMap | None], blank: Tensor, scaled: bool = False) -> Tensor:
    """`old` along the maps; fresh elements take `blank`'s. scaled: consumed dimensions apply their factors."""
    result = old
    for dim, index in enumerate(maps):
        if index is None:
            continue
        source = torch.from_numpy(np.maximum(index.source, 0)).to(old.device)
        result = result.index_select(dim, source)
        if scaled and dim > 0 and index.consume is not None:
            factor = torch.as_tensor(index.consume, dtype=old.dtype, device=old.device)
            result = result * factor.view(-1, *[1] * (old.dim() - dim - 1))
    fresh = _any(maps, blank, lambda m: m.source == FRESH)
    return result if fresh is None else torch.where(fresh, blank, result)


def _kept(maps: Sequence[IndexMap | None], like: Tensor) -> Tensor:
    """Boolean tensor of `like`'s shape: old slots on every dimension, and no factor but 1 on a consumed one."""
    fresh = _any(maps, like, lambda m: m.source == FRESH)
    factors: list[IndexMap | None] = [None if dim == 0 else m for dim, m in enumerate(maps)]
    rescaled = _any(factors, like, lambda m: np.zeros(len(m.source), bool) if m.consume is None else m.consume != 1)
    kept = torch.ones(like.shape, dtype=torch.bool, device=like.device)
    for lost in (fresh, rescaled):
        if lost is not None:
            kept &= ~lost
    return kept


def _any(maps: Sequence[IndexMap | None], like: Tensor, test: Callable[[IndexMap], NDArray[np.bool_]]) -> Tensor | None:
    """Where `test` of the map of any dimension holds, broadcast to `like`'s shape; None where none has a map."""
    result: Tensor | None = None
    for dim, index in enumerate(maps):
        if index is None:
            continue
        hit = torch.from_numpy(test(index)).to(like.device).view(-1, *[1] * (like.dim() - dim - 1))
        hit = hit.expand(like.shape)
        result = hit if result is None else result | hit
    return result


def _put(tensor: Tensor, write: Write, values: NDArray[np.float64]) -> None:
    position = torch.from_numpy(np.asarray(write.position, dtype=np.int64)).to(tensor.device)
    tensor.view(-1)[position] = torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device)
