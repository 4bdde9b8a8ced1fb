"""Checkpoints of which each is a delta of the one before, and ways to damage them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_actions import random_state, seed_network
from safetensors.torch import load, save

from search_spaces import checkpoint, surgery
from search_spaces.actions import NoChange
from search_spaces.checkpoint import Checkpoint, CheckpointError
from search_spaces.deltas import Base
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.randomness import keyed

Body = tuple[Network, OptimizerState]


def bits(found: Body | Checkpoint) -> dict[str, tuple[Any, ...]]:
    """Every bit of a network and its state, NaNs and signed zeros told apart."""
    network, state = found if isinstance(found, tuple) else (found.network, found.state)
    assert state is not None
    flat = {f"{part}/{name}": t for part, (values, _) in state.parts().items() for name, t in values.items()}
    return {
        name: (t.dtype, tuple(t.shape), t.detach().contiguous().numpy().tobytes())
        for name, t in {**surgery.tensors(network), **flat}.items()
    }


@torch.no_grad()
def trained(network: Network, state: OptimizerState, rng: np.random.Generator) -> Body:
    """As after some steps: active elements moved, some of them to odd values, masked ones zero of either sign."""
    grown, moved = surgery.apply(network, [NoChange()], state)
    assert moved is not None
    masks, buffers = grown.masks(), dict(grown.named_buffers())
    for name, p in grown.named_parameters():
        p.data += 1e-3 * torch.from_numpy(rng.standard_normal(p.shape)).to(p.dtype)
        odd = torch.from_numpy(rng.random(p.shape))
        p[odd < 0.05] = math.nan
        p[(odd > 0.05) & (odd < 0.08)] = -math.inf
        if name in masks:
            p[(buffers[masks[name]] == 0) & (odd < 0.5)] = -0.0
            p[(buffers[masks[name]] == 0) & (odd >= 0.5)] = 0.0
        moved.age[name] += 17
        moved.first[name].copy_(torch.from_numpy(rng.standard_normal(p.shape)))
    return grown, moved


def chain(home: Path, seed: str = "mlp") -> list[Body]:
    """Three checkpoints 000000 < 000001 < 000002, each from the one before."""
    rng = keyed("chain", seed)
    network = seed_network(seed, rng, torch.float32)
    body: Body = (network, random_state(network, rng))
    bodies, base = [], None
    for number in range(3):
        content = checkpoint.save(home / f"{number:06d}", *body, {"n": number}, packed=True, base=base)
        assert content is not None
        base = Base(f"{number:06d}", content)
        bodies.append(body)
        body = trained(*body, rng)
    return bodies


def change_head(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    head = json.loads((folder / "blueprint.json").read_text())
    change(head)
    (folder / "blueprint.json").write_text(json.dumps(head))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    values = load(path.read_bytes())
    change(values)
    path.write_bytes(save(values))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)
