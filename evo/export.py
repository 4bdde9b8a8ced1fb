"""Export: a network as a file that runs without this project, checked by running it.

"torch" writes an ExportedProgram (.pt2), which needs PyTorch alone: `torch.export.load(path).module()(x)`. "onnx"
writes ONNX. The number of samples is free in both. x is what the preprocessing makes of raw rows; it lies beside the
file as JSON, with the labels, and inside of it.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from evo.front import write_atomically
from evo.lowering import lower
from evo.plain import inputs, prune, to_plain
from search_spaces.network import Network

__all__ = ["Export", "ExportError", "export", "to_plain"]

Format = Literal["torch", "onnx"]
SUFFIXES: Mapping[str, str] = {"torch": ".pt2", "onnx": ".onnx"}
BATCHES = (1, 2, 7, 256)
FREE = {"x": {0: torch.export.Dim("batch", min=1)}}
TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest difference from the network, relative to the largest output (or 1), with which a file is written."""


class ExportError(ValueError):
    """A network that cannot be exported as was asked: one line with the cure."""


@dataclass(frozen=True)
class Export:
    """What was written.

    preprocessing: the JSON beside it. parameters_before, parameters_after: active ones, with and without dead units.
    dense_parameters: numbers stored, masked ones of the surviving units among them. max_difference: between the file
    and the network over all checks, relative to the largest output (or 1).
    """

    path: Path
    preprocessing: Path
    format: str
    parameters_before: int
    parameters_after: int
    dense_parameters: int
    max_difference: float

    @property
    def note(self) -> str:
        """What the file does not save."""
        kind = "ONNX" if self.format == "onnx" else "The exported program"
        return (
            f"{kind} stays dense inside the surviving units: it stores and multiplies {self.dense_parameters:,} "
            f"numbers, of which {self.parameters_after:,} are active parameters; the rest are zeros."
        )


def export(
    network: Network, preprocessing: Mapping[str, Any], path: str | os.PathLike[str], format: str = "torch"
) -> Export:
    """Write the network to `path`, whole or not at all. Raises ExportError before or instead of writing."""
    target = _target(Path(path), format)
    pruned = prune(network)
    plain = lower(pruned).cpu()
    original = copy.deepcopy(network).cpu().eval()
    labels = preprocessing.get("target", {}).get("labels")
    texts = {"preprocessing": json.dumps(dict(preprocessing)), "labels": json.dumps(labels)}
    example = torch.zeros(2, inputs(network), dtype=next(original.parameters()).dtype)
    with _quiet():
        content, run = (_onnx if format == "onnx" else _torch)(plain, example, texts)
        difference = _check(run, original, example, format)
    result = Export(
        path=target,
        preprocessing=target.with_name(target.name + ".json"),
        format=format,
        parameters_before=network.count(),
        parameters_after=pruned.count(),
        dense_parameters=sum(p.numel() for p in plain.parameters()),
        max_difference=difference,
    )
    _write(result, content, _description(result, original, preprocessing, labels))
    return result


# --- the formats

Run = Callable[[Tensor], Tensor]


def _torch(plain: nn.Module, example: Tensor, texts: Mapping[str, str]) -> tuple[bytes, Run]:
    program = _traced(plain, example)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{name}.json": text for name, text in texts.items()})
    file.seek(0)
    loaded = torch.export.load(file).module()
    return file.getvalue(), loaded


def _onnx(plain: nn.Module, example: Tensor, texts: Mapping[str, str]) -> tuple[bytes, Run]:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotSupported

    program = torch.onnx.export(
        _traced(plain, example), dynamo=True, dynamic_shapes=FREE, input_names=["x"], output_names=["y"], verbose=False
    )
    assert program is not None
    program.model.metadata_props.update(texts)
    content: bytes = program.model_proto.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except NotSupported as err:
        raise ExportError(
            f"format: onnxruntime cannot run this network in {str(example.dtype).removeprefix('torch.')} "
            f"({str(err).rpartition(' : ')[2]}); export network.float(), or write format torch"
        ) from err

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])

    return content, run


def _traced(plain: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    program = torch.export.export(plain, (example,), dynamic_shapes=FREE)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # a file that is given away need not tell where it was made
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what torch's exporter says about itself."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    with warnings.catch_warnings():
        # Copying a graph for ONNX goes through a class of pytree's that pytree itself has deprecated.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        # It notes for each operator of torchvision that torchvision is not installed.
        registration.setLevel(logging.ERROR)
        try:
            yield
        finally:
            registration.setLevel(level)


@torch.no_grad()
def _check(run: Run, network: Network, example: Tensor, format: str) -> float:
    """The largest difference between the file and the network, over batches of several sizes."""
    draws = np.random.Generator(np.random.Philox(1))
    worst = 0.0
    for size in BATCHES:
        x = torch.from_numpy(draws.standard_normal((size, example.shape[1]))).to(example.dtype)
        found, wanted = run(x), network(x)
        if found.shape != wanted.shape:
            raise ExportError(
                f"format: {format} gave outputs of shape {tuple(found.shape)} for {size} samples, the network "
                f"{tuple(wanted.shape)}; nothing was written, please report it"
            )
        gap = float((found - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
        worst = max(worst, gap) if gap == gap else gap
        if not worst <= TOLERANCES[example.dtype]:
            raise ExportError(
                f"format: {format} gave outputs that differ from the network's by {worst:.2g} of the largest; nothing "
                "was written; check that the network's weights are finite, else please report it"
            )
    return worst


# --- files


def _target(path: Path, format: str) -> Path:
    """Where to write. Everything that can be checked before the work is checked here."""
    if format not in get_args(Format):
        raise ExportError(f"format: expected one of {', '.join(get_args(Format))}, got {format!r}")
    suffix = SUFFIXES[format]
    if path.suffix in SUFFIXES.values() and path.suffix != suffix:
        raise ExportError(f"path: format {format} writes {suffix} files, got {str(path)!r}; write {path.stem}{suffix}")
    target = path if path.suffix == suffix else path.with_name(path.name + suffix)
    if path.is_dir() or target.is_dir():
        raise ExportError(f"path: expected a file, but {str(path)!r} is a folder; write {path / 'model'}{suffix}")
    if format == "onnx":
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(f"format onnx needs {', '.join(missing)}; run: pip install 'meristem[export]'")
    standing = next(p for p in target.absolute().parents if p.exists())
    if not standing.is_dir():
        raise _unwritable(target, errno.ENOTDIR)
    if not os.access(standing, os.W_OK):
        raise _unwritable(target, errno.EACCES)
    return target


def _unwritable(path: Path, code: int | None) -> ExportError:
    reason = os.strerror(code) if code else "unknown error"
    return ExportError(f"path: cannot write {str(path)!r} ({reason}); choose a folder with room that you may write to")


def _write(result: Export, content: bytes, description: Mapping[str, Any]) -> None:
    """The JSON first: whoever sees the model file finds it complete."""
    fresh = not result.preprocessing.exists()
    try:
        write_atomically(result.preprocessing, json.dumps(description, indent=1) + "\n")
        try:
            write_atomically(result.path, content)
        except OSError:
            if fresh:
                result.preprocessing.unlink(missing_ok=True)
            raise
    except OSError as err:
        raise _unwritable(result.path, err.errno) from err


def _description(
    result: Export, network: Network, preprocessing: Mapping[str, Any], labels: list[Any] | None
) -> dict[str, Any]:
    """What somebody needs who has the file and not this project."""
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    outputs = len(labels) if labels is not None else network.axis_sizes()["output"]
    meaning = "logits, one a label" if labels is not None else "standardised values: times scale, plus mean of target"
    return {
        "file": result.path.name,
        "format": result.format,
        "input": {"name": "x", "shape": ["batch", inputs(network)], "dtype": dtype},
        "output": {"name": "y", "shape": ["batch", outputs], "dtype": dtype, "meaning": meaning},
        "labels": labels,
        "preprocessing": dict(preprocessing),
        "active_parameters": result.parameters_after,
        "dense_parameters": result.dense_parameters,
        "max_difference": result.max_difference,
        "note": result.note,
    }
