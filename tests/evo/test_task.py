"""Where a task's numbers lie in memory: the last bits of a product depend on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evo.shipping import ShippedBody, ShippedTask
from evo.task import ALIGNMENT, Split, Task, aligned


def shifted(tensor: torch.Tensor, by: int) -> torch.Tensor:
    """The same numbers, beginning so many elements after an aligned address."""
    room = torch.empty(tensor.numel() + by, dtype=tensor.dtype)[by:].view(tensor.shape)
    return room.copy_(tensor)


def crooked(by: int) -> Task:
    x, y = torch.randn(30, 8, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3
    split = Split(shifted(x, by), shifted(y, 1))
    return Task("crooked", "classification", (8,), 3, dict.fromkeys(("train", "growth"), split), 1.0, {})


@pytest.mark.parametrize("by", [1, 2, 3])
def test_a_task_on_its_device_is_aligned(by: int) -> None:
    made = crooked(by)
    assert made.splits["train"].x.data_ptr() % ALIGNMENT
    for task in (made.to("cpu"), ShippedTask.of(made).unpacked(torch.device("cpu"))):
        for split in task.splits.values():
            assert split.x.data_ptr() % ALIGNMENT == split.y.data_ptr() % ALIGNMENT == 0
            assert torch.equal(split.x, made.splits["train"].x)
        assert task.splits["train"] is task.splits["growth"]


def test_a_body_that_was_shipped_is_aligned() -> None:
    array = np.frombuffer(bytes(4) + np.arange(5, dtype=np.float32).tobytes(), dtype=np.float32)[1:]
    [tensor] = ShippedBody("", {"w": array}, {}).unpacked(torch.device("cpu")).weights.values()
    assert tensor.data_ptr() % ALIGNMENT == 0
    assert torch.equal(tensor, torch.arange(5.0))


def test_what_lies_well_is_not_copied() -> None:
    kept = torch.zeros(100)
    assert aligned(kept) is kept
