from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fake_run import life, record_test, search, write
from rich.console import Console
from small_life import live, made

from evo import run_folder, show
from evo.run import Run


def printed(run: Run, network: str | None = None) -> str:
    stream = io.StringIO()
    show.print_run(run, network, Console(file=stream, width=200))
    return stream.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.open(search(tmp_path_factory.mktemp("runs") / "digits", networks=4))


def test_a_run_shows_front_growth_lineage_decisions_and_trust(run: Run) -> None:
    text = printed(run)
    best = run.best
    assert f"{best.network}/{best.snapshot}  best" in text
    for head in ("Front of", "Growth, from birth to now", "Lineage", f"Decisions of {best.network}", "Trust"):
        assert head in text
    first = run.networks.iloc[0]
    assert (
        f"{first['network']}  {first['born_parameters']} → {first['active_parameters']} parameters, from a seed" in text
    )
    assert "books: they balance" in text
    assert "the test set was not read" in text


def test_the_version_that_made_a_run_is_shown_or_that_it_was_not_installed(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", [life("n000", cycles=1)])
    assert "meristem 0.1.0, " in printed(Run.open(folder))
    info = json.loads((folder / "run.json").read_text())
    del info["versions"]["meristem"]
    (folder / "run.json").write_text(json.dumps(info))
    assert "meristem (not installed), " in printed(Run.open(folder))


def test_decisions_come_with_their_reasons(run: Run) -> None:
    child = run.networks[run.networks["parent"].notna()].iloc[0]
    text = printed(run, child["network"])
    for reason in run.decisions.loc[run.decisions["network"] == child["network"], "reason"]:
        assert reason in text
    everybody = printed(run, "all")
    assert all(reason in everybody for reason in run.decisions["reason"])


def test_an_unknown_network_names_those_there_are(run: Run) -> None:
    with pytest.raises(ValueError, match="--network: expected one of n000, n001, n002, n003 or all, got 'n9'"):
        printed(run, "n9")


def test_test_figures_stand_beside_those_of_validation(tmp_path: Path) -> None:
    folder = search(tmp_path / "r", networks=4)
    record_test(folder, Run.open(folder).front.to_dict("records"))
    text = printed(Run.open(folder))
    assert "test accuracy" in text
    assert f"{Run.open(folder).best.test_accuracy:.1%}" in text


@pytest.mark.parametrize("rows", [[], life("n000")[:1], life("n000", cycles=2, ends=False), life("n000", cycles=1)])
def test_a_run_that_has_hardly_begun_is_shown_too(tmp_path: Path, rows: list[dict]) -> None:
    text = printed(Run.open(write(tmp_path / "r", [rows])))
    assert text.startswith("r: grow digits, seed 7")
    assert "evo resume r" in text or "finished" in text


def test_a_run_without_a_tournament_says_so(tmp_path: Path) -> None:
    quiet = [r for r in life("n000", cycles=2) if r["kind"] not in ("candidate", "decision")]
    text = printed(Run.open(write(tmp_path / "r", [quiet])))
    assert "no tournament was held" in text
    assert "none was taken" in text


def test_a_regression_shows_r2(tmp_path: Path) -> None:
    text = printed(Run.open(write(tmp_path / "r", [life("n000", cycles=3, regression=True)])))
    assert "R²" in text
    assert "accuracy" not in text


def test_markup_and_control_characters_in_a_record_are_shown_as_text(tmp_path: Path) -> None:
    rows = life("n000", cycles=2)
    for r in rows:
        r["reason"] = "[bold red]boo[/bold red]\x1b[2J\n[/]"
    text = printed(Run.open(write(tmp_path / "r", [rows], name="[link=x]\x07")))
    assert "[bold red]boo[/bold red]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


def test_runs_are_listed_with_damaged_ones_among_them(tmp_path: Path) -> None:
    search(tmp_path / "good", networks=4)
    broken = write(tmp_path / "broken", [life("n000", cycles=1)])
    next((broken / "events").iterdir()).write_bytes(b"PAR1")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text("[]")
    rows = show.all_runs(tmp_path)
    assert [row["run"] for row in rows] == ["broken", "foreign", "good"]
    assert rows[0]["state"].startswith("unreadable")
    assert rows[1]["state"].startswith("unreadable")
    assert rows[2]["state"] == "finished"
    assert rows[2]["networks"] == 4
    stream = io.StringIO()
    show.print_runs(rows, tmp_path, Console(file=stream, width=300))
    assert "good" in stream.getvalue()
    assert f"{rows[2]['validation_information_nats']:.3f}" in stream.getvalue()


def test_uniform_update_scales_are_one_line(run: Run) -> None:
    assert "Update scales: uniform, 1 for every element" in printed(run)


def test_the_update_scale_of_every_layer_is_shown(tmp_path: Path) -> None:
    config, task = made(**{"training.rates": "scaffold * freeze"})
    folder, named = run_folder.create("grow", config.model_copy(update={"out": str(tmp_path), "name": "r"}))
    live(named, task, folder)
    run = Run.open(folder)
    text = printed(run).partition("Update scales")[2]
    last = run.events[(run.events["kind"] == "snapshot") & (run.events["network"] == "n000")]["snapshot"].iloc[-1]
    assert f"of n000/{last}, scaffold * freeze" in text
    rows = {line.split()[1]: line.split() for line in text.splitlines() if line.startswith(("hidden", "output"))}
    assert set(rows) == dict(run.best.checkpoint.network.named_parameters()).keys()
    assert rows["biases.hidden1"][2:] == ["0", "0", "0", "100%"], "frozen at the end of a life"
    assert rows["biases.output"][2:] in (["0.01"] * 3 + ["0%"], ["0.1"] * 3 + ["0%"])


def test_scales_that_cannot_be_known_are_said_so(tmp_path: Path) -> None:
    rows = [life("n000", cycles=2)]
    for rates, said in (("age", "n000"), ("ages", "write age")):
        folder = write(tmp_path / rates, rows, config={"training": {"rates": rates}})
        assert f"Update scales, {rates}: not known, as" in printed(Run.open(folder))
        assert said in printed(Run.open(folder)).partition("Update scales")[2]


def test_no_runs_is_said_with_what_to_do(tmp_path: Path) -> None:
    stream = io.StringIO()
    show.print_runs(show.all_runs(tmp_path), tmp_path, Console(file=stream, width=200))
    assert "begin one with `evo grow digits`" in stream.getvalue()
