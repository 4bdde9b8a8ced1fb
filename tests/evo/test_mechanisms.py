"""The list of mechanisms: every one with what it does, and whether it is on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evo import mechanisms, plugins
from evo.config import Config
from tournaments.policies import POLICIES


def command(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", "from evo.cli import main; main()", "mechanisms", *words]
    return subprocess.run(call, capture_output=True, text=True, cwd=cwd, timeout=120)


def test_every_mechanism_says_what_it_is_and_the_defaults_are_marked() -> None:
    found = mechanisms.listed(Config())
    assert set(found) == {*plugins.registries(), "policies"} == set(mechanisms.FIELDS)
    for kind, registry in {**plugins.registries(), "policies": POLICIES}.items():
        assert [one.name for one in found[kind]] == list(registry)
        assert all(one.summary and "\n" not in one.summary for one in found[kind]), kind
    on = {kind: {one.name for one in many if one.default} for kind, many in found.items()}
    assert on["proposers"] == set(Config().growth.proposers)
    assert (on["rates"], on["policies"]) == ({"uniform"}, {"nats"})


def one_line() -> None:
    """Sums terms up to the one given (as Doe et al. 2017
    do). Then it does more.

    Never this.
    """


@pytest.mark.parametrize(
    ("function", "said"),
    [(one_line, "Sums terms up to the one given (as Doe et al. 2017 do)"), (lambda: None, "")],
)
def test_a_summary_is_the_first_sentence(function: object, said: str) -> None:
    assert mechanisms.summary(function) == said


def test_the_command_lists_plug_ins_too_as_text_and_as_json(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from tournaments.proposals import PROPOSERS\n"
        "def mine(findings):\n    '''Proposes nothing at all.'''\n    return []\n"
        "PROPOSERS['mine'] = mine\n"
    )
    done = command("--json", "--set", "plugins=[own]", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["proposers"][0].keys() == {"name", "default", "summary"}
    assert {"name": "mine", "default": False, "summary": "Proposes nothing at all"} in found["proposers"]
    text = command(cwd=tmp_path).stdout
    assert re.search(r"^proposers \(growth\.proposers; ", text, re.MULTILINE)
    assert re.search(r"^  \* connect  ", text, re.MULTILINE)
    assert re.search(r"^    magnitude  ", text, re.MULTILINE)
    assert "mine" not in text


def test_a_plug_in_that_is_not_there_is_a_complaint(tmp_path: Path) -> None:
    done = command("--set", "plugins=[absent]", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"evo: plugins: 'absent' cannot be imported .*\n", done.stderr)
