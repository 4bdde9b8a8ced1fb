"""Progressive resolution: pictures whose blocks of pixels are replaced by their means, coarse first.

Coarse pictures keep the full size, so that a network need not change its shape from one scale to the next. What teaches
(train) and what decides (growth, audit) is coarse; validation and test show the pictures as they are. The decision that
ends a scale already sees the next one, so that what was learned can be carried over before it is trained away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from evo.config import ConfigError
from evo.task import Split, Task, aligned

TEACHES, DECIDES = ("train",), ("growth", "audit")

_latest: WeakKeyDictionary[Split, tuple[int, Split]] = WeakKeyDictionary()
"""Of each split the pictures at the scale that was asked for last: a life sees one scale at a time."""


def check(task: Task, scales: Sequence[int]) -> None:
    """Raises ConfigError where the task has no pictures to coarsen."""
    if any(scale > 1 for scale in scales) and task.picture is None:
        raise ConfigError(
            f"training.scales: expected a task of pictures, got {task.name!r}, which has none; leave it out"
        )


def scale(scales: Sequence[int], cycle: int, cycles: int) -> int:
    """Pixels along a block's side in this cycle of `cycles`, which the scales share equally; then the last scale's."""
    if not scales:
        return 1
    return scales[min(cycle * len(scales) // max(cycles, 1), len(scales) - 1)]


def next_scale(scales: Sequence[int], cycle: int, cycles: int) -> int:
    """That of the next cycle: a cycle's decision, and its trials, see what the network will see then."""
    return scale(scales, cycle + 1, cycles)


def blocks(scales: Sequence[int], cycle: int, cycles: int) -> tuple[int, int]:
    """Sides of the blocks that a network was trained on when this cycle decides, and of those that come next.

    Without scales, 2 and 1: what blurs a picture by as little as can be.
    """
    if not scales:
        return 2, 1
    return scale(scales, cycle, cycles), next_scale(scales, cycle, cycles)


def at(task: Task, scales: Sequence[int], cycle: int, cycles: int) -> Task:
    """The task in this cycle: taught at its scale, decided at the next one's."""
    taught = _with(task, TEACHES, scale(scales, cycle, cycles))
    return _with(taught, DECIDES, next_scale(scales, cycle, cycles))


def at_scale(task: Task, side: int) -> Task:
    """The task with all that teaches and decides in blocks of side × side pixels."""
    return _with(task, TEACHES + DECIDES, side)


def _with(task: Task, names: Sequence[str], side: int) -> Task:
    if side == 1:
        return task
    assert task.picture is not None
    coarse = {name: coarsened(task.splits[name], task.picture, side) for name in names}
    return dataclasses.replace(task, splits={**task.splits, **coarse})


def coarsened(split: Split, picture: tuple[int, int, int], side: int) -> Split:
    """The samples in blocks; the same object for as long as the same scale is asked for."""
    if side == 1:
        return split
    kept = _latest.get(split)
    if kept is None or kept[0] != side:
        kept = (side, Split(block_means(split.x, picture, side), split.y))
        _latest[split] = kept
    return kept[1]


@torch.no_grad()
def block_means(x: Tensor, picture: tuple[int, int, int], side: int) -> Tensor:
    """(n, *shape) of the same size, each pixel the mean of its block. Blocks at the far edges may be cut short."""
    _, height, width = picture
    pictures = x.reshape(len(x), *picture)
    means = functional.avg_pool2d(pictures, side, ceil_mode=True, count_include_pad=False)
    wide = means.repeat_interleave(side, dim=2)[:, :, :height].repeat_interleave(side, dim=3)[:, :, :, :width]
    return aligned(wide.reshape(x.shape).contiguous())
