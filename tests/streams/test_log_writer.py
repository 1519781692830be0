"""What waits for the event log, how much of it while a commit is at work, and what it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pyarrow as pa
import pytest

from featurestore.event_time import SECOND_US, Mark
from featurestore.offline import log_schema
from featurestore.spec import Topic
from streams.log_writer import BYTES_MAX, ROWS_MAX, Columns, LogWriter
from streams.sink import NoLog

TOPIC = Topic("notes", schema={"note": str, "at": "timestamp"}, event_time="at")
WHEN = ("offset", "event_us", "effective_us", "arrival_us", "late_by_us")
DAY_US = 86_400_000_000


class Slow(NoLog):
    """A log whose commits wait until they are let go."""

    def __init__(self) -> None:
        super().__init__(TOPIC, {}, self)
        self.is_free = Event()
        self.written: list[pa.Table] = []

    def append(self, rows: pa.Table, marks: object) -> None:
        self.is_free.wait(30)
        self.written.append(rows)


def columns(notes: Sequence[str], first: int = 0, step_us: int = 0) -> Columns:
    """Rows of one partition, from an offset on, each so much later than the one before."""
    offsets = np.arange(first, first + len(notes))
    at = {name: offsets if name == "offset" else offsets * step_us for name in WHEN}
    moments = pa.array(offsets * step_us, pa.timestamp("us", tz="UTC"))
    return {
        "partition": np.zeros(len(notes), dtype=np.int32),
        **at,
        "note": pa.array(notes, pa.string()),
        "at": moments,
    }


def waiting(each: str, rows: int) -> tuple[int, int]:
    """How many times so many rows are taken before the writer wants to write: at rest, and beside a commit."""
    log, some = Slow(), columns([each] * rows)
    with ThreadPoolExecutor(1) as thread:
        writer = LogWriter(log, lambda: 0, lambda: None, thread)
        taken = []
        for _ in range(2):
            taken.append(0)
            while not writer.is_due:
                writer.put(some)
                taken[-1] += 1
            if len(taken) == 1:
                writer.write({0: Mark(1, 1)})
        log.is_free.set()
        writer.finish()
    return taken[0], taken[1]


def test_small_rows_wait_by_their_number() -> None:
    assert waiting("x", ROWS_MAX // 10) == (10, 20)


def test_large_rows_wait_by_their_bytes() -> None:
    assert waiting("x" * (BYTES_MAX // 100), 10) == (10, 20)


@pytest.mark.parametrize(("then", "waits_s"), [(1, 1), (500, 5), (1_000, 10), (3_000, 10)])
def test_rows_wait_ten_times_as_long_as_their_commit_is_expected_to_take(then: int, waits_s: int) -> None:
    log, now_us = Slow(), [0]
    log.is_free.set()

    def clock_us() -> int:
        # A commit of a thousand rows takes a second.
        return now_us[0] + len(log.written) * SECOND_US

    with ThreadPoolExecutor(1) as thread:
        writer = LogWriter(log, clock_us, lambda: None, thread)
        writer.put(columns(["x"] * 1_000))
        writer.write({0: Mark(1, 1)})
        writer.finish()
        writer.put(columns(["x"] * then))
        now_us[0] += waits_s * SECOND_US - 1
        assert not writer.is_due
        now_us[0] += 1
        assert writer.is_due


def test_rows_are_written_in_the_order_in_which_they_came_each_under_its_day() -> None:
    log, half = Slow(), DAY_US // 2
    log.is_free.set()
    with ThreadPoolExecutor(1) as thread:
        writer = LogWriter(log, lambda: 0, lambda: None, thread)
        writer.put(columns(["a", "b", "c"], 0, half))
        writer.put(columns([], 3, half))
        writer.put(columns(["d"], 3, half))
        writer.write({0: Mark(4, 1)})
        writer.put(columns([], 4))
        writer.write({0: Mark(5, 1)})
        writer.finish()
    rows, nothing = log.written
    assert rows.schema == nothing.schema == log_schema(TOPIC)
    assert rows["note"].to_pylist() == ["a", "b", "c", "d"]
    assert rows["offset"].to_pylist() == [0, 1, 2, 3]
    assert rows["date"].to_pylist() == ["1970-01-01", "1970-01-01", "1970-01-02", "1970-01-02"]
    assert len(nothing) == 0
