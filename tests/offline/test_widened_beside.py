"""A writer of before commits while one with a new definition widens the log: no row comes twice."""

from __future__ import annotations

from pathlib import Path

import deltalake
import pyarrow as pa
import pytest

from featurestore.event_time import Mark
from featurestore.offline import EventLog, log_schema
from featurestore.spec import Topic


def topic(is_wider: bool) -> Topic:
    more = {"z": float} if is_wider else {}
    return Topic("t", schema={"at": "timestamp", **more}, event_time="at", partitions=1, nullable=tuple(more))


def rows(of: Topic, offsets: range) -> pa.Table:
    times = ("offset", "event_us", "effective_us", "arrival_us", "late_by_us")
    return pa.Table.from_pylist(
        [{"partition": 0, "date": "1970-01-01", "at": at, **dict.fromkeys(times, at)} for at in offsets],
        schema=log_schema(of),
    )


class Held(EventLog):
    """Lets another writer commit between its look at the marks and its widening."""

    other: EventLog | None = None

    def _widen(self, table: deltalake.DeltaTable) -> bool:
        other, self.other = self.other, None
        if other is not None:
            other.append(rows(other.topic, range(10, 20)), {0: Mark(20, 19)})
        return super()._widen(table)


@pytest.mark.parametrize("is_other_wider", [False, True])
def test_what_another_writer_commits_before_the_log_is_widened_is_not_written_again(
    tmp_path: Path, is_other_wider: bool
) -> None:
    EventLog(tmp_path, topic(False)).append(rows(topic(False), range(10)), {0: Mark(10, 9)})
    log = Held(tmp_path, topic(True))
    log.other = EventLog(tmp_path, topic(is_other_wider))
    log.append(rows(topic(True), range(10, 25)), {0: Mark(25, 24)})
    assert sorted(EventLog(tmp_path, topic(True)).read(["offset"])["offset"].to_pylist()) == list(range(25))
    assert log.marks() == {0: Mark(25, 24)}
