"""The event log in the order of its offsets, a slice at a time: what fills rows without Kafka.

A slice is a range of offsets of one partition. Statistics of files and row groups leave out what lies elsewhere, and a
slice ends where its bytes do, so memory follows the slice and not the log.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.event_time import DAY_US, Mark, as_datetime
from featurestore.kernel.keys import encode_keys, hash64
from featurestore.offline.event_log import EventLog, former_columns, halved, log_schema
from featurestore.offline.log_parts import Stride, held_within, pieces
from featurestore.spec import Topic

# Offsets that a slice of records of many events begins with: enough to see how many these are, and few to count.
_OFFSETS = 1_000


class LogSlices:
    """One version of a topic's log, which later commits do not change.

    marks  how far each partition has come in it
    """

    def __init__(self, log: EventLog, version: int) -> None:
        self.topic: Topic = log.topic
        self.version = version
        self.marks: dict[int, Mark] = log.at(version).marks() if version >= 0 else {}
        self._dataset = log.at(version).dataset() if version >= 0 else None
        self._offsets = _OFFSETS

    @classmethod
    def newest(cls, log: EventLog) -> LogSlices:
        """The log as it is now."""
        return cls(log, log.version())

    def read(
        self,
        columns: Sequence[str],
        partition: int,
        first_offset: int,
        end_offset: int,
        stride: Stride,
        since_us: int | None = None,
    ) -> tuple[pa.Table, int]:
        """Some columns of the events with first_offset <= offset < end, in any order; and that end, at most end_offset.

        stride    says how many bytes these may be; one offset is read whole, whatever it holds
        since_us  leave events with an earlier effective time out
        """
        assert self._dataset is not None, "there is a version to read"
        dataset, schema, former = self._dataset, log_schema(self.topic), former_columns(self.topic)
        asked = pa.schema([schema.field(name) for name in columns])
        days = None if since_us is None else _on_days(since_us)

        def held(first: int, end: int, bytes_max: int | None) -> pa.Table | None:
            return held_within(dataset, asked, _of(partition, first, end, since_us), bytes_max, days, former)

        return stride.read(first_offset, end_offset, held)

    def end_within(
        self, partition: int, first_offset: int, end_offset: int, events_max: int, since_us: int | None = None
    ) -> int:
        """An offset up to which `read` finds at most so many events from the first on; one offset is the least.

        A record may hold a million events, and what is read at once must fit into memory.
        """
        end = min(end_offset, first_offset + events_max)
        if not self.topic.is_batched or self._dataset is None:
            return end
        asked = min(end, first_offset + self._offsets)
        found = halved(
            self._dataset,
            lambda stop: _within(partition, first_offset, stop, since_us),
            first_offset,
            asked,
            events_max,
        )
        # The records behind hold about as many, as a rule.
        self._offsets = max(2 * (found - first_offset), self._offsets if found == asked else 0)
        return found

    def next_offset(self, partition: int, first_offset: int, end_offset: int, since_us: int | None = None) -> int:
        """The first offset at which `read` finds an event between these; `end_offset` where it finds none."""
        found = self._lowest(_within(partition, first_offset, end_offset, since_us))
        return end_offset if found is None else found

    def newest_before_us(self, partition: int, offset: int) -> int:
        """The newest effective event time of the partition's events before an offset, 0 without one."""
        if self._dataset is None:
            return 0
        wanted = (pc.field("partition") == partition) & (pc.field("offset") < offset)
        newest = 0
        for batch in self._dataset.to_batches(columns=["effective_us"], filter=wanted):
            if len(batch):
                newest = max(newest, pc.max(batch["effective_us"]).as_py())
        return newest

    def first_offset(self, partition: int, arrival_us: int) -> int | None:
        """The first offset that arrived at a moment or after it; None where none did."""
        return self._lowest((pc.field("partition") == partition) & (pc.field("arrival_us") >= arrival_us))

    def some_entities(self, keys: Sequence[str], limit: int) -> pa.Table:
        """Some of the entities that the log names: those first by a hash, so that they are spread and always the same.

        keys  key columns of one entity
        """
        if self._dataset is None:
            return pa.table({name: [] for name in keys})
        kept: dict[int, dict[str, object]] = {}
        # A version of before the definition gained a key has no such column.
        schema = pa.schema([log_schema(self.topic).field(name) for name in keys])
        for piece in pieces(self._dataset, schema, former=former_columns(self.topic)):
            distinct = piece.drop_null().group_by(list(keys)).aggregate([])
            hashes = [hash64(key) for key in encode_keys([distinct[name].combine_chunks() for name in keys])]
            kept.update(zip(hashes, distinct.select(list(keys)).to_pylist(), strict=True))
            kept = dict(sorted(kept.items())[:limit])
        return pa.Table.from_pylist(list(kept.values()), schema)

    def _lowest(self, wanted: pc.Expression) -> int | None:
        """The lowest offset among some events; None where there are none."""
        if self._dataset is None:
            return None
        found: int | None = None
        for batch in self._dataset.to_batches(columns=["offset"], filter=wanted):
            if len(batch):
                lowest = pc.min(batch["offset"]).as_py()
                found = lowest if found is None else min(found, lowest)
        return found


def _within(partition: int, first_offset: int, end_offset: int, since_us: int | None) -> pc.Expression:
    """A range of one partition's offsets; of its events those from a moment on."""
    wanted = _of(partition, first_offset, end_offset, since_us)
    return wanted if since_us is None else wanted & _on_days(since_us)


def _of(partition: int, first_offset: int, end_offset: int, since_us: int | None) -> pc.Expression:
    """The same, by columns that files have: the date is in their names."""
    wanted = (
        (pc.field("partition") == partition) & (pc.field("offset") >= first_offset) & (pc.field("offset") < end_offset)
    )
    return wanted if since_us is None else wanted & (pc.field("effective_us") >= since_us)


def _on_days(since_us: int) -> pc.Expression:
    # Files of MANY_DAYS lie behind every day, and are judged by the moment alone.
    return pc.field("date") >= as_datetime(since_us - since_us % DAY_US).date().isoformat()
