"""Event times of any day since 1970 may come in one commit: files stay few, and every reader finds the same rows."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureView, Topic, count
from featurestore.event_time import DAY_US, Mark, as_datetime
from featurestore.offline import EventLog, LogSlices, Stride, log_schema, point_in_time_join
from featurestore.offline.log_files import DAYS_MAX, MANY_DAYS, write_files
from featurestore.spec import ViewSelection

PAID = Topic("paid", {"user": str, "at": "timestamp"}, event_time="at", key="user", partitions=1)
BY_USER = FeatureView(
    "by_user", Entity("user", key="user"), PAID, lateness=timedelta(days=30_000), features={"n": count()}
)
DAYS = 10_000
# (event time, user) by offset.
Events = list[tuple[int, str]]


def of_many_days(draw: random.Random) -> Events:
    """One event of each of so many days, and more of some; in no order."""
    days = [*range(DAYS), *(day for day in range(5_000, 5_000 + DAYS_MAX) for _ in range(20))]
    draw.shuffle(days)
    return [(day * DAY_US + draw.randrange(DAY_US), f"u{draw.randrange(20)}") for day in days]


def table_of(events: Events, first: int = 0) -> pa.Table:
    moments = pa.array([at for at, _ in events], pa.int64())
    columns = {
        "partition": [0] * len(events),
        "offset": list(range(first, first + len(events))),
        **dict.fromkeys(("event_us", "effective_us", "arrival_us"), moments),
        "late_by_us": [0] * len(events),
        "date": [as_datetime(at).date().isoformat() for at, _ in events],
        "user": [user for _, user in events],
        "at": moments.cast(pa.timestamp("us", tz="UTC")),
    }
    return pa.table(columns, schema=log_schema(PAID))


def moments_of(table: pa.Table) -> dict[int, int]:
    return dict(zip(table["offset"].to_pylist(), table["effective_us"].to_pylist(), strict=True))


def check(log: EventLog, events: Events, draw: random.Random) -> None:
    """Each way to read the log finds what is in the list."""
    wanted, columns = {offset: at for offset, (at, _) in enumerate(events)}, ["offset", "effective_us"]
    assert len(log.read(columns)) == len(events)
    for moment in [draw.randrange(DAYS * DAY_US) for _ in range(3)]:
        until, since = log.read(columns, until_us=moment, late_by_max_us=0), LogSlices.newest(log)
        assert moments_of(until) == {offset: at for offset, at in wanted.items() if at <= moment}
        assert moments_of(since.read(columns, 0, 0, len(events), Stride(1 << 30), moment)[0]) == {
            offset: at for offset, at in wanted.items() if at >= moment
        }
        first = draw.randrange(len(events))
        later = [offset for offset, at in wanted.items() if offset >= first and at >= moment]
        assert since.next_offset(0, first, len(events), moment) == min(later, default=len(events))
        between = log.between(0, first, first + 500, columns)
        assert list(moments_of(between).items()) == list(wanted.items())[first : first + 500]
    spine = [(f"u{draw.randrange(20)}", draw.randrange(DAYS * DAY_US)) for _ in range(20)]
    asked = pa.table({"user": [user for user, _ in spine], "event_timestamp": [moment for _, moment in spine]})
    joined = point_in_time_join(asked, [ViewSelection(BY_USER, ("n",))], lambda _: log)
    assert joined["by_user__n"].to_pylist() == [
        sum(user == who and at <= moment for at, user in events) for who, moment in spine
    ]


@pytest.mark.parametrize("seed", [3])
def test_events_of_ten_thousand_days_take_few_files_and_are_read_as_they_are(tmp_path: Path, seed: int) -> None:
    draw, log = random.Random(seed), EventLog(tmp_path, PAID)
    events = of_many_days(draw)
    half = len(events) // 2
    log.append(table_of(events[:half]), {0: Mark(half, 1)})
    # A hundredth of the days at most, whatever the bound is.
    assert log.files() == DAYS_MAX + 1 <= DAYS // 100
    log.append(table_of(events[half:], half), {0: Mark(len(events), 1)})
    assert log.files() == 2 * (DAYS_MAX + 1)
    check(log, events, draw)
    log.compact()
    check(log, events, draw)


def test_the_days_with_the_most_rows_have_files_of_their_own_and_rows_keep_their_order(tmp_path: Path) -> None:
    events = of_many_days(random.Random(4))
    files = write_files(tmp_path, table_of(events))
    offsets: dict[int, list[int]] = {}
    for offset, (at, _) in enumerate(events):
        day = at // DAY_US
        offsets.setdefault(day if 5_000 <= day < 5_000 + DAYS_MAX else -1, []).append(offset)
    named = {as_datetime(day * DAY_US).date().isoformat() if day >= 0 else MANY_DAYS: day for day in offsets}
    # `partitioning=None`: the day is the folder's name, and not in the file.
    read = {
        file.partition_values["date"]: pq.read_table(tmp_path / file.path, partitioning=None)
        for file in files
        if isinstance(file, deltalake.transaction.AddAction)
    }
    assert len(files) == len(read) == DAYS_MAX + 1
    assert {date: table["offset"].to_pylist() for date, table in read.items()} == {
        date: offsets[day] for date, day in named.items()
    }


def test_as_many_days_as_have_files_of_their_own_need_no_other_file(tmp_path: Path) -> None:
    events = [(day * DAY_US, "u") for day in range(DAYS_MAX)] * 2
    files = write_files(tmp_path, table_of(events))
    assert sorted(file.path.split("/")[0] for file in files) == [
        f"date={as_datetime(day * DAY_US).date().isoformat()}" for day in range(DAYS_MAX)
    ]
