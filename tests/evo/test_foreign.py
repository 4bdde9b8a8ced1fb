"""What is looked at before a folder of somebody else's is believed: its entries, and the servers that it names."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

import pytest
from hostile_contents import ELSEWHERE
from urllib3.util import parse_url

from evo import foreign


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_a_server_elsewhere_is_not_trusted(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert not foreign.trusted_uri(uri, tmp_path / "run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    assert not foreign.trusted_uri(uri, tmp_path / "run")


@pytest.mark.parametrize(
    "uri",
    ["http://localhost", "http://localhost:5000", "https://localhost/", "http://127.0.0.1:5000/mlflow/a_b-c.d",
     "https://[::1]:443/x"],
)  # fmt: skip
def test_a_server_here_is_trusted(uri: str, tmp_path: Path) -> None:
    assert foreign.trusted_uri(uri, tmp_path / "run")
    # Whoever asks it, by Python's parser or by that of the library that connects, means the same host.
    assert (urllib.parse.urlsplit(uri).hostname or "") == (parse_url(uri).host or "").strip("[]")


def test_what_the_environment_names_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    assert foreign.trusted_uri("http://tracking.example", tmp_path / "run")
    assert foreign.trusted_uri(None, tmp_path / "run")
    assert foreign.trusted_uri(f"sqlite:///{tmp_path.resolve()}/mlflow.db", tmp_path / "run")
    assert not foreign.trusted_uri("http://tracking.example/", tmp_path / "run")


def test_links_anywhere_in_a_folder_are_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "a" / "b").mkdir(parents=True)
    (run / "a" / "file").write_text("")
    foreign.check(run)
    (tmp_path / "link").symlink_to(run)
    foreign.check(tmp_path / "link")
    (run / "a" / "b" / "odd").symlink_to("/nowhere")
    with pytest.raises(foreign.ForeignError, match=r"odd' is a link; remove it"):
        foreign.check(run)


def test_what_goes_while_it_is_looked_at_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run at work renames its drafts: to look at it meanwhile must not fail, and must still see the rest."""
    for name in ("goes", "stays"):
        (tmp_path / name).mkdir()
    (tmp_path / "stays" / "odd").symlink_to("/nowhere")
    scan = os.scandir

    def racing(place: Path) -> object:
        if Path(place) == tmp_path / "goes" and Path(place).exists():
            (tmp_path / "goes").rmdir()
        return scan(place)

    monkeypatch.setattr("os.scandir", racing)
    with pytest.raises(foreign.ForeignError, match="odd"):
        foreign.check(tmp_path)
    (tmp_path / "stays" / "odd").unlink()
    foreign.check(tmp_path)
    assert not (tmp_path / "goes").exists()
