"""Backfill: a shadow of one view's rows is filled from the event log, compared, brought up to now, and flipped to.

Each stage is written down before the next begins, and what a stage does can be done again: a process that is killed
at any moment leaves a backfill that the next one goes on with. `docs/backfill.md` has the whole way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import msgspec

from featurestore.errors import BackfillError, LostTailError, NotServedError
from featurestore.event_time import DAY_US
from featurestore.offline import EventLog, LogSlices
from featurestore.online import Alias, Aliases, Backfilling, has_more
from featurestore.settings import Settings
from featurestore.spec import FeatureView
from streams.alone import alone
from streams.bounds import bounds_of
from streams.broker import admin_client, broker_of, in_words
from streams.build import online_store
from streams.fill import LogFill
from streams.follow import Follower
from streams.online_sink import OnlineSink
from streams.topics import Topics

# Workers look for a moved alias once a second: until they have, the backfill itself keeps the new rows fresh.
HAND_OVER_S = 5.0
_FLIP_TRIES_MAX = 10
_ANEW = "run it with --abandon, then again"

Moved = Callable[[str, int, int], None]
# Compares the rows under an id with a log as of one version; returns what to say, raises where they differ.
Compare = Callable[[str, EventLog], str]


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did.

    row_id    under which the view is served now
    events    offsets that the log gave; 0 where an earlier process had compared them
    compared  what the comparison found
    dropped   keys of the rows that were served before
    """

    row_id: str
    version: int
    events: int
    compared: str
    dropped: int


class Backfill:
    """The backfill of one view; any number of processes may `run` it, one after the other: the others are refused.

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
        self._log = EventLog(settings.offline_path, view.source, project=settings.project)

    def run(self, *, keep_following_s: float = HAND_OVER_S) -> Backfilled:
        """From wherever the last process left it to the end.

        keep_following_s  how long to keep the new rows fresh after the flip, for workers to take over

        Raises BackfillError where the rows differ from the log, or the store lost some of them; where the log was lost,
        workers or broker are silent, somebody else flipped, or another run is at work. GrownTopicError where the topic
        has partitions that its definition does not have; TopicError where the log does not fit the definition,
        OtherProjectError where it is another project's, OtherLogError where the workers have another one; BrokerError
        and BrokerAccessError.
        """
        self._log.check_types()
        with self._alone(), in_words(broker_of(self._settings)):
            try:
                return self._run(keep_following_s)
            except LostTailError as error:
                place = f"{error.topic}/{error.partition}"
                what = f"the store lost rows of the shadow, which stand at offset {error.offset} of {place} again"
                raise BackfillError(self._view.name, f"{what}; run it again") from error

    def _run(self, keep_following_s: float) -> Backfilled:
        self._store.ensure_ready()
        self._store.refuse_other_log(self._view.source.name, self._log.identity())
        topic_id = self._whole_id()
        self._log.forget()
        state = self._aliases.backfill(self._view.id)
        if state is not None and state.stage in ("fill", "abandoned") and self._names(state.id):
            # It came back older than the alias: what is served is brought up to now, and told where it lacks some.
            state = self._save(state, stage="flipped")
        if state is not None and self._lacks_rows(state):
            state = self._save(state, stage="abandoned")
            self._drop_abandoned(state)
            state = None
        state = state or self._begin()
        self._refuse_lost_log(state)
        compared, dropped, events = "compared before", 0, 0
        if state.stage == "fill":
            slices = LogSlices(self._log, state.version)
            events = sum(mark.offset for mark in slices.marks.values())
            self._fill(state, slices, topic_id)
            self._at("before-compare")
            self._refuse_evicted(state)
            compared = self._compare(state.id, self._log.at(state.version))
            state = self._save(state, stage="follow")
        for _ in range(_FLIP_TRIES_MAX):
            state = self._served(state, topic_id, keep_following_s)
            self._at("before-drop")
            dropped += self._drop_old(state)
            self._at("before-end")
            if self._aliases.end_backfill(self._view.id, state.id):
                break
            state = self._save(state, stage="flipped")
        else:
            raise BackfillError(self._view.name, f"its alias came back older {_FLIP_TRIES_MAX} times; run it again")
        return Backfilled(state.id, state.version, events, compared, dropped)

    def abandon(self) -> bool:
        """Drop the shadow of a backfill that has not flipped; whether there was one.

        Killed on the way, it is ended by the next process, whether that one abandons too or runs.
        """
        with self._alone():
            return self._abandon()

    def _abandon(self) -> bool:
        state = self._aliases.backfill(self._view.id)
        if state is None:
            return False
        # An alias that came back older says nothing: the rows that it names may be half dropped.
        if state.stage == "flipped" or self._names(state.id):
            raise BackfillError(self._view.name, "it has flipped already; run it again, so that it ends")
        # Before a row goes: of a shadow that lacks some, nothing is filled or flipped to again.
        self._drop_abandoned(self._save(state, stage="abandoned"))
        return True

    def _lacks_rows(self, state: Backfilling) -> bool:
        """Whether marks of the shadow may vouch for rows that are gone.

        Killed while it was dropped, or filled so long ago that rows expire, which would differ from the log.
        """
        reach_us = self._view.plan.reach_us
        # Rows expire a day later than their windows (`OnlineSink`): what is left of it is for this run.
        lasts_us = None if reach_us is None else max(DAY_US, reach_us + self._view.lateness_us)
        is_old = lasts_us is not None and _now_us() - state.begun_us > lasts_us
        return state.stage == "abandoned" or (state.stage == "fill" and (is_old or state.began is None))

    def _drop_abandoned(self, state: Backfilling) -> None:
        self._at("before-abandoned-drop")
        self._store.drop(state.id, may=lambda: not self._names(state.id))
        self._aliases.end_backfill(self._view.id)
        # Of one that flipped before workers gave its rows up: what was served before that.
        self._aliases.drop_unserved(self._view.id)

    def _alone(self) -> AbstractContextManager[None]:
        """No other run of this view meanwhile, on all machines that share the disk.

        One would compare a shadow with the log as it was, while this one brings it up to now.
        """
        # Logs of several projects may lie side by side, and have a view in common.
        folder = self._settings.offline_path.resolve().parent / "backfills" / self._settings.project
        what = "another run of it is at work; wait until that one has ended"
        return alone(folder / f"{self._view.id}.lock", BackfillError(self._view.name, what))

    def _begin(self) -> Backfilling:
        row_id, version = self._aliases.new_generation(self._view.id), self._log.version()
        began, log_id = self._store.evicted(self._store.runs()), self._log.identity()
        state = Backfilling(row_id, version, "fill", log_id=log_id, begun_us=_now_us(), began=began)
        self._aliases.save_backfill(self._view.id, state)
        # Behind it: workers drop the rows of what is noted and nobody names.
        self._store.note_evicted(state.id, began)
        return state

    def _refuse_lost_log(self, state: Backfilling) -> None:
        """A version of a log that was lost is none of the log that was made anew.

        Rows that are served already stay, as all others do.
        """
        is_served = state.stage == "flipped" or self._names(state.id)
        if state.log_id and state.log_id != self._log.identity() and not is_served:
            what = f"the event log of topic {self._view.source.name!r} is another one than the shadow was filled from"
            raise BackfillError(self._view.name, f"{what}; {_ANEW}")

    def _served(self, state: Backfilling, topic_id: str, keep_following_s: float) -> Backfilling:
        """Bring the shadow up to now and flip to it, unless it has flipped and lost nothing since."""
        if self._is_lacking(state) if self._names(state.id) else state.stage == "flipped":
            # The store lost some of what is served; or the alias came back older, and names what is half dropped.
            self._tell_incomplete(state)
            state = self._save(state, stage="flip")
        # What the log has got since is folded faster from there, and Kafka may have lost it. Also for who goes on right
        # before the flip or behind it: the process before may have ended a day ago, and the store lost rows since.
        self._fill(state, LogSlices.newest(self._log), topic_id)
        row_id, is_served = state.id, partial(self._names, state.id)
        with Follower(self._settings, self._store, self._view, row_id, topic_id, is_served) as follower:
            follower.until_caught_up(lambda done, total: self._moved("follow", done, total))
            if state.stage == "follow":
                state = self._save(state, stage="flip", old_id=self._aliases.id_of(self._view.id))
            if state.stage == "flip":
                self._at("before-flip")
                self._flip(state, follower)
                self._at("after-flip")
                state = self._save(state, stage="flipped")
            follower.for_seconds(keep_following_s)
        return state

    def _is_lacking(self, state: Backfilling) -> bool:
        """Whether a bucket of the shadow has nothing, or less than Kafka can still add to, and the log has the rest.

        One that only stands behind the log may be on its way there: workers write both.
        """
        topic = self._view.source
        logged, stored = self._log.marks(), self._store.marks(state.id, topic.name)
        bounds = bounds_of(admin_client(broker_of(self._settings)), topic.name, range(topic.partitions))
        for partition, held in bounds.items():
            stands = min(0 if mark is None else mark.offset for mark in stored.get(partition, [None]))
            end = logged[partition].offset if partition in logged else 0
            if stands < min(max(held.low, 1), end):
                return True
        return False

    def _tell_incomplete(self, state: Backfilling) -> None:
        """Lookups answer STALE until the shadow is flipped to, or somebody finds complete what is served now."""
        alias = self._aliases.get(self._view.id)
        if alias is not None and alias.id in (state.id, state.old_id):
            # Where there is another one by now, whoever wrote it has looked at its rows.
            self._aliases.point(self._view.id, alias, self._alias(alias.id, False))

    def _drop_old(self, state: Backfilling) -> int:
        """Drop the rows that were served before, for as long as the alias names the shadow."""
        if state.old_id is None or state.old_id == state.id:
            return 0
        return self._store.drop(state.old_id, may=lambda: self._names(state.id))

    def _whole_id(self) -> str:
        """The topic's identity; raises GrownTopicError where rows would lack what some of its partitions have."""
        topic = self._view.source
        return Topics(broker_of(self._settings)).whole_ids([topic])[topic.name]

    def _names(self, row_id: str) -> bool:
        """Whether the alias does."""
        return self._aliases.id_of(self._view.id) == row_id

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

    def _flip(self, state: Backfilling, follower: Follower) -> None:
        """From one moment to the next, readers find the shadow.

        Over an alias that stood before the shadow was looked at: while it stands, the store was not flushed.
        """
        for _ in range(_FLIP_TRIES_MAX):
            before = self._aliases.get(self._view.id)
            if before is None:
                self._aliases.point(self._view.id, None, self._alias(state.old_id or self._view.id, False))
                continue
            if before.id == state.id:
                if before.is_ready:
                    return
                # It was served and has lost something: ready is what holds all that was served until it was told.
                follower.until_caught_up()
            self._refuse_lost(state, follower.settled())
            self._refuse_evicted(state)
            # The topic may have grown while the shadow was filled.
            self._whole_id()
            if before.id not in (state.id, state.old_id):
                raise BackfillError(self._view.name, f"somebody else flipped it to {before.id} meanwhile; {_ANEW}")
            if self._aliases.point(self._view.id, before, self._alias(state.id, True), state.began):
                return
        what = f"its alias changed {_FLIP_TRIES_MAX} times while it was flipped; run it again"
        raise BackfillError(self._view.name, what)

    def _alias(self, row_id: str, is_ready: bool) -> Alias:
        return Alias(row_id, is_ready, _now_us())

    def _refuse_lost(self, state: Backfilling, held: Mapping[int, int]) -> None:
        """A bucket of the shadow that stands earlier than it did was lost since."""
        stored = self._store.marks(state.id, self._view.source.name)
        for partition, end in held.items():
            marks = stored.get(partition, [])
            if end and (not marks or any(mark is None or mark.offset < end for mark in marks)):
                way = "run it again" if self._names(state.id) else _ANEW
                raise BackfillError(
                    self._view.name, f"the store lost rows of {state.id} after they were filled and compared; {way}"
                )

    def _refuse_evicted(self, state: Backfilling) -> None:
        """Where keys were evicted since the shadow began, any of its rows may be missing while all marks stand."""
        if state.began is None or has_more(state.began, self._store.evicted(self._store.runs())):
            is_served = self._names(state.id)
            way = "start a worker, which fills others" if is_served else _ANEW
            known = "it is not known whether the store" if state.began is None else "the store"
            what = f"{known} has evicted keys since {state.id} began, and rows of it may be among them; {way}"
            raise BackfillError(self._view.name, what)

    def _save(self, state: Backfilling, **changed: str) -> Backfilling:
        state = msgspec.structs.replace(state, **changed)
        self._aliases.save_backfill(self._view.id, state)
        return state


def _now_us() -> int:
    return time.time_ns() // 1_000
