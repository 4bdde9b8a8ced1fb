"""Deltas that are damaged or hostile: nothing gets through."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from chains import chain, change_head, change_tensors, refused
from random_actions import random_state, seed_network

from search_spaces import checkpoint
from search_spaces.randomness import keyed


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
