"""What Kafka holds: each offset's event is decided once, so whoever reads from wherever writes the same rows."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from featurestore import Topic
from featurestore.event_time import DAY_US, HOUR_US, Mark, as_datetime
from featurestore.kernel import DataType
from featurestore.offline import log_schema

PARTITIONS = 2
_EVENTS_MAX = 24

_FIRST: dict[str, DataType] = {"at": "timestamp", "amount": "float64"}
_GAINED: dict[str, DataType] = {"shop": "string", "tip": "float64", "points": "int64"}


def _topic(columns: int) -> Topic:
    gained = dict(list(_GAINED.items())[:columns])
    schema = {**_FIRST, **gained}
    return Topic("paid", schema=schema, event_time="at", partitions=PARTITIONS, nullable=tuple(gained))


# The definition as it was at first, and as it gained one column and another.
DEFINITIONS = tuple(_topic(columns) for columns in range(len(_GAINED) + 1))
WIDEST = DEFINITIONS[-1]
COLUMNS = tuple(log_schema(WIDEST).names)

Row = Mapping[str, Any]


class Events:
    """The events of each partition, with holes where an offset holds none that the log keeps."""

    def __init__(self, draw: random.Random) -> None:
        self.partitions = [self._drawn(draw, partition) for partition in range(PARTITIONS)]
        self.ends = [1 + max(row["offset"] for row in held) for held in self.partitions]

    def between(self, partition: int, first: int, end: int) -> list[Row]:
        """Events with first <= offset < end."""
        return [row for row in self.partitions[partition] if first <= row["offset"] < end]

    def mark(self, partition: int, end: int) -> Mark:
        """Where somebody stands who has passed all events before an offset."""
        return Mark(end, max((row["effective_us"] for row in self.between(partition, 0, end)), default=0))

    def _drawn(self, draw: random.Random, partition: int) -> list[Row]:
        held, offset, now_us = list[Row](), -1, draw.randrange(DAY_US)
        for _ in range(draw.randrange(2, _EVENTS_MAX)):
            offset += draw.choice([1, 1, 1, 2, 4])
            now_us += draw.randrange(2 * HOUR_US)
            # Some are late, so that neighbours lie in different days and a mark's time is not that of its last event.
            late_by_us = draw.choice([0, 0, draw.randrange(min(now_us, DAY_US) + 1)])
            at_us = now_us - late_by_us
            held.append(
                {
                    "partition": partition,
                    "offset": offset,
                    "event_us": at_us,
                    "effective_us": at_us,
                    "arrival_us": now_us,
                    "late_by_us": late_by_us,
                    "date": as_datetime(at_us).date().isoformat(),
                    "at": as_datetime(at_us),
                    "amount": draw.random(),
                    "shop": f"s{draw.randrange(3)}",
                    "tip": draw.random(),
                    "points": draw.randrange(100),
                }
            )
        return held


def told(row: Row, definition: Topic) -> Row:
    """An event as one definition of its topic has it: null in columns that came later."""
    known = log_schema(definition).names
    return {name: row[name] if name in known else None for name in COLUMNS}


def table_of(rows: Iterable[Row], definition: Topic) -> pa.Table:
    """Rows as a worker with this definition hands them to its log."""
    return pa.Table.from_pylist([dict(row) for row in rows], log_schema(definition))
