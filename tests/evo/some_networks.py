"""Networks with random weights under random masks, and a Python without this project to load them in."""

from __future__ import annotations

import math
import subprocess
import sys

import torch

from search_spaces.families import Convnet, Mlp
from search_spaces.network import Network


def filled(network: Network, density: float, seed: int = 0) -> Network:
    """Random masks, weights and statistics; masked weights are zero."""
    draws = torch.Generator().manual_seed(seed)
    masks, buffers = network.masks(), dict(network.named_buffers())
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(torch.randn(p.shape, generator=draws, dtype=p.dtype))
            if name in masks:
                buffers[masks[name]].copy_(torch.rand(p.shape, generator=draws) < density)
                p.mul_(buffers[masks[name]])
        for name, buffer in buffers.items():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand(buffer.shape, generator=draws) + 0.5)
    return network


def mlp(activation: str = "relu", density: float = 0.3, seed: int = 0) -> Network:
    layers = [("input", 12), ("hidden1", 9), ("hidden2", 7), ("hidden3", 5), ("output", 3)]
    links = [
        ("input", "hidden1"), ("hidden1", "hidden2"), ("hidden2", "hidden3"), ("input", "hidden3"),
        ("hidden3", "output"), ("hidden1", "output"),
    ]  # fmt: skip
    return filled(Mlp(layers, links, activation), density, seed)


def convnet(activation: str = "relu", density: float = 0.3, seed: int = 0) -> Network:
    layers = [("input", 1), ("channel1", 6), ("channel2", 5), ("hidden1", 7), ("output", 3)]
    return filled(Convnet((1, 8, 8), layers, activation), density, seed)


def rows(n: int, network: Network, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    width = math.prod(network.input_shape())
    return torch.randn(n, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)


def alone(code: str) -> str:
    """What a Python prints that has torch but not this project."""
    guard = (
        "import importlib.util, sys\n"
        "assert not [n for n in ('evo', 'search_spaces', 'tournaments') if n in sys.modules]\n"
        "import torch\n"
    )
    blocked = (
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('evo', 'search_spaces', 'tournaments'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "import sys; sys.meta_path.insert(0, No())\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", blocked + guard + code],
        capture_output=True, text=True, check=False, cwd="/", timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
