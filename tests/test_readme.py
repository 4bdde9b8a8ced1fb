"""The README does what it says: its commands and its Python, run block by block in one folder, with short lives.

`pip` and `pytest` are stood in for by scripts that note what they were asked: the wording is checked, nothing is
installed. `evo` is the real command; `grow` and `search` are given a short life on top of what the README writes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = "-c constraints.txt -e ."
TEST = "-c constraints.txt -e '.[test]'"

# Two cycles, then the last stretch.
SHORT = {
    "training.steps": 70,
    "growth.cycles": 2,
    "tournament.rungs": [5, 10],
    "tournament.candidates": 2,
    "search.networks": 2,
    "search.population": 2,
    "record.mlflow": False,
}

# What makes an instrument's answer quick; what it says is tested elsewhere.
INSTRUMENTS = {
    "check": ["--set", "training.steps=1500"],  # a dense twin must learn something in it
    "ladder": ["--seeds", "2", "--densities", "1,.1,.01", "--workers", "0"],
    "rescue": ["--seeds", "2", "--mechanisms", "skip", "--workers", "0"],
    "seed": ["--seeds", "1", "--workers", "0"],
    "sweep": ["--seeds", "1", "--workers", "0"],
}

STAND_IN = """\
#!{python}
import sys
with open({notes!r}, "a") as notes:
    print({name!r}, *sys.argv[1:], file=notes)
"""

# `--name long` is stopped by Ctrl-C after its first decision; `evo ui`, which serves until then, only shows its help.
COMMAND = """\
#!{python}
import pathlib, signal, subprocess, sys, time
evo, words = [sys.executable, "-c", "from evo.cli import main; main()"], sys.argv[1:]
if words[0] in ("grow", "search"):
    words += {settings!r}
if words[0] in {instruments!r}:
    words += ([] if words[0] == "check" else {settings!r}) + {instruments!r}[words[0]]
if words[0] == "ui":
    words.append("--help")
if words[:2] == ["grow", "digits"] and "long" in words:
    # So long that it cannot be over before it is stopped.
    run = subprocess.Popen([*evo, *words, "--set", "growth.cycles=8", "--set", "training.steps=400"])
    while run.poll() is None and len(list(pathlib.Path("runs/long/events").glob("*.parquet"))) < 2:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    sys.exit(0 if run.wait() == 130 else 1)
sys.exit(subprocess.call([*evo, *words]))
"""

# What a Python block that grows a network is given before its own first line.
SHORT_IN_PYTHON = """\
import functools, evo
evo.grow = functools.partial(evo.grow, config={short!r})
"""


def blocks() -> list[tuple[str, str]]:
    """Every sh and python block, in order, as (language, text)."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(900)  # a minute on two cores; much more where they are shared
def test_every_block_runs_and_leaves_what_it_promises(tmp_path: Path) -> None:
    tools, notes = tmp_path / "tools", tmp_path / "notes.txt"
    tools.mkdir()
    settings = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}".replace("False", "false"))]
    for name in ("pip", "pytest"):
        _script(tools / name, STAND_IN.format(python=sys.executable, notes=str(notes), name=name))
    _script(tools / "evo", COMMAND.format(python=sys.executable, settings=settings, instruments=INSTRUMENTS))
    work = tmp_path / "work"
    work.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    printed: list[str] = []
    for language, text in blocks():
        if language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", text]
        else:
            prelude = SHORT_IN_PYTHON.format(short=SHORT) if "evo.grow" in text else ""
            command = [sys.executable, "-c", prelude + text]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\nended with {done.returncode}:\n{done.stderr[-3000:]}"
        printed.append(done.stdout)

    assert notes.read_text().splitlines() == [
        f"pip install {SETUP}",
        f"pip install {TEST}".replace("'", ""),
        "pytest",
        "pip install -c constraints.txt -e .[export]",
    ]
    assert "Front of runs/digits-" in printed[0]
    for name in ("first", "tumours", "patients", "long"):
        assert (work / "runs" / name / "report" / "front.json").is_file(), name
    for name in ("digits.pt2", "digits.pt2.json", "digits.onnx", "growth.png", "predictions.csv", "settings.yaml"):
        assert (work / name).stat().st_size > 0, name
    assert set(yaml.safe_load((work / "result.json").read_text())) == {"run", "front", "decisions", "seconds"}


def test_set_up_commands_are_those_of_the_project() -> None:
    first, second = (text.strip() for _, text in blocks()[:2])
    assert first == f"pip install {SETUP} && evo search digits"
    assert second == f"pip install {TEST} && pytest"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["evo"] == "evo.cli:main"
    assert {"test", "export"} <= project["optional-dependencies"].keys()
    assert project["requires-python"] == ">=3.11"
    assert "Python 3.11 or newer" in README
    pins = re.findall(r"`(torch==[\d.]+)`", README)
    assert pins == ["torch==2.13.0"]
    assert pins[0] in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_ci_finds_the_test_command() -> None:
    line = next(line for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines() if "README.md" in line)
    found = subprocess.run(
        ["bash", "-c", line.strip().removeprefix('eval "$(').removesuffix(')"')],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == f"pip install {TEST} && pytest\n"


@pytest.mark.parametrize(
    "page", ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").rglob("*.md")))]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [t for t in re.findall(r"\]\(([^)#\s]+)", text) if not t.startswith("http")]
    missing = [t for t in targets if not ((ROOT / page).parent / t).is_file()]
    assert missing == []


def test_modules_that_the_architecture_names_exist() -> None:
    """And those that exist are named."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package in ("search_spaces", "tournaments", "evo"):
        table = text.split(f"**{package}**", 1)[1].split("\n\n", 2)[1]
        named = {name for row in table.splitlines() for name in re.findall(r"`([a-z_/*]+)`", row.split("|")[1])}
        here = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        patterns = {name.rstrip("*") for name in named if name.endswith("*")}
        plain = {name for name in named if "/" not in name and not name.endswith("*")}
        assert plain <= here, (package, plain - here)
        assert {n for n in here - plain if not n.startswith(tuple(patterns) or ("\0",))} == set(), package


def test_benchmarks_are_listed_and_there() -> None:
    text = (ROOT / "docs" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+\.py)`", text)) == {path.name for path in (ROOT / "benchmarks").glob("*.py")}


def _script(path: Path, text: str) -> None:
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    path.chmod(0o755)
