"""Events of one batch -> rows of one view in the online store, exactly once in effect.

The watermark of each bucket moves in the same call as its rows. What the store answers decides:
applied, a duplicate to drop, a straddle to cut and try again, changed rows to read again, or a lost tail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from featurestore.errors import CommitRetriesError, LostTailError, TopicError
from featurestore.event_time import DAY_US, Mark
from featurestore.kernel import Events, fold
from featurestore.kernel.keys import Grouped
from featurestore.online import (
    TOKEN_BYTES,
    Applied,
    BucketCommit,
    Conflict,
    Duplicate,
    LostTail,
    OnlineStore,
    Outcome,
    Straddle,
)
from featurestore.spec import FeatureView

# Another worker on the same rows makes a commit read again; this many in a row means that something is wrong.
_TRIES_MAX = 20

EventsOf = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Events]


@dataclass(slots=True)
class _Work:
    """A batch on its way into the store: as `OnlineSink.apply` was given it, and which of its events still wait."""

    partition: int
    grouped: Grouped
    bucket: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    new: Mark
    events: EventsOf
    waiting: npt.NDArray[np.int64]
    commit: Future[dict[int, Outcome]] | None = None
    tries: int = 0


class OnlineSink:
    """Commits one view's share of each batch; knows how far each bucket has come in each partition.

    thread  where commits wait for the store; one of its own by default
    row_id  under which the rows lie; the view's own id by default
    """

    def __init__(
        self, store: OnlineStore, view: FeatureView, thread: Executor | None = None, row_id: str | None = None
    ) -> None:
        self._store, self._view, self.row_id = store, view, row_id or view.id
        self.rows_written = 0
        self._ends: dict[int, list[int | None]] = {}
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix=f"commit-{view.name}")
        self._work: _Work | None = None
        self._failure: Exception | None = None
        # Of partitions whose tail the store lost, until they are opened again: events of a batch that other buckets
        # refused at the same time were dropped with it, so nothing may move those buckets meanwhile.
        self._lost: dict[int, LostTailError] = {}
        reach_us = view.plan.reach_us
        # Rows whose windows have all emptied may go; a day more, since a replay may still want to see them.
        self._expire_ms = None if reach_us is None else (reach_us + view.lateness_us + DAY_US) // 1_000

    @property
    def view(self) -> FeatureView:
        return self._view

    def open(self, partition: int, topic_id: str = "") -> Mark | None:
        """Learn from the store where this partition stands: its furthest-behind bucket, None when one is new.

        topic_id  of the topic as it is; raises TopicError where a bucket stands in another topic of that name
        """
        marks = self._store.marks(self.row_id, self._view.source.name).get(partition, [])
        marks = marks or [None] * self._store.buckets
        self._lost.pop(partition, None)
        self._ends[partition] = [None if mark is None else mark.offset for mark in marks]
        known = [mark for mark in marks if mark is not None]
        before = next((mark for mark in known if topic_id and mark.topic_id not in ("", topic_id)), None)
        if before is not None:
            raise TopicError(
                self._view.source.name,
                f"it was deleted and made again after offset {before.offset} of partition {partition} was applied, so "
                "its offsets mean other events now; give the topic another name, or use another project",
            )
        return min(known, key=lambda mark: mark.offset) if len(known) == len(marks) else None

    def close(self, partition: int) -> None:
        self._ends.pop(partition, None)
        self._lost.pop(partition, None)

    def apply(
        self,
        partition: int,
        grouped: Grouped,
        offsets: npt.NDArray[np.int64],
        new: Mark,
        events: EventsOf,
    ) -> None:
        """Fold a batch in and move every touched bucket to `new`.

        grouped  the n events of this view by their entities
        offsets  (n) their offsets, all below new.offset
        events   gives the kernel's events for chosen ones of the n, with the dense row of each
        The commit goes on while the caller prepares the next batch; `finish` waits for it.
        Raises LostTailError, CommitRetriesError, OnlineStoreError, of this batch or of the one before.
        """
        self.finish()
        self._refuse_lost(partition)
        grouped, bucket = grouped.by_bucket(self._store.buckets)
        self._begin(_Work(partition, grouped, bucket, offsets, new, events, np.arange(len(offsets))))

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
            assert work.commit is not None
            again = [
                bucket
                for bucket, outcome in work.commit.result().items()
                if self._learn(work.partition, bucket, outcome, work.new)
            ]
            work.tries += 1
            if again and work.tries == _TRIES_MAX:
                raise CommitRetriesError(self._view.name, _TRIES_MAX)
            work.waiting = work.waiting[np.isin(work.bucket[work.grouped.row[work.waiting]], again)]
            self._begin(work)

    def heartbeat(self, partition: int, new: Mark) -> None:
        """Move the buckets that no event touched, so that a restart has little to read again."""
        self.finish()
        self._refuse_lost(partition)
        ends = self._ends[partition]
        lagging = [bucket for bucket, end in enumerate(ends) if end is None or end < new.offset]
        commits = [
            BucketCommit(bucket, self._place(partition), ends[bucket], new, b"", (), (), (), None) for bucket in lagging
        ]
        for commit, outcome in zip(commits, self._store.commit(self.row_id, commits), strict=True):
            self._learn(partition, commit.bucket, outcome, new)

    def look(self) -> None:
        """Called about once a second; these rows are looked after by nobody else."""

    def row_bytes(self, names: Sequence[bytes]) -> float:
        """Mean size of these entities' rows as the store has them; 0 where it has none."""
        [payloads] = self._store.payloads([(self.row_id, names)])
        sizes = [len(payload) for payload in payloads if payload is not None]
        return sum(sizes) / max(len(sizes), 1)

    def lost(self) -> list[int]:
        """The open partitions of which a bucket of the store stands earlier than it was left."""
        stored, out = self._store.marks(self.row_id, self._view.source.name), []
        for partition, ends in self._ends.items():
            marks = stored.get(partition) or [None] * self._store.buckets
            if any((0 if mark is None else mark.offset) < (end or 0) for mark, end in zip(marks, ends, strict=True)):
                out.append(partition)
        return out

    def settled(self, partition: int) -> int:
        """Every bucket holds all events before this offset."""
        return min(end or 0 for end in self._ends[partition])

    def _begin(self, work: _Work) -> None:
        """Read and fold the rows of the events that wait, and send them off."""
        ends = self._ends[work.partition]
        if len(work.waiting):
            floor = np.array([end or 0 for end in ends], dtype=np.int64)
            bucket = work.bucket[work.grouped.row[work.waiting]]
            work.waiting = work.waiting[work.offsets[work.waiting] >= floor[bucket]]
        if not len(work.waiting):
            return
        row, keys = work.grouped.row[work.waiting], work.grouped.keys
        touched = np.zeros(len(keys), dtype=np.bool_)
        touched[row] = True
        some = np.flatnonzero(touched)
        # Keys are in the order of their buckets, so rows come back in the order of the keys.
        asked = keys if len(some) == len(keys) else [keys[index] for index in some.tolist()]
        reads = self._store.read(self.row_id, asked, work.bucket[some])
        dense = np.cumsum(touched) - 1
        payloads = [None if held is None else held[TOKEN_BYTES:] for read in reads for held in read.rows]
        folded = fold(payloads, work.events(work.waiting, dense[row]), self._view.plan)
        commits, first = [], 0
        for read in reads:
            end = first + len(read.keys)
            commits.append(
                BucketCommit(
                    read.bucket,
                    self._place(work.partition),
                    ends[read.bucket],
                    work.new,
                    read.token,
                    tuple(read.keys),
                    tuple(folded[first:end]),
                    tuple([None if held is None else held[:TOKEN_BYTES] for held in read.rows]),
                    self._expire_ms,
                )
            )
            first = end
        self.rows_written += len(folded)
        work.commit = self._thread.submit(self._send, commits)
        self._work = work

    def _send(self, commits: list[BucketCommit]) -> dict[int, Outcome]:
        outcomes = self._store.commit(self.row_id, commits)
        return {commit.bucket: outcome for commit, outcome in zip(commits, outcomes, strict=True)}

    def _learn(self, partition: int, bucket: int, outcome: Outcome, new: Mark) -> bool:
        """Remember where the bucket stands now; whether its events must be tried again."""
        ends = self._ends[partition]
        match outcome:
            case Applied():
                ends[bucket] = new.offset
                return False
            case Duplicate(stored):
                ends[bucket] = stored.offset
                return False
            case Straddle(stored):
                ends[bucket] = stored.offset
                return True
            case Conflict():
                return True
            case LostTail(stored):
                offset = 0 if stored is None else stored.offset
                self._lost[partition] = LostTailError(self._view.name, self._view.source.name, partition, offset)
                raise self._lost[partition]
            case _:
                assert_never(outcome)

    def _refuse_lost(self, partition: int) -> None:
        if partition in self._lost:
            raise self._lost[partition]

    def _place(self, partition: int) -> str:
        return f"{self._view.source.name}/{partition}"
