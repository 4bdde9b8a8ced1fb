"""Weights between variants: by name, by rule, by position; what overlaps is copied and everything is told."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from random_actions import random_state, seed_network
from safetensors.torch import save_file
from torch import nn

from search_spaces import checkpoint, surgery, transfer
from search_spaces.checkpoint import CheckpointError
from search_spaces.families import Mlp
from search_spaces.network import Network
from search_spaces.randomness import keyed
from search_spaces.spaces import connect
from search_spaces.transfer import TransferError


def mlp(*sizes: int, density: float = 0.5, key: int = 0) -> Network:
    names = ["input", *(f"hidden{i}" for i in range(1, len(sizes) - 1)), "output"]
    network = Mlp(list(zip(names, sizes, strict=True)), list(itertools.pairwise(names)))
    connect(network, density, keyed("transfer", key))
    return network


def inputs(n: int, width: int) -> torch.Tensor:
    return torch.from_numpy(keyed("inputs", width).standard_normal((n, width))).float()


def test_the_same_architecture_is_taken_whole(tmp_path: Path) -> None:
    source, network = mlp(6, 5, 4, 3, key=1), mlp(6, 5, 4, 3, density=1.0)
    checkpoint.save(tmp_path / "a", source, random_state(source, keyed("state")), packed=True)
    report = transfer.start(network, tmp_path / "a")
    assert all(torch.equal(t, surgery.tensors(source)[k]) for k, t in surgery.tensors(network).items())
    assert (report.missing, report.unused) == ((), ())
    assert all(match.whole and match.name == match.source for match in report.matches)
    assert sum(match.elements for match in report.matches) == sum(p.numel() for p in source.parameters())
    assert str(report).startswith("6 tensors matched (")


def test_wider_layers_keep_the_function_and_narrower_ones_the_overlap() -> None:
    source, wide = mlp(6, 5, 4, 3, key=1), mlp(6, 9, 7, 3)
    report = transfer.transfer(wide, surgery.tensors(source))
    x = inputs(8, 6)
    assert torch.allclose(wide(x), source(x), atol=1e-6)
    first = wide.get_parameter("links.input>hidden1")
    assert bool(first[5:].any()), "units of its own stay as drawn"
    assert [m.name for m in report.matches if m.whole] == ["biases.output"]
    assert "links.hidden1>hidden2 4x5 into 7x9" in str(report)
    narrow = mlp(6, 3, 4, 3)
    transfer.transfer(narrow, surgery.tensors(source))
    theirs = source.get_parameter("links.input>hidden1")
    assert torch.equal(narrow.get_parameter("links.input>hidden1"), theirs[:3])
    assert torch.equal(narrow.get_buffer("mask.hidden1>hidden2"), source.get_buffer("mask.hidden1>hidden2")[:, :3])


def test_a_sequence_of_modules_is_matched_by_position(tmp_path: Path) -> None:
    plain = nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    renamed = {k.replace("6.", "10."): v.clone() for k, v in plain.state_dict().items()}
    save_file(renamed, tmp_path / "plain.safetensors")
    network = mlp(6, 5, 4, 4, 3, density=0.2)
    report = transfer.start(network, tmp_path / "plain.safetensors")
    x = inputs(8, 6)
    assert torch.allclose(network(x), plain(x), atol=1e-6)
    assert "10.weight as links.hidden3>output" in str(report)
    assert network.count() == sum(p.numel() for p in plain.parameters())


def test_names_are_remapped_by_rules() -> None:
    source = {k: v for k, v in surgery.tensors(mlp(6, 5, 3, key=1)).items() if not k.startswith("mask.")}
    other = {f"body.{k}": v for k, v in source.items()} | {"head.spare": torch.zeros(2)}
    network = mlp(6, 5, 3)
    rules = {"body.links": "links", "body.biases.output": "biases.output"}
    report = transfer.transfer(network, other, rules)
    assert torch.equal(network.get_parameter("links.input>hidden1"), source["links.input>hidden1"])
    assert report.missing == ("biases.hidden1",)
    assert report.unused == ("body.biases.hidden1", "head.spare")
    assert "1 stay as drawn (biases.hidden1); 2 of the file are not used" in str(report)
    # Without a mask, what is not zero is a connection.
    on = network.get_buffer("mask.input>hidden1") != 0
    assert torch.equal(on, source["links.input>hidden1"] != 0)


def test_a_flattened_picture_of_another_size_is_left_alone() -> None:
    source = seed_network("convnet", keyed("one"), torch.float32)
    same = seed_network("convnet", keyed("two"), torch.float32)
    transfer.transfer(same, surgery.tensors(source))
    x = inputs(4, 144)
    assert torch.equal(same(x), source(x))
    other = {**surgery.tensors(source), "links.channel2>hidden1": torch.zeros(3, 4)}
    report = transfer.transfer(same, other)
    assert report.missing == ("links.channel2>hidden1",)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({"links": "nowhere"}, r"rules: the network has no tensor 'nowhere'; write one of"),
        ({"nowhere": "links"}, r"rules: the file has no tensor 'nowhere'; write one of"),
        ({"biases.hidden1": "biases.output"}, r"both become 'biases\.output'"),
    ],
)
def test_rules_that_lead_nowhere_are_told(rules: dict[str, str], told: str) -> None:
    with pytest.raises(TransferError, match=told):
        transfer.transfer(mlp(6, 5, 3), surgery.tensors(mlp(6, 5, 3, key=1)), rules)


def test_a_source_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    network = mlp(6, 5, 3)
    before = {k: t.clone() for k, t in surgery.tensors(network).items()}
    save_file({"embedding": torch.zeros(3)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"torn")
    save_file({"0.weight": torch.full((5, 6), float("nan"))}, tmp_path / "c.safetensors")
    for name, told in (
        ("a.safetensors", r"network\.start: .*none of its tensors \(embedding\) matches one of the network's"),
        ("b.safetensors", r"b\.safetensors: damaged or truncated"),
        ("c.safetensors", r"'0\.weight' holds values that are not finite"),
        ("nowhere", r"expected the folder of a snapshot or a \.safetensors file, got"),
        ("", r"blueprint\.json: missing"),
    ):
        with pytest.raises((TransferError, CheckpointError), match=told):
            transfer.start(network, tmp_path / name)
    assert all(torch.equal(t, before[k]) for k, t in surgery.tensors(network).items())
