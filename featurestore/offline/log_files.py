"""Rows of an event log as Parquet files: one a day, written by Arrow, for Delta to commit.

Delta's own writer sends every value through a query engine and costs four times as much. Of its statistics a file
keeps those that the log is filtered by. Entities are not among them: what is erased must not stay in the table's log.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

FILTERED_BY = ("partition", "offset", "effective_us", "late_by_us")


def write_files(folder: Path, rows: pa.Table) -> list[AddAction | RemoveAction]:
    """One new file a date in `rows`; they are part of the table once Delta has committed them."""
    actions: list[AddAction | RemoveAction] = []
    for date, part in _by_date(rows):
        path = f"date={date}/{uuid.uuid4()}.parquet"
        (folder / path).parent.mkdir(exist_ok=True)
        pq.write_table(
            part,
            folder / path,
            compression="zstd",
            # Most columns are numbers that rise or texts that differ: a dictionary costs more than it saves.
            use_dictionary=False,
            column_encoding=dict.fromkeys(_whole_numbers(part.schema), "DELTA_BINARY_PACKED"),
            write_statistics=list(FILTERED_BY),
        )
        size = (folder / path).stat().st_size
        actions.append(AddAction(path, size, {"date": date}, time.time_ns() // 1_000_000, True, _statistics(part)))
    return actions


def _by_date(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    dates = pc.unique(rows["date"]).to_pylist()
    body = rows.drop_columns(["date"])
    for date in dates:
        yield date, body if len(dates) == 1 else body.filter(pc.equal(rows["date"], date))


def _whole_numbers(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type)]


def _statistics(part: pa.Table) -> str:
    ends = {name: pc.min_max(part[name]).as_py() for name in FILTERED_BY}
    told = {
        "numRecords": len(part),
        "minValues": {name: end["min"] for name, end in ends.items()},
        "maxValues": {name: end["max"] for name, end in ends.items()},
        "nullCount": dict.fromkeys(FILTERED_BY, 0),
    }
    return msgspec.json.encode(told).decode()
