"""The rows of one view that are served: which generation they are, whether they are complete, and how they come back.

Around an `OnlineSink` it adds six things, each noticed about once a second or when a partition is taken over:

- the alias moved (a backfill flipped): go on with the other generation, from where its rows stand;
- the rows stand far behind the event log (a new view, an empty store, an old backup): they are filled from it in
  another thread, while the topic is read on for the other views; then it is read again from where the fill ended;
- the store lost rows: its readers are told `STALE` until everything that the broker held at that moment is in;
- the store evicted keys, so that any row may be missing while all marks stand, or a mark while its rows stand: they go
  on as another generation, which is filled from the log;
- rows that nobody serves any more: they are dropped, in another thread;
- rows that have never been complete get their alias, once they are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Event, Lock, Thread

import numpy as np

from featurestore.errors import LostTailError, OnlineStoreError, UnmarkedRowsError
from featurestore.event_time import Mark
from featurestore.kernel import Events
from featurestore.kernel.keys import Grouped
from featurestore.offline import EventLog, LogSlices
from featurestore.online import NO_EVICTION, Alias, Aliases, OnlineStore, Run, has_more
from featurestore.spec import FeatureView
from streams.bounds import Bounds
from streams.fill import LogFill
from streams.online_sink import OnlineSink
from streams.sink import Ints, Partitions

# So many events of the log the engine folds by itself, before it goes on (`catch_up.py`). Of more, it
# goes on with the other views meanwhile.
AT_ONCE_MAX = 100_000
# How often a fill looks whether rows are still to be dropped, or it is to stop; and how long it waits for them.
_PAUSE_S, _ROOM_S = 0.25, 60.0
# Every so many looks it is looked for rows that nobody serves, where nothing is filled or moved.
_LOOKS = 30

log = logging.getLogger("featurestore.worker")


class _StoppedError(Exception):
    """The partition was given up while it was filled."""


class _Filling:
    """A partition on its way from the log, in a thread that does not keep a dying process alive."""

    def __init__(
        self,
        turn: Lock,
        before: Callable[[Callable[[int], None]], None],
        work: Callable[[Callable[[int], None]], int],
    ) -> None:
        self._stop, self._turn, self._before, self._work = Event(), turn, before, work
        self._reached = 0
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="fill", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Between two batches; what was written is as good as any other beginning."""
        self._stop.set()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> int:
        """The offset that was reached; raises what the work raised."""
        if self._error is not None:
            raise self._error
        return self._reached

    def _run(self) -> None:
        try:
            self._before(self._moved)
            with self._turn:
                self._moved(0)
                self._reached = self._work(self._moved)
        except _StoppedError:
            pass
        except BaseException as error:  # told to the engine's thread, which ends the process
            self._error = error

    def _moved(self, offset: int) -> None:
        if self._stop.is_set():
            raise _StoppedError


class ServingSink:
    """What an engine takes for a sink; used from the engine's thread.

    events   the topic's log
    bounds   what the broker holds of each partition of the topic
    turn     held while a fill runs: shared by all sinks of a worker, so that memory holds one at a time
    commits  as for OnlineSink
    """

    def __init__(
        self,
        store: OnlineStore,
        view: FeatureView,
        events: EventLog,
        bounds: Callable[[], Mapping[int, Bounds]],
        clock_us: Callable[[], int],
        turn: Lock | None = None,
        commits: Executor | None = None,
    ) -> None:
        self._store, self._view, self._events, self._bounds, self._clock_us = store, view, events, bounds, clock_us
        self._turn, self._commits = turn or Lock(), commits
        self._aliases = Aliases(store)
        self._alias: Alias | None = None
        self._incarnation = ""
        # As of the last look; none before the first one.
        self._runs: list[Run] = []
        self._evicted: dict[str, int] = {}
        # Drops rows that nobody serves any more.
        self._dropping: Thread | None = None
        self._looks = 0
        self._inner = OnlineSink(store, view, commits)
        self._rows_before = 0
        self._filling: dict[int, _Filling] = {}
        # Filled just now, and how far: what is left the engine folds, however fast the log grows meanwhile.
        self._filled: dict[int, int] = {}
        self._topic_ids: dict[int, str] = {}
        # Partitions that the engine must read again from earlier: it learns of one at a time.
        self._back: set[int] = set()
        # What the rows must hold until they are complete; None: they are.
        self._barrier: dict[int, int] | None = None

    @property
    def view(self) -> FeatureView:
        return self._view

    @property
    def rows_written(self) -> int:
        """Of live events; rows of fills are not counted."""
        return self._rows_before + self._inner.rows_written

    def open(self, partition: int, topic_id: str = "") -> Mark | None:
        """Where to read the partition from; a fill may have begun, which the mark then lies behind."""
        alias = self._believed()
        self._incarnation = self._incarnation or _incarnation(self._runs)
        self._follow_alias(alias)
        is_new = partition not in self._topic_ids
        self._topic_ids[partition] = topic_id
        self._back.discard(partition)
        # Another view's way back opens the partition for all of them: a fill at work goes on.
        at_work = partition in self._filling and not self._filling[partition].is_done
        mark = self._events.marks()[partition] if at_work else self._take_over(partition)
        if is_new:
            self._drop_unserved()
            self._tell_if_behind(partition)
        self._tell_if_complete()
        return mark

    def close(self, partition: int) -> None:
        self._stop_fill(partition)
        self._back.discard(partition)
        self._topic_ids.pop(partition, None)
        self._inner.close(partition)

    def apply(
        self,
        grouped: Grouped,
        partition: Partitions,
        offsets: Ints,
        new: Mapping[int, Mark],
        events: Callable[[Ints, Ints], Events],
    ) -> None:
        """As OnlineSink; nothing of partitions that are filled, since they are read again afterwards."""
        taken = self._taken(new)
        if len(taken) < len(new):
            chosen, whole = np.flatnonzero(np.isin(partition, list(taken))), events
            grouped, partition, offsets = grouped.take(chosen), partition[chosen], offsets[chosen]
            events = lambda some, row: whole(chosen[some], row)  # noqa: E731  # the parameter, narrowed
        if taken:
            self._noting_loss(lambda: self._inner.apply(grouped, partition, offsets, taken, events))

    def finish(self) -> None:
        self._noting_loss(self._inner.finish)

    def heartbeat(self, new: Mapping[int, Mark]) -> None:
        if taken := self._taken(new):
            self._noting_loss(lambda: self._inner.heartbeat(taken))

    def settled(self, partition: int) -> int:
        return self._inner.settled(partition)

    def look(self) -> None:
        """See what others did to the alias and the store, and what became of the fills."""
        alias = self._believed()
        incarnation = _incarnation(self._runs)
        is_lacking = bool(self._filling) or (self._barrier is not None and incarnation != self._incarnation)
        row_id = self._inner.row_id
        self._follow_alias(alias)
        if incarnation != self._incarnation or self._barrier is not None:
            # First what was sent before the loss is to be learned: rows that the store took and lost again would be
            # missed now, and be taken for held then.
            self.finish()
            self._incarnation = incarnation
        # A loss shows at a commit, but where nothing comes nothing is committed; and a node of a cluster may lose its
        # rows while the alias stands on another one.
        lost = [partition for partition in self._inner.lost() if partition not in self._filling]
        # Rows that came back older while they were being mended have brought their alias along; a flip has not.
        is_older = is_lacking and alias is not None and alias.is_ready and alias.id == row_id
        if is_older or lost:
            self._incomplete(alias)
        if lost:
            log.warning("the online store stands earlier than it was left with the rows of %s", self._view.name)
            self._take_over_all(lost)
        for partition, filling in list(self._filling.items()):
            if filling.is_done:
                del self._filling[partition]
                try:
                    self._filled[partition] = filling.result()
                except UnmarkedRowsError:
                    self._give_up_rows()
                    break
                self._back.add(partition)
        self._tell_if_complete()
        for partition in list(self._back):
            self._send_back(partition)

    # -- generations -------------------------------------------------------------------------------------------------

    def _follow_alias(self, alias: Alias | None) -> None:
        """Go on with the rows that the alias names."""
        is_news, self._alias = alias != self._alias, alias
        row_id, stood = self._view.id if alias is None else alias.id, self._inner.row_id
        if row_id != stood:
            log.info("%s is served from %s now", self._view.name, row_id)
            for partition in list(self._filling):
                self._stop_fill(partition)
            if self._topic_ids:
                # They may be noted nowhere any more; or were dropped before the last of them were written.
                self._store.note_evicted(stood, None)
            self._rows_before += self._inner.rows_written
            self._inner = OnlineSink(self._store, self._view, self._commits, row_id)
            self._barrier = None
            self._filled.clear()
        if is_news:
            # A store that was flushed has forgotten it, and who starts while they are filled would give up the rows.
            self._store.note_evicted(row_id, self._evicted)
        if is_news or self._filling or self._looks % _LOOKS == 0:
            self._drop_unserved()
        self._looks += 1
        if row_id != stood:
            self._take_over_all(self._topic_ids)
        if alias is not None and alias.is_ready:
            # Whoever wrote this has seen the rows complete.
            self._barrier = None
        elif is_news or self._barrier is None:
            # What one barrier asked for says nothing of a loss that came after it, and took or changed the alias.
            self._barrier = self._ends()

    def _believed(self) -> Alias | None:
        """The alias, moved to an empty generation where keys were evicted since its rows began."""
        alias = self._aliases.get(self._view.id)
        row_id = self._view.id if alias is None else alias.id
        is_known = bool(self._runs) and (alias is None or row_id == self._inner.row_id)
        before = self._evicted if is_known else self._store.evicted_before(row_id, self._view.source.name)
        # Asked behind the alias and what is noted: those are never ahead of it.
        runs = self._store.runs()
        self._tell_policy(runs)
        now = self._store.evicted(runs)
        # Also of a node that is away: it may come back, and what it had evicted is known.
        self._runs, self._evicted = runs, (before or {}) | now
        if before is None or has_more(before, now):
            return self._renewed(alias)
        if any(keys < before.get(run_id, 0) for run_id, keys in now.items()):
            # CONFIG RESETSTAT: it counts from zero again, and the next worker compares with what is noted.
            self._store.note_evicted(row_id, self._evicted, anew=True)
        return alias

    def _give_up_rows(self) -> None:
        """Of a bucket's rows it is not known which events they hold: go on with an empty generation, or another's."""
        alias = self._believed()
        row_id = self._view.id if alias is None else alias.id
        self._follow_alias(self._renewed(alias) if row_id == self._inner.row_id else alias)

    def _renewed(self, alias: Alias | None) -> Alias | None:
        """The alias, moved to an empty generation, or by others since it was read."""
        row_id = self._view.id if alias is None else alias.id
        new = Alias(self._aliases.new_generation(self._view.id), False, self._clock_us())
        while not self._aliases.point(self._view.id, alias, new, self._evicted):
            alias = self._aliases.get(self._view.id)
            if alias is not None and alias.id != row_id:
                # Another worker was faster, or a backfill flipped: its rows may have begun behind these evictions.
                return self._believed()
        log.error(
            "the online store evicted keys, or may have before its last start, and what belongs to %s may be among "
            "them: its lookups answer STALE until all rows are filled anew, as %s; set maxmemory-policy to %r, and "
            "maxmemory above what the rows take",
            *(self._view.name, new.id, NO_EVICTION),
        )
        for partition in list(self._filling):
            self._stop_fill(partition)
        return new

    def _drop_unserved(self) -> None:
        """In a thread, since they may be many millions, while the aliases of all views are to be moved at once.

        One worker does, of those that have the topic: a drop goes through all keys of the server.
        """
        is_ours = 0 in self._topic_ids
        is_idle = self._dropping is None or not self._dropping.is_alive()
        if is_ours and is_idle and self._aliases.unserved(self._view.id):
            self._dropping = Thread(target=self._drop, name="drop", daemon=True)
            self._dropping.start()

    def _drop(self) -> None:
        try:
            self._aliases.drop_unserved(self._view.id)
        except OnlineStoreError as error:
            log.warning("rows of %s that nobody serves are still there: %s", self._view.name, error)

    def _tell_policy(self, runs: Sequence[Run]) -> None:
        """Once, when somebody has set one under which rows may go."""
        policies = [{run.policy for run in each} - {NO_EVICTION} for each in (self._runs, runs)]
        for policy in policies[1] - policies[0]:
            log.error(
                "the online store's maxmemory-policy is %r now, so it may drop rows of %s; set it to %r",
                *(policy, self._view.name, NO_EVICTION),
            )

    # -- fills -------------------------------------------------------------------------------------------------------

    def _take_over_all(self, partitions: Iterable[int]) -> None:
        for partition in list(partitions):
            self._take_over(partition)
            if partition not in self._filling:
                self._back.add(partition)

    def _take_over(self, partition: int) -> Mark | None:
        """Learn where the partition's rows stand, and begin to fill them where the log is the better source."""
        self._stop_fill(partition)
        filled = self._filled.pop(partition, None)
        stood = max(self._inner.settled(partition), filled or 0)
        mark = self._inner.open(partition, self._topic_ids[partition])
        stands = 0 if mark is None else mark.offset
        if stands < stood:
            self._incomplete(self._alias)
        self._events.forget()
        logged = self._events.marks().get(partition)
        if logged is None or logged.offset <= stands:
            return mark
        # Rows that the store lost after they were filled are as far behind as any others.
        is_filled = filled is not None and stands >= filled
        if mark is not None and (is_filled or self._are_few(self._events, partition, stands, logged.offset)):
            return mark
        log.info(
            "filling %s from the event log: %s/%d from %d to %d",
            *(self._inner.row_id, self._view.source.name, partition, stands, logged.offset),
        )
        if self._alias is not None:
            self._incomplete(self._alias)
        row_id, topic_id = self._inner.row_id, self._topic_ids[partition]
        self._filling[partition] = _Filling(
            self._turn, self._wait_for_room, lambda moved: self._fill(row_id, partition, topic_id, moved)
        )
        return logged

    def _are_few(self, events: EventLog, partition: int, first: int, end: int) -> bool:
        if end - first > AT_ONCE_MAX or not self._view.source.is_batched:
            return end - first <= AT_ONCE_MAX
        return events.end_within(partition, first, end, AT_ONCE_MAX) == end

    def _tell_if_behind(self, partition: int) -> None:
        """Of a partition that another worker had, or nobody: whether the store lost rows while none of us looked.

        A bucket that no event touched lags a little. Where none has come as far as the log, the store came back
        without its last moments, and with the alias of then.
        """
        logged = self._events.marks().get(partition)
        is_behind = logged is not None and self._inner.reached(partition) < logged.offset
        if is_behind and self._alias is not None and self._alias.is_ready:
            self._incomplete(self._alias)

    def _wait_for_room(self, moved: Callable[[int], None]) -> None:
        """Until the rows that these replace are dropped, by whichever worker: both may not find room.

        Not for ever: where a drop does not come to its end, a store with room is none the worse for it.
        """
        until = time.monotonic() + _ROOM_S
        while time.monotonic() < until and self._aliases.unserved(self._view.id):
            moved(0)
            time.sleep(_PAUSE_S)

    def _fill(self, row_id: str, partition: int, topic_id: str, moved: Callable[[int], None]) -> int:
        # A sink of its own: the engine's is used from the engine's thread.
        with ThreadPoolExecutor(1, thread_name_prefix="fill-commit") as commits:
            sink = OnlineSink(self._store, self._view, commits, row_id)
            stands = 0
            while True:
                events = EventLog(self._events.path.parent, self._view.source)
                slices = LogSlices.newest(events)
                # The log went on meanwhile; what is left at last the engine folds.
                if stands and self._are_few(events, partition, stands, slices.marks[partition].offset):
                    return stands
                LogFill(slices, self._view).fill(sink, partition, topic_id, moved)
                stands = slices.marks[partition].offset

    def _stop_fill(self, partition: int) -> None:
        filling = self._filling.pop(partition, None)
        if filling is not None:
            filling.stop()

    def _taken(self, new: Mapping[int, Mark]) -> dict[int, Mark]:
        """The partitions that are not filled; raises LostTailError where one is to be read again."""
        for partition in new:
            self._send_back(partition)
        return {partition: mark for partition, mark in new.items() if partition not in self._filling}

    def _send_back(self, partition: int) -> None:
        if partition in self._back:
            self._back.discard(partition)
            stands = self._inner.settled(partition)
            raise LostTailError(self._view.name, self._view.source.name, partition, stands)

    # -- completeness ------------------------------------------------------------------------------------------------

    def _noting_loss(self, work: Callable[[], None]) -> None:
        try:
            work()
        except LostTailError:
            alias = self._aliases.get(self._view.id)
            if alias is None or alias.id == self._inner.row_id:
                self._incomplete(alias)
            raise
        except UnmarkedRowsError:
            self._give_up_rows()
            for partition in list(self._back):
                self._send_back(partition)

    def _incomplete(self, alias: Alias | None) -> None:
        """Tell readers that the rows lack something, until they hold what the broker has now."""
        # What the rows held before this or an earlier loss is known to nobody else, once they were opened again.
        asked = self._barrier or {}
        self._barrier = {partition: max(end, asked.get(partition, 0)) for partition, end in self._ends().items()}
        if alias is not None:
            # Also over `filling`: who has looked at the rows before they were lost may not call them ready.
            self._point(alias, Alias(alias.id, False, self._clock_us()))

    def _tell_if_complete(self) -> None:
        """Call the rows ready once every bucket holds all that the barrier asks for.

        Only over an alias that stood before the buckets were asked: one that is there still was not flushed meanwhile,
        and neither were they (nodes of a cluster apart), while no alias is what a flushed store has too.
        """
        if self._barrier is None:
            return
        if self._alias is None and not self._point(None, Alias(self._inner.row_id, False, self._clock_us())):
            return
        if self._filling:
            return
        stored = self._store.marks(self._inner.row_id, self._view.source.name)
        for partition, end in self._barrier.items():
            marks = stored.get(partition, [])
            if end and (not marks or any(mark is None or mark.offset < end for mark in marks)):
                return
        if self._point(self._alias, Alias(self._inner.row_id, True, self._clock_us())):
            log.info("%s is complete, served from %s", self._view.name, self._inner.row_id)
            self._barrier = None

    def _point(self, seen: Alias | None, new: Alias) -> bool:
        """Write the alias over the one that was seen; where there is another by now, the next look follows it."""
        is_written = self._aliases.point(self._view.id, seen, new, self._evicted)
        if is_written:
            self._alias = new
        return is_written

    def _ends(self) -> dict[int, int]:
        """What there is to hold: nothing of a partition that never had records.

        Of one whose records have all expired, what the log has, and what the rows held when they were last heard of:
        the log is written later.
        """
        self._events.forget()
        logged = self._events.marks()
        out = {}
        for partition, bounds in self._bounds().items():
            held = max(logged[partition].offset if partition in logged else 0, self._inner.settled(partition))
            out[partition] = bounds.end if bounds.low < bounds.end else min(held, bounds.end)
        return out


def _incarnation(runs: Iterable[Run]) -> str:
    """Another one after each start of a server: then what it holds may be older than what was written."""
    return " ".join(run.id for run in runs)
