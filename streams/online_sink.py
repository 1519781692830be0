"""Events of one batch -> rows of one view in the online store, exactly once in effect.

The watermark of each bucket moves in the same call as its rows. What the store answers decides:
applied, a duplicate to drop, a straddle to cut and try again, changed rows to read again, or a lost tail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

import numpy as np
import numpy.typing as npt

from featurestore.errors import CommitRetriesError, LostTailError
from featurestore.event_time import DAY_US, Mark
from featurestore.kernel import Events, fold
from featurestore.kernel.keys import bucket_of
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


class OnlineSink:
    """Commits one view's share of each batch; knows how far each bucket has come in each partition."""

    def __init__(self, store: OnlineStore, view: FeatureView) -> None:
        self._store, self._view = store, view
        self._ends: dict[int, list[int | None]] = {}
        reach_us = view.plan.reach_us
        # Rows whose windows have all emptied may go; a day more, since a replay may still want to see them.
        self._expire_ms = None if reach_us is None else (reach_us + view.lateness_us + DAY_US) // 1_000

    @property
    def view(self) -> FeatureView:
        return self._view

    def open(self, partition: int) -> Mark | None:
        """Learn from the store where this partition stands: its furthest-behind bucket, None when one is new."""
        marks = self._store.marks(self._view.id, self._view.source.name).get(partition, [])
        marks = marks or [None] * self._store.buckets
        self._ends[partition] = [None if mark is None else mark.offset for mark in marks]
        known = [mark for mark in marks if mark is not None]
        return min(known, key=lambda mark: mark.offset) if len(known) == len(marks) else None

    def close(self, partition: int) -> None:
        self._ends.pop(partition, None)

    def apply(
        self,
        partition: int,
        names: Sequence[bytes],
        row: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        new: Mark,
        events: EventsOf,
    ) -> None:
        """Fold a batch in and move every touched bucket to `new`.

        names    keys of the entities that the n events of this view are about
        row      (n) which of the names each event is about
        offsets  (n) their offsets, all below new.offset
        events   gives the kernel's events for chosen ones of the n, with the dense row of each
        Raises LostTailError, CommitRetriesError.
        """
        buckets = self._store.buckets
        bucket_of_row = np.array([bucket_of(name, buckets) for name in names], dtype=np.int64)
        ends = self._ends[partition]
        waiting = np.arange(len(offsets))
        for _ in range(_TRIES_MAX):
            if len(waiting):
                floor = np.array([end or 0 for end in ends], dtype=np.int64)
                waiting = waiting[offsets[waiting] >= floor[bucket_of_row[row[waiting]]]]
            if not len(waiting):
                return
            outcomes = self._commit(partition, names, row[waiting], waiting, new, events)
            again = {bucket for bucket, outcome in outcomes.items() if self._learn(partition, bucket, outcome, new)}
            waiting = waiting[np.isin(bucket_of_row[row[waiting]], list(again))]
        raise CommitRetriesError(self._view.name, _TRIES_MAX)

    def heartbeat(self, partition: int, new: Mark) -> None:
        """Move the buckets that no event touched, so that a restart has little to read again."""
        ends = self._ends[partition]
        lagging = [bucket for bucket, end in enumerate(ends) if end is None or end < new.offset]
        commits = [
            BucketCommit(bucket, self._place(partition), ends[bucket], new, b"", (), (), (), None) for bucket in lagging
        ]
        for commit, outcome in zip(commits, self._store.commit(self._view.id, commits), strict=True):
            self._learn(partition, commit.bucket, outcome, new)

    def settled(self, partition: int) -> int:
        """Every bucket holds all events before this offset."""
        return min(end or 0 for end in self._ends[partition])

    def _commit(
        self,
        partition: int,
        names: Sequence[bytes],
        row: npt.NDArray[np.int64],
        chosen: npt.NDArray[np.int64],
        new: Mark,
        events: EventsOf,
    ) -> dict[int, Outcome]:
        touched = np.zeros(len(names), dtype=np.bool_)
        touched[row] = True
        reads = self._store.read(self._view.id, [names[index] for index in np.flatnonzero(touched).tolist()])
        # Rows are folded in the order in which the buckets gave them.
        asked = [key for read in reads for key in read.keys]
        stored = [held for read in reads for held in read.rows]
        place_of = dict(zip(asked, range(len(asked)), strict=True))
        dense = np.array([place_of.get(name, -1) for name in names], dtype=np.int64)
        payloads = [None if held is None else held[TOKEN_BYTES:] for held in stored]
        folded = fold(payloads, events(chosen, dense[row]), self._view.plan)
        ends = self._ends[partition]
        commits, first = [], 0
        for read in reads:
            end = first + len(read.keys)
            commits.append(
                BucketCommit(
                    read.bucket,
                    self._place(partition),
                    ends[read.bucket],
                    new,
                    read.token,
                    tuple(read.keys),
                    tuple(folded[first:end]),
                    tuple([None if held is None else held[:TOKEN_BYTES] for held in read.rows]),
                    self._expire_ms,
                )
            )
            first = end
        outcomes = self._store.commit(self._view.id, commits)
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
                raise LostTailError(self._view.name, self._place(partition), 0 if stored is None else stored.offset)
            case _:
                assert_never(outcome)

    def _place(self, partition: int) -> str:
        return f"{self._view.source.name}/{partition}"
