"""Events of one or more partitions -> rows of one view in the online store, exactly once in effect.

The watermarks of each bucket move in the same call as its rows. What the store answers decides:
applied, a duplicate to drop, a straddle to cut and try again, changed rows to read again, or a lost tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from typing import assert_never

import numpy as np
import numpy.typing as npt

from featurestore.errors import CommitRetriesError, LostTailError, UnmarkedRowsError
from featurestore.event_time import DAY_US, Mark
from featurestore.kernel import Events, fold_pieces
from featurestore.kernel.keys import Grouped
from featurestore.online import (
    TOKEN_BYTES,
    Applied,
    Commit,
    Conflict,
    Duplicate,
    LostTail,
    Move,
    OnlineStore,
    Outcome,
    StoredRows,
    Straddle,
)
from featurestore.spec import FeatureView
from streams.sink import refuse_other_topic

# Another worker on the same rows makes a commit read again; this many in a row without one bucket that comes through
# mean that something is wrong. Not counted is one of each partition: an answer says of one at a time that it stands
# elsewhere.
_TRIES_MAX = 20
# More slices overlap hardly better, and each costs a round trip.
_SLICE_EVENTS, _SLICES_MAX = 8_000, 4
_SMALL_SLICES = 64
# Of so many topic-partitions the number is remembered, and read anew of others.
_PLACES = 1_024

EventsOf = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Events]


@dataclass(slots=True)
class _Work:
    """A batch on its way into the store: as `OnlineSink.apply` was given it, and which of its events still wait."""

    grouped: Grouped
    bucket: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    new: Mapping[int, Mark]
    events: EventsOf
    waiting: npt.NDArray[np.int64]
    commits: list[Future[tuple[Commit, list[Outcome]]]] = field(default_factory=list)
    tries: int = 0
    in_vain: int = 0


class OnlineSink:
    """Commits one view's share of each batch; knows how far each bucket has come in each partition.

    thread        where calls wait for the store; one of its own by default
    row_id        under which the rows lie; the view's own id by default
    expires       whether rows whose windows have all emptied may go
    slice_events  a larger batch goes through in slices of so many events at least, each of other buckets, so that the
                  store reads and writes one of them while another is folded
    """

    def __init__(
        self,
        store: OnlineStore,
        view: FeatureView,
        thread: Executor | None = None,
        row_id: str | None = None,
        slice_events: int = _SLICE_EVENTS,
        *,
        expires: bool = True,
    ) -> None:
        self._store, self._view, self.row_id = store, view, row_id or view.id
        self.rows_written, self._slice_events = 0, slice_events
        self._ends: dict[int, list[int | None]] = {}
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix=f"commit-{view.name}")
        self._work: _Work | None = None
        self._failure: Exception | None = None
        # Of partitions whose tail the store lost, or whose events were committed together with those of one, until they
        # are opened again: events that other buckets refused were dropped too, so nothing may move those buckets.
        self._lost: dict[int, LostTailError] = {}
        reach_us = view.plan.reach_us if expires else None
        # Rows whose windows have all emptied may go; a day more, for as long as a fill that was killed may go on.
        self._expire_ms = None if reach_us is None else (reach_us + view.lateness_us + DAY_US) // 1_000

    @property
    def view(self) -> FeatureView:
        return self._view

    def open(self, partition: int, topic_id: str = "") -> Mark | None:
        """Learn from the store where this partition stands: its furthest-behind bucket, None when one is new.

        topic_id  of the topic as it is; raises TopicError where a bucket stands in another topic of that name
        """
        self._store.claim()
        marks = self._store.marks(self.row_id, self._view.source.name).get(partition, [])
        marks = marks or [None] * self._store.buckets
        self._lost.pop(partition, None)
        self._ends[partition] = [None if mark is None else mark.offset for mark in marks]
        known = [mark for mark in marks if mark is not None]
        refuse_other_topic(self._view.source, topic_id, ((partition, mark) for mark in known))
        return min(known, key=lambda mark: mark.offset) if len(known) == len(marks) else None

    def close(self, partition: int) -> None:
        self._ends.pop(partition, None)
        self._lost.pop(partition, None)

    def apply(
        self,
        grouped: Grouped,
        partition: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        new: Mapping[int, Mark],
        events: EventsOf,
    ) -> None:
        """Fold events in and move every touched bucket to `new`, in all partitions that they come from.

        grouped    the n events of this view by their entities
        partition  (n) that each comes from
        offsets    (n) of each in its partition, below new[partition].offset
        new        partition -> where it stands afterwards
        events     gives the kernel's events for chosen ones of the n, with the dense row of each
        The commit goes on while the caller prepares the next events; `finish` waits for it.
        Raises LostTailError, CommitRetriesError, OnlineStoreError, of these events or of those before.
        """
        self.finish()
        self._refuse_lost(new)
        grouped, bucket = grouped.by_bucket(self._store.buckets)
        self._begin(_Work(grouped, bucket, partition, offsets, new, events, np.arange(len(offsets))))

    def finish(self) -> None:
        """Wait until the last batch is in the store; what was refused is cut, read and folded again.

        Once that has failed it fails for ever. The caller stands behind the batch already, so a heartbeat on the way
        to the process' end would move the buckets past events that they do not hold.
        """
        if self._failure is not None:
            raise self._failure
        try:
            self._settle()
        except LostTailError:
            # The store itself has said where it stands: the caller reads again from there.
            raise
        except Exception as error:
            self._failure = error
            raise

    def _settle(self) -> None:
        while self._work is not None:
            work, self._work = self._work, None
            # All answers first: where one tells of a lost tail, none of the others may still be on its way.
            answers = [commit.result() for commit in work.commits]
            again = [bucket for commit, outcomes in answers for bucket in self._learn(commit, outcomes, work.new)]
            work.tries += 1
            work.in_vain = work.in_vain + 1 if len(again) == sum(len(outcomes) for _, outcomes in answers) else 0
            if again and work.in_vain == _TRIES_MAX + len(work.new):
                raise CommitRetriesError(self._view.name, work.tries)
            work.waiting = work.waiting[np.isin(work.bucket[work.grouped.row[work.waiting]], again)]
            self._begin(work)

    def heartbeat(self, new: Mapping[int, Mark]) -> None:
        """Move the buckets that no event touched, so that a restart has little to read again.

        new  partition -> up to where all its events have been applied
        """
        self.finish()
        self._refuse_lost(new)
        moves = self._moves(new, range(self._store.buckets))
        lagging = [bucket for bucket, each in enumerate(moves) if each]
        commit = Commit.of_no_rows(lagging, [moves[bucket] for bucket in lagging])
        # No event waits behind these moves, so what is lost is lost to one partition alone.
        self._learn(commit, self._store.commit(self.row_id, commit), ())

    def look(self) -> None:
        """Called about once a second; these rows are looked after by nobody else."""

    def row_bytes(self, names: Sequence[bytes]) -> float:
        """Mean size of these entities' rows as the store has them; 0 where it has none."""
        [payloads] = self._store.payloads([(self.row_id, names)])
        sizes = [len(payload) for payload in payloads if payload is not None]
        return sum(sizes) / max(len(sizes), 1)

    def lost(self) -> list[int]:
        """The open partitions of which a bucket of the store stands earlier than it was left."""
        # A store that was flushed forgets that as well, also where no commit would find it out.
        self._store.claim()
        stored, out = self._store.marks(self.row_id, self._view.source.name), []
        for partition, ends in self._ends.items():
            marks = stored.get(partition) or [None] * self._store.buckets
            if any((0 if mark is None else mark.offset) < (end or 0) for mark, end in zip(marks, ends, strict=True)):
                out.append(partition)
        return out

    def settled(self, partition: int) -> int:
        """Every bucket holds all events before this offset, as far as is known: 0 of a partition that is not open."""
        return min((end or 0 for end in self._ends.get(partition, ())), default=0)

    def reached(self, partition: int) -> int:
        """Where the bucket that is furthest on stands, as far as is known."""
        return max((end or 0 for end in self._ends.get(partition, ())), default=0)

    def _begin(self, work: _Work) -> None:
        """Read and fold the rows of the events that wait, and send them off, slice by slice."""
        if len(work.waiting):
            places = sorted(work.new)
            floor = np.array([[end or 0 for end in self._ends[each]] for each in places], dtype=np.int64)
            which = np.searchsorted(places, work.partition[work.waiting])
            bucket = work.bucket[work.grouped.row[work.waiting]]
            work.waiting = work.waiting[work.offsets[work.waiting] >= floor[which, bucket]]
        if not len(work.waiting):
            return
        row, keys = work.grouped.row[work.waiting], work.grouped.keys
        touched = np.zeros(len(keys), dtype=np.bool_)
        touched[row] = True
        some = np.flatnonzero(touched)
        # Keys are in the order of their buckets, so rows come back in the order of the keys.
        asked, bucket = keys if len(some) == len(keys) else keys.take(some), work.bucket[some]
        row = (np.cumsum(touched) - 1)[row]
        parts = list(pairwise(np.searchsorted(bucket, self._cuts(work)).tolist()))
        parts = [(first, end) for first, end in parts if first < end]
        # Where others change rows all the time, nothing is read before its turn, nor while a commit waits for its own.
        ahead = len(parts) > 1 and not work.tries
        calls = [partial(self._store.read, self.row_id, asked.between(*part), bucket[slice(*part)]) for part in parts]
        reads = [self._thread.submit(call) for call in calls] if ahead else []
        work.commits = []
        try:
            for number, (first, end) in enumerate(parts):
                if work.tries and work.commits:
                    work.commits[-1].result()
                read = reads[number].result() if ahead else calls[number]()
                inside = np.flatnonzero((row >= first) & (row < end))
                commit = self._folded(work, read, work.waiting[inside], row[inside] - first)
                work.commits.append(self._thread.submit(self._send, commit))
        except Exception as error:
            # Some slices may be in the store already, and nobody will ask what became of them.
            self._failure = error
            raise
        self._work = work

    def _cuts(self, work: _Work) -> npt.NDArray[np.int64]:
        """The buckets at which slices begin, and the end of the last one.

        Where others have changed rows of the batch, its slices are small: from a read to its commit is then a moment,
        so it comes through however busy they are.
        """
        buckets = self._store.buckets
        few = max(1, min(len(work.waiting) // self._slice_events, _SLICES_MAX))
        slices = min(buckets, _SMALL_SLICES) if work.tries else few
        return np.arange(slices + 1) * buckets // slices

    def _folded(
        self, work: _Work, read: StoredRows, waiting: npt.NDArray[np.int64], row: npt.NDArray[np.int64]
    ) -> Commit:
        """The commit of the rows that were read, with some events folded in; `row` of each among those read."""
        if not all(read.tokens):
            self._refuse_unmarked(read)
        folded = fold_pieces(read.rows, work.events(waiting, row), self._view.plan, skip=TOKEN_BYTES)
        self.rows_written += len(folded)
        return Commit.onto(read, folded, self._moves(work.new, read.buckets), self._expire_ms)

    def _refuse_unmarked(self, read: StoredRows) -> None:
        """Rows and watermarks are written together, so where a bucket has rows alone, its watermarks were lost."""
        for bucket, token, (first, end) in zip(read.buckets, read.tokens, pairwise(read.begins), strict=True):
            if not token and any(row is not None for row in read.rows[first:end]):
                raise UnmarkedRowsError(self.row_id, bucket)

    def _send(self, commit: Commit) -> tuple[Commit, list[Outcome]]:
        return commit, self._store.commit(self.row_id, commit)

    def _learn(self, commit: Commit, outcomes: Sequence[Outcome], together: Iterable[int]) -> list[int]:
        """Remember where the buckets stand now; those of which the events must be tried again.

        together  the partitions whose events are dropped where the store has lost a tail
        """
        again = []
        for bucket, moves, outcome in zip(commit.buckets, commit.moves, outcomes, strict=True):
            match outcome:
                case Applied():
                    for move in moves:
                        self._ends[_partition(move.place)][bucket] = move.new.offset
                case Duplicate(stored, number) | Straddle(stored, number):
                    self._ends[_partition(moves[number].place)][bucket] = stored.offset
                    # Of a duplicate nothing is left to do, but of the other partitions there may be.
                    if len(moves) > 1 or isinstance(outcome, Straddle):
                        again.append(bucket)
                case Conflict():
                    again.append(bucket)
                case LostTail(stored, number):
                    partition = _partition(moves[number].place)
                    offset, dropped = 0 if stored is None else stored.offset, frozenset(together)
                    error = LostTailError(self._view.name, self._view.source.name, partition, offset, dropped)
                    self._lost.update(dict.fromkeys({partition, *dropped}, error))
                    raise error
                case _:
                    assert_never(outcome)
        return again

    def _refuse_lost(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            if partition in self._lost:
                raise self._lost[partition]

    def _moves(self, new: Mapping[int, Mark], buckets: Sequence[int]) -> list[tuple[Move, ...]]:
        """Of each bucket, in the partitions in which it does not stand there yet; one object for all that are alike."""
        made: dict[tuple[int | None, ...], tuple[Move, ...]] = {}
        out = []
        ends = [[self._ends[partition][bucket] for bucket in buckets] for partition in new]
        for stands in zip(*ends, strict=True):
            if stands not in made:
                made[stands] = tuple(
                    Move(f"{self._view.source.name}/{partition}", end, mark)
                    for (partition, mark), end in zip(new.items(), stands, strict=True)
                    if end is None or end < mark.offset
                )
            out.append(made[stands])
        return out


@lru_cache(_PLACES)
def _partition(place: str) -> int:
    return int(place.rpartition("/")[2])
