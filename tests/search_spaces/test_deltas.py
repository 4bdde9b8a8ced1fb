"""Deltas: whatever a network became since, every bit comes back; nothing damaged or hostile gets through."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_actions import SEEDS, random_action, random_state, seed_network
from safetensors.torch import load, save

from search_spaces import checkpoint, deltas, surgery
from search_spaces.actions import Narrow, NoChange, Widen
from search_spaces.checkpoint import Checkpoint, CheckpointError
from search_spaces.content import Content
from search_spaces.deltas import Base
from search_spaces.families import Mlp
from search_spaces.network import Network
from search_spaces.optimizer_state import OptimizerState
from search_spaces.packed import packed_files
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


# --- damage and malice


def change_head(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    head = json.loads((folder / "blueprint.json").read_text())
    change(head)
    (folder / "blueprint.json").write_text(json.dumps(head))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("base", ["../elsewhere", "/etc", "..", ".hidden", "", "000002", "a/b", 7, ["000001"], "x\n"])
def test_a_base_outside_of_the_networks_folder_is_refused(base: Any, tmp_path: Path) -> None:
    chain(tmp_path / "n000")
    chain(tmp_path / "elsewhere")
    change_head(tmp_path / "n000" / "000002", lambda head: head.update(base=base))
    assert "is no name of a folder beside it" in refused(tmp_path / "n000" / "000002")


def test_a_base_that_is_a_link_or_missing_is_refused(tmp_path: Path) -> None:
    chain(tmp_path / "n000")
    (tmp_path / "n000" / "000001").rename(tmp_path / "elsewhere")
    assert "builds on '000001', and there is no such folder" in refused(tmp_path / "n000" / "000002")
    (tmp_path / "n000" / "000001").symlink_to(tmp_path / "elsewhere")
    assert "builds on '000001', and there is no such folder" in refused(tmp_path / "n000" / "000002")


def test_bases_that_run_in_a_circle_are_refused(tmp_path: Path) -> None:
    chain(tmp_path)
    (tmp_path / "000000" / "packed.safetensors").rename(tmp_path / "000000" / "delta.safetensors")
    change_head(tmp_path / "000000", lambda head: head.update(base="000002"))
    assert "builds on more than 64" in refused(tmp_path / "000002")


@pytest.mark.parametrize("damaged", ["000000", "000001", "000002"])
def test_a_flipped_bit_anywhere_in_the_chain_is_noticed(damaged: str, tmp_path: Path) -> None:
    chain(tmp_path)
    [path] = (tmp_path / damaged).glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(bytes(content))
    message = refused(tmp_path / "000002")
    assert f"{damaged}/{path.name}" in message
    assert "damaged" in message


def test_another_base_than_it_was_made_from_is_noticed(tmp_path: Path) -> None:
    bodies = chain(tmp_path)
    other = seed_network("mlp", keyed("other"), torch.float32)
    for body in (bodies[2], (other, random_state(other, keyed("other")))):
        checkpoint.save(tmp_path / "000001", *body, packed=True)
        message = refused(tmp_path / "000002")
        assert "000002/delta.safetensors: " in message
        assert "its base is another one than it was made from" in message


@pytest.mark.parametrize(
    "packed",
    [
        None,
        7,
        {},
        {"weights": "int8", "optimizer": None},
        {"weights": "float32", "optimizer": 3},
        {"weights": ["float32"]},
    ],
)
def test_types_of_numbers_that_are_none(packed: Any, tmp_path: Path) -> None:
    chain(tmp_path)
    change_head(tmp_path / "000000", lambda head: head.update(packed=packed))
    assert "expected the types of numbers" in refused(tmp_path / "000000")


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    values = load(path.read_bytes())
    change(values)
    path.write_bytes(save(values))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slots/hidden1", torch.tensor([0, 1, 2, 99], dtype=torch.int32)),
        ("slots/hidden1", torch.tensor([0, 1, 2, -2], dtype=torch.int32)),
        ("slots/hidden1", torch.tensor([0, 1, 2], dtype=torch.int32)),
        ("slots/hidden1", torch.zeros(4)),
        ("slots/hidden1", torch.zeros(4, dtype=torch.bfloat16)),
        ("slots/nowhere", torch.zeros(1, dtype=torch.int32)),
        ("spare", torch.zeros(1, dtype=torch.uint8)),
        ("delta/spare", torch.zeros(1, dtype=torch.uint8)),
        ("state", torch.zeros(3, dtype=torch.bfloat16)),
        ("state", torch.zeros(3, dtype=torch.uint8)),
        ("delta/parameters.float32", torch.zeros(3, dtype=torch.uint8)),
        ("delta/parameters.float32", torch.zeros(3)),
        ("delta/parameters.float32", None),
        ("delta/age.int32", None),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name: str, value: torch.Tensor | None, tmp_path: Path) -> None:
    chain(tmp_path)

    def change(values: dict[str, torch.Tensor]) -> None:
        if value is None:
            del values[name]
        else:
            values[name] = value

    change_tensors(tmp_path / "000001" / "delta.safetensors", change)
    assert "000001/delta.safetensors: " in refused(tmp_path / "000002")


def test_pressed_bytes_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    chain(tmp_path)
    bomb = torch.frombuffer(bytearray(zlib.compress(bytes(10**8))), dtype=torch.uint8)
    change_tensors(tmp_path / "000001" / "delta.safetensors", lambda t: t.update({"delta/parameters.float32": bomb}))
    assert "pressed bytes are damaged, or more than" in refused(tmp_path / "000001")


@pytest.mark.parametrize("units", [10**7, 10**9, 10**12, 10**30])
def test_huge_blueprints_are_refused(units: int, tmp_path: Path) -> None:
    chain(tmp_path)
    change_head(tmp_path / "000000", lambda head: head["blueprint"]["layers"][1].__setitem__(1, units))
    assert "000000/" in refused(tmp_path / "000000")
