"""What may be asked for, on machines with and without GPUs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evo.config import ConfigError
from evo.device import resolve


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes this a machine with so many GPUs."""

    def has(gpus: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return has


@pytest.mark.parametrize(
    ("gpus", "asked", "got"),
    [
        (0, "auto", "cpu"), (0, "cpu", "cpu"), (1, "auto", "cuda"), (1, "cpu", "cpu"), (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)  # fmt: skip
def test_what_is_there(machine: Callable[[int], None], gpus: int, asked: str, got: str) -> None:
    machine(gpus)
    assert resolve(asked) == torch.device(got)


@pytest.mark.parametrize(
    ("gpus", "asked", "told"),
    [
        (0, "cuda", r"expected a GPU for 'cuda', but PyTorch .* sees none here; write device: cpu"),
        (0, "cuda:0", r"expected a GPU for 'cuda:0'"),
        (1, "cuda:1", r"expected one of 1 GPU, numbered from 0, got 'cuda:1'; write device: cuda:0"),
        (2, "cuda:4", r"expected one of 2 GPUs, numbered from 0, got 'cuda:4'; write device: cuda:1"),
        (1, "gpu", r"expected auto, cpu, cuda or cuda:N, got 'gpu'; write"),
        (1, "cuda:", r"expected auto, cpu, cuda or cuda:N, got 'cuda:'; write"),
    ],
)
def test_what_is_not(machine: Callable[[int], None], gpus: int, asked: str, told: str) -> None:
    machine(gpus)
    with pytest.raises(ConfigError, match=rf"^device: {told}"):
        resolve(asked)


def test_more_gpus_than_there_are(machine: Callable[[int], None]) -> None:
    machine(2)
    with pytest.raises(ConfigError, match=r"^device: expected at most 2 GPUs, all that there are, got 3; ask"):
        resolve("cuda", gpus=3)
    assert resolve("auto", gpus=3) == torch.device("cpu")
