"""How much waits for the event log while a commit is at work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pyarrow as pa

from featurestore.event_time import Mark
from streams.log_writer import BYTES_MAX, ROWS_MAX, LogWriter
from streams.sink import NoLog


class Slow(NoLog):
    """A log whose commits wait until they are let go."""

    def __init__(self) -> None:
        self.is_free = Event()

    def append(self, rows: pa.Table, marks: object) -> None:
        self.is_free.wait(30)


def waiting(each: bytes, rows: int) -> tuple[int, int]:
    """How many tables of so many rows are taken before the writer wants to write: at rest, and beside a commit."""
    log, table = Slow(), pa.table({"payload": [each] * rows})
    with ThreadPoolExecutor(1) as thread:
        writer = LogWriter(log, lambda: 0, lambda: None, thread)
        taken = []
        for _ in range(2):
            taken.append(0)
            while not writer.is_due:
                writer.put(table)
                taken[-1] += 1
            if len(taken) == 1:
                writer.write({0: Mark(1, 1)})
        log.is_free.set()
    return taken[0], taken[1]


def test_small_rows_wait_by_their_number() -> None:
    assert waiting(b"x", ROWS_MAX // 10) == (10, 20)


def test_large_rows_wait_by_their_bytes() -> None:
    assert waiting(b"x" * (BYTES_MAX // 100), 10) == (10, 20)
