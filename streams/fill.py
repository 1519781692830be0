"""Rows from the event log: what a backfill, a rebuild and a replay fold, with the commit protocol of live events.

Buckets' watermarks move with the rows, so a kill resumes exactly where each bucket stands, a worker that fills the
same rows is harmless, and nothing is counted twice. Batches are large, so that rows are rewritten seldom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.event_time import DAY_US, Mark
from featurestore.kernel import Column, Events, in_records, row_bytes
from featurestore.kernel.expressions import from_arrow
from featurestore.kernel.keys import Grouped, group_keys
from featurestore.offline import LogSlices, Stride
from featurestore.spec import FeatureView
from streams.online_sink import OnlineSink
from streams.sink import Ints, Sink, refuse_other_topic

# A batch may touch as many rows as it has events: it is cut so that their bytes, as read and as folded, stay bounded.
# A row with every tile full is large and rare: the rows themselves say how many events fit, once there are some.
_EVENTS_MAX = 200_000
_EVENTS_MIN = 10_000
_ROWS_BYTES_MAX = 128 << 20
_LOOKED_AT = 100
# Of events as they are read: texts may make few of them as large as many others. Folding has them twice.
_READ_BYTES_MAX = 64 << 20


class LogFill:
    """Folds one version of a topic's log into rows of one view.

    events_max  of one batch; by default as many as memory allows
    is_whole    also events that no window of now can reach
    bytes_max   of the events of one batch; one record is folded whole
    """

    def __init__(
        self,
        slices: LogSlices,
        view: FeatureView,
        events_max: int | None = None,
        *,
        is_whole: bool = False,
        bytes_max: int = _READ_BYTES_MAX,
    ) -> None:
        self._slices, self._view, self._stride = slices, view, Stride(bytes_max)
        dense_bytes = row_bytes(view.plan).dense
        self._is_fixed = events_max is not None
        self._events_max = events_max or _events_that_fit(dense_bytes)
        reach_us = None if is_whole else view.plan.reach_us
        newest_us = max((mark.newest_us for mark in slices.marks.values()), default=0)
        # What no window of now can reach changes no value; a day more, as rows themselves expire.
        floor_us = None if reach_us is None else newest_us - reach_us - view.lateness_us - DAY_US
        self._since_us = floor_us if floor_us is not None and floor_us > 0 else None
        self._columns = columns_of_views([view])

    def fill(
        self,
        sink: OnlineSink,
        partition: int,
        topic_id: str,
        moved: Callable[[int], None] = lambda offset: None,
        until: Mark | None = None,
    ) -> Mark | None:
        """Bring a partition from where the sink stands to where the log stands; returns where it stands then.

        moved  is told each offset reached; what it raises ends the fill between two batches
        until  stop here instead
        Raises TopicError where the log's events are those of another topic than `topic_id`.
        """
        refuse_other_topic(self._view.source, topic_id, self._slices.marks.items())
        stands = sink.open(partition, topic_id) or Mark(0, 0)
        end = until or self._slices.marks.get(partition)
        if end is None or end.offset <= stands.offset:
            return None if end is None else stands
        end = replace(end, topic_id=topic_id)
        while stands.offset < end.offset:
            most = self._slices.end_within(partition, stands.offset, end.offset, self._events_max, self._since_us)
            table, stop = self._slices.read(self._columns, partition, stands.offset, most, self._stride, self._since_us)
            if not len(table):
                # What expired unread, or what no window reaches, may be billions of offsets.
                stop = self._slices.next_offset(partition, stop, end.offset, self._since_us)
            # What is too far back to be read is older than anything that was: the newest is the newest all the same.
            newest_us = max(stands.newest_us, pc.max(table["effective_us"]).as_py() or 0)
            stands = end if stop == end.offset else Mark(stop, newest_us, topic_id)
            self._apply(sink, partition, table, stands)
            # The next one is read without it.
            del table
            moved(stop)
        sink.finish()
        sink.heartbeat({partition: end})
        return end

    def _apply(self, sink: OnlineSink, partition: int, table: pa.Table, new: Mark) -> None:
        grouped = fold(sink, partition, table, new)
        if grouped is None:
            return
        # The batch is still on its way: what is seen are the rows of those before, which grow slowly.
        seen_bytes = sink.row_bytes(
            list(grouped.keys.take(np.arange(0, len(grouped.keys), max(1, len(grouped.keys) // _LOOKED_AT))))
        )
        if seen_bytes and not self._is_fixed:
            self._events_max = _events_that_fit(1.5 * seen_bytes)


def columns_of_views(views: Sequence[FeatureView]) -> list[str]:
    """What `fold` needs of the log for these views of one topic."""
    position = ["position"] if views[0].source.is_batched else []
    of_views = [name for view in views for name in (*view.entity.keys, *view.plan.columns)]
    return list(dict.fromkeys(["offset", "effective_us", "late_by_us", *position, *of_views]))


def fold(sink: Sink, partition: int, table: pa.Table, new: Mark) -> Grouped | None:
    """Apply a view's share of the log's events before `new`; their entities, None where no event counts for one.

    table  `columns_of_views`, in any order
    """
    view = sink.view
    taken = pc.less_equal(table["late_by_us"], view.lateness_us)
    for key in view.entity.keys:
        taken = pc.and_(taken, table[key].is_valid())
    table = table.filter(taken).combine_chunks()
    if not len(table):
        return None
    grouped = group_keys([table[key].combine_chunks() for key in view.entity.keys])
    offsets = table["offset"].to_numpy()
    place = np.full(len(offsets), partition, dtype=np.int32)
    sink.apply(grouped, place, offsets, {partition: new}, _chooser(view, partition, table, offsets))
    return grouped


def _events_that_fit(row_bytes: float) -> int:
    return min(_EVENTS_MAX, max(_EVENTS_MIN, int(_ROWS_BYTES_MAX / row_bytes)))


def _chooser(view: FeatureView, partition: int, table: pa.Table, offsets: Ints) -> Callable[[Ints, Ints], Events]:
    types: Mapping[str, Any] = view.source.schema
    columns: dict[str, Column] = {
        name: from_arrow(table[name].combine_chunks(), types[name]) for name in view.plan.columns
    }
    effective_us = table["effective_us"].to_numpy()
    if view.source.is_batched:
        # Events of one record share its offset: their order is that of their positions.
        offsets = in_records(offsets, table["position"].to_numpy())

    def events(chosen: Ints, row: Ints) -> Events:
        picked = {name: column.take(chosen) for name, column in columns.items()}
        place = np.full(len(chosen), partition, dtype=np.int32)
        return Events(row, effective_us[chosen], place, offsets[chosen], picked)

    return events
