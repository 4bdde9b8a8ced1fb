from __future__ import annotations

import errno
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from some_networks import alone, convnet, mlp, rows

from evo import export as exports
from evo.export import ExportError, export, to_plain
from evo.plain import prune
from search_spaces.network import Network

LABELS = ["ash", "beech", "cedar"]
RECIPE: dict[str, Any] = {
    "task": "arrays",
    "inputs": {"kind": "array", "shape": [12], "mean": 0.5, "scale": 2.0},
    "target": {"kind": "classification", "field": "y", "labels": LABELS},
}


@pytest.mark.parametrize("family", [mlp, convnet])
def test_an_exported_program_runs_without_this_project(family: Any, tmp_path: Path) -> None:
    network = family(density=0.2)
    result = export(network, RECIPE, tmp_path / "net.pt2")
    x = rows(7, network)
    torch.save(x, tmp_path / "x.pt")
    output = alone(
        f"files = dict.fromkeys(('labels.json', 'preprocessing.json'), '')\n"
        f"program = torch.export.load({str(result.path)!r}, extra_files=files)\n"
        f"x = torch.load({str(tmp_path / 'x.pt')!r})\n"
        f"import json\n"
        f"outputs = [program.module()(x[:n]).tolist() for n in (1, 2, 7)]\n"
        f"print(json.dumps([outputs, json.loads(files['labels.json']), json.loads(files['preprocessing.json'])]))"
    )
    outputs, labels, preprocessing = json.loads(output)
    wanted = network.eval()(x).detach()
    for n, found in zip((1, 2, 7), outputs, strict=True):
        torch.testing.assert_close(torch.tensor(found), wanted[:n], rtol=1e-5, atol=1e-5)
    assert labels == LABELS
    assert preprocessing == RECIPE
    assert b"search_spaces" not in result.path.read_bytes()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_onnx_gives_the_same_in_onnxruntime(activation: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    network = mlp(activation)
    compare_onnx(onnxruntime, network, tmp_path)


def test_onnx_of_a_convnet(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the export extra is not installed")
    compare_onnx(onnxruntime, convnet(), tmp_path)


def compare_onnx(onnxruntime: Any, network: Network, folder: Path) -> None:
    result = export(network, RECIPE, folder / "net", format="onnx")
    assert result.path == folder / "net.onnx"
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    meta = session.get_modelmeta().custom_metadata_map
    assert json.loads(meta["preprocessing"]) == RECIPE
    assert json.loads(meta["labels"]) == LABELS
    assert session.get_inputs()[0].shape[0] == "batch"
    for n in (1, 3, 300):
        x = rows(n, network)
        found = session.run(["y"], {"x": x.numpy()})[0]
        np.testing.assert_allclose(found, network.eval()(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_result_tells_what_was_written(tmp_path: Path) -> None:
    network = mlp(density=0.2)
    result = export(network, RECIPE, tmp_path / "deep" / "net.pt2")
    plain = to_plain(network)
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["net.pt2", "net.pt2.json"]
    assert result.parameters_before == network.count()
    assert result.parameters_after == prune(network).count() < result.parameters_before
    assert result.dense_parameters == sum(p.numel() for p in plain.parameters()) > result.parameters_after
    assert 0 <= result.max_difference <= 1e-6
    beside = json.loads(result.preprocessing.read_text())
    assert beside["labels"] == LABELS
    assert beside["preprocessing"] == RECIPE
    assert beside["input"] == {"name": "x", "shape": ["batch", 12], "dtype": "float32"}
    assert f"{result.dense_parameters:,}" in result.note
    assert "dense inside the surviving units" in result.note


def test_a_regression_has_no_labels(tmp_path: Path) -> None:
    target = {"kind": "regression", "field": "y", "mean": [1.0] * 3, "scale": [2.0] * 3}
    result = export(mlp(), {**RECIPE, "target": target}, tmp_path / "net.pt2")
    assert json.loads(result.preprocessing.read_text())["labels"] is None


def test_what_cannot_be_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = mlp()
    with pytest.raises(ExportError, match=r"format: expected one of torch, onnx, got 'keras'"):
        export(network, RECIPE, tmp_path / "net.pt2", format="keras")
    with pytest.raises(ExportError, match=r"format torch writes \.pt2 files.*write net\.pt2"):
        export(network, RECIPE, tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"is a folder; write .*model"):
        export(network, RECIPE, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"path: cannot write .*Not a directory"):
        export(network, RECIPE, tmp_path / "file" / "net.pt2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"needs onnx, onnxscript, onnxruntime; run: pip install 'meristem\[export"):
        export(network, RECIPE, tmp_path / "net.onnx", format="onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports.os, "access", lambda path, mode: False)
    with pytest.raises(ExportError, match=r"path: cannot write .*Permission denied.*choose a folder"):
        export(mlp(), RECIPE, tmp_path / "new" / "net.pt2")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: str | bytes) -> None:
        if path.suffix == ".pt2":
            raise OSError(errno.ENOSPC, "no")
        path.write_text(str(content))

    monkeypatch.setattr(exports, "write_atomically", full)
    with pytest.raises(ExportError, match="No space left on device"):
        export(mlp(), RECIPE, tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_differ_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = mlp()
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    with pytest.raises(ExportError, match=r"differ from the network's by nan.*nothing was written"):
        export(network, RECIPE, tmp_path / "net.pt2")
    assert list(tmp_path.iterdir()) == []
