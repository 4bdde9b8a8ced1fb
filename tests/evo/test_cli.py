"""The command: quick help, one line for each mistake, JSON that is alone, Ctrl-C that keeps everything."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_grower
import fake_run
import numpy as np
import pandas as pd
import pytest
import yaml
from commands import Evo
from fake_grower import CYCLES, FakeGrower

from evo import predictions, run_folder
from evo.config import Config
from evo.settings import build

ROOT = Path(__file__).parents[2]
QUIET = ["--set", "record.mlflow=false"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeGrower]:
    return fake_grower.install(monkeypatch, tmp_path)


def test_help_is_quick_and_lists_every_command() -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", "from evo.cli import main; main()", "--help"],
            capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        times.append(time.perf_counter() - began)
    for name in ("grow", "search", "resume", "runs", "show", "report", "export", "predict", "ui", "config"):
        assert re.search(rf"\b{name}\b", done.stdout), name
    # Half a second, where nothing else is using the machine; what must never come is the import of torch (2 s).
    assert min(times) < 1.0
    probe = "import sys, evo.cli; print([m for m in ('torch', 'pandas', 'ray', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_config_prints_defaults_that_load_back(evo: Evo) -> None:
    code, out, err = evo("config")
    assert (code, err) == (0, "")
    assert build(yaml.safe_load(out)) == Config()


def test_grow_prints_the_front_and_a_line_a_decision(fake: type[FakeGrower], evo: Evo) -> None:
    code, out, err = evo("grow", "parity:4", "--seed", "3", "--name", "a", *QUIET)
    assert code == 0
    assert len([line for line in err.splitlines() if line.startswith("n000 g0")]) == CYCLES
    assert re.search(r"n000/\d{6}  best", out)
    assert "evo show a" in out
    assert json.loads(Path("runs/a/run.json").read_text())["seed"] == 3


def test_json_is_one_object_and_nothing_else(fake: type[FakeGrower], evo: Evo, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(cycle: int) -> None:
        print("a library prints")
        os.write(1, b"and so does C\n")

    fake.before = staticmethod(noisy)
    code, out, err = evo("grow", "parity:4", "--name", "a", "--json", *QUIET)
    assert code == 0
    found = json.loads(out)
    assert found["run"] == "runs/a"
    assert len(found["decisions"]) == CYCLES
    wanted = {"validation_information_nats", "information_nats", "active_parameters", "peak_parameters", "accuracy"}
    assert all(wanted | {"test_accuracy"} <= set(entry) for entry in found["front"])
    assert out.count("\n") == 1
    assert err.count("and so does C") == err.count("a library prints") == CYCLES


def test_options_win_over_set_over_file_over_defaults(fake: type[FakeGrower], evo: Evo) -> None:
    Path("c.yaml").write_text("task: parity:3\nseed: 1\nworkers: 1\ntraining: {epochs: 10, warmup: 5}\n")
    words = ["--config", "c.yaml", "--set", "seed=2", "--set", "workers=2", "--set", "training.epochs=20", *QUIET]
    assert evo("grow", *words, "--seed", "3", "--epochs", "30", "--out", "o", "--name", "a")[0] == 0
    config = json.loads(Path("o/a/run.json").read_text())["config"]
    assert [config[name] for name in ("task", "seed", "workers")] == ["parity:3", 3, 2]
    assert (config["training"]["epochs"], config["training"]["warmup"]) == (30.0, 5)


@pytest.mark.parametrize(
    ("budget", "seconds", "epochs"),
    [("90", 90, None), ("90s", 90, None), ("1.5m", 90, None), ("1h", 3600, None), ("40epochs", None, 40)],
)
def test_budget_is_time_or_epochs(
    fake: type[FakeGrower], evo: Evo, budget: str, seconds: float | None, epochs: float | None
) -> None:
    assert evo("grow", "parity:4", "--budget", budget, "--name", "a", *QUIET)[0] == 0
    config = json.loads(Path("runs/a/run.json").read_text())["config"]
    assert (config["budget"], config["training"]["epochs"]) == (seconds, epochs)


def test_a_table_needs_no_task(fake: type[FakeGrower], evo: Evo) -> None:
    Path("t.csv").write_text("p,q,y\n" + "".join(f"{i % 7},{i % 3},{'ab'[i % 2]}\n" for i in range(200)))
    assert evo("grow", "--data", "t.csv", "--target", "y", "--name", "a", *QUIET)[0] == 0
    assert json.loads(Path("runs/a/run.json").read_text())["task"] == "table"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["grow", "digitz"], "task: expected one of digits, .*did you mean digits"),
        (["grow", "--set", "trainin.epochs=3"], r"trainin\.epochs: there is no such setting; write training\.epochs"),
        (["grow", "--set", "seed=x"], "seed: expected a whole number ≥ 0, got 'x'; write"),
        (["grow", "--set", "seed"], "--set: expected key=value, got 'seed'; write"),
        (["grow", "--config", "none.yaml"], "--config: no file 'none.yaml'; write one"),
        (["grow", "--device", "cuda:99"], "device: expected .*; write device: "),
        (["grow", "--budget", "soon"], "--budget: expected a time .*got 'soon'; write"),
        (["grow", "--budget", "4epochs", "--epochs", "3"], "--epochs: given twice"),
        (["grow", "--name", "a/b"], "name: expected up to 100 letters.*got 'a/b'; write"),
        (["grow", "table"], r"data\.path: .*expects.*got none; pass --data"),
        (["grow", "--data", "none.csv", "--target", "y"], r"data\.path \(--data\): .*none\.csv does not exist; "),
        (["grow", "--data", "t.csv", "--target", "z"], r"data\.target \(--target\): .*'z'"),
        (["grow", "--data", "t.csv", "--target", "one"], r"data\.target: column 'one'"),
        (["grow", "--data", "cut.parquet", "--target", "y"], r"data\.path \(--data\): .*cut\.parquet cannot be read"),
        (["grow", "mnist", "--data", "."], r"data\.path.*IDX"),
        (["grow", "--set", "network.family=mpl"], r"network\.family: expected one of .*'mpl'; write"),
        (["grow", "--seed", "x"], "Invalid value for '--seed'.*; see `evo grow --help`"),
        (["grow", "--sed", "3"], "No such option.*--sed.*; see `evo grow --help`"),
        (["search", "--set", "search.hidden=[5, 2]"], r"search\.hidden: expected \[lowest, highest\].*; write"),
        (["frobnicate"], "No such command 'frobnicate'; see `evo --help`"),
        (["resume", "none"], "run: there is no run 'none'.*; `evo runs` lists them"),
        (["resume", "none", "--budget", "9epochs"], "--budget: expected a time, got '9epochs'; write sec"),
        (["show", "none"], "run: there is no run 'none'"),
        (["grow", "digits", "--from", "none:n000/000001"], "run: there is no run 'none'.*; `evo runs` lists them"),
        (["resume", "none", "--networks", "3"], "run: there is no run 'none'"),
        (["ui"], "runs: expected a folder with runs"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_and_leaves_nothing(evo: Evo, words: list[str], told: str) -> None:
    Path("t.csv").write_text("p,one,y\n" + "".join(f"{i % 7},1,{'ab'[i % 2]}\n" for i in range(200)))
    Path("cut.parquet").write_bytes(b"PAR1 and then nothing")
    before = sorted(os.listdir())
    code, out, err = evo(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.match(f"evo: .*{told}", err), err
    assert sorted(os.listdir()) == before


def test_what_a_message_quotes_is_no_command_to_the_terminal(evo: Evo) -> None:
    code, _, err = evo("show", "a\x1b[2Jb\x07")
    assert code == 2
    assert err.startswith("evo: run: there is no run ")
    assert err.removesuffix("\n").isprintable()


def test_a_fault_of_ours_is_not_blamed_on_the_user(fake: type[FakeGrower], evo: Evo) -> None:
    fake.before = staticmethod(lambda cycle: np.random.default_rng(0).integers(0, 0) if cycle == 2 else None)
    code, _, err = evo("grow", "parity:4", "--name", "a", *QUIET)
    assert code == 1
    assert err.splitlines()[-1].startswith("evo: a fault of evo's own, ValueError: ")
    assert err.splitlines()[-1].endswith("MERISTEM_TRACEBACK=1 shows where; go on with `evo resume a`")


def test_traceback_on_request(evo: Evo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERISTEM_TRACEBACK", "1")
    code, _, err = evo("grow", "--set", "seed=x")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("evo: seed: expected")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /proc, a file system that takes nothing")
def test_a_disk_that_takes_nothing(evo: Evo) -> None:
    code, _, err = evo("grow", "parity:4", "--out", "/proc/runs", *QUIET)
    assert code == 2
    assert re.fullmatch(r"evo: /proc/runs: .*; check the path\n", err)


def test_a_disk_that_fills_up_keeps_the_run(fake: type[FakeGrower], evo: Evo) -> None:
    def full(cycle: int) -> None:
        if cycle == 2:
            raise OSError(28, "No space left on device")

    fake.before = staticmethod(full)
    code, _, err = evo("grow", "parity:4", "--name", "a", *QUIET)
    assert code == 75
    assert err.splitlines()[-1] == (
        "evo: disk: no space left on device; free some space or write another --out; go on with `evo resume a`"
    )
    fake.before = staticmethod(lambda cycle: None)
    assert evo("resume", "a")[0] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_says_how_to_go_on(fake: type[FakeGrower], evo: Evo, number: int, code: int) -> None:
    fake.before = staticmethod(fake_grower.interrupt(2, number))
    stopped, out, err = evo("grow", "parity:4", "--name", "a", *QUIET)
    assert (stopped, out) == (code, "")
    assert err.splitlines()[-1] == "evo: stopped, and kept everything in runs/a; go on with `evo resume a`"
    fake.before = staticmethod(lambda cycle: None)
    code, out, _ = evo("resume", "a", "--json")
    assert code == 0
    assert len(json.loads(out)["decisions"]) == CYCLES


def test_a_true_run_stopped_by_ctrl_c_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from evo.cli import main; main()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    life = ["grow", "spirals", "--set", "training.steps=500", "--set", "data.limit=500", "--json", *QUIET]

    def start(*words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([*command, *words], stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment)

    broken, whole = start(*life, "--name", "broken"), start(*life, "--name", "whole")
    assert broken.stderr is not None
    for line in broken.stderr:
        if line.startswith("n000 g0"):
            broken.send_signal(signal.SIGINT)
            break
    out, err = broken.communicate(timeout=120)
    assert (broken.returncode, out) == (130, "")
    assert err.splitlines()[-1].endswith("go on with `evo resume broken`")
    resumed = start("resume", "broken", "--json")
    found = [json.loads(process.communicate(timeout=120)[0]) for process in (resumed, whole)]
    assert found[0]["front"] == found[1]["front"]
    assert found[0]["decisions"] == found[1]["decisions"]
    assert len(found[0]["decisions"]) > 2


def test_a_second_ctrl_c_does_not_wait(fake: type[FakeGrower], evo: Evo) -> None:
    def twice(cycle: int) -> None:
        if cycle == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    fake.before = staticmethod(twice)
    code, _, err = evo("grow", "parity:4", "--out", "elsewhere", "--name", "a", *QUIET)
    assert code == 130
    assert err.splitlines()[-1] == "evo: stopped at once; go on with `evo resume elsewhere/a`"


def test_runs_and_show(evo: Evo) -> None:
    fake_run.search(Path("runs/s"))
    fake_run.write(Path("runs/g"), [fake_run.life("n000", ends=False)])
    Path("runs/broken").mkdir()
    Path("runs/broken/run.json").write_text("{")
    code, out, _ = evo("runs")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == ["run", "broken", "g", "s"]
    code, out, _ = evo("runs", "--json")
    assert [row["run"] for row in json.loads(out)["runs"]] == ["broken", "g", "s"]
    code, out, _ = evo("show", "s")
    assert code == 0
    for word in ("Front", "Growth", "Lineage", "Decisions", "bought"):
        assert word in out
    code, out, _ = evo("show", "runs/g", "--json")
    assert len(json.loads(out)["decisions"]) == 20
    assert evo("show", "s", "--network", "n9")[0] == 2
    assert evo("runs", "--out", "none")[1].startswith("no runs in none")


def test_predict_prints_or_writes(evo: Evo, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_run.search(Path("runs/s"))
    table = pd.DataFrame({"prediction": ["a", "b"], "probability of a": [0.75, 0.25]})
    asked: list[tuple[Path, Path, int | None]] = []

    def predict(source: Path, file: Path, most: int | None) -> pd.DataFrame:
        asked.append((source, file, most))
        return table

    monkeypatch.setattr(predictions, "predict", predict)
    assert evo("predict", "s", "--data", "x.csv")[1] == table.to_csv(index=False)
    assert json.loads(evo("predict", "s", "--data", "x.csv", "--json")[1])["predictions"] == table.to_dict("records")
    for name, read in (("o.csv", pd.read_csv), ("o.parquet", pd.read_parquet)):
        code, out, _ = evo("predict", "s", "--data", "x.csv", "--output", name, "--max-parameters", "99")
        assert (code, out) == (0, "")
        assert read(name).equals(table)
    code, _, err = evo("predict", "s", "--data", "x.csv", "--output", "o.xls")
    assert (code, err.startswith("evo: --output: expected a .csv or .parquet file")) == (2, True)
    assert asked[-1] == (Path("runs/s"), Path("x.csv"), 99)
    assert sorted(os.listdir()) == ["o.csv", "o.parquet", "runs"]


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    fake_run.search(tmp_path / "runs" / "s")
    command = f"{sys.executable} -c 'from evo.cli import main; main()' show s --network all | head -1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.startswith("s: search digits")
    assert done.stderr == ""


def test_a_run_that_is_at_work_elsewhere_may_be_resumed_later(fake: type[FakeGrower], evo: Evo) -> None:
    assert evo("grow", "parity:4", "--name", "a", *QUIET)[0] == 0
    with run_folder.locked(Path("runs/a")):
        code, _, err = evo("resume", "a")
    assert code == 75
    assert err.splitlines()[-1].startswith("evo: run: expected a to be at rest")


def test_a_busy_name_is_refused_before_any_work(fake: type[FakeGrower], evo: Evo) -> None:
    run_folder.create("grow", build({"name": "a"}))
    code, _, err = evo("grow", "parity:4", "--name", "a", *QUIET)
    assert code == 2
    assert "write another --name, or go on with `evo resume a`" in err
    assert fake.last is None
