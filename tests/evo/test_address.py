"""Addresses of clusters, and what is said where no cluster answers."""

from __future__ import annotations

import functools
import socket
import types
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from ray import exceptions

from evo import address, api, attached, remote
from evo.address import Door
from evo.config import ConfigError, UnavailableError
from evo.progress import silent
from evo.settings import build


@pytest.mark.parametrize("text", ["auto", "head:6379", "ray://head-1.example.org:10001", "ray://[::1]:10001", None])
def test_what_is_an_address(text: str | None) -> None:
    assert build({"address": text}).address == text


@pytest.mark.parametrize("text", ["head", "http://head:1", "ray://head", "head:port", ""])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"address: expected auto, HOST:PORT or ray://HOST:PORT"):
        build({"address": text})


def test_doors() -> None:
    assert address.door("head:6379") == Door("head", 6379, False)
    assert address.door("ray://[::1]:10001") == Door("[::1]", 10001, True)
    assert address.door("ray://head:10001").text == "ray://head:10001"
    assert address.is_remote("ray://head:10001")
    assert not address.is_remote("auto")
    assert not address.is_remote(None)


def test_auto_without_a_cluster_on_this_machine_is_one_line_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(address.services, "find_gcs_addresses", functools.lru_cache(set))
    with pytest.raises(UnavailableError, match=r"'auto' found none; start one with `ray start --head`"):
        address.door("auto")


def test_where_nothing_listens_is_one_line_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        port = taken.getsockname()[1]
        with pytest.raises(
            UnavailableError, match=rf"nothing listens at 127.0.0.1:{port} \(Connection refused\); check the"
        ):
            address.knock(Door("127.0.0.1", port, False))
        with pytest.raises(UnavailableError, match=r"nothing listens at ray://.*the head serves ray:// at port 10001"):
            address.knock(Door("127.0.0.1", port, True))


def test_a_head_that_dies_under_its_client_is_told_with_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = MagicMock()
    monkeypatch.setattr(remote, "_head", lambda: "ab" * 28)
    monkeypatch.setattr(remote.ray, "remote", actor)
    order: Any = types.SimpleNamespace()
    monkeypatch.setattr(remote.ShippedTask, "of", lambda task: task)
    for raised in (ConnectionError("Client is shutting down."), exceptions.RayActorError()):
        monkeypatch.setattr(remote.ray, "get", MagicMock(side_effect=raised))
        with pytest.raises(UnavailableError, match=r"driver on the cluster's head was lost .* `evo resume RUN"):
            remote.carry_out(order, order, silent)
    # Our own reader is nobody of the cluster's.
    monkeypatch.setattr(remote.ray, "get", MagicMock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        remote.carry_out(order, order, silent)


def test_a_cluster_of_other_versions_is_told_of() -> None:
    said = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.1.0\n    Python: 3.9.1\n"
        "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    told = str(attached._told(said, Door("head", 6379, False)))
    assert "head:6379 runs Ray: 2.1.0 Python: 3.9.1, and this process Ray 2" in told
    assert "pip install -c constraints.txt" in told


def test_other_refusals_of_rays_are_one_line() -> None:
    door = Door("head", 6379, False)
    cases = {
        RuntimeError(
            "No node info found matching attributes"
        ): "no node of the cluster at head:6379; write --address ray",
        ConnectionError("InvalidAuthToken: missing"): "refuses the token of this process; set RAY_AUTH_MODE=token",
        exceptions.RuntimeEnvSetupError("no space"): "cannot set up our code",
        ConnectionError("first\nlast"): "cannot be joined (last)",
    }
    for error, told in cases.items():
        line = str(attached._told(error, door))
        assert line.startswith("address: ")
        assert told in line
        assert "\n" not in line


def test_a_node_that_lacks_something_is_named() -> None:
    node = attached.Node("abc", "worker7", "10.0.0.7")
    whole = {"failed": "", "missing": [], "store": ""}
    attached._check(node, whole, "runs")
    with pytest.raises(ConfigError, match=r"node worker7 \(10.0.0.7\) lacks torch, ripser; run pip install -c"):
        attached._check(node, {**whole, "missing": ["torch", "ripser"]}, "runs")
    with pytest.raises(ConfigError, match=r"node worker7 \(10.0.0.7\) cannot run our code \(no module named yaml\)"):
        attached._check(node, {**whole, "failed": "no module named yaml"}, "runs")
    with pytest.raises(ConfigError, match=r"out: .* node worker7 \(10.0.0.7\) and this process do not share 'runs'"):
        attached._check(node, {**whole, "store": "it does not see what was written there"}, "runs")


def test_a_node_is_looked_over_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = attached.nodes.look(None)
    assert found["missing"] == []
    assert set(found["versions"]) == {"torch", "numpy", "scipy", "processor"}
    monkeypatch.setattr(attached.nodes, "NEEDED", ("torch", "nowhere_to_be_found"))
    assert attached.nodes.look(None)["missing"] == ["nowhere_to_be_found"]


def test_gpus_may_be_the_workers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = build({"address": "auto", "device": "cuda", "data.limit": 100})
    task = api._load(asked, None)
    assert task.splits["train"].x.device.type == "cpu"
    assert api._settled(asked, task).device == "cuda"
    for device, kept in (("auto", "cpu"), ("cpu", "cpu")):
        assert api._settled(build({"device": device}), task).device == kept
    # Data on a GPU: all GPUs are meant, but where one was named.
    there = types.SimpleNamespace(x=types.SimpleNamespace(device=torch.device("cuda:0")))
    on_gpu: Any = types.SimpleNamespace(splits={"train": there})
    for device, kept in (("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cuda:0", "cuda:0")):
        assert api._settled(build({"device": device}), on_gpu).device == kept
    with (
        pytest.raises(ConfigError, match="device: expected a GPU in the process of `evo grow` itself"),
        api._joined("grow", asked, silent),
    ):
        pytest.fail("joined")  # pragma: no cover
    with pytest.raises(ConfigError, match="sees none here"):
        api._load(asked.model_copy(update={"address": None}), None)


def test_growing_one_network_on_a_cluster_takes_workers() -> None:
    with (
        pytest.raises(ConfigError, match="nothing of `evo grow` runs on auto without trial workers"),
        api._joined("grow", build({"address": "auto"}), silent),
    ):
        pytest.fail("joined")  # pragma: no cover


def test_a_port_that_cannot_be_is_refused_with_a_form_that_can() -> None:
    with pytest.raises(ConfigError, match=r"address: expected a port of 1 to 65535, got '127.0.0.1:99999'; write"):
        build({"address": "127.0.0.1:99999"})
    with pytest.raises(ConfigError, match=r"; write for example address: ray://HOST:10001"):
        build({"address": "foo"})
