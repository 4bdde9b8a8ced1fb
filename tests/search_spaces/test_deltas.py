"""Deltas: whatever a network became since, every bit comes back, and what is rewritten needs no other."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from chains import Body, bits, chain, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from random_actions import SEEDS, random_action, random_state, seed_network

from search_spaces import checkpoint, deltas, surgery
from search_spaces.actions import Narrow, Widen
from search_spaces.content import Content
from search_spaces.deltas import Base
from search_spaces.families import Mlp
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.packed import packed_files
from search_spaces.randomness import keyed


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(SEEDS)),
    key=st.integers(0, 10**6),
    steps=st.lists(st.sampled_from(["act", "acts", "train", "astray", "whole", "plain"]), min_size=1, max_size=5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_member_of_a_chain_comes_back_bit_for_bit(
    name: str, key: int, steps: list[str], dtype: torch.dtype
) -> None:
    rng = keyed("deltas", key)
    network = seed_network(name, rng, dtype)
    state: OptimizerState | None = random_state(network, rng)
    base: Base | None = None
    with tempfile.TemporaryDirectory() as home:
        saved: list[Body] = []
        for number, step in enumerate(["begin", *steps]):
            slots: deltas.Slots = {}
            before, actions = network, []
            for _ in range({"act": 1, "acts": 3, "astray": 1}.get(step, 0)):
                actions.append(random_action(network, rng, keep=False))
                network, state = surgery.apply(network, actions[-1:], state)
            if actions and step != "astray":
                slots = deltas.followed(before, actions)
            assert state is not None
            network, state = trained(network, state, rng)
            assert state is not None
            saved.append((network, state))
            content = checkpoint.save(
                Path(home) / f"{number:06d}", network, state, {"number": number}, [f"x/{key}"],
                packed=step != "plain",
                base=dataclasses.replace(base, slots=slots) if base is not None and step != "whole" else None,
            )  # fmt: skip
            base = Base(f"{number:06d}", content or Content.of(network, state))
        for number, body in enumerate(saved):
            found = checkpoint.load(Path(home) / f"{number:06d}")
            assert bits(found) == bits(body)
            assert found.extra == {"number": number}
            assert found.lineage == [f"x/{key}"]
            assert found.network.blueprint() == body[0].blueprint()


def test_what_is_loaded_can_be_trained(tmp_path: Path) -> None:
    chain(tmp_path)
    found = checkpoint.load(tmp_path / "000002")
    assert found.state is not None
    with torch.no_grad():
        next(found.network.parameters()).add_(1.0)
    next(iter(found.state.age.values())).add_(1)
    assert bits(found) != bits(checkpoint.load(tmp_path / "000002"))


def test_what_changes_little_takes_little(tmp_path: Path) -> None:
    """Followed slots make the difference: a wide layer that lost units in the middle differs in nothing else."""
    network = dense([("input", 200), ("hidden1", 100), ("output", 10)])
    state = random_state(network, keyed("state"))
    base = Content.of(network, state)
    action = Narrow("hidden1", (3, 40, 41))
    smaller, after = surgery.apply(network, [action], state)
    assert after is not None
    now = Content.of(smaller, after)

    def size(base: Base | None) -> int:
        return len(packed_files(smaller, now, base=base)["packed.safetensors" if base is None else "delta.safetensors"])

    followed = size(Base("a", base, deltas.followed(network, [action])))
    assert followed < 0.02 * size(None)
    assert followed < 0.05 * size(Base("a", base))


def dense(layers: list[tuple[str, int]]) -> Network:
    network = Mlp(layers, [(s, t) for (s, _), (t, _) in itertools.pairwise(layers)])
    rng = keyed("wide")
    with torch.no_grad():
        for name, mask in network.masks().items():
            network.get_buffer(mask).fill_(1.0)
            p = network.get_parameter(name)
            p.copy_(torch.from_numpy(rng.standard_normal(p.shape)))
    return network


def test_slots_are_followed_through_several_actions() -> None:
    network = seed_network("mlp", keyed("followed"))
    unit = network.unit("hidden1", 0)
    slots = deltas.followed(network, [Narrow("hidden1", (1,)), Widen("hidden1", (unit,)), Narrow("hidden1", (0,))])
    assert slots["hidden1"].tolist() == [2, 3, -1]
    with pytest.raises(ValueError, match="no hidden layer"):
        deltas.followed(network, [Narrow("nowhere", (0,))])


def test_the_same_bits_make_the_same_file(tmp_path: Path) -> None:
    chain(tmp_path / "one")
    chain(tmp_path / "two")
    for place in (tmp_path / "one").rglob("*.*"):
        assert place.read_bytes() == (tmp_path / "two" / place.relative_to(tmp_path / "one")).read_bytes()


# --- rewriting and copying


def test_one_that_stands_alone_needs_no_other(tmp_path: Path) -> None:
    bodies = chain(tmp_path)
    before = {n: bits(checkpoint.load(tmp_path / n)) for n in ("000001", "000002")}
    checkpoint.stand_alone(tmp_path / "000001")
    (tmp_path / "000000").rename(tmp_path / "gone")
    for name, number in (("000001", 1), ("000002", 2)):
        found = checkpoint.load(tmp_path / name)
        assert bits(found) == before[name] == bits(bodies[number])
        assert found.extra == {"n": number}
    assert sorted(p.name for p in (tmp_path / "000001").iterdir()) == ["blueprint.json", "packed.safetensors"]
    content = {p.name: p.read_bytes() for p in (tmp_path / "000001").iterdir()}
    checkpoint.stand_alone(tmp_path / "000001")
    assert {p.name: p.read_bytes() for p in (tmp_path / "000001").iterdir()} == content


class Killed(BaseException):
    """In place of SIGKILL: nothing is cleaned up after it."""


@pytest.mark.parametrize("call", ["rename", "fsync", "unlink"])
@pytest.mark.parametrize("number", range(5))
def test_rewriting_may_be_killed_anywhere(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = chain(tmp_path)
    real, left = getattr(os, call), [number]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, deadly)
        with contextlib.suppress(Killed):
            checkpoint.stand_alone(tmp_path / "000001")
    assert bits(checkpoint.load(tmp_path / "000001")) == bits(bodies[1])
    assert bits(checkpoint.load(tmp_path / "000002")) == bits(bodies[2])
    checkpoint.stand_alone(tmp_path / "000001")
    assert sorted(p.name for p in (tmp_path / "000001").iterdir()) == ["blueprint.json", "packed.safetensors"]
    assert bits(checkpoint.load(tmp_path / "000001")) == bits(bodies[1])


@pytest.mark.parametrize("name", ["000000", "000002"])
def test_a_copy_needs_no_other_folder(name: str, tmp_path: Path) -> None:
    bodies = chain(tmp_path / "run")
    (tmp_path / "copy").mkdir()
    checkpoint.copy(tmp_path / "run" / name, tmp_path / "copy")
    assert bits(checkpoint.load(tmp_path / "copy")) == bits(bodies[int(name)])
