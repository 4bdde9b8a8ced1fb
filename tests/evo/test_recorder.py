"""Commits are whole or not there, in order, once; damage is one clear line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo import faults, recorder
from evo.events import COLUMNS, SCHEMA, SCHEMA_VERSION, row
from evo.recorder import Fenced, Recorder, RecordError, compact, networks, read_events, read_table

ROOT = Path(__file__).parents[2]


def cycle(number: int, rows: int = 3) -> list[dict[str, object]]:
    return [row("candidate" if i < rows - 1 else "decision", cycle=number, step=10 * number) for i in range(rows)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "events").iterdir())


def test_rows_come_back_as_committed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "n000")
    assert recorder.last_seq == -1
    recorder.commit([row("started", config="{}", time=1.5), row("candidate", selected=True, measured_nats=0.25)])
    recorder.commit([])
    recorder.commit([row("candidate", selected=False, measured_nats=float("nan"), active_parameters=2**40)])
    assert recorder.last_seq == 2
    assert files(tmp_path) == ["n000-000000.parquet", "n000-000001.parquet"]
    events = read_events(tmp_path)
    assert tuple(events.columns) == COLUMNS
    assert events.seq.tolist() == [0, 1, 2]
    assert set(events.network) == {"n000"}
    assert set(events.schema_version) == {SCHEMA_VERSION}
    assert events.time.iloc[0] == 1.5  # a row's own clock stays, an empty one is filled
    assert (events.time.iloc[1:] > 1.5e9).all()
    assert set(events.pid) == {os.getpid()}
    assert events.measured_nats.iloc[1] == 0.25
    assert events.active_parameters.iloc[2] == 2**40
    assert events[events.selected].seq.tolist() == [1]  # an empty flag counts as no
    table = read_table(tmp_path, "n000")
    assert table.column("measured_nats").null_count == 1  # NaN is a measurement, an empty cell is none


def test_networks_are_kept_apart_and_sorted(tmp_path: Path) -> None:
    for name in ("n001", "n0", "n0-1", "n000"):
        Recorder(tmp_path, name).commit(cycle(0))
    assert networks(tmp_path) == ["n0", "n0-1", "n000", "n001"]
    assert read_events(tmp_path).network.tolist() == [n for n in networks(tmp_path) for _ in range(3)]
    assert len(read_events(tmp_path, "n0")) == 3
    assert read_events(tmp_path, "n777").empty
    assert read_events(tmp_path / "nowhere").empty
    assert tuple(read_events(tmp_path / "nowhere").columns) == COLUMNS


def test_a_reopened_recorder_goes_on_where_the_commits_end(tmp_path: Path) -> None:
    Recorder(tmp_path, "n000").commit(cycle(0))
    torn = tmp_path / "events" / ".n000-000001.parquet"
    torn.write_bytes(b"PAR1 half of a")
    again = Recorder(tmp_path, "n000")
    assert again.last_seq == 2
    assert not torn.exists()
    again.commit([{**r, "seq": 3 + i} for i, r in enumerate(cycle(1))])
    assert read_events(tmp_path).seq.tolist() == list(range(6))


def test_a_gap_in_seq_is_refused(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "n000")
    with pytest.raises(RecordError, match="seq: expected 0, got 4"):
        recorder.commit([row("started", seq=4)])
    with pytest.raises(RecordError, match="network: expected 'n000', got 'n001'"):
        recorder.commit([row("started", network="n001")])
    assert read_events(tmp_path).empty


def test_rows_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "n000")
    with pytest.raises(RecordError, match="event step: expected int64"):
        recorder.commit([row("started", step="many")])
    with pytest.raises(RecordError, match="event stepp: the schema has no such column"):
        recorder.commit([{**row("started"), "stepp": 3}])
    with pytest.raises(ValueError, match="network: expected a name"):
        Recorder(tmp_path, "a/b")
    assert files(tmp_path) == []


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    one, other = Recorder(tmp_path, "n000"), Recorder(tmp_path, "n000")
    one.commit(cycle(0))
    with pytest.raises(Fenced, match="another process writes this network"):
        other.commit(cycle(0, rows=5))
    assert len(read_events(tmp_path)) == 3
    assert not [name for name in files(tmp_path) if name.startswith(".")]
    Recorder(tmp_path, "n000").commit(cycle(1))


def test_a_file_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Recorder(tmp_path, "n000").commit(cycle(0))
    path = tmp_path / "events" / "n000-000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"schema_version": "99"}), path)
    with pytest.raises(RecordError, match=r"n000-000000.parquet: expected event schema 3 or older, got 99"):
        read_events(tmp_path)


def test_columns_that_an_older_file_lacks_are_empty(tmp_path: Path) -> None:
    Recorder(tmp_path, "n000").commit(cycle(0))
    path = tmp_path / "events" / "n000-000000.parquet"
    table = pq.read_table(path).drop_columns(["own_nats", "pid"])
    table = table.set_column(table.column_names.index("cycle"), "cycle", table.column("cycle").cast(pa.int64()))
    pq.write_table(table, path)
    events = read_events(tmp_path)
    assert tuple(events.columns) == COLUMNS
    assert events.own_nats.isna().all()
    assert events.pid.isna().all()
    assert events.cycle.tolist() == [0, 0, 0]


def test_a_run_begun_under_the_first_schema_goes_on(tmp_path: Path) -> None:
    added = ["phase", "credits_unit", "analyzer", "measure", "value", "value_se", "unit", "operations", "stored"]
    Recorder(tmp_path, "n000").commit(cycle(0))
    path = tmp_path / "events" / "n000-000000.parquet"
    table = pq.read_table(path).drop_columns(added)
    ones = pa.array([1] * len(table), pa.int32())
    table = table.set_column(table.column_names.index("schema_version"), "schema_version", ones)
    pq.write_table(table.replace_schema_metadata({"schema_version": "1"}), path)
    Recorder(tmp_path, "n000").commit([row("analysis", analyzer="extrema", measure="dead_share", value=0.5)])
    for _ in range(2):
        events = read_events(tmp_path)
        assert tuple(events.columns) == COLUMNS
        assert events.schema_version.tolist() == [1, 1, 1, SCHEMA_VERSION]
        assert events[added].iloc[:3].isna().all(axis=None)
        assert events.value.iloc[3] == 0.5
        compact(tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999))
def test_a_torn_file_is_one_line_that_names_it(tmp_path_factory: pytest.TempPathFactory, kept: int) -> None:
    folder = tmp_path_factory.mktemp("torn")
    Recorder(folder, "n000").commit(cycle(0))
    path = folder / "events" / "n000-000000.parquet"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * kept // 1000])
    with pytest.raises(RecordError) as caught:
        read_events(folder)
    assert str(path) in str(caught.value)
    assert "put the file back" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_flipped_byte_among_the_figures_is_noticed(tmp_path: Path, compacted: bool) -> None:
    recorder = Recorder(tmp_path, "n000")
    for number in range(2):
        recorder.commit(cycle(number))
    if compacted:
        compact(tmp_path)
    path = tmp_path / "events" / "n000-000001.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(list(COLUMNS).index("information_nats"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordError, match="n000-000001"):
        read_events(tmp_path)


def test_what_is_not_a_file_of_events_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "events" / "n000-000000.parquet")
    with pytest.raises(RecordError, match="not one of events"):
        read_events(tmp_path)
    (tmp_path / "events" / "notes.txt").write_text("mine")  # other files are left alone
    assert networks(tmp_path) == ["n000"]


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "n000")
    for number in range(3):
        recorder.commit(cycle(number))
    (tmp_path / "events" / "n000-000001.parquet").unlink()
    with pytest.raises(RecordError, match="rows 3 to 5 of network n000 are missing"):
        read_events(tmp_path)
    (tmp_path / "events" / "n000-000000.parquet").unlink()
    with pytest.raises(RecordError, match="rows 0 to 5 of network n000 are missing"):
        read_events(tmp_path)


def test_a_full_disk_leaves_nothing_and_the_commit_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Recorder(tmp_path, "n000")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match=r"No space left on device.*free space"):
            writer.commit(cycle(0))
    assert files(tmp_path) == []
    writer.commit(cycle(0))
    assert writer.last_seq == 2


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        Recorder(tmp_path / "file", "n000")


def test_reading_since_opens_only_the_files_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Recorder(tmp_path, "n000")
    for number in range(5):
        writer.commit(cycle(number))
    opened: list[Path] = []
    real = recorder._read
    monkeypatch.setattr(recorder, "_read", lambda path: (opened.append(path), real(path))[1])
    assert read_table(tmp_path, "n000", since=10).column("seq").to_pylist() == [10, 11, 12, 13, 14]
    assert len(opened) == 2
    assert read_table(tmp_path, "n000", since=15).num_rows == 0


def test_compaction_leaves_one_file_a_network_and_the_same_rows(tmp_path: Path) -> None:
    for name in ("n000", "n001"):
        writer = Recorder(tmp_path, name)
        for number in range(4):
            writer.commit(cycle(number))
    before = read_events(tmp_path)
    compact(tmp_path)
    compact(tmp_path)
    assert files(tmp_path) == ["n000-000003.parquet", "n001-000003.parquet"]
    pd.testing.assert_frame_equal(read_events(tmp_path), before)
    Recorder(tmp_path, "n000").commit(cycle(4))  # and life may go on
    assert read_events(tmp_path, "n000").seq.tolist() == list(range(15))
    compact(tmp_path)
    assert files(tmp_path) == ["n000-000004.parquet", "n001-000003.parquet"]
    schema = pq.read_schema(tmp_path / "events" / "n000-000004.parquet")
    assert schema.field("pid").metadata == SCHEMA.field("pid").metadata  # the marks travel with the file


LIFE = """
import os, sys
from pathlib import Path
from typing import Any
from evo import faults
from evo.events import row
from evo.recorder import Recorder, compact

def live(folder):
    writer = Recorder(folder, "n000")
    while writer.last_seq < 5:
        cycle = (writer.last_seq + 1) // 2
        writer.commit([row("segment", cycle=cycle), row("decision", cycle=cycle)])
    compact(folder)
"""

# One process imports once, then forks a life to be killed at every point, one after the other.
EVERY = (
    LIFE
    + """
for count in range(1, 100):
    if os.fork() == 0:
        faults._armed = ("*", count)
        live(Path(sys.argv[1]) / f"{count:02d}")
        os._exit(0)
    if os.wait()[1] == 0:
        break
print(count - 1)
"""
)


def python(code: str, folder: Path, **fault: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **fault}
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, env=environment, timeout=60, text=True, stdout=subprocess.PIPE)


def test_killed_between_any_two_durable_operations_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    killed = int(python(EVERY, tmp_path).stdout)
    assert killed == 3 * 5 + 5  # three commits and the compaction, each point once
    for folder in sorted(tmp_path.iterdir())[:killed]:
        assert len(read_events(folder)) % 2 == 0  # never half a commit
        writer = Recorder(folder, "n000")
        while writer.last_seq < 5:
            number = (writer.last_seq + 1) // 2
            writer.commit([row("segment", cycle=number), row("decision", cycle=number)])
        compact(folder)
        events = read_events(folder)
        assert events.seq.tolist() == list(range(6))
        assert events.cycle.tolist() == [0, 0, 1, 1, 2, 2]
        assert files(folder) == ["n000-000002.parquet"]


def test_a_fault_point_dies_where_it_is_told(tmp_path: Path) -> None:
    once = {"MERISTEM_FAULT": "events.renamed:2", "MERISTEM_FAULT_ONCE": str(tmp_path / "died")}
    code = LIFE + "live(Path(sys.argv[1]))"
    assert python(code, tmp_path / "run", **once).returncode == -9
    assert len(read_events(tmp_path / "run")) == 4
    assert python(code, tmp_path / "run", **once).returncode == 0
    assert len(read_events(tmp_path / "run")) == 6


@pytest.mark.parametrize(("spec", "told"), [("events.begun", "no fault point"), ("*:0", "a count of 1 or more")])
def test_a_wrong_fault_is_refused(spec: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        faults.read(spec)
    assert faults.read("*:7") == ("*", 7)
    assert faults.read("events.begin") == ("events.begin", 1)


def test_every_point_in_the_source_is_registered() -> None:
    named = {
        name
        for path in [*(ROOT / "evo").rglob("*.py"), *(ROOT / "search_spaces").rglob("*.py")]
        for name in re.findall(r'point\("([a-z_.]+)"\)', path.read_text(encoding="utf-8"))
    }
    assert "events.begin" in named
    assert named <= set(faults.POINTS)


def test_compacting_sweeps_what_a_killed_compaction_left(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "n000")
    for number in range(2):
        recorder.commit(cycle(number))
    left, others = (tmp_path / "events" / f".{name}-000001.parquet.0abc" for name in ("n000", "n000-b"))
    left.write_bytes(b"half")
    others.write_bytes(b"another network's")
    compact(tmp_path)
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == [others.name, "n000-000001.parquet"]


def test_a_commit_made_while_a_writer_begins_is_counted_with_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the rows and that at the names of files."""
    other, true = Recorder(tmp_path, "n000"), recorder.read_table

    def late(*words: Any) -> Any:
        found = true(*words)
        monkeypatch.setattr(recorder, "read_table", true)
        other.commit([row("started", cycle=0), row("segment", cycle=0)])
        return found

    monkeypatch.setattr(recorder, "read_table", late)
    one = Recorder(tmp_path, "n000")
    assert one.last_seq == 1
    one.commit([row("segment", cycle=1)])
    assert read_events(tmp_path)["seq"].tolist() == [0, 1, 2]
