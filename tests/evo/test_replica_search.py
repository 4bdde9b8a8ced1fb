"""A search in a bucket, its driver killed and resumed from another machine, against the same search in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from bucket_server import S3, bucket
from small_life import SHORT, SMALL, same

from evo import api, replica, stored_snapshots
from evo.recorder import read_events
from evo.storage import open_store

ROOT = Path(__file__).resolve().parents[2]
SEARCH: dict[str, Any] = {
    **SMALL, **SHORT, "name": "a", "search.networks": 3, "search.population": 2, "search.at_once": 1,
}  # fmt: skip


def evo(s3: S3, cache: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MERISTEM_CACHE": str(cache), "MERISTEM_LEASE_SECONDS": "2"}
    command = [sys.executable, "-c", "from evo.cli import main; main()", *words]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.timeout(600)
def test_a_search_in_a_bucket_survives_its_driver(tmp_path: Path) -> None:
    here = api.search(config={**SEARCH, "out": str(tmp_path / "runs")})
    config = tmp_path / "search.yaml"
    config.write_text(yaml.safe_dump(SEARCH))
    with bucket() as s3:
        uri = s3.uri("/runs/a")
        store = open_store(uri)
        first = evo(s3, tmp_path / "one machine", "search", "--config", str(config), "--out", s3.uri("/runs"))
        end = time.monotonic() + 120
        while len(store.names("events/")) < 4 and first.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        first.kill()
        assert first.wait() == -9, first.communicate()
        begun = len(store.names("events/"))
        assert 4 <= begun < 9
        time.sleep(2.5)
        told, said = evo(s3, tmp_path / "another", "resume", uri, "--json").communicate(timeout=300)
        assert '"front"' in told, said
        (tmp_path / "pulled").mkdir()
        replica.attach(tmp_path / "pulled", uri)
        replica.refresh(tmp_path / "pulled")
        for network, snapshot in here.events[["network", "snapshot"]].dropna().itertuples(index=False):
            stored_snapshots.fetch(tmp_path / "pulled", network, snapshot)
        assert same(here.folder, tmp_path / "pulled") == []
        assert len(read_events(tmp_path / "pulled")) == len(here.events)
        shown, said = evo(s3, tmp_path / "a third", "show", uri).communicate(timeout=120)
        assert "Front of s3://" in shown, said
        listed, said = evo(s3, tmp_path / "a third", "runs", "--out", s3.uri("/runs")).communicate(timeout=120)
        assert "finished" in listed, said
