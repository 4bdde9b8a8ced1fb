from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from fake_run import life, record_test, search, write
from layouts import faults
from matplotlib.figure import Figure
from matplotlib.text import Text

from evo import drawing, lineage, plots
from evo.front import FrontError
from evo.plots import PICTURES
from evo.report import png
from evo.run import Run


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = search(tmp_path_factory.mktemp("runs") / "digits")
    record_test(folder, Run.open(folder).front.to_dict("records"))
    return Run.open(folder)


@pytest.mark.parametrize("kind", PICTURES)
def test_every_picture_of_a_search_is_drawn(run: Run, kind: str) -> None:
    assert png(run.plot(kind)).startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", PICTURES)
def test_everything_is_on_the_page_and_nothing_overprints_anything(run: Run, kind: str) -> None:
    assert faults(run.plot(kind)) == []


def test_births_in_quick_succession_are_named_one_above_the_other(tmp_path: Path) -> None:
    lives = [life(f"n{i:03d}", cycles=2 if i < 4 else 40, parent=f"n{i - 1:03d}/000001" if i else None)
             for i in range(5)]  # fmt: skip
    figure = plots.picture_growth(Run.open(write(tmp_path / "r", lives, "search")), "n004")
    figure.draw_without_rendering()
    boxes = {t.get_text(): t.get_window_extent() for t in figure.axes[0].texts if t.get_text().startswith("n00")}
    assert len(boxes) == 5
    assert not [1 for a, b in itertools.combinations(boxes.values(), 2) if a.overlaps(b)]


def test_a_picture_is_the_same_twice(run: Run) -> None:
    assert png(run.plot("front")) == png(run.plot("front"))


def test_the_front_is_labelled_with_its_best_test_data_ceiling_and_price(run: Run) -> None:
    told = words(run.plot("front"))
    assert f"{run.best.network}: {run.best.active_parameters:,} parameters" in told
    assert f"{run.best.test_accuracy:.1%} test accuracy" in told
    assert "H(Y) = 2.30 nats" in told
    assert "½ ln N / N nats a parameter, N = 988" in told


def test_the_price_line_is_half_ln_n_over_n_a_parameter(run: Run) -> None:
    axes = run.plot("front").axes[0]
    [line] = [drawn for drawn in axes.lines if drawn.get_linestyle() == ":"]
    x, y = line.get_data()
    assert y / x == pytest.approx(6.8956 / (2 * 988), rel=1e-4)


def test_before_the_test_set_was_read_there_are_no_test_points(tmp_path: Path) -> None:
    told = words(Run.open(write(tmp_path / "r", [life("n000", cycles=4)])).plot("front"))
    assert "test" not in told
    assert "validation accuracy" in told


def test_growth_starts_with_the_first_ancestor_and_counts_its_actions(run: Run) -> None:
    child = run.networks[run.networks["parent"].notna()].iloc[0]
    told = words(plots.picture_growth(run, child["network"]))
    seed = run.networks.set_index("network").loc[str(child["parent"]).partition("/")[0]]
    assert f"{seed['born_parameters']} parameters at birth" in told
    assert "ancestors' included" in told
    assert "×" in told


def test_decisions_shows_as_many_as_were_adopted(run: Run) -> None:
    life_of = run.networks["network"].iloc[0]
    adopted = run.decisions[(run.decisions["network"] == life_of) & (run.decisions["action"] != "NoChange")]
    assert f"{len(adopted)} changes adopted" in words(plots.picture_decisions(run, life_of))


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize(
    "rows", [[], life("n000")[:1], life("n000", cycles=3, ends=False)[:-1], life("n000", cycles=1)]
)
def test_a_run_that_has_hardly_begun_is_drawn_too(tmp_path: Path, kind: str, rows: list[dict]) -> None:
    assert png(Run.open(write(tmp_path / "r", [rows])).plot(kind)).startswith(b"\x89PNG")


def test_what_did_nothing_says_so(tmp_path: Path) -> None:
    quiet = [r for r in life("n000", cycles=3) if r["kind"] not in ("candidate", "decision")]
    run = Run.open(write(tmp_path / "r", [quiet]))
    assert "no tournament was held" in words(run.plot("decisions"))
    assert "no tournament was held" in words(run.plot("predictions"))
    assert "so there is no tree" in words(run.plot("lineage"))
    assert "no snapshot was saved yet" in words(Run.open(write(tmp_path / "s", [quiet[:1]])).plot("front"))


def test_when_nochange_always_won_that_is_said(tmp_path: Path) -> None:
    rows = life("n000", cycles=3)
    for r in rows:
        if r["kind"] == "decision":
            r["action"] = "NoChange"
    assert "NoChange won every tournament" in words(Run.open(write(tmp_path / "r", [rows])).plot("decisions"))


def test_a_regression_is_labelled_in_r2(tmp_path: Path) -> None:
    assert "validation R²" in words(Run.open(search(tmp_path / "r", regression=True)).plot("front"))


@pytest.mark.parametrize("kind", PICTURES)
def test_hostile_names_are_drawn_as_text(tmp_path: Path, kind: str) -> None:
    rows = life("n000", cycles=2, parent="$\\frac{/000001")
    for r in rows:
        if r["kind"] == "decision":
            r["action"] = "Wid$en\n\x1b[31m"
    folder = write(tmp_path / "r", [rows], name="$\\alpha\n\u202e" * 40)
    assert png(Run.open(folder).plot(kind)).startswith(b"\x89PNG")


def test_a_network_that_is_named_like_a_path_is_refused(tmp_path: Path) -> None:
    run = Run.open(write(tmp_path / "r", [life("n$x", cycles=2)]))
    with pytest.raises(FrontError, match="no plain name"):
        run.plot("growth")


def test_parents_in_a_circle_still_get_places(tmp_path: Path) -> None:
    run = Run.open(write(tmp_path / "r", [life("n000", parent="n001/000000", cycles=1),
                                          life("n001", parent="n000/000000", cycles=1)], "search"))  # fmt: skip
    places = lineage._tree(run.networks.set_index("network"))
    assert set(places) == {"n000", "n001"}
    assert png(run.plot("lineage")).startswith(b"\x89PNG")


def test_branches_do_not_share_a_row(run: Run) -> None:
    places = lineage._tree(run.networks.set_index("network"))
    assert len(set(places.values())) == len(run.networks)


def test_safe_text_has_no_formulas_and_no_line_breaks() -> None:
    assert drawing.safe("a$b$\n") == "a\\$b\\$\N{REPLACEMENT CHARACTER}"
    assert len(drawing.safe("x" * 500)) == 60
