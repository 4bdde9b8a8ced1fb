"""Folders from somebody who means harm are refused in one line, or harmless; and nothing of ours unpickles."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("evo", "tournaments", "search_spaces")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("MERISTEM_", "MLFLOW_"))}
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "pandas.io.pickle",
}
FORBIDDEN_CALLS = {
    "torch.load", "pd.read_pickle", "pandas.read_pickle", "torch.jit.load", "torch.package", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "tune.Tuner.restore", "Tuner.restore", "eval", "exec",
}  # fmt: skip


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `hostile` tells: every kind of craft, each by three commands. Without a SHARE it is all by all."""
    words = [str(Path(hostile.__file__)), str(tmp_path_factory.mktemp("hostile")), "5"]
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=290,
        env={**CLEAN, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_refused_in_one_line_or_harmless(examined: dict[str, Any]) -> None:
    assert examined["bad"] == {}


def test_the_worst_are_refused(examined: dict[str, Any]) -> None:
    codes = examined["codes"]
    for name in ("pickle as run.json", "a plug-in in the run's folder and in the current one", "a pipe as run.json"):
        assert codes[name]["resume"] == 2, name
    assert len(codes) >= 40


def test_a_good_folder_is_no_hostile_one(examined: dict[str, Any]) -> None:
    assert set(examined["codes"]["nothing"].values()) == {0}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def found_in(tree: ast.Module) -> list[str]:
    """Everything in a module that could unpickle, or run text as code."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found += [whole] if {node.module, name.name} & FORBIDDEN_MODULES or whole in FORBIDDEN_CALLS else []
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in FORBIDDEN_CALLS else []
            if called in ("np.load", "numpy.load"):
                pickles = [k.value for k in node.keywords if k.arg == "allow_pickle"]
                safe = len(pickles) == 1 and isinstance(pickles[0], ast.Constant) and pickles[0].value is False
                found += [] if safe else [ast.unparse(node)]
    return found


def test_nothing_of_ours_unpickles() -> None:
    read = list(sources())
    assert len(read) > 150
    assert {str(path): what for path, tree in read if (what := found_in(tree))} == {}


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from ray import cloudpickle", "from torch import load\nload(x)", "torch.load(p)", "np.load(p)",
     "np.load(p, allow_pickle=True)", "np.load(p, allow_pickle=flag)", "eval(text)", "import joblib",
     "yaml.load(t)"],
)  # fmt: skip
def test_what_unpickles_is_seen(code: str) -> None:
    assert found_in(ast.parse(code))
