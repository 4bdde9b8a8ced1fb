"""The five commands: a table, a picture, one JSON object, one line for a mistake, and jobs that are done only once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from commands import Evo
from small_jobs import WORDS

from evo.config import Config
from evo.settings import build, read_yaml

TINY = [*WORDS, "--device", "cpu", "--seed", "3"]


def lives(folder: str) -> int:
    return len(Path(folder, "jobs.jsonl").read_text().splitlines())


def test_ladder_draws_tells_and_goes_on(evo: Evo) -> None:
    words = ["ladder", "digits", "--densities", "1,.1,.01", "--hidden", "", *TINY]
    code, out, err = evo(*words, "--seeds", "1")
    assert code == 0, err
    assert "cliff: at" in out or "no cliff" in out
    assert "one seed: no interval" in out or "no cliff" in out
    folder = "runs/ladder-digits"
    assert Path(folder, "picture.png").read_bytes().startswith(b"\x89PNG")
    assert lives(folder) == 3
    assert "other revisions" not in out
    jobs = Path(folder, "jobs.jsonl")
    jobs.write_text(jobs.read_text().replace('"revision":', '"before":', 1))
    code, out, err = evo(*words, "--seeds", "1")
    assert "1 of 3 jobs were lived by other revisions of the code than this one" in " ".join(out.split())
    code, out, err = evo(*words, "--seeds", "2", "--json")
    told = json.loads(out)
    assert code == 0
    assert lives(folder) == 6
    assert "3 of 6 jobs were done before" in err
    assert told["layers"] == [64, 10]
    assert [rung["density"] for rung in told["rungs"]] == [1.0, 0.1, 0.01]
    assert told["rungs"][0]["active_parameters"] == 650
    assert told["rungs"][0]["validation_information"] > told["rungs"][-1]["validation_information"]
    assert set(told["cliff"]) == {"half", "steepest", "half_value", "bracket"}
    assert len(pd.read_parquet(f"{folder}/table.parquet")) == len(pd.read_csv(f"{folder}/table.csv")) == 3
    assert json.loads(Path(folder, "instrument.json").read_text())["result"]["cliff"] == told["cliff"]


def test_rescue_tells_what_rescues(evo: Evo) -> None:
    words = ["rescue", "digits", "--hidden", "8", "--density", ".03", "--max-density", ".5", "--seeds", "2"]
    code, out, err = evo(*words, "--mechanisms", "widen,skip", *TINY, "--json")
    told = json.loads(out)
    assert code == 0, err
    rows = {row["mechanism"]: row for row in told["rows"]}
    targets = ["target even", "target uniform", "target redrawn"]
    assert list(rows) == ["static", "work", *targets, "tournament", "widen", "skip"]
    assert told["static"] == rows["static"]["test_accuracy"]
    assert told["target"] == rows[told["target_row"]]["test_accuracy"]
    best = max(rows[name]["validation_information"] for name in targets)
    assert rows[told["target_row"]]["validation_information"] == best
    for name, row in rows.items():
        assert {"mechanism", "test_accuracy", "active_parameters", "density", "work", "seeds"} <= set(row)
        assert len(row["seeds"]) == 2
        assert row["density"] <= 0.5, name
    # Seed by seed the same steps as the tournament with its trials, and targets of the density where that ended.
    assert [s["work"] for s in rows["work"]["seeds"]] == [s["work"] for s in rows["tournament"]["seeds"]]
    grown = [s["density"] for s in rows["tournament"]["seeds"]]
    assert [s["density"] for s in rows["target uniform"]["seeds"]] == pytest.approx(grown, rel=0.05)
    assert set(rows["widen"]["seeds"][0]["adopted"]) <= {"widen"}
    code, out, _ = evo(*words, "--mechanisms", "widen,skip", *TINY)
    assert code == 0
    assert "the best of three by validation" in out
    assert Path("runs/rescue-digits/picture.png").stat().st_size > 5000


def test_seed_finds_one_that_a_config_takes(evo: Evo, monkeypatch: pytest.MonkeyPatch) -> None:
    from evo.instruments import seed

    monkeypatch.setattr(seed, "HIDDEN", ((), (4,)))
    monkeypatch.setattr(seed, "DENSITIES", (0.02, 0.2, 1.0))
    monkeypatch.setattr(seed, "SHORTENED", (2, 1))
    words = ["seed", "digits", "--margin", ".05", "--seeds", "2", *TINY, "--set", "training.steps=400"]
    code, out, err = evo(*words, "--json")
    told = json.loads(out)
    assert code == 0, err
    found = told["found"]
    passed = [row for row in told["last_round"] if row["bound"] > 0.05]
    assert found["active_parameters"] == min(row["active_parameters"] for row in passed)
    config = build(read_yaml("runs/seed-digits/seed.yaml"))
    assert list(config.network.hidden) == found["hidden"]
    assert config.network.density == found["density"]
    assert yaml.safe_load(Path("runs/seed-digits/seed.yaml").read_text()) == found["settings"]


def test_a_margin_that_nobody_reaches_is_said(evo: Evo, monkeypatch: pytest.MonkeyPatch) -> None:
    from evo.instruments import seed

    monkeypatch.setattr(seed, "HIDDEN", ((),))
    monkeypatch.setattr(seed, "DENSITIES", (0.02,))
    monkeypatch.setattr(seed, "SHORTENED", (1,))
    code, out, _ = evo("seed", "digits", "--margin", "2.2", "--seeds", "1", *TINY)
    assert code == 0
    assert "no seed of the grid is 2.2 nats above chance" in out
    assert not Path("runs/seed-digits/seed.yaml").exists()


@pytest.mark.parametrize("margin", ["nan", "inf", "-.1"])
def test_a_margin_that_is_none_is_one_line_and_leaves_nothing(evo: Evo, margin: str) -> None:
    code, out, err = evo("seed", "digits", f"--margin={margin}", "--seeds", "1", *TINY)
    told = f"evo: --margin: expected nats, a number ≥ 0, got {float(margin):g}; write for example --margin .1\n"
    assert (code, out, err) == (2, "", told)
    assert not Path("runs").exists()


def test_check_passes_a_sound_architecture(evo: Evo) -> None:
    words = ["check", "digits", "--hidden", "16", *TINY, "--set", "training.steps=400", "--margin", ".3"]
    code, out, err = evo(*words, "--set", "network.density=.5", "--json")
    told = json.loads(out)
    assert code == 0, (told, err)
    assert told["passed"] is True
    assert [each["name"] for each in told["checks"]] == [
        "data", "chance", "dense twin learns", "gradient, as configured", "gradient, dense twin",
        "preprocessing replays", "checkpoint predicts the same",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "failed", "cure"),
    [
        (["--set", "network.density=.002", "--set", "network.wiring=uniform", "--hidden", "40,40"],
         "gradient, as configured", "network.density"),
        (["--set", "training.learning_rate=1e-9", "--hidden", "16"], "dense twin learns", "learning_rate"),
    ],
)  # fmt: skip
def test_check_fails_with_a_cure(evo: Evo, words: list[str], failed: str, cure: str) -> None:
    code, out, _ = evo("check", "digits", *TINY, "--set", "training.steps=60", *words, "--json")
    told = json.loads(out)
    assert code == 1
    assert told["passed"] is False
    [line] = [each for each in told["checks"] if each["name"] == failed]
    assert not line["passed"]
    assert cure in line["cure"]


@pytest.mark.parametrize("task", ["parity:4", "spirals", "table"])
def test_check_replays_every_kind_of_data(evo: Evo, task: str) -> None:
    words = []
    if task == "table":
        lines = [f"{i % 7},{'ab'[i % 3 == 0]},{'xy'[i % 7 > 3]}" for i in range(300)]
        Path("t.csv").write_text("p,q,y\n" + "\n".join(lines) + "\n")
        words = ["--data", "t.csv", "--target", "y"]
    code, out, err = evo("check", task, *words, "--set", "training.steps=30", "--device", "cpu", "--json")
    told = {each["name"]: each for each in json.loads(out)["checks"]}
    assert code in (0, 1), err
    assert told["preprocessing replays"]["passed"]
    assert told["checkpoint predicts the same"]["passed"], told["checkpoint predicts the same"]["told"]


def test_sweep_ranks_by_information_per_parameter(evo: Evo, monkeypatch: pytest.MonkeyPatch) -> None:
    from evo.instruments import sweeps

    monkeypatch.setattr(
        sweeps, "GROWTH", {"8 candidates": {"tournament.candidates": 8}, "dense": {"network.density": 1}}
    )
    code, out, err = evo("sweep", "growth", "digits", "--seeds", "2", *TINY, "--json")
    told = json.loads(out)
    assert code == 0, err
    assert {row["setting"] for row in told["rows"]} == {"as it is", "8 candidates", "dense"}
    ratios = [row["per_parameter"] for row in told["rows"]]
    assert ratios == sorted(ratios, reverse=True)
    assert sorted(row["rank"] for row in told["rows"]) == [1, 2, 3]
    assert [row["gain"] is None for row in told["rows"] if row["setting"] == "as it is"] == [True]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ladder", "digitz"], "task: expected one of digits"),
        (
            ["ladder", "digits", "--densities", "1,2,3"],
            "--densities: expected at least 3 numbers above 0 and at most 1",
        ),
        (["ladder", "digits", "--densities", "x"], "--densities: expected"),
        (["ladder", "digits", "--hidden", "3,x"], "--hidden: expected whole numbers"),
        (["ladder", "digits", "--seeds", "0"], "--seeds: expected a whole number ≥ 1, got 0; write"),
        (["ladder", "digits", "--set", "network.family=convnet"], "network.family: a ladder is of fully connected"),
        (["ladder", "digits", "--name", "a/b"], "name: expected up to 100 letters"),
        (["rescue", "digits", "--mechanisms", "widening"], "--mechanisms: expected some of connect"),
        (["rescue", "digits", "--max-density", ".001"], "--max-density: expected at most 1, and room to grow"),
        (["rescue", "digits", "--set", "growth.proposers=[widenn]"], "growth.proposers: there is no proposer 'widenn'"),
        (["seed", "digits", "--margin", "9"], "--margin: expected from 0 to less than H(Y)"),
        (["sweep", "digits"], "'digits' is not one of 'growth', 'architecture', 'rates'"),
        (["check", "table"], "data.path"),
        (["ladder", "digits", "--workers", "999"], "workers: expected at most"),
    ],
)
def test_a_mistake_is_one_line(evo: Evo, words: list[str], told: str) -> None:
    code, out, err = evo(*words)
    assert code == 2, err
    assert out == ""
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("runs").exists() or not list(Path("runs").glob("*/jobs.jsonl"))


def test_a_name_that_is_taken_by_other_settings_is_refused(evo: Evo) -> None:
    words = ["ladder", "digits", "--densities", "1,.1,.01", "--hidden", "", "--seeds", "1", "--name", "mine", *TINY]
    assert evo(*words)[0] == 0
    code, _, err = evo(*words, "--set", "training.learning_rate=.02")
    assert code == 2
    assert "holds something else, or the same under other settings; write another --name" in err
    assert evo(*[word for word in words if word not in ("--name", "mine")])[0] == 0
    assert lives("runs/ladder-digits") == 3
    # What is asked for, but made by somebody who would have the jobs written elsewhere.
    Path("precious").write_text("")
    Path("runs/mine/jobs.jsonl").unlink()
    Path("runs/mine/jobs.jsonl").symlink_to(Path("precious").absolute())
    code, _, err = evo(*words)
    assert code == 2
    assert "holds something else" in err
    assert Path("precious").read_text() == ""


def test_ctrl_c_keeps_every_finished_job_and_the_same_command_goes_on(tmp_path: Path) -> None:
    code = "from evo.cli import main; main()"
    words = ["ladder", "digits", "--densities", "1,.5,.1", "--hidden", "", "--seeds", "4", *TINY]
    words += ["--set", "training.steps=1500"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-c", code, *words], cwd=tmp_path, env=env, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True)  # fmt: skip
    done = tmp_path / "runs" / "ladder-digits" / "jobs.jsonl"
    deadline = time.monotonic() + 200
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 130
    assert out == ""
    assert "stopped, and kept every finished job in" in err
    assert "the same command goes on" in err
    assert 1 <= len(done.read_text().splitlines()) < 12
    assert not list(done.parent.glob("picture.png"))


def test_the_defaults_of_the_instruments_are_settings_that_can_be() -> None:
    from evo.instruments import defaults, sweeps

    for usual in (*defaults.USUAL.values(), defaults.OTHERWISE):
        assert build({"network.hidden": list(usual.hidden), "network.density": usual.density}, usual.growing)
    for group in sweeps.GROUPS:
        for lenient in (False, True):
            sets = sweeps.settings(group, lenient)
            assert next(iter(sets)) == sweeps.FIRST
            configs = [build(change) for change in sets.values()]
            assert len({config.model_dump_json() for config in configs}) >= len(configs) - 1
            assert lenient == (configs[0] != Config())
