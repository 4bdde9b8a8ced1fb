"""Batch norms that see the whole batch where each rank holds a share of it.

Each rank's mean and squares are combined after Chan et al. 1979, so the result is that of one process to rounding, and
the running statistics are the same bits on every rank. PyTorch's SyncBatchNorm does the same, on GPUs alone.

n places of a channel on this rank, N on all, C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from evo.ranks import Ranks


@contextlib.contextmanager
def spanning(network: nn.Module, ranks: Ranks | None) -> Iterator[None]:
    """Meanwhile every batch norm of the network, while it trains, normalises by the whole batch."""
    norms = [] if ranks is None else [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.forward = _Spanning(norm, ranks)  # type: ignore[method-assign, arg-type, assignment]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


class _Spanning:
    def __init__(self, norm: _BatchNorm, ranks: Ranks) -> None:
        self._norm, self._ranks, self._alone = norm, ranks, norm.forward

    def __call__(self, x: Tensor) -> Tensor:
        norm = self._norm
        if not norm.training:
            return self._alone(x)
        out: Tensor
        out, mean, variance = _Normalise.apply(x, norm.weight, norm.bias, norm.eps, self._ranks)  # type: ignore[no-untyped-call]
        if norm.track_running_stats:
            self._follow(mean, variance)
        return out

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        norm: Any = self._norm
        norm.num_batches_tracked.add_(1)
        share = 1.0 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
        norm.running_mean.mul_(1 - share).add_(mean * share)
        norm.running_var.mul_(1 - share).add_(variance * share)


class _Normalise(torch.autograd.Function):
    """x: (b, C, ...) -> the same normalised, scaled and shifted; mean and unbiased variance (C,) of the whole batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor]:
        over = [0, *range(2, x.dim())]
        own = x.mean(over)
        squares = (x - _wide(own, x)).square_().sum(over)
        count = own.new_full((1,), x.numel() / x.shape[1])
        found = ranks.gather(torch.cat([own, squares, count]))
        means, squares, counts = found[:, : len(own)], found[:, len(own) : -1], found[:, -1:]
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        spread = (squares + counts * (means - mean).square_()).sum(0)
        scale = torch.rsqrt(spread / total + epsilon)
        normal = (x - _wide(mean, x)) * _wide(scale, x)
        ctx.save_for_backward(normal, weight, scale, total)
        ctx.ranks, ctx.over = ranks, over
        variance = spread / (total - 1)
        ctx.mark_non_differentiable(mean, variance)
        out = normal if weight is None else normal * _wide(weight, x)
        return out if bias is None else out + _wide(bias, x), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        normal, weight, scale, total = ctx.saved_tensors
        g = gradients[0]
        shift, stretch = g.sum(ctx.over), (g * normal).sum(ctx.over)
        # Of weight and bias each rank has its own part, as of every other parameter: the step adds them up.
        own_weight = stretch if ctx.needs_input_grad[1] else None
        own_bias = shift if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[0]:
            return None, own_weight, own_bias, None, None
        sums = ctx.ranks.sum(torch.cat([shift, stretch])) / total
        shift, stretch = sums[: len(scale)], sums[len(scale) :]
        into = (g - _wide(shift, g) - normal * _wide(stretch, g)) * _wide(
            scale if weight is None else scale * weight, g
        )
        return into, own_weight, own_bias, None, None


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))
