"""The engine of one topic: decode, judge time, commit to the online store, append to the log, post dead letters.

A batch goes to the online store at once (freshness), while the next one is decoded. For the log, batches gather. The
two sinks move on their own. After a restart records are read from where the log stands: rows that are ahead drop what
they hold already, and those that are behind get what they lack from the log (`catch_up.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import GrownTopicError, LostTailError, TopicError
from featurestore.event_time import REPEATED_US, SECOND_US, Mark
from featurestore.kernel import BATCHED_OFFSETS_MAX, PLACES_MAX, Column, Events, in_records
from featurestore.kernel.expressions import from_arrow
from featurestore.kernel.keys import group_keys
from featurestore.spec import Topic
from streams.catch_up import catch_up
from streams.codecs import Codec, Decoded, codec_of
from streams.codecs.codec import without_records
from streams.counts import Counts, counts_of
from streams.decided import NOTHING, Decided
from streams.log_writer import LogWriter
from streams.payloads import Parts, Payloads
from streams.repeats import Repeats
from streams.sink import Letters, Log, Sink, refuse_other_topic
from streams.transport import Batch
from streams.transport.batch import RECORD_BYTES_MAX
from streams.unapplied import letters_of
from streams.watermark import Judged, judge

HEARTBEAT_US = SECOND_US

# What is decoded in one go takes several times its bytes. Batches have a bound, but one may be what a single poll
# brought, and a megabyte of the wire may become a gigabyte of large records. As much as two full batches by default.
PART_BYTES_MAX = 32 << 20

log = logging.getLogger("featurestore.worker")

# Event times are not negative, so before the first event nothing is late.
_BEGIN = Mark(0, 0)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Part:
    """One batch, decoded and judged.

    before  where its partition stood
    counts  of those of its records that were not counted before
    """

    batch: Batch
    decoded: Decoded
    judged: Judged
    event_us: Ints
    before: Mark
    counts: Counts

    def mark(self, topic_id: str) -> Mark:
        """Where its partition stands afterwards."""
        newest = self.judged.newest_us
        newest_us = int(newest[-1]) if len(newest) else self.before.newest_us
        return Mark(self.batch.end_offset, newest_us, topic_id, self.batch.leader_epoch)


@dataclass(frozen=True, slots=True)
class _Taken:
    """The n events of some batches side by side; see `Judged` and the log's schema for what the columns mean."""

    partition: npt.NDArray[np.int32]
    offsets: Ints
    arrival_us: Ints
    event_us: Ints
    effective_us: Ints
    late_by_us: Ints
    future: npt.NDArray[np.bool_]
    position: Ints | None
    arrays: Mapping[str, pa.Array]

    @classmethod
    def of(cls, parts: Sequence[_Part], topic: Topic) -> _Taken:
        def joined(of: Callable[[_Part], Any], join: Callable[[list[Any]], Any] = np.concatenate) -> Any:
            return of(parts[0]) if len(parts) == 1 else join([of(part) for part in parts])

        return cls(
            joined(lambda part: np.full(len(part.event_us), part.batch.partition, dtype=np.int32)),
            joined(lambda part: part.batch.offsets[part.decoded.index]),
            joined(lambda part: part.batch.timestamps_us[part.decoded.index]),
            joined(lambda part: part.event_us),
            joined(lambda part: part.judged.effective_us),
            joined(lambda part: part.judged.late_by_us),
            joined(lambda part: part.judged.future),
            joined(lambda part: part.decoded.position) if topic.is_batched else None,
            {name: joined(partial(_column, name), pa.concat_arrays) for name in topic.schema},
        )


def _column(name: str, part: _Part) -> pa.Array:
    return part.decoded.arrays[name]


def steady_us() -> int:
    """Of a clock that nobody sets: one that steps back would have everything wait until it is where it was."""
    return time.monotonic_ns() // 1_000


class Engine:
    """Applies the batches of one topic; used from one thread.

    sinks       of the views that have online rows
    lateness_us the longest that any view of the topic waits: what is later is a dead letter
    clock_us    measures how long ago things were; `steady_us`, where it is not a test's
    log_thread  where the log is written; one of its own by default
    codec       of the topic's records; needed where a schema registry is
    part_bytes_max  of values that are decoded in one go
    taken_back  of a partition whose log ends at an offset, the letters from there on whose events stand in the topic
                again: they count there alone. What the log has decided it says itself
    """

    def __init__(
        self,
        topic: Topic,
        topic_id: str,
        sinks: Sequence[Sink],
        lateness_us: int,
        log: Log,
        letters: Letters,
        clock_us: Callable[[], int],
        log_thread: Executor | None = None,
        codec: Codec | None = None,
        part_bytes_max: int = PART_BYTES_MAX,
        taken_back: Callable[[int, int], Decided] = lambda partition, end: NOTHING,
    ) -> None:
        self.topic, self.topic_id, self._part_bytes_max = topic, topic_id, part_bytes_max
        # Replaced, never changed: who looks from another thread sees numbers that belong together.
        self.counts = Counts()
        # Also of a batch that is not done: one record may have a million. Safe to ask from any thread.
        self.letters_put = 0
        # Parts of the log that rows got.
        self._folded = 0
        # Partition -> offset before which all is counted. It never falls, and stays when the partition is given up.
        self._counted: dict[int, int] = {}
        self._sinks, self._letters, self._clock_us = sinks, letters, clock_us
        self._log = LogWriter(log, clock_us, letters.flush, log_thread)
        self._held, self._repeats = log, Repeats(topic, log)
        self._codec = codec or codec_of(topic)
        self._ask_taken_back, self._taken_back = taken_back, dict[int, Decided]()
        self._lateness_max_us = lateness_us
        self._marks: dict[int, Mark] = {}
        # Partition -> up to where the log has what its rows lack: no record is taken before they do not.
        self._behind: dict[int, Mark] = {}
        # Partition -> end offset that the log was seen to hold when that was last asked.
        self._logged: dict[int, int] = {}
        # By view and partition, up to where all its rows are known to hold everything.
        self._settled: dict[tuple[str, int], Mark] = {}
        self._watermarks: dict[str, int] = {}
        self._beat_us = clock_us()

    def open(self, partition: int) -> int:
        """Take a partition over; where to read from: the lowest offset that a sink, or the log, still lacks.

        What the log has and a sink lacks is folded later, by `apply` and `tick`.

        Raises TopicError when the topic is another one than before, GrownTopicError when it has more partitions than
        its definition says.
        """
        if partition >= self.topic.partitions:
            # At least so many: only the broker knows how many there are.
            raise GrownTopicError(self.topic.name, self.topic.partitions, partition + 1)
        # What waited for the log belongs to reads of before; after a change of owner it is read again.
        self.flush()
        self._log.forget()
        held = self._log.marks()
        # Also of the others: a partition that is new in the log says nothing of the topic before.
        refuse_other_topic(self.topic, self.topic_id, held.items())
        logged = held.get(partition)
        stand = [sink.open(partition, self.topic_id) for sink in self._sinks]
        marks = [logged, *stand]
        known = [mark for mark in marks if mark is not None]
        start = min(known, key=lambda mark: mark.offset) if len(known) == len(marks) else _BEGIN
        # The log keeps no epoch.
        epochs = [mark.leader_epoch for mark in known if mark.offset == start.offset]
        start = replace(start, leader_epoch=max(epochs, default=-1))
        log_end = self._held.decided(partition) or _BEGIN
        self._taken_back[partition] = self._ask_taken_back(partition, log_end.offset)
        if self.topic.dedupe is not None and log_end.offset < start.offset:
            # Rows of a follower that are ahead of the workers' log: the ids in between are in no log, so they are read.
            start = log_end
        self._marks[partition] = start
        self._behind.pop(partition, None)
        if start.offset < log_end.offset:
            self._behind[partition] = replace(log_end, topic_id=self.topic_id)
        self._repeats.open(partition, log_end.offset, log_end.newest_us)
        for sink, mark in zip(self._sinks, stand, strict=True):
            self._settled.pop((sink.view.name, partition), None)
            if mark is not None:
                self._settle(sink, {partition: mark})
        self._watermarks = self._lowest()
        return max(start.offset, log_end.offset)

    def reopen(self, partition: int) -> None:
        """Learn where the sinks stand now, after one of them was found to stand earlier than it was left."""
        if partition in self._marks:
            self.open(partition)

    def stands(self, partition: int) -> int | None:
        """The next offset that this engine takes; None of a partition that is not its own."""
        mark = self.read_from(partition)
        return None if mark is None else mark.offset

    def read_from(self, partition: int) -> Mark | None:
        """The mark of that offset; its leader epoch is not known where the log ends there, and rows stand elsewhere."""
        return self._behind.get(partition) or self._marks.get(partition)

    @property
    def steps(self) -> int:
        """Grows with whatever is done; safe to ask from any thread."""
        return self.counts.batches + self.letters_put + self._folded

    def rows_written(self) -> dict[str, int]:
        """View -> rows that this engine wrote since it started."""
        return {sink.view.name: sink.rows_written for sink in self._sinks}

    def marks(self) -> dict[int, Mark]:
        """Where the engine stands in each of its partitions; safe to ask from any thread."""
        return dict(self._marks)

    def watermarks(self) -> dict[str, int]:
        """View -> what lookups call its watermark, but of this engine's partitions; safe to ask from any thread.

        Every event up to this moment that was in time is in the view's rows: the newest event time of the partition
        that is furthest behind, less the lateness. As of the last second. A view is missing while its rows are not
        known to hold what the engine has passed, and while none of its partitions has had a record.
        """
        return self._watermarks

    def close(self, partition: int) -> int | None:
        """Give a partition up; the offset before which every sink holds everything, None where that is unknown."""
        self.flush()
        with suppress(LostTailError):
            # Whoever comes next begins behind the newest record, and so with its leader epoch.
            self._beat()
        end = self.settled().get(partition)
        self._marks.pop(partition, None)
        self._behind.pop(partition, None)
        self._taken_back.pop(partition, None)
        self._repeats.close(partition)
        for sink in self._sinks:
            sink.close(partition)
            self._settled.pop((sink.view.name, partition), None)
        self._watermarks = self._lowest()
        return end

    def apply(self, *batches: Batch) -> None:
        """Apply batches, each of another partition; raises LostTailError where the store has lost its tail.

        Together they cost the store one read and one write of each row, and they are applied all or none. Only where
        their events are more than memory should hold they come one part after the other, each as if it came alone.
        Commits go on when this returns, so what is lost may be a batch of before, of any partition; then these batches
        are not applied either.
        A batch that begins after where the engine stands was read before a seek back: it comes again, so it is
        left alone. One that begins earlier is cut: lateness is judged from where the engine stands.
        """
        for batch in batches:
            self._catch_up(batch.partition)
        while coming := [
            batch.after(self._marks[batch.partition].offset)
            for batch in batches
            if batch.first_offset <= self._marks[batch.partition].offset < batch.end_offset
        ]:
            self._apply(coming)

    def _apply(self, coming: Sequence[Batch]) -> None:
        """As much of the batches as is decoded in one go."""
        parts = self._judged(coming)
        new = {part.batch.partition: part.mark(self.topic_id) for part in parts}
        taken = _Taken.of(parts, self.topic)
        for sink in self._sinks:
            chosen = np.flatnonzero(~taken.future & (taken.late_by_us <= sink.view.lateness_us))
            # An event without an entity is kept in the log and counts for no one.
            for key in sink.view.entity.keys:
                if taken.arrays[key].null_count:
                    chosen = chosen[np.asarray(taken.arrays[key].is_valid())[chosen]]
            grouped = group_keys([_some(taken.arrays[key], chosen) for key in sink.view.entity.keys])
            events = _chooser(sink, self.topic, taken, chosen)
            sink.apply(grouped, taken.partition[chosen], taken.offsets[chosen], new, events)
        self._marks.update(new)
        for partition in new:
            self._repeats.keep(partition)
        self._gather(taken)
        # Only now: a batch that a sink refused comes again.
        self._counted.update({p: max(mark.offset, self._counted.get(p, 0)) for p, mark in new.items()})
        self.counts = sum((part.counts for part in parts), self.counts)
        self.tick()

    def tick(self) -> None:
        """Let time pass: heartbeats, and the log when it has waited long enough. Raises LostTailError like `apply`."""
        now_us = self._clock_us()
        # One at a time: they may be many, and the process may be told to end meanwhile.
        for partition in list(self._behind)[:1]:
            self._catch_up(partition)
        self._log.look()
        if self._log.is_due:
            self._write_log()
        if now_us - self._beat_us >= HEARTBEAT_US:
            self._beat_us = now_us
            self.beat()

    def _catch_up(self, partition: int) -> None:
        """Bring the rows of a partition to where the log stands, where they are behind it."""
        if (end := self._behind.get(partition)) is None:
            return
        stands = self._marks[partition]
        place = f"{self.topic.name}/{partition}"
        log.info("bringing rows of %s from %d to %d, from the event log", place, stands.offset, end.offset)
        for mark in catch_up(self._held, self.topic, self._sinks, partition, stands, end):
            self._marks[partition] = mark
            self._folded += 1
        del self._behind[partition]

    def beat(self) -> None:
        """Let the sinks look after themselves, and bring the buckets that no event touched to where the others are."""
        for sink in self._sinks:
            sink.look()
        self._beat()

    def _beat(self) -> None:
        marks = {partition: mark for partition, mark in self._marks.items() if mark.offset}
        for sink in self._sinks:
            sink.heartbeat(marks)
            self._settle(sink, marks)
        self._watermarks = self._lowest()

    def _settle(self, sink: Sink, marks: Mapping[int, Mark]) -> None:
        """Note up to where a sink holds everything; one that is ahead of the others stays there."""
        for partition, mark in marks.items():
            place = sink.view.name, partition
            # Rows that are filled from the log hold less than the engine has passed.
            if sink.settled(partition) >= mark.offset >= self._settled.get(place, _BEGIN).offset:
                self._settled[place] = mark

    def _lowest(self) -> dict[str, int]:
        # One without a record, here or in the log, holds nothing back.
        some = {p for p, mark in self._marks.items() if mark.offset or p in self._behind}
        out = {}
        for view in [sink.view for sink in self._sinks]:
            settled = [self._settled.get((view.name, partition)) for partition in some]
            known = [mark.newest_us for mark in settled if mark is not None]
            if known and len(known) == len(settled):
                out[view.name] = max(min(known) - view.lateness_us, 0)
        return out

    def flush(self) -> None:
        """Bring the log to where the engine stands, and wait for all commits that are at work."""
        for sink in self._sinks:
            # A lost tail is seen again: at the next commit, or when the partition is opened and asked where it stands.
            with suppress(LostTailError):
                sink.finish()
        self._write_log()
        self._log.finish()

    def _write_log(self) -> None:
        self._log.write({partition: mark for partition, mark in self._marks.items() if mark.offset})

    def settled(self) -> dict[int, int]:
        """Partition -> offset before which every sink holds everything.

        Not of one whose log is made again and lacks letters that were taken back: the group would be told less than
        before, and nobody would see by that where the log had been, were it to be made again from there.
        """
        logged = self._log.marks()
        self._logged = {partition: mark.offset for partition, mark in logged.items()}
        ends = {
            partition: min([mark.offset, *(sink.settled(partition) for sink in self._sinks)])
            for partition, mark in logged.items()
            if partition in self._marks
        }
        all_of = PLACES_MAX if self.topic.is_batched else 1
        return {partition: end for partition, end in ends.items() if end * all_of >= self._taken_back[partition].end}

    def undrained(self) -> list[str]:
        """Who is not known to hold all that was passed, in words; safe to ask from any thread, and waits for nobody."""
        out = []
        for partition, mark in self.marks().items():
            held = {
                f"the online store has the rows of {sink.view.name}": sink.settled(partition) for sink in self._sinks
            }
            held["the event log has the events"] = self._logged.get(partition, 0)
            place = f"{self.topic.name}/{partition}"
            out += [f"{who} of {place} up to {end} of {mark.offset}" for who, end in held.items() if end < mark.offset]
        return out

    def _judged(self, batches: Sequence[Batch]) -> list[_Part]:
        """Decode, judge time and repeats, post what is not applied."""
        for batch in batches:
            if self.topic.is_batched and batch.end_offset > BATCHED_OFFSETS_MAX:
                what = f"offset {batch.end_offset} is beyond what records of many events may have"
                raise TopicError(self.topic.name, f"{what} ({BATCHED_OFFSETS_MAX})")
        out = []
        for batch, values, whole in self._decoded(batches):
            before = self._marks[batch.partition]
            # A log that was lost decides anew, but not on events that stand in the topic again.
            decoded = self._taken_back[batch.partition].left(whole, batch.offsets)
            event = _times(decoded, self.topic)
            judged = judge(event, batch.timestamps_us[decoded.index], before.newest_us)
            judged = self._repeats.mark(batch.partition, decoded.arrays, judged)
            late = ~judged.future & (judged.late_by_us > self._lateness_max_us) & (judged.late_by_us != REPEATED_US)
            together = replace(batch, values=values)
            for letters in letters_of(self.topic, together, decoded, event, judged, late, self._lateness_max_us):
                self._letters.put(letters)
                self.letters_put += len(letters)
            first = self._counted.get(batch.partition, 0)
            counts = counts_of(batch, whole, decoded, event, judged, late, first)
            out.append(_Part(batch, decoded, judged, event, before, counts))
        return out

    def _decoded(self, batches: Sequence[Batch]) -> list[tuple[Batch, Payloads, Decoded]]:
        """In one go, since a small batch costs hardly less than a large one; with the values, that lie together.

        What would be too much at once is left for the next time: the rest of a batch, and batches after it.
        """
        batches = _within(batches, self._part_bytes_max)
        whole = Payloads.joined([batch.values for batch in batches])
        decoded, count = self._decode(whole, _cut(batches))
        if count < len(whole):
            batches = _first_records(batches, count)
            whole = whole[:count]
        if len(batches) == 1:
            return [(batches[0], whole, decoded)]
        edges = pairwise(np.cumsum([0, *(len(batch.values) for batch in batches)]).tolist())
        return [
            (batch, whole[begin:end], decoded.between(begin, end))
            for batch, (begin, end) in zip(batches, edges, strict=True)
        ]

    def _decode(self, values: Payloads, cut: Mapping[int, int]) -> tuple[Decoded, int]:
        """As the codec's `decode_first`; what is cut is no record, whatever its beginning says.

        cut  place -> bytes of the record that begins there
        """
        if not cut:
            return self._codec.decode_first(values)
        decoded, count = self._codec.decode_first(values.without(np.fromiter(cut, np.int64)))
        said = f"bytes in value and key, {RECORD_BYTES_MAX:,} are the most that are read of a record"
        reasons = {place: ("too_large", f"{size:,} {said}") for place, size in cut.items() if place < count}
        return without_records(decoded, reasons), count

    def _gather(self, taken: _Taken) -> None:
        kept = np.flatnonzero(~taken.future)
        self._log.put(
            {
                "partition": taken.partition[kept],
                "offset": taken.offsets[kept],
                **({} if taken.position is None else {"position": taken.position[kept]}),
                "event_us": taken.event_us[kept],
                "effective_us": taken.effective_us[kept],
                "arrival_us": taken.arrival_us[kept],
                "late_by_us": taken.late_by_us[kept],
                **{name: _some(array, kept) for name, array in taken.arrays.items()},
            }
        )


def _within(batches: Sequence[Batch], bytes_max: int) -> Sequence[Batch]:
    """The batches up to the record with which their values have so many bytes, the last one cut behind it."""
    if sum(batch.size_bytes for batch in batches) <= bytes_max:
        return batches
    out: list[Batch] = []
    size = 0
    for batch in batches:
        # Part by part: to join them first would copy what is to be left for later.
        parts = [Payloads.of(part).lengths for part in Parts([batch.values]).parts]
        ends = size + np.cumsum(np.maximum(np.concatenate([np.empty(0, np.int64), *parts]), 0))
        count = int(np.searchsorted(ends, bytes_max)) + 1
        if count < len(ends):
            return [*out, batch.before(int(batch.offsets[count]))]
        out.append(batch)
        size = int(ends[-1]) if len(ends) else size
        if size >= bytes_max:
            break
    return out


def _cut(batches: Sequence[Batch]) -> dict[int, int]:
    """Of the records of batches side by side: place -> bytes, where only the beginning is there."""
    out, first = {}, 0
    for batch in batches:
        if batch.cut:
            for at in np.flatnonzero(np.isin(batch.offsets, list(batch.cut))).tolist():
                out[first + at] = batch.cut[int(batch.offsets[at])]
        first += len(batch.offsets)
    return out


def _first_records(batches: Sequence[Batch], count: int) -> list[Batch]:
    """The batches up to a record, the last one cut before the next record."""
    out = []
    for batch in batches:
        if count >= len(batch.values):
            out.append(batch)
            count -= len(batch.values)
            continue
        return [*out, batch.before(int(batch.offsets[count]))] if count else out
    return out


def _chooser(sink: Sink, topic: Topic, taken: _Taken, chosen: Ints) -> Callable[[Ints, Ints], Events]:
    """The kernel's events of a view, for chosen ones among those that it takes."""
    columns: Mapping[str, Column] = {
        name: from_arrow(_some(taken.arrays[name], chosen), topic.schema[name]) for name in sink.view.plan.columns
    }
    offsets = taken.offsets if taken.position is None else in_records(taken.offsets, taken.position)
    effective_us, partition, offsets = taken.effective_us[chosen], taken.partition[chosen], offsets[chosen]

    def events(some: Ints, row: Ints) -> Events:
        if len(some) == len(chosen):
            return Events(row, effective_us, partition, offsets, columns)
        picked = {name: column.take(some) for name, column in columns.items()}
        return Events(row, effective_us[some], partition[some], offsets[some], picked)

    return events


def _times(decoded: Decoded, topic: Topic) -> Ints:
    """Event times as the producers gave them."""
    times: Ints = decoded.arrays[topic.event_time].view(pa.int64()).to_numpy()
    return times


def _some(array: pa.Array, index: Ints) -> pa.Array:
    """The values at rising indices; the array itself where that is all of them."""
    return array if len(index) == len(array) else array.take(pa.array(index))
