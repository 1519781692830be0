"""Parts of a log stay within their bytes, and are together what the log holds: whatever texts follow which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from featurestore import Topic
from featurestore.event_time import DAY_US, Mark
from featurestore.offline import EventLog, LogSlices, Stride, log_schema
from featurestore.offline.log_parts import pieces

BASE_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
NOTES = Topic("notes", schema={"user": str, "at": "timestamp", "note": str}, event_time="at", partitions=2)
COLUMNS = ["offset", "effective_us", "note"]
MB = 1 << 20


def log_of_texts(folder: Path, sizes: list[int], commits: int = 4, topic: Topic = NOTES) -> EventLog:
    """A log of one partition with texts of these sizes, one event a minute, in no order within its files."""
    log = EventLog(folder, topic)
    for some in np.array_split(np.arange(len(sizes)), commits):
        moments = BASE_US + some * 60_000_000
        columns = {
            **dict.fromkeys(("event_us", "effective_us", "arrival_us"), moments),
            "partition": np.zeros(len(some), dtype=np.int32),
            "offset": some,
            "late_by_us": np.zeros(len(some), dtype=np.int64),
            "date": np.datetime_as_string(moments.astype("datetime64[us]").astype("datetime64[D]")),
            "user": [f"u{place % 3}" for place in some],
            "at": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "note": [f"{place:06d}".ljust(sizes[place], "x") for place in some],
        }
        schema = log_schema(topic)
        rows = pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)
        rows = rows.take(np.random.default_rng(int(some[0])).permutation(len(rows)))
        log.append(rows, {0: Mark(int(some[-1]) + 1, int(moments[-1]))})
    return log


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("since_us", [None, BASE_US + DAY_US + 5])
def test_parts_are_bounded_and_are_together_what_the_log_holds(
    is_compacted: bool, since_us: int | None, tmp_path: Path
) -> None:
    # Tiny ones, a jump to large ones, and one that is larger than all that is allowed.
    log = log_of_texts(tmp_path, [6] * 1_500 + [9_000] * 400 + [300_000] + [6] * 600)
    if is_compacted:
        log.compact()
    slices, stride, first, parts = LogSlices.newest(log), Stride(200_000), 0, []
    while first < 2_501:
        table, stop = slices.read(COLUMNS, 0, first, 2_501, stride, since_us)
        assert table.nbytes <= 200_000 or stop == first + 1
        parts.append(table)
        first = stop
    wanted = log.read(COLUMNS).sort_by("offset")
    if since_us is not None:
        wanted = wanted.filter(pa.array(wanted["effective_us"].to_numpy() >= since_us))
    assert pa.concat_tables(parts).sort_by("offset").equals(wanted)
    # Few are read to no purpose, and none of a partition that has nothing.
    assert len(parts) < 80
    assert len(slices.read(COLUMNS, 1, 0, 2_501, Stride(100))[0]) == 0


@pytest.mark.parametrize("wanted", [None, pc.field("offset") < 1_300])
def test_pieces_of_a_large_row_group_take_the_memory_of_a_piece(wanted: pc.Expression | None, tmp_path: Path) -> None:
    log = log_of_texts(tmp_path, [6] * 440 + [60_000] * 1_000)
    log.compact()
    schema = pa.schema([log_schema(NOTES).field(name) for name in COLUMNS])
    before, held, rows = pa.total_allocated_bytes(), 0, 0
    for piece in pieces(log.dataset(), schema, wanted):
        held = max(held, pa.total_allocated_bytes() - before)
        rows += len(piece)
    assert rows == (1_440 if wanted is None else 1_300)
    # 60 MB lie in one row group. A piece is 4 MB and up to 128 texts, and is there as decoded and as chosen.
    assert held < 30 * MB


def test_a_stretch_without_events_is_passed_in_few_reads() -> None:
    rows, stride, first, reads = np.concatenate((np.arange(400), 10**9 + np.arange(400))), Stride(200), 0, 0
    found: list[int] = []

    def held(low: int, high: int, bytes_max: int | None) -> pa.Table | None:
        nonlocal reads
        reads += 1
        assert reads < 500
        table = pa.table({"offset": rows[(rows >= low) & (rows < high)]})
        return None if bytes_max is not None and table.nbytes > bytes_max else table

    while first < 10**9 + 400:
        table, first = stride.read(first, 10**9 + 400, held)
        found += table["offset"].to_pylist()
    assert found == rows.tolist()


def test_what_is_between_two_offsets_is_the_same_when_its_bytes_are_bounded(tmp_path: Path) -> None:
    log = log_of_texts(tmp_path, [100] * 50)
    wanted = log.between(0, 5, 45, ["note", "late_by_us"])
    found = log.between_within(0, 5, 45, ["note", "late_by_us"], MB)
    assert found is not None
    assert found.equals(wanted)
    assert log.between_within(0, 5, 45, ["note", "late_by_us"], 3_000) is None
    assert log.between_within(0, 5, 5, ["note"], 0) == log.between(0, 5, 5, ["note"])


def test_a_column_that_files_of_before_lack_is_null_there(tmp_path: Path) -> None:
    log_of_texts(tmp_path, [6] * 10)
    schema = {"user": str, "at": "timestamp", "note": str, "more": str}
    wider = Topic("notes", schema=schema, event_time="at", partitions=2, nullable=("more",))
    row = {name: [None] for name in log_schema(wider).names}
    row |= {name: [BASE_US] for name in ("event_us", "effective_us", "arrival_us")}
    row |= {"partition": [0], "offset": [10], "late_by_us": [0], "date": ["2026-01-01"], "more": ["text"]}
    EventLog(tmp_path, wider).append(pa.table(row, schema=log_schema(wider)), {0: Mark(11, BASE_US)})
    slices = LogSlices.newest(EventLog(tmp_path, wider))
    table, stop = slices.read(["more"], 0, 0, 11, Stride(MB))
    assert stop == 11
    assert sorted(table["more"].to_pylist(), key=str) == [None] * 10 + ["text"]
