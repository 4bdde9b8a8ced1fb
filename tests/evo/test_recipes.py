"""Recipes: each reads, says what it is for, lives a short life and does in it what it promises."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from commands import Evo
from optuna.trial import FixedTrial

import evo
from evo import recipes
from evo.config import Config, ConfigError
from evo.options import settings
from evo.population import Ground
from evo.run import Run
from evo.settings import build
from evo.suggestions import suggest_seed
from search_spaces.families import FAMILIES

NAMES = (
    "coarse-to-fine", "indefinite-growth", "multi-scale-snapshots", "parity-xor", "patched-density",
    "proportional-rewiring", "tournament",
)  # fmt: skip

SHORT: dict[str, Any] = {
    "data.limit": 600, "training.epochs": None, "training.warmup": 5, "tournament.rungs": [4, 8],
    "tournament.evidence_samples": 256, "record.mlflow": False,
}  # fmt: skip
"""A life of seconds. Whatever a recipe is about stays as it says."""


def lived(name: str, folder: Path, **changed: Any) -> Run:
    """A short life by the recipe."""
    return evo.grow(config=build(recipes.read(name), SHORT, changed), out=str(folder))


def adopted(run: Run) -> pd.DataFrame:
    """The candidates that were."""
    events = run.events
    return events[(events["kind"] == "candidate") & events["selected"].fillna(False).astype(bool)]


def counts(run: Run) -> list[int]:
    """Active parameters, snapshot by snapshot."""
    events = run.events
    return [int(n) for n in events[events["kind"] == "snapshot"]["active_parameters"]]


# --- the files


def test_all_recipes_are_there() -> None:
    assert recipes.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_is_a_setting_with_its_reason(name: str) -> None:
    text = recipes.text(name)
    assert 20 < len(recipes.summary(name)) <= 98
    config = build(recipes.read(name))
    assert name == "tournament" or config != Config()
    above = ""
    for line in text.splitlines():
        choice = re.fullmatch(r"\s+\w+: .*?(#.*)?", line)
        assert len(line) <= 120
        assert choice is None or "#" in line or above.strip().startswith("#"), f"{name}: {line!r} gives no reason"
        above = line


def test_the_tournament_is_the_defaults_spelled_out() -> None:
    said = recipes.read("tournament")
    assert build(said) == Config()
    for section in ("network", "training", "growth", "tournament", "economy"):
        known = set(type(getattr(Config(), section)).model_fields)
        assert set(said[section]) == known, f"{section}: spelled out are all settings, and no others"


def test_an_unknown_recipe_is_told_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        recipes.read("parity_xor")
    assert str(caught.value) == "--recipe: there is no recipe 'parity_xor'; write parity-xor"
    with pytest.raises(ConfigError, match=r"no recipe 'zzz'; `evo recipes` lists them$"):
        recipes.text("zzz")
    with pytest.raises(ConfigError, match="no recipe"):
        recipes.text("../config")


# --- the command


def test_the_command_lists_prints_and_complains(evo: Evo) -> None:
    code, out, _ = evo("recipes")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(NAMES)
    assert all(recipes.summary(line.split()[0]) in line for line in out.splitlines())
    code, out, _ = evo("recipes", "parity-xor")
    assert (code, out) == (0, recipes.text("parity-xor"))
    assert build(yaml.safe_load(out)) == build(recipes.read("parity-xor"))
    assert [row["name"] for row in json.loads(evo("recipes", "--json")[1])["recipes"]] == list(NAMES)
    assert json.loads(evo("recipes", "parity-xor", "--json")[1])["settings"]["task"] == "parity:8"
    code, out, err = evo("recipes", "parity-xr")
    assert (code, out, err) == (2, "", "evo: --recipe: there is no recipe 'parity-xr'; write parity-xor\n")
    code, out, err = evo("grow", "digits", "--recipe", "turnament")
    assert (code, out, err) == (2, "", "evo: --recipe: there is no recipe 'turnament'; write tournament\n")


def test_a_recipe_lies_between_defaults_and_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("training:\n  steps: 7000\nnetwork:\n  hidden: [9, 9]\n")

    def made(recipe: str | None, config: Path | None, assign: list[str], seed: int | None, task: str | None) -> Config:
        return build(settings(config, assign, seed, None, None, None, None, None, None, None, None, task, recipe))

    alone = made("parity-xor", None, [], None, None)
    assert (alone.task, alone.network.initial) == ("parity:8", "xor")
    layered = made("parity-xor", file, ["network.hidden=[10, 4]"], 3, "parity:4")
    assert layered.network.initial == "xor", "what nobody else says is the recipe's"
    assert layered.training.steps == 7000, "the file wins over the recipe"
    assert layered.network.hidden == (10, 4), "--set wins over the file"
    assert (layered.task, layered.seed) == ("parity:4", 3), "options win over all"
    assert layered.training.batch_size == Config().training.batch_size
    assert made(None, None, [], None, None) == Config()


@pytest.mark.parametrize("name", NAMES)
def test_a_search_by_a_recipe_keeps_the_recipes_own_seed(name: str) -> None:
    config = build(settings(None, [], None, None, None, None, None, None, None, None, None, None, name))
    shape = suggest_seed(Ground(config, 64, 10), FixedTrial({"hidden": 7, "seed_parameters": 70}))
    assert (shape == {}) == (name != "tournament"), "the defaults' seed is searched for"


# --- short lives


def test_tournament_grows_by_what_it_gains(tmp_path: Path) -> None:
    run = lived("tournament", tmp_path, **{"training.steps": 500, "growth.cycles": 5})
    assert counts(run)[-1] > counts(run)[0]
    assert len(adopted(run)) > 0


def test_multi_scale_snapshots_grows_from_almost_nothing_within_its_caps(tmp_path: Path) -> None:
    # Lenient: more looks at noise, so that ten spikes come within seconds.
    short = {"training.steps": 1200, "growth.cycles": 12, "growth.false_alarm": 0.49, "growth.window": 96,
             "economy.cooldown_epochs": 1, "economy.phases": [15, 30]}  # fmt: skip
    run = lived("multi-scale-snapshots", tmp_path, **short)
    grown = adopted(run)
    assert len(grown) >= 1
    assert set(grown["proposer"]) <= {"route", "clone_vertical", "highway", "reactivate"}
    assert all(0 < delta <= 200 for delta in grown["delta_parameters"])
    assert counts(run)[-1] > counts(run)[0]


def test_patched_density_patches_and_learns(tmp_path: Path) -> None:
    run = lived("patched-density", tmp_path, **{"training.steps": 700, "growth.cycles": 7})
    grown = adopted(run)
    assert "patch" in set(grown["proposer"])
    assert set(grown["proposer"]) <= {"patch", "withdraw"}
    front = run.front
    assert front["validation_information_nats"].max() > 0.5
    shapes = run.events[run.events["kind"] == "snapshot"]["blueprint"]
    first, last = (FAMILIES["mlp"].from_blueprint(json.loads(shapes.iloc[i])) for i in (0, -1))
    assert last.axis_sizes() == first.axis_sizes(), "density grows, the shape does not"


def test_indefinite_growth_waits_for_convergence_and_stops_when_nothing_is_left(tmp_path: Path) -> None:
    short = {"training.steps": 3000, "growth.cycles": 12, "growth.window": 96, "training.patience": 3}
    run = lived("indefinite-growth", tmp_path, **short)
    decisions = run.events[run.events["kind"] == "decision"]
    held = decisions[decisions["action"] != "NoChange"]
    assert len(held) >= 1
    assert all("plateau" in why or "loss fell by" in why for why in decisions["reason"])
    assert counts(run)[-1] > counts(run)[0]


def test_coarse_to_fine_goes_through_its_scales_and_refines(tmp_path: Path) -> None:
    run = lived("coarse-to-fine", tmp_path, **{"training.steps": 900, "growth.cycles": 9})
    events = run.events
    asked = events[(events["kind"] == "candidate") & (events["proposer"] == "refine")]
    assert set(asked["cycle"]) == {2, 5}, "where the pictures change"
    assert asked["measured_nats"].max() > 0
    assert counts(run)[-1] > counts(run)[0]


def test_proportional_rewiring_keeps_its_count(tmp_path: Path) -> None:
    run = lived("proportional-rewiring", tmp_path, **{"training.steps": 600, "growth.cycles": 6})
    grown = adopted(run)
    assert set(grown["proposer"]) == {"rewire_forward"}
    assert len(set(counts(run))) == 1
    assert json.loads(grown["action_json"].iloc[0])


def test_parity_by_pairs_reaches_every_row(tmp_path: Path) -> None:
    short = {"training.steps": 1500, "growth.cycles": 2, "tournament.rungs": [20, 40]}
    config = build(recipes.read("parity-xor"), {"record.mlflow": False}, short)
    run = evo.grow(config=config, out=str(tmp_path))
    assert run.front["accuracy"].max() == 1.0
