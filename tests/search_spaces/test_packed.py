"""Packed files: whatever their owner keeps comes back, small, and nothing damaged gets through."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chains import change_tensors, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from random_actions import seed_network

from search_spaces import checkpoint, surgery
from search_spaces.content import Content
from search_spaces.packed import packed_files
from search_spaces.randomness import keyed


def test_a_snapshot_without_an_optimiser_stays_without(tmp_path: Path) -> None:
    network = seed_network("convnet", keyed("bare"))
    checkpoint.save(tmp_path / "a", network, None, {"x": 1}, packed=True)
    found = checkpoint.load(tmp_path / "a")
    assert found.state is None
    assert found.extra == {"x": 1}
    assert all(torch.equal(t, surgery.tensors(network)[k]) for k, t in surgery.tensors(found.network).items())


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("[numbers]")
        | st.lists(st.floats(width=32), min_size=14, max_size=20) | st.lists(st.floats(), min_size=14, max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "[numbers]"]), inner),
        max_leaves=6,
    )
)  # fmt: skip
def test_whatever_the_owner_keeps_comes_back(kept: Any) -> None:
    network = seed_network("mlp-without-hidden-layers", keyed("kept"))
    found = checkpoint.from_files(packed_files(network, Content.of(network, None), {"kept": kept}))
    assert json.dumps(found.extra) == json.dumps({"kept": kept})


def test_long_lists_of_single_precision_take_half_the_room() -> None:
    network = seed_network("mlp-without-hidden-layers", keyed("kept"))
    content = Content.of(network, None)
    drawn = keyed("losses").random(1000)

    def size(values: list[float]) -> int:
        return len(packed_files(network, content, {"losses": values})["packed.safetensors"])

    empty = size([])
    assert size(drawn.astype(np.float32).astype(float).tolist()) - empty < 4000
    assert size(drawn.tolist()) - empty < 8100


@pytest.mark.parametrize("told", [["<f4", 99], ["<f4", -1], ["<f2", 1], ["<f4"], 7, ["O", 1], ["<f4", 1e9]])
def test_lists_of_numbers_that_are_damaged_are_refused(told: Any, tmp_path: Path) -> None:
    network = seed_network("mlp-without-hidden-layers", keyed("kept"))
    checkpoint.save(tmp_path / "a", network, None, {"losses": [0.5] * 20}, packed=True)
    text = json.dumps({"losses": {"[numbers]": told}}).encode()
    forged = torch.frombuffer(bytearray(zlib.compress(text)), dtype=torch.uint8)
    change_tensors(tmp_path / "a" / "packed.safetensors", lambda t: t.update(state=forged))
    assert "its numbers are damaged" in refused(tmp_path / "a")
