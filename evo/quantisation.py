"""Training that sees rounded weights: int8, symmetric, one step size a tensor, gradients straight through.

After Jacob et al. 2018: w' = s·clamp(round(w/s), −127, 127), s = max|w|/127, so zero stays zero and masks stay masks;
−128 is left out, as nothing lies there. In the backward pass rounding is the identity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEVELS = 127


def step_size(values: Tensor) -> Tensor:
    """Distance of two levels, a scalar: the largest magnitude is the outermost level. 1 for a tensor of zeros."""
    if not values.numel():
        return values.new_ones(())
    largest = values.detach().abs().amax() / LEVELS
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def quantise(values: Tensor, size: Tensor) -> Tensor:
    """int8 of the same shape: the level of each value."""
    return (values.detach() / size).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)


def dequantise(levels: Tensor, size: Tensor) -> Tensor:
    """The values that the levels stand for, of the step size's type."""
    return levels.to(size.dtype) * size


def fake_quantise(values: Tensor, size: Tensor | None = None) -> Tensor:
    """The values rounded to int8 levels and back. size: distance of levels; from the values where none is given.

    The gradient is passed on as it is where a value lies inside the levels' range, and is 0 outside.
    """
    rounded: Tensor = _StraightThrough.apply(values, step_size(values) if size is None else size)  # type: ignore[no-untyped-call]
    return rounded


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, size: Tensor) -> Tensor:
        level = (values / size).round()
        ctx.save_for_backward(level.abs() <= LEVELS)
        return level.clamp_(-LEVELS, LEVELS).mul_(size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None
