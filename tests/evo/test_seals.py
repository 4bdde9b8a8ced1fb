"""A flipped bit anywhere in a file of events is noticed."""

from __future__ import annotations

from pathlib import Path

import fake_run
import pyarrow.parquet as pq
import pytest

from evo import recorder
from evo.recorder import Recorder, RecordError, read_table
from evo.seals import broken
from search_spaces.randomness import keyed


@pytest.mark.parametrize("compacted", [False, True])
def test_no_flipped_bit_is_read_as_another_figure(tmp_path: Path, compacted: bool) -> None:
    writer = Recorder(tmp_path, "n000")
    rows = fake_run.life("n000", cycles=2)
    for cycle in range(3):
        writer.commit([row for row in rows if row["cycle"] == cycle])
    if compacted:
        recorder.compact(tmp_path)
    path = max((tmp_path / "events").glob("*.parquet"))
    whole, wanted = path.read_bytes(), read_table(tmp_path, "n000")
    refused = 0
    places = range(0, len(whole), 29)
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << int(keyed("flip", place).integers(8))
        path.write_bytes(spoilt)
        try:
            same = read_table(tmp_path, "n000").equals(wanted)
        except RecordError:
            refused += 1
        else:
            assert same, place
    assert refused > 0.98 * len(places)


def test_any_other_program_reads_it(tmp_path: Path) -> None:
    Recorder(tmp_path, "n000").commit(fake_run.life("n000", cycles=1))
    (path,) = (tmp_path / "events").glob("*.parquet")
    assert pq.read_table(path).num_rows == read_table(tmp_path, "n000").num_rows


def test_files_from_before_there_were_seals_are_read(tmp_path: Path) -> None:
    fake_run.write(tmp_path / "run", [fake_run.life("n000", cycles=1)])
    assert read_table(tmp_path / "run", "n000").num_rows


def test_what_another_program_wrote_anew_is_read(tmp_path: Path) -> None:
    Recorder(tmp_path, "n000").commit(fake_run.life("n000", cycles=1))
    (path,) = (tmp_path / "events").glob("*.parquet")
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    assert read_table(tmp_path, "n000").num_rows == 3


@pytest.mark.parametrize("data", [b"", b"short", b"PAR1" * 40, b"\xff" * 200])
def test_what_is_no_parquet_is_left_to_its_reader(data: bytes) -> None:
    assert not broken(data)
