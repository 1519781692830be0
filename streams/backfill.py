"""Backfill: a shadow of one view's rows is filled from the event log, compared, brought up to now, and flipped to.

Each stage is written down before the next begins, and what a stage does can be done again: a process that is killed
at any moment leaves a backfill that the next one goes on with. `docs/backfill.md` has the whole way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from featurestore.errors import BackfillError, NotServedError
from featurestore.offline import EventLog, LogSlices
from featurestore.online import Alias, Aliases, Backfilling
from featurestore.settings import Settings
from featurestore.spec import FeatureView
from streams.broker import broker_of
from streams.build import online_store
from streams.fill import LogFill
from streams.follow import Follower
from streams.online_sink import OnlineSink
from streams.topics import Topics

# Workers look for a moved alias once a second: until they have, the backfill itself keeps the new rows fresh.
HAND_OVER_S = 5.0
_FLIP_TRIES_MAX = 10

Moved = Callable[[str, int, int], None]
# Compares the rows under an id with a log as of one version; returns what to say, raises where they differ.
Compare = Callable[[str, EventLog], str]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did.

    row_id    under which the view is served now
    events    offsets that the log gave
    compared  what the comparison found
    dropped   keys of the rows that were served before
    """

    row_id: str
    version: int
    events: int
    compared: str
    dropped: int


class Backfill:
    """The backfill of one view; `run` may be called by any number of processes, one after the other.

    compare     called when the shadow stands exactly where its version of the log does
    moved       is told stage, how far it has come and how far it must, in offsets
    at          is told the points at which a process may be killed; tests kill it there
    events_max  of one batch of the fill
    """

    def __init__(
        self,
        settings: Settings,
        view: FeatureView,
        compare: Compare,
        *,
        moved: Moved = lambda stage, done, total: None,
        at: Callable[[str], None] = lambda point: None,
        events_max: int | None = None,
    ) -> None:
        if not view.online:
            raise NotServedError(view.name)
        self._settings, self._view, self._compare = settings, view, compare
        self._moved, self._at, self._events_max = moved, at, events_max
        self._store = online_store(settings)
        self._aliases = Aliases(self._store)
        self._log = EventLog(settings.offline_path, view.source)

    def run(self, *, keep_following_s: float = HAND_OVER_S) -> Backfilled:
        """From wherever the last process left it to the end.

        keep_following_s  how long to keep the new rows fresh after the flip, for workers to take over

        Raises BackfillError where the rows differ from the log, or somebody else flipped.
        """
        self._store.ensure_ready()
        topic = self._view.source
        topic_id = Topics(broker_of(self._settings)).ids([topic.name])[topic.name]
        state = self._aliases.backfill(self._view.id) or self._begin()
        compared = "compared before"
        slices = LogSlices(self._log, state.version)
        if state.stage == "fill":
            self._fill(state, slices, topic_id)
            self._at("before-compare")
            compared = self._compare(state.id, self._log.at(state.version))
            state = self._save(state, stage="follow")
        if state.stage in ("follow", "flip"):
            # What the log has got since is folded faster from there, and Kafka may have lost it. Also for who goes on
            # right before the flip: the process before may have ended a day ago.
            self._fill(state, LogSlices.newest(self._log), topic_id)
        with Follower(self._settings, self._store, self._view, state.id, topic_id) as follower:
            if state.stage in ("follow", "flip"):
                follower.until_caught_up(lambda done, total: self._moved("follow", done, total))
            if state.stage == "follow":
                state = self._save(state, stage="flip", old_id=self._aliases.id_of(self._view.id))
            if state.stage == "flip":
                self._at("before-flip")
                self._flip(state, follower.settled())
                self._at("after-flip")
                state = self._save(state, stage="flipped")
            follower.for_seconds(keep_following_s)
        self._at("before-drop")
        dropped = self._store.drop(state.old_id) if state.old_id not in (None, state.id) else 0
        self._aliases.end_backfill(self._view.id)
        events = sum(mark.offset for mark in slices.marks.values())
        return Backfilled(state.id, state.version, events, compared, dropped)

    def abandon(self) -> bool:
        """Drop the shadow of a backfill that has not flipped; whether there was one."""
        state = self._aliases.backfill(self._view.id)
        if state is None:
            return False
        if self._aliases.id_of(self._view.id) == state.id:
            raise BackfillError(self._view.name, "it has flipped already; run it again, so that it ends")
        self._store.drop(state.id)
        self._aliases.end_backfill(self._view.id)
        return True

    def _begin(self) -> Backfilling:
        state = Backfilling(self._aliases.new_generation(self._view.id), self._log.version(), "fill")
        self._aliases.save_backfill(self._view.id, state)
        return state

    def _fill(self, state: Backfilling, slices: LogSlices, topic_id: str) -> None:
        fill = LogFill(slices, self._view, self._events_max)
        sink = OnlineSink(self._store, self._view, row_id=state.id)
        total, before = sum(mark.offset for mark in slices.marks.values()), 0
        for partition, mark in sorted(slices.marks.items()):

            def moved(offset: int, before: int = before) -> None:
                self._moved("fill", before + offset, total)
                self._at("mid-fill")

            fill.fill(sink, partition, topic_id, moved)
            before += mark.offset
        self._moved("fill", total, total)

    def _flip(self, state: Backfilling, held: Mapping[int, int]) -> None:
        """From one moment to the next, readers find the shadow.

        Over an alias that stood before the shadow was looked at: while it stands, the store was not flushed.

        held  partition -> offset before which the shadow holds everything
        """
        for _ in range(_FLIP_TRIES_MAX):
            before = self._aliases.get(self._view.id)
            if before is None:
                self._aliases.point(self._view.id, None, self._alias(state.old_id or self._view.id, False))
                continue
            if before.id == state.id:
                return
            self._refuse_lost(state, held)
            if before.id != state.old_id:
                raise BackfillError(self._view.name, f"somebody else flipped it to {before.id} meanwhile")
            if self._aliases.point(self._view.id, before, self._alias(state.id, True)):
                return
        raise BackfillError(self._view.name, f"its alias changed {_FLIP_TRIES_MAX} times while it was flipped")

    def _alias(self, row_id: str, is_ready: bool) -> Alias:
        return Alias(row_id, is_ready, time.time_ns() // 1_000)

    def _refuse_lost(self, state: Backfilling, held: Mapping[int, int]) -> None:
        """A bucket of the shadow that stands earlier than it did was lost since."""
        stored = self._store.marks(state.id, self._view.source.name)
        for partition, end in held.items():
            marks = stored.get(partition, [])
            if end and (not marks or any(mark is None or mark.offset < end for mark in marks)):
                raise BackfillError(
                    self._view.name,
                    f"the store lost rows of {state.id} after they were filled and compared; run it with --abandon, "
                    "then again",
                )

    def _save(self, state: Backfilling, **changed: str) -> Backfilling:
        state = msgspec.structs.replace(state, **changed)
        self._aliases.save_backfill(self._view.id, state)
        return state
