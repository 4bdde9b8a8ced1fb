"""What stays at the end of a run, and that nothing which stays loses what it builds on."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_life import live, made, saved

from evo import api, drive, events, faults, front, retention
from evo.config import RecordConfig
from evo.recorder import read_events
from search_spaces import checkpoint


def life(
    network: str, information: Sequence[float | None], validation: list[float | None] | None = None,
    phase: list[str] | None = None, grown: tuple[int, ...] = (),
) -> pd.DataFrame:  # fmt: skip
    """Snapshots 000000, 000001 ... with these figures; `grown`: those before which a growth was adopted."""
    rows: list[dict[str, Any]] = []
    for i, nats in enumerate(information):
        if i in grown:
            rows.append(events.row("decision", delta_parameters=4, action="Widen"))
        elif i:
            rows.append(events.row("decision", delta_parameters=-2, action="Narrow"))
        judged = nats if validation is None else validation[i]
        rows.append(
            events.row(
                "snapshot", snapshot=f"{i:06d}", step=100 * i, information_nats=nats, active_parameters=10 + i,
                validation_information_nats=judged, validation_accuracy=0.5, phase=phase and phase[i],
            )
        )  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(events.COLUMNS))
    return frame.assign(network=network, seq=range(len(frame)))


def names(kept: dict[retention.Name, str], network: str = "n000") -> list[str]:
    return [snapshot for n, snapshot in sorted(kept) if n == network]


def kept(told: pd.DataFrame, **record: Any) -> dict[retention.Name, str]:
    return retention.kept(told, front.front(told).iloc[:0], RecordConfig(**record))


def test_growths_improvements_and_the_best_and_last_of_each_phase_stay() -> None:
    told = life(
        "n000",
        [0.5, 0.505, 0.52, 0.525, 0.53, 0.53, 0.4, 0.5, 0.51, 0.5],
        validation=[0.3, 0.4, 0.5, 0.6, 0.61, 0.59, 0.7, 0.5, 0.65, 0.6],
        phase=["coarse"] * 4 + ["medium"] * 3 + ["fine"] * 3,
        grown=(5,),
    )
    found = kept(told, keep="scales")
    assert found == {
        ("n000", "000002"): "more than 2% better than any before",
        ("n000", "000003"): "the best of the coarse phase",
        ("n000", "000005"): "grown by Widen",
        ("n000", "000006"): "the best of the medium phase",
        ("n000", "000008"): "the best of the fine phase",
        ("n000", "000009"): "the network's last",
    }


def test_improvement_is_over_the_best_before_and_nothing_known_does_not_count() -> None:
    told = life("n000", [-1.0, -0.5, 0.0, 0.1, 0.1019, 0.1021, 0.05, 0.1], phase=["coarse"] * 8)
    assert names({k: v for k, v in kept(told, keep="scales").items() if "better" in v}) == ["000003"]


def test_each_phase_keeps_so_many_the_best_by_validation() -> None:
    phase = ["coarse"] * 4 + ["fine"] * 4
    told = life("n000", [0.1 * i for i in range(8)], [0.1, 0.4, 0.2, 0.3, 0.7, 0.5, 0.6, 0.1], phase)
    assert names(kept(told, keep="scales", keep_each=2)) == ["000001", "000003", "000004", "000006", "000007"]
    assert names(kept(told, keep="all", keep_each=1)) == ["000001", "000004", "000007"]
    assert names(kept(told, keep="front", keep_each=1)) == ["000007"]
    assert len(kept(told, keep="all")) == 8


def test_the_front_and_every_last_stay_whatever_else_is_said() -> None:
    told = pd.concat([life("n000", [0.1, 0.9, 0.5]), life("n001", [0.8, 0.7, None])], ignore_index=True)
    found = retention.kept(told, front.front(told), RecordConfig(keep="front"))
    assert names(found) == ["000001", "000002"]
    assert names(found, "n001") == ["000000", "000002"]
    assert found["n000", "000001"] == "on the front"
    assert found["n000", "000002"] == "the network's last"


def test_without_recorded_phases_thirds_of_the_life_count() -> None:
    told = retention.phases(life("n000", [0.0] * 7))
    assert list(told["phase"]) == ["coarse"] * 2 + ["medium"] * 2 + ["fine"] * 3
    assert retention.phases(told.iloc[:0]).empty


# --- tidying


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lived")
    live(*made(**{"growth.cycles": 5}), folder)
    return folder


STAY = {("n000", "000001"): "a", ("n000", "000002"): "b", ("n000", "000005"): "c"}


def weights(home: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.load(home)
    assert found.state is not None
    return {**dict(found.network.named_parameters()), **{f"age/{k}": t for k, t in found.state.age.items()}}


def test_what_stays_can_be_read_without_what_goes(lived: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lived, tmp_path / "run"))
    retention.tidy(folder, STAY)
    homes = sorted((folder / "snapshots" / "n000").iterdir())
    assert [home.name for home in homes] == ["000001", "000002", "000005"]
    assert [retention._base(home) for home in homes] == [None, "000001", None]
    for home in homes:
        ours, theirs = weights(home), weights(lived / "snapshots" / "n000" / home.name)
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    before = saved(folder)
    retention.tidy(folder, STAY)
    assert saved(folder) == before


def test_killed_anywhere_tidying_is_done_again(lived: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(lived, tmp_path / "whole"))
    retention.tidy(whole, STAY)
    deaths = 0
    for number in range(1, 40):
        folder = Path(shutil.copytree(lived, tmp_path / str(number)))
        pid = os.fork()
        if pid == 0:
            try:
                os.environ["MERISTEM_FAULT"] = f"*:{number}"
                importlib.reload(faults)
                retention.tidy(folder, STAY)
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        for network, name in STAY:
            assert weights(folder / "snapshots" / network / name)
        retention.tidy(folder, STAY)
        assert saved(folder) == saved(whole)
        assert not list((folder / "snapshots").rglob(".*"))
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        deaths += 1
    # Two are rewritten, each two files; four go.
    assert deaths == 2 * 2 + 4


def test_a_run_keeps_what_its_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "_report", lambda run, task: None)
    config, _ = made(**{"record.keep": "scales", "record.keep_each": 1, "out": str(tmp_path), "name": "a"})
    run = api.grow(config=config)
    homes = {(home.parent.name, home.name) for home in (run.folder / "snapshots").glob("*/*")}
    wanted = retention.kept(read_events(run.folder), run.front, config.record)
    assert homes == set(wanted)
    assert len(homes) < 5
    for network, name in homes:
        assert checkpoint.load(run.folder / "snapshots" / network / name).state is not None
