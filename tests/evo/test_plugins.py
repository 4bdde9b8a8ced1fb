"""Plug-ins: modules and entry points into the registries, in every process, and no name taken from another."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import evo
from evo import cli, plugins
from evo.config import Config, ConfigError
from evo.settings import build

BODY = """
from evo.learning_rates import RATES
from tournaments.analysis import Analysis, Cost, Measure
from tournaments.analyzers import ANALYZERS
from tournaments.candidate import Candidate
from tournaments.history import Firing
from tournaments.proposals import PROPOSERS, random_edges
from tournaments.triggers import TRIGGERS
import dataclasses

def luck(findings):
    return [dataclasses.replace(c, proposer="luck") for c in random_edges(findings)]

def size(findings):
    return Analysis("size", (Measure("", "edges", 7.0, 0.0, "edges"),), Cost(0, 0.0))

def whim(history, settings):
    return Firing("whim", True, 1.0, 0.0, "a whim")

def slow(setting):
    return setting.everywhere(0.125)

PROPOSERS["luck"], ANALYZERS["size"], TRIGGERS["whim"], RATES["slow"] = luck, size, whim, slow
"""

ALL = {
    "growth.proposers": ["luck"],
    "growth.analyzers": ["size"],
    "growth.triggers": "whim",
    "training.rates": "slow",
}
SHORT = {
    "training.steps": 70,
    "growth.cycles": 2,
    "tournament.rungs": [5, 10],
    "tournament.candidates": 2,
    "record.mlflow": False,
}


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty folder to work in; registries, modules and paths as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_folders", {})
    monkeypatch.setattr(plugins, "_points", {})
    before = {kind: dict(registry) for kind, registry in plugins.registries().items()}
    yield
    for kind, registry in plugins.registries().items():
        registry.clear()
        registry.update(before[kind])
    for name in ("own", "other", "outer", "outer.inner", "packaged"):
        sys.modules.pop(name, None)


def written(name: str, body: str = BODY) -> str:
    Path(f"{name}.py").write_text(body)
    importlib.invalidate_caches()
    return name


def config(**settings: Any) -> Config:
    return build(settings)


def test_a_module_in_the_current_folder_adds_to_every_registry() -> None:
    wanted = config(plugins=[written("own")], **ALL)
    with pytest.raises(ConfigError, match=r"^growth.proposers: there is no proposer 'luck'"):
        plugins.check(wanted)
    plugins.load(wanted)
    plugins.check(wanted, elsewhere=True)
    assert {"luck"} <= plugins.registries()["proposers"].keys()
    plugins.load(wanted)  # once more changes nothing
    assert plugins.carried() == (("own", str(Path.cwd())),)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"growth.proposers": ["conect"]}, r"growth.proposers: there is no proposer 'conect'; write connect"),
        ({"growth.analyzers": ["extrem"]}, r"growth.analyzers: there is no analyzer 'extrem'; write extrema"),
        ({"growth.triggers": "plateau or spikes"}, r"growth.triggers: there is no trigger 'spikes'; write spike"),
        ({"training.rates": "age * densty"}, r"training.rates: there is no learning-rate rule 'densty'; write density"),
        ({"growth.proposers": ["zzz"]}, r"growth.proposers: there is no proposer 'zzz'; `evo mechanisms` lists all"),
        ({"training.rates": "age * age"}, r"training.rates: 'age' stands twice"),
    ],
)
def test_an_unknown_name_is_one_line_with_what_was_meant(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}") as caught:
        evo.grow("parity:3", **settings, **SHORT)
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_what_there_is_by_default_is_known() -> None:
    plugins.check(Config(), elsewhere=True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (None, r"plugins: 'own' cannot be imported \(ModuleNotFoundError.*; check its name"),
        ("import nothing_like_it", r"plugins: 'own' cannot be imported \(ModuleNotFoundError.*; mend the module"),
        ("1 +", r"plugins: 'own' cannot be imported \(SyntaxError"),
        ("1 / 0", r"plugins: 'own' cannot be imported \(ZeroDivisionError"),
        (
            "from tournaments.proposals import PROPOSERS\nPROPOSERS['connect'] = lambda findings: []",
            r"plugins: own would replace the proposer 'connect'; register yours under another name",
        ),
        (
            "from tournaments.triggers import TRIGGERS\ndel TRIGGERS['spike']",
            r"plugins: own would replace the trigger 'spike'",
        ),
        (
            "from evo.learning_rates import RATES\nRATES['mine'] = 3",
            r"plugins: own lists 'mine' as a learning-rate rule, which is no function",
        ),
    ],
)
def test_a_module_that_cannot_be_is_one_line_and_leaves_the_registries_alone(body: str | None, said: str) -> None:
    if body is not None:
        written("own", body)
    before = {kind: dict(registry) for kind, registry in plugins.registries().items()}
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"^{said}"):
            plugins.load(config(plugins=["own"]))
        assert plugins.registries() == before


def test_one_plug_in_does_not_take_another_s_name() -> None:
    wanted = config(plugins=[written("own"), written("other")])
    with pytest.raises(ConfigError, match=r"^plugins: other would replace the .* 'luck'|'size'|'whim'|'slow'"):
        plugins.load(wanted)


def test_a_package_may_be_a_plug_in() -> None:
    Path("outer").mkdir()
    Path("outer/__init__.py").touch()
    Path("outer/inner.py").write_text(BODY)
    importlib.invalidate_caches()
    plugins.load(config(plugins=["outer.inner"]))
    assert plugins.carried() == (("outer.inner", str(Path.cwd())),)


def installed(points: dict[str, str], name: str = "own-package") -> None:
    """As a package manager leaves it."""
    home = Path("site") / f"{name.replace('-', '_')}-1.0.dist-info"
    home.mkdir(parents=True)
    (home / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[meristem.{kind}]\n{line}\n" for kind, line in points.items()]
    (home / "entry_points.txt").write_text("\n".join(lines))
    if str(Path("site").absolute()) not in sys.path:
        sys.path.append(str(Path("site").absolute()))
    importlib.invalidate_caches()


def test_an_installed_package_brings_its_functions_by_entry_points() -> None:
    plain = BODY.rpartition("\nPROPOSERS[")[0]
    Path("site").mkdir()
    Path("site/packaged.py").write_text(plain)
    points = {"proposers": "luck", "analyzers": "size", "triggers": "whim", "rates": "slow"}
    installed({kind: f"{name} = packaged:{name}" for kind, name in points.items()})
    plugins.load(config())
    plugins.load(config())
    plugins.check(config(**ALL), elsewhere=True)
    run = evo.grow("parity:4", seed=1, name="installed", **ALL, **SHORT)
    assert "luck" in set(run.events["proposer"])


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("connect = packaged:luck", r"meristem.proposers 'connect' of own-package would replace the proposer of that"),
        ("luck = packaged:absent", r"meristem.proposers 'luck' of own-package cannot be loaded \(AttributeError"),
        ("luck = absent:luck", r"meristem.proposers 'luck' of own-package cannot be loaded \(ModuleNotFoundError"),
        ("luck = packaged:__name__", r"meristem.proposers 'luck' of own-package is no function"),
    ],
)
def test_a_package_that_is_broken_or_takes_a_name_is_one_line(point: str, said: str) -> None:
    Path("site").mkdir()
    Path("site/packaged.py").write_text(BODY.rpartition("\nPROPOSERS[")[0])
    installed({"proposers": point})
    with pytest.raises(ConfigError, match=f"^plugins: {said}"):
        plugins.load(config())


def test_what_this_process_alone_knows_is_refused_where_others_take_part() -> None:
    plugins.registries()["proposers"]["here"] = lambda findings: []
    wanted = config(**{"growth.proposers": ["here"]})
    plugins.check(wanted)
    with pytest.raises(ConfigError, match=r"^growth.proposers: 'here' is known to this process alone"):
        plugins.check(wanted, elsewhere=True)


def used(run: evo.Run) -> None:
    """Whether the run's events show all four at work."""
    events = run.events
    assert "luck" in set(events["proposer"])
    assert set(events[events["kind"] == "analysis"]["measure"]) == {"edges"}
    assert events[events["kind"] == "decision"]["reason"].str.contains("a whim").all()
    born = json.loads(events[events["kind"] == "started"]["config"].iloc[0])
    assert born["training"]["rates"] == "slow"


def test_workers_and_resumed_runs_know_them_too() -> None:
    own = written("own")
    alone = evo.grow("digits", seed=3, name="alone", plugins=[own], **ALL, **SHORT)
    used(alone)
    plain = evo.grow("digits", seed=3, name="plain", **{**ALL, "training.rates": "uniform"}, **SHORT)
    losses = [run.events[run.events["kind"] == "segment"]["train_loss"].iloc[0] for run in (alone, plain)]
    # An eighth of the rate: it has learned less by then.
    assert losses[0] > losses[1]
    again = evo.grow("digits", seed=3, name="again", plugins=[own], workers=1, **ALL, **SHORT)
    columns = ["kind", "proposer", "active_parameters", "information_nats", "measured_nats"]
    assert again.events[columns].equals(alone.events[columns])
    assert evo.resume(again).finished


def test_a_search_on_ray_knows_them_too() -> None:
    own = written("own")
    run = evo.search("digits", plugins=[own], workers=1, **ALL, **SHORT, **{"search.networks": 1})
    used(run)
    assert run.finished


WRONG = """
from evo.learning_rates import RATES
from tournaments.analyzers import ANALYZERS

def grown(setting):
    if setting.grown:  # as first in a candidate's fork, which a worker trains
        raise LookupError("not a\\nline")
    return setting.everywhere(1.0)

def none(findings):
    return None

RATES["grown"], ANALYZERS["none"] = grown, none
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["search", "--set", "search.networks=1", "--workers", "1", "--set", "training.rates=grown"],
            r"evo: training.rates: grown failed with LookupError\('not a\\nline'\); mend it, or leave it out; go on",
        ),
        (
            ["search", "--set", "search.networks=2", "--set", "growth.analyzers=[none]"],
            "evo: growth.analyzers: none: expected a tournaments.analysis.Analysis, got None; return Analysis",
        ),
        (
            ["grow", "--workers", "1", "--set", "training.rates=grown"],
            r"evo: training.rates: grown failed with LookupError\('not a\\nline'\); mend it, or leave it out; go on",
        ),
    ],
)
def test_one_that_is_wrong_in_another_process_is_one_line(
    words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MERISTEM_TRACEBACK", raising=False)
    settings = {**SHORT, "plugins": [written("own", WRONG)]}
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    monkeypatch.setattr(sys, "argv", ["evo", words[0], "digits", *words[1:], *given])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (2, "")
    [line] = [line for line in err.splitlines() if line.startswith("evo: ")]
    assert re.match(told, line), line
    assert line == err.splitlines()[-1]
    assert "Traceback" not in err
