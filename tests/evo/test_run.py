from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from fake_run import life, record_test, search, write
from matplotlib.figure import Figure

from evo.run import Run, RunError
from search_spaces import checkpoint
from search_spaces.families.mlp import Mlp
from search_spaces.network import Network


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(search(tmp_path / "digits"))


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no folder .*evo runs") as error:
        Run.open(tmp_path / "nowhere")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", [None, "", "[1]", "{", '{"kind": "other"}', '"grow"', "[" * 100_000])
def test_a_foreign_folder_is_one_clear_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json.*evo runs") as error:
        Run.open(tmp_path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_shows_its_folder_in_a_notebook(run: Run) -> None:
    assert repr(run) == f"Run({str(run.folder)!r})"


def test_best_has_the_highest_validation_information(run: Run) -> None:
    saved = run.events[run.events["kind"] == "snapshot"]
    assert run.best.validation_information_nats == saved["validation_information_nats"].max()
    assert run.best.folder == run.folder / "snapshots" / run.best.network / run.best.snapshot
    assert run.best.test_accuracy is None


def test_choose_keeps_to_the_limit(run: Run) -> None:
    entry = run.choose(max_parameters=150)
    saved = run.events[(run.events["kind"] == "snapshot") & (run.events["active_parameters"] <= 150)]
    assert entry.active_parameters <= 150
    assert entry.validation_information_nats == saved["validation_information_nats"].max()
    least = int(run.front["active_parameters"].min())
    with pytest.raises(RunError, match=f"at most {least - 1} active parameters.*write {least} or more"):
        run.choose(max_parameters=least - 1)


def test_best_module_is_plain_pytorch_that_computes_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", [life("n000", cycles=1)])
    network = Mlp.from_blueprint(
        {
            "family": "mlp",
            "activation": "tanh",
            "layers": [["input", 3], ["hidden1", 4], ["output", 2]],
            "links": [["input", "hidden1"], ["hidden1", "output"]],
        }
    )
    masks = dict(network.named_buffers())
    with torch.no_grad():
        for name in network.masks().values():
            masks[name].fill_(True)
        for i, p in enumerate(network.parameters()):
            p.copy_(torch.linspace(-1, 1 + i, p.numel()).reshape(p.shape))
    checkpoint.save(folder / "snapshots" / "n000" / "000000", network, None, {}, [])
    module = Run.open(folder).best.module
    assert not isinstance(module, Network)
    assert not module.training
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(x), network.eval()(x))


def test_decisions_and_networks_are_tables(run: Run) -> None:
    assert len(run.decisions) == (run.events["kind"] == "decision").sum()
    assert {"reason", "action", "delta_parameters", "measured_nats"} <= set(run.decisions.columns)
    assert (run.networks["born_parameters"] < 100).any()
    assert run.networks["parent"].notna().sum() == 4


def test_counted_parameters_are_the_sum_of_the_decisions(run: Run) -> None:
    grown = run.decisions.groupby("network")["delta_parameters"].sum()
    for _, row in run.networks.iterrows():
        assert row["born_parameters"] + grown[row["network"]] == row["active_parameters"]


def test_finished_means_that_every_life_ended_and_all_were_born(tmp_path: Path) -> None:
    assert Run.open(search(tmp_path / "a")).finished
    killed = write(tmp_path / "b", [life("n000"), life("n001", ends=False)], "search")
    assert not Run.open(killed).finished
    few = write(tmp_path / "c", [life("n000")], "search", config={"search": {"networks": 2}})
    assert not Run.open(few).finished


def test_summary_is_plain_json_with_the_fronts_figures(run: Run) -> None:
    record_test(run.folder, run.front.to_dict("records"))
    told = json.loads(json.dumps(Run.open(run.folder).summary(), allow_nan=False))
    assert list(told) == ["run", "front", "decisions", "seconds"]
    assert told["run"] == str(run.folder)
    wanted = {"information_nats", "validation_information_nats", "accuracy", "active_parameters", "peak_parameters"}
    assert all(wanted | {"test_information_nats", "test_accuracy"} <= set(entry) for entry in told["front"])
    assert isinstance(told["front"][0]["active_parameters"], int)
    assert isinstance(told["decisions"][0]["cycle"], int)
    assert told["seconds"] > 0


def test_a_regression_is_told_in_r2(tmp_path: Path) -> None:
    run = Run.open(search(tmp_path / "r", regression=True))
    assert run.best.r2 is not None
    assert run.best.accuracy is None
    assert "r2" in run.summary()["front"][0]
    assert "accuracy" not in run.summary()["front"][0]


@pytest.mark.parametrize("rows", [[], life("n000", ends=False)[:1], life("n000", cycles=0)])
def test_a_run_that_has_hardly_begun_can_be_looked_at(tmp_path: Path, rows: list[dict]) -> None:
    run = Run.open(write(tmp_path / "r", [rows]))
    assert len(run.front) == 0
    assert len(run.decisions) == 0
    assert run.summary()["front"] == []
    assert isinstance(run.plot(), Figure)
    with pytest.raises(RunError, match="no snapshot was saved yet"):
        run.best  # noqa: B018


def test_test_figures_are_taken_from_the_record_and_never_computed_again(run: Run) -> None:
    record_test(run.folder, run.front.to_dict("records"))
    opened = Run.open(run.folder)
    # No snapshot lies in this folder and no data are at hand: only the record can have told this.
    told = opened.evaluate_test()
    assert told["test_accuracy"].notna().all()
    pd.testing.assert_frame_equal(told, opened.front)
    assert opened.best.test_accuracy == pytest.approx(opened.best.accuracy - 0.01)


def test_data_in_memory_cannot_be_loaded_again(tmp_path: Path) -> None:
    run = Run.open(write(tmp_path / "r", [life("n000", cycles=2)], task="arrays"))
    with pytest.raises(RunError, match="arrays in memory"):
        run.evaluate_test()


def test_other_data_than_the_run_learned_from_are_refused(tmp_path: Path) -> None:
    run = Run.open(write(tmp_path / "r", [life("n000", cycles=2)], data_sha256="0" * 64))
    with pytest.raises(RunError, match="other data"):
        run.evaluate_test()


def test_an_unknown_picture_names_those_there_are(run: Run) -> None:
    with pytest.raises(RunError, match="front, growth, decisions, predictions, lineage"):
        run.plot("pie")
