"""What is launched elsewhere fits together: launcher configurations, Kubernetes manifests and the image."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
CLUSTERS = ["cluster.yaml", "deploy/gcp.yaml", "deploy/onprem.yaml"]
MANIFESTS = ["deploy/kuberay/raycluster.yaml", "deploy/kuberay/rayjob.yaml"]
CONTAINERFILE = (ROOT / "Containerfile").read_text()


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


@pytest.mark.parametrize("name", CLUSTERS)
def test_rays_launcher_takes_it(name: str) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    assert config["max_workers"] >= 1


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_node_has_the_token_and_the_dashboard_stays_at_home(name: str) -> None:
    config = read(name)
    mounts = {key.replace("~/", ""): value for key, value in config["file_mounts"].items()}
    assert mounts[".ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in (ROOT / name).read_text()


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_is_installed_is_what_was_tested(name: str) -> None:
    config = read(name)
    assert config["file_mounts"]["~/meristem"] == "."
    install = next(line for line in config["setup_commands"] if "pip install" in line)
    found = re.search(r'-c ~/meristem/constraints\.txt -e "\$HOME/meristem\[([a-z,]+)\]"', install)
    assert found is not None
    assert (ROOT / "constraints.txt").exists()
    # And reaches the buckets that the file tells of; on AWS Ray's own launcher needs boto3.
    installed = packages(found[1])
    text = (ROOT / name).read_text()
    assert "ray" in installed
    assert "boto3" in installed or ("s3://" not in text and config["provider"]["type"] != "aws")
    assert "google-cloud-storage" in installed or "gs://" not in text


def packages(extras: str) -> set[str]:
    """What these extras of ours install, beside what we need in any case."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return {re.split(r"[\[><= ]", line)[0] for extra in extras.split(",") for line in ours[extra]}


def test_the_image_reaches_buckets() -> None:
    found = re.search(r"pip install .*'\.\[([a-z,]+)\]'", CONTAINERFILE)
    assert found is not None
    assert packages(found[1]) >= {"ray", "boto3", "google-cloud-storage"}


def test_disks_hold_what_is_installed() -> None:
    """Canonical's own image has 8 GB."""
    for kind in read("cluster.yaml")["available_node_types"].values():
        assert kind["node_config"]["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= 50


def pods(node: Any) -> list[dict[str, Any]]:
    """Every container of a manifest."""
    if isinstance(node, dict):
        own = node.get("containers", [])
        return own + [pod for key, value in node.items() if key != "containers" for pod in pods(value)]
    return [pod for item in node for pod in pods(item)] if isinstance(node, list) else []


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_pods_share_an_image_and_the_token(name: str) -> None:
    manifest = read(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    found = pods(manifest["spec"])
    assert len(found) == (2 if manifest["kind"] == "RayCluster" else 3)
    assert {pod["image"] for pod in found} == {"REGISTRY/meristem:" + version("meristem")}
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def version(name: str) -> str:
    """As constraints.txt has it, or pyproject.toml for this package."""
    if name == "meristem":
        return re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
    return re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def test_the_image_is_built_from_what_is_here() -> None:
    for line in re.findall(r"^COPY (.+)$", CONTAINERFILE, re.MULTILINE):
        *sources, _ = line.split()
        assert [name for name in sources if not (ROOT / name).exists()] == []
    for extra in re.search(r"'\.\[([\w,]+)\]'", CONTAINERFILE)[1].split(","):  # type: ignore[index]
        assert re.search(rf"^{extra} = ", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), extra
    assert f"TORCH=torch=={version('torch')}" in CONTAINERFILE
    assert importlib.util.find_spec("evo.cli") is not None


def evo_commands() -> list[list[str]]:
    """Every `evo ...` that the files tell their reader, or a machine, to run."""
    texts = [(ROOT / name).read_text() for name in [*CLUSTERS, *MANIFESTS, "Containerfile", "docs/cluster/launch.md"]]
    found = re.findall(r"\bevo (search|grow|resume|status|watch|runs|show|config|ui)\b([^|>'`\n]*)", "\n".join(texts))
    return [[command, *words.split()] for command, words in found]


def test_commands_that_are_told_exist() -> None:
    commands = evo_commands()
    assert len(commands) > 8
    helps = {
        command: subprocess.run(
            [sys.executable, "-c", "from evo.cli import main; main()", command, "--help"],
            capture_output=True, text=True, check=True, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        ).stdout
        for command in sorted({words[0] for words in commands})
    }  # fmt: skip
    for command, *words in commands:
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in helps[command], (command, word)
