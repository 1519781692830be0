"""Rows that stand behind the event log are brought up to it from the log, before a record of Kafka is taken.

The log is what training reads, and what was judged once. Kafka may have less of the same offsets (a compacted topic),
and a definition that has changed meanwhile may read, or judge, the same bytes otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow.compute as pc

from featurestore.event_time import Mark
from featurestore.offline import Stride
from featurestore.spec import Topic
from streams.fill import columns_of_views, fold
from streams.sink import Log, Sink

# Events that are folded together, and the bytes that these may have: one record is folded whole.
_EVENTS_MAX = 200_000
_READ_BYTES_MAX = 64 << 20


def catch_up(log: Log, topic: Topic, sinks: Sequence[Sink], partition: int, stands: Mark, end: Mark) -> Iterator[Mark]:
    """Give each sink of the topic what it lacks of a partition; tells, part by part, how far all of them stand.

    stands  where the sink stands that is furthest behind
    end     where the log stands
    Raises LostTailError.
    """
    stride, columns = Stride(_READ_BYTES_MAX), columns_of_views([sink.view for sink in sinks])
    while stands.offset < end.offset:
        most = min(stands.offset + _EVENTS_MAX, end.offset)
        if topic.is_batched:
            most = log.end_within(partition, stands.offset, most, _EVENTS_MAX)
        table, stop = stride.read(
            stands.offset, most, lambda low, high, size: log.between_within(partition, low, high, columns, size)
        )
        newest_us = max(stands.newest_us, pc.max(table["effective_us"]).as_py() or 0)
        stands = end if stop == end.offset else Mark(stop, newest_us, end.topic_id)
        for sink in sinks:
            if sink.settled(partition) < stop:
                fold(sink, partition, table, stands)
        yield stands
