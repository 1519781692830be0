"""Rows of an event log as Parquet files: one a day, up to a bound, written by Arrow, for Delta to commit.

Delta's own writer sends every value through a query engine and costs four times as much. Of its statistics a file
keeps those that the log is filtered by. Entities are not among them: what is erased must not stay in the table's log.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction, RemoveAction

FILTERED_BY = ("partition", "offset", "effective_us", "late_by_us")
# A file costs 0.7 ms and a name in Delta's log for good, and a producer may send event times of any day since 1970.
# So many days are a month, and twenty milliseconds.
DAYS_MAX = 31
# The date of a file with rows of all other days. It sorts behind every date: who asks for days from one on, and for
# the moments themselves, finds the rows in it; Delta's statistics tell whether it has any.
MANY_DAYS = "many"


def write_files(folder: Path, rows: pa.Table) -> list[AddAction | RemoveAction]:
    """New files of `rows`; they are part of the table once Delta has committed them.

    One for each of the DAYS_MAX dates with the most rows, and one of MANY_DAYS for what is left; rows keep their order.
    """
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
    body, coded = rows.drop_columns(["date"]), rows["date"].combine_chunks().dictionary_encode()
    dates = coded.dictionary.to_pylist()
    if len(dates) == 1:
        yield dates[0], body
        return
    # Sorted once and cut: to look through all rows for each date takes days times rows.
    file = coded.indices.to_numpy(zero_copy_only=False)
    if len(dates) > DAYS_MAX:
        own = np.sort(np.argsort(-np.bincount(file), kind="stable")[:DAYS_MAX])
        place = np.full(len(dates), DAYS_MAX)
        place[own] = np.arange(DAYS_MAX)
        dates, file = [*(dates[each] for each in own), MANY_DAYS], place[file]
    body = body.take(pa.array(np.argsort(file, kind="stable")))
    ends = np.cumsum(np.bincount(file, minlength=len(dates))).tolist()
    for date, first, end in zip(dates, [0, *ends], ends, strict=False):
        yield date, body.slice(first, end - first)


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
