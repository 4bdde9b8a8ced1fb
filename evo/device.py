"""Which device a run computes on: asked for in words, checked before any work is done."""

from __future__ import annotations

import torch

from evo.config import ConfigError


def resolve(asked: str, gpus: int = 1) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device, where `cuda` may be asked to mean `gpus` of them.

    Raises ConfigError where the machine lacks what was asked for.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return torch.device("cuda" if present >= gpus else "cpu")
    if asked == "cpu":
        return torch.device("cpu")
    kind, _, number = asked.partition(":")
    if kind != "cuda" or (number and not number.isdigit()) or asked.endswith(":"):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {asked!r}; write for example device: auto")
    if present == 0:
        raise ConfigError(
            f"device: expected a GPU for {asked!r}, but PyTorch {torch.__version__} sees none here; write device: cpu"
        )
    if number and int(number) >= present:
        raise ConfigError(
            f"device: expected one of {present} GPU{'s' * (present > 1)}, numbered from 0, got {asked!r}; "
            f"write device: cuda:{present - 1}"
        )
    if gpus > present:
        raise ConfigError(f"device: expected at most {present} GPUs, all that there are, got {gpus}; ask for fewer")
    return torch.device(asked)
