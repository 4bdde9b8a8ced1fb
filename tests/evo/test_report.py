from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_run import life, record_test, search, write

from evo import report
from evo.events import row
from evo.front import FrontError
from evo.run import Run


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = search(tmp_path_factory.mktemp("runs") / "digits", networks=4)
    record_test(folder, Run.open(folder).front.to_dict("records"))
    return Run.open(folder)


def test_the_page_stands_alone(run: Run) -> None:
    path = report.write(run)
    text = path.read_text()
    page = Page(text)
    assert page.open == []
    sources = [attrs["src"] or "" for tag, attrs in page.tags if "src" in attrs]
    assert len(sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|@import|url\(", text)
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert {link[1:] for link in links} <= {attrs.get("id") for _, attrs in page.tags}
    assert all(link.startswith("#") for link in links)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "decisions.png", "front.json", "front.png", "growth.png", "lineage.png", "predictions.png", "report.html",
    ]  # fmt: skip


def test_the_page_tells_front_decisions_books_calibration_and_what_ran(run: Run) -> None:
    told = Page(report.page(run, {})).text
    assert "the test set was read once, at 2026-07-01 12:10 UTC" in told
    assert f"{run.best.test_accuracy:.2%}" in told
    for reason in run.decisions["reason"].head(5):
        assert reason in told
    assert "The books balance to 1e-06 nats." in told
    assert "winners' audits inside their 95% intervals" in told
    assert "placebos whose bound exceeded zero" in told
    assert "rank correlation" in told
    assert "torch's version 2.13.0" in told
    assert "a seed" in told
    assert '"confidence": 0.9' in told
    assert "Nothing failed." in told


def test_books_that_do_not_balance_are_named(tmp_path: Path) -> None:
    rows = life("n000", cycles=3)
    next(r for r in rows if r["kind"] == "segment")["gain_training_nats"] = 9.0
    assert "do NOT balance for n000" in Page(report.page(Run.open(write(tmp_path / "r", [rows])), {})).text


def test_an_unfinished_run_is_reported_without_touching_the_test_set(tmp_path: Path) -> None:
    run = Run.open(write(tmp_path / "r", [life("n000", cycles=3, ends=False)]))
    told = Page(report.write(run).read_text()).text
    assert not (run.folder / "report" / "front.json").exists()
    assert "n000 has not ended" in told
    assert "the test set was not read: the run is not finished" in told


def test_a_finished_run_whose_snapshots_are_gone_says_why_there_are_no_test_figures(tmp_path: Path) -> None:
    run = Run.open(write(tmp_path / "r", [life("n000", cycles=3)], task="arrays"))
    told = Page(report.write(run).read_text()).text
    assert "the test set could not be read: run r learned from arrays in memory" in told
    assert not (run.folder / "report" / "front.json").exists()


def test_a_damaged_record_of_the_test_stops_the_report(tmp_path: Path) -> None:
    folder = write(tmp_path / "r", [life("n000", cycles=2)])
    (folder / "report").mkdir()
    (folder / "report" / "front.json").write_text("{")
    with pytest.raises(FrontError, match=r"front\.json"):
        report.write(Run.open(folder))
    assert [p.name for p in (folder / "report").iterdir()] == ["front.json"]


@pytest.mark.parametrize("rows", [[], life("n000")[:1], life("n000", cycles=1)[:-2]])
def test_a_run_that_has_hardly_begun_has_a_report(tmp_path: Path, rows: list[dict]) -> None:
    told = Page(report.write(Run.open(write(tmp_path / "r", [rows]))).read_text()).text
    assert "no placebo ran" in told or "placebo" in told
    assert "the run is not finished" in told


def test_what_did_nothing_says_so(tmp_path: Path) -> None:
    quiet = [r for r in life("n000", cycles=2) if r["kind"] not in ("candidate", "decision")]
    config = {"tournament": {"placebo_every": 0}, "record": {"mlflow": False}}
    lines = report.idle(Run.open(write(tmp_path / "r", [quiet], "search", config=config)))
    assert lines == [
        "no tournament was held",
        "no placebo ran: tournament.placebo_every is 0",
        "no network started from another's snapshot",
        "the test set was not read",
        "MLflow was off",
    ]


def test_nochange_everywhere_is_said_to_have_grown_nothing(tmp_path: Path) -> None:
    rows = life("n000", cycles=3)
    for r in rows:
        if r["kind"] == "decision":
            r["action"] = "NoChange"
    assert "NoChange won every one of 3 decisions: nothing was grown" in report.idle(
        Run.open(write(tmp_path / "r", [rows]))
    )


def test_what_failed_is_listed(tmp_path: Path) -> None:
    rows = life("n000", cycles=3, ends=False)
    next(r for r in rows if r["kind"] == "candidate" and r["action"] != "NoChange")["diverged"] = True
    rows.append(row("failed", network="n000", seq=len(rows), reason="out of memory"))
    lines = report.failures(Run.open(write(tmp_path / "r", [rows])))
    assert lines[0] == "n000 failed: out of memory"
    assert lines[1].startswith("1 candidate diverged and lost the trial: ")


def test_whatever_a_file_says_is_text_on_the_page(tmp_path: Path) -> None:
    attack = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    rows = life("n000", cycles=2)
    for r in rows:
        r["reason"] = r["site"] = attack
        if r["action"]:
            r["action"] = attack
    folder = write(tmp_path / "r", [rows], name=attack, task=attack, versions={attack: attack}, config={attack: attack})
    page = Page(report.write(Run.open(folder)).read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert [attrs for tag, attrs in page.tags if tag == "img" and not (attrs["src"] or "").startswith("data:")] == []
    assert attack in page.text


def test_a_regression_is_told_in_r2(tmp_path: Path) -> None:
    told = Page(report.page(Run.open(search(tmp_path / "r", networks=4, regression=True)), {})).text
    assert "validation R²" in told
    assert "accuracy" not in told
