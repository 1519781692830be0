"""Repeats, judged in offset order against the ids that each partition has seen: `Topic(dedupe=..., within=...)`.

    An event is a repeat when an event with its id that was taken (that was no repeat itself) stands earlier in its
    partition, and the partition's newest event time has moved on by no more than `within` from that one to this one.

"Newest event time" is the running one: up to and including an event. It never falls along a partition, so an id can be
forgotten for good when it is older than `within`, and an event that came late is remembered as long as any other. The
rule asks nothing but what stands before an event in its own partition: a replay, a restart and a rebuild decide alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import TooManyIdsError
from featurestore.event_time import REPEATED_US
from featurestore.offline import Stride
from featurestore.spec import Topic
from streams.sink import Log
from streams.watermark import Judged

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Truths = npt.NDArray[np.bool_]

# Ids of one partition that are remembered at once. A slot has 24 bytes, and an id needs two to four of them: this many
# ids are 800 MB. More would be forgotten silently or fill the machine, so the worker stops and says what to change.
IDS_MAX = 10_000_000
_SLOTS_MIN = 1 << 16
_FULL, _FILLED = 0.6, 0.45
# Offsets whose times are read at first to find where the time `within` begins; four times as many each time.
_LOOK_BACK = 1 << 17
# What is read of the log at once, to find that place and to learn the ids from there on: they are hashed and let go.
_READ_BYTES_MAX = 32 << 20
# Texts that are Python's at once, for its hash.
_TEXTS = 1 << 14


class Seen:
    """The ids of one partition within the horizon. What `judge` found holds from `keep` on, else it is forgotten."""

    def __init__(self, within_us: int, ids_max: int = IDS_MAX) -> None:
        self._within_us, self._ids_max = within_us, ids_max
        self._slots = _free(_SLOTS_MIN)
        self._used = 0
        self._undo = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), 0

    def judge(self, ids: pa.Array, moment_us: Ints) -> Truths:
        """Which of n events are repeats; one without an id is none.

        ids        (n) string or int64, null where there is none
        moment_us  (n) newest event time of the partition up to and including each; never falling
        Raises TooManyIdsError, before anything is judged.
        """
        return self._judge(ids, moment_us, self._within_us)

    def remember(self, ids: pa.Array, moment_us: Ints) -> None:
        """Events that were taken, in order: of one id the last one counts, as it does in the log."""
        # Nothing is a repeat of what lies in its future.
        self._judge(ids, moment_us, -1)
        self.keep()

    def _judge(self, ids: pa.Array, moment_us: Ints, within_us: int) -> Truths:
        from featurestore.kernel.loops.seen import judge_ids

        self._forget_what_was_not_kept()
        known = np.flatnonzero(np.asarray(ids.is_valid()))
        some = moment_us if len(known) == len(ids) else moment_us[known]
        high, low = _words(ids if len(known) == len(ids) else ids.take(pa.array(known)))
        if len(some):
            self._make_room(len(some), int(some[0]) - self._within_us)
        undo_at, undo_us = np.empty(len(some), dtype=np.int64), np.empty(len(some), dtype=np.int64)
        repeat = np.zeros(len(some), dtype=np.bool_)
        moments = np.ascontiguousarray(some, dtype=np.int64)
        changed = judge_ids(high, low, moments, np.int64(within_us), *self._slots, undo_at, undo_us, repeat)
        self._undo = undo_at, undo_us, int(changed)
        out = np.zeros(len(ids), dtype=np.bool_)
        out[known] = repeat
        return out

    def keep(self) -> None:
        """What was judged last has happened."""
        undo_at, undo_us, changed = self._undo
        self._used += int((undo_us[:changed] < 0).sum())
        self._undo = undo_at[:0], undo_us[:0], 0

    def _forget_what_was_not_kept(self) -> None:
        from featurestore.kernel.loops.seen import undo

        undo(*self._undo, self._slots[2])
        self._undo = self._undo[0][:0], self._undo[1][:0], 0

    def _make_room(self, count: int, oldest_us: int) -> None:
        """Room for so many more ids; what is older than asked may go."""
        from featurestore.kernel.loops.seen import move

        if self._used + count <= _FULL * len(self._slots[2]):
            return
        held = int((self._slots[2] >= max(oldest_us, 0)).sum())
        if held + count > self._ids_max:
            raise TooManyIdsError(held + count, self._ids_max)
        size = _SLOTS_MIN
        while held + count > _FILLED * size:
            size *= 2
        fresh = _free(size)
        move(np.int64(max(oldest_us, 0)), *self._slots, *fresh)
        self._slots, self._used = fresh, held


class Repeats:
    """Judges the repeats of a topic's partitions; None of them where the topic has no `dedupe`."""

    def __init__(
        self, topic: Topic, log: Log, look_back: int = _LOOK_BACK, read_bytes_max: int = _READ_BYTES_MAX
    ) -> None:
        self._column, self._within_us, self._log = topic.dedupe, topic.within_us, log
        self._look_back, self._read_bytes_max = look_back, read_bytes_max
        self._seen: dict[int, Seen] = {}
        if topic.dedupe is not None:
            # The loops are loaded now, before a partition is taken over.
            Seen(0).judge(pa.array([0]), np.zeros(1, dtype=np.int64))

    def open(self, partition: int, end: int, newest_us: int) -> None:
        """Learn what had been seen before offset `end`, up to which the log has everything.

        newest_us  newest event time of the partition before it
        """
        if self._column is None:
            return
        seen = self._seen[partition] = Seen(self._within_us)
        oldest_us = newest_us - self._within_us
        column, stride = self._column, Stride(self._read_bytes_max)
        first = self._begin(partition, end, oldest_us)
        while first < end:
            table, first = stride.read(
                first, end, lambda low, high, most: self._firsts(partition, low, high, most, column)
            )
            moments = _moments(table)
            chosen = np.flatnonzero(moments >= oldest_us)
            seen.remember(table[column].combine_chunks().take(pa.array(chosen)), moments[chosen])
            # The next one is read without it.
            del table

    def close(self, partition: int) -> None:
        self._seen.pop(partition, None)

    def mark(self, partition: int, columns: Mapping[str, pa.Array], judged: Judged) -> Judged:
        """The batch as `judge` of time found it, with repeats later than any view waits.

        columns  (n) of the batch's events
        """
        if self._column is None:
            return judged
        repeat = np.zeros(len(judged.future), dtype=np.bool_)
        # Also where none is left: what a batch of before left, which was not kept, must be forgotten.
        new = np.flatnonzero(~judged.future)
        repeat[new] = self._seen[partition].judge(columns[self._column].take(pa.array(new)), judged.newest_us[new])
        return replace(judged, late_by_us=np.where(repeat, REPEATED_US, judged.late_by_us))

    def keep(self, partition: int) -> None:
        """The engine has moved past the batch that was judged last."""
        if partition in self._seen:
            self._seen[partition].keep()

    def _begin(self, partition: int, end: int, oldest_us: int) -> int:
        """An offset before which the partition has nothing of a moment or later; found by times alone."""
        low, step = end, self._look_back
        while low > 0:
            first = max(low - step, 0)
            while (table := self._firsts(partition, first, low, self._most(first, low), "offset")) is None:
                first = low - (low - first) // 2
            moments = _moments(table)
            # The running newest time never falls, so the first row that is too old ends the search.
            if len(table) and moments[0] < oldest_us:
                within = np.flatnonzero(moments >= oldest_us)
                return int(table["offset"][within[0]].as_py()) if len(within) else low
            # Where so many more would not fit, they would be read to no purpose.
            low, step = first, 4 * step if 5 * table.nbytes <= self._read_bytes_max else low - first
        return 0

    def _most(self, first: int, end: int) -> int | None:
        return self._read_bytes_max if end - first > 1 else None

    def _firsts(self, partition: int, first: int, end: int, bytes_max: int | None, column: str) -> pa.Table | None:
        """Times and a column of the events of some offsets that are no repeats; None where they are too many bytes."""
        columns = ["effective_us", "late_by_us", column]
        table = self._log.between_within(partition, first, end, columns, bytes_max)
        return None if table is None else table.filter(pa.array(table["late_by_us"].to_numpy() != REPEATED_US))


def _moments(table: pa.Table) -> Ints:
    """Newest event time of the partition up to and including each event of the log that is no repeat."""
    moments: Ints = table["effective_us"].to_numpy() + table["late_by_us"].to_numpy()
    return moments


def _words(ids: pa.Array) -> tuple[Words, Words]:
    """Ids as 128 bits: numbers as they are, texts by a hash of which no two have ever been found alike."""
    if pa.types.is_integer(ids.type):
        numbers = ids.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64)
        return numbers, np.zeros(len(numbers), dtype=np.uint64)
    digests = bytearray()
    for first in range(0, len(ids), _TEXTS):
        some = ids.slice(first, _TEXTS).cast(pa.large_binary()).to_pylist()
        digests += b"".join([blake2b(text, digest_size=16).digest() for text in some])
    both = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])


def _free(size: int) -> tuple[Words, Words, Ints]:
    return np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.uint64), np.full(size, -1, dtype=np.int64)
