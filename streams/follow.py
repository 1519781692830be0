"""Rows of one view that follow their topic by themselves, beside the workers: no group, no log, no letters.

What an event was, its log says: taken, late, a repeat or a dead letter. Workers may have another definition than the
rows, and may yet log what they have read. So while workers read the topic, rows follow their log, as far behind them
as their commits; the topic itself is read only while nobody else reads it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from confluent_kafka.admin import AdminClient

from featurestore.errors import BackfillError
from featurestore.event_time import Mark
from featurestore.offline import EventLog, LogSlices
from featurestore.online import OnlineStore
from featurestore.settings import Settings
from featurestore.spec import FeatureView
from streams.bounds import bounds_of
from streams.broker import admin_client, broker_of
from streams.codecs import codec_of
from streams.engine import Engine, steady_us
from streams.fill import LogFill
from streams.group import is_read, worker_group
from streams.online_sink import OnlineSink
from streams.schemas import schemas_at
from streams.sink import NoLetters, NoLog
from streams.tail import Tail, gone
from streams.taken_back import TakenBack

_READ_S = 0.1
_TIMEOUT_S = 30.0
# How often it is asked whether workers read the topic, and how long they may be gone: one that is started again, or
# a partition that moves from one to another, comes back in seconds.
_LOOK_S, _GONE_S = 1.0, 10.0
# Where there is more, and nothing comes for this long, somebody must look; a worker that was killed counts for a
# session more.
_SILENT_MAX_S = 60.0


class _Source(Protocol):
    """Where rows get what they lack."""

    def stands(self) -> dict[int, int]:
        """Partition -> offset before which the rows have everything, or have it on its way."""

    def reached(self, partition: int) -> int:
        """How far that has come of which the rows are made; they may be ahead of it."""

    def step(self) -> None:
        """Bring the rows what has come since; wait a moment where that is nothing."""

    def settle(self) -> None:
        """Wait until the rows hold what is on its way."""

    def close(self) -> None: ...

    def silent(self, partition: int, end: int) -> str:
        """What to say where nothing comes although there is more."""


class Follower:
    """Brings the rows under an id up to where the topic ends, and keeps them there.

    They hold what the log has already.

    is_served  whether workers write these rows by now, so that they may be ahead of the log

    Raises BackfillError where they do not and the topic lacks it, or where nothing comes although there is more, or
    workers began when rows had been made of the topic itself; TopicError where log and topic have both lost what the
    rows still lack, LostTailError where the store lost what the rows had.
    """

    def __init__(
        self,
        settings: Settings,
        store: OnlineStore,
        view: FeatureView,
        row_id: str,
        topic_id: str,
        is_served: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings, self._view, self._topic, self._topic_id = settings, view, view.source, topic_id
        self._is_served = is_served
        self._sink = OnlineSink(store, view, row_id=row_id)
        self._admin = admin_client(broker_of(settings))
        self._looked_s = self._seen_s = -math.inf
        self._source: _Source = self._from_log() if self._is_logged() else self._from_topic()

    def until_caught_up(self, moved: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Return when the rows hold everything that the topic had when this was called.

        moved  is told how far all partitions have come together, and how far they must
        """
        bounds = bounds_of(self._admin, self._topic.name, range(self._topic.partitions))
        ends = {partition: each.end for partition, each in bounds.items() if each.low < each.end}
        last, since_s = None, time.monotonic()
        while True:
            stands = self._source.stands()
            lacking = [p for p, end in ends.items() if stands[p] < end]
            done = sum(min(stands[p], end) for p, end in ends.items())
            moved(done, sum(ends.values()))
            if not lacking:
                break
            # Of what is lacking alone: other partitions may have live traffic beyond their ends.
            seen = self._source, done, sum(min(self._source.reached(p), ends[p]) for p in lacking)
            if seen != last:
                last, since_s = seen, time.monotonic()
            self._refuse_silence(time.monotonic() - since_s, lacking[0], ends[lacking[0]])
            self._step()
        self._source.settle()

    def for_seconds(self, seconds: float) -> None:
        """Follow this long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._step()
        self._source.settle()

    def settled(self) -> dict[int, int]:
        """Partition -> offset before which the rows hold everything, unless the store has lost some since."""
        return {partition: self._sink.settled(partition) for partition in range(self._topic.partitions)}

    def close(self) -> None:
        self._source.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _step(self) -> None:
        is_logged = self._is_logged()
        if is_logged != isinstance(self._source, _FromLog):
            if not is_logged:
                # What the last workers logged when they went: the topic may have it no longer.
                self._source.step()
            self._source.settle()
            self._source.close()
            self._source = self._from_log() if is_logged else self._from_topic()
        self._source.step()

    def _is_logged(self) -> bool:
        """Whether workers read the topic, or did a moment ago, so that the log says what its events are."""
        if time.monotonic() - self._looked_s >= _LOOK_S:
            is_seen = is_read(self._admin, self._settings, self._topic.name, _TIMEOUT_S)
            self._looked_s = time.monotonic()
            self._seen_s = self._looked_s if is_seen else self._seen_s
        return self._looked_s - self._seen_s < _GONE_S

    def _refuse_silence(self, silent_s: float, partition: int, end: int) -> None:
        if silent_s > _SILENT_MAX_S + self._settings.worker_session_s:
            raise BackfillError(self._view.name, f"for {silent_s:.0f} s {self._source.silent(partition, end)}")

    def _from_log(self) -> _FromLog:
        source = _FromLog(self._settings, self._sink, self._topic_id)
        for partition in range(self._topic.partitions):
            logged, stands = source.reached(partition), self._sink.reached(partition)
            if logged < stands and not self._is_served():
                raise BackfillError(
                    self._view.name,
                    f"workers began to read {self._topic.name}/{partition} from {logged} on when the shadow had been "
                    f"brought up to {stands} from the topic itself; with another definition they may log those events "
                    "otherwise: run it with --abandon, then again",
                )
        return source

    def _from_topic(self) -> _FromTopic:
        return _FromTopic(self._settings, self._admin, self._sink, self._topic_id)


class _FromLog:
    """What the workers log, filled again and again."""

    def __init__(self, settings: Settings, sink: OnlineSink, topic_id: str) -> None:
        self._sink, self._topic, self._topic_id = sink, sink.view.source, topic_id
        self._events = EventLog(settings.offline_path, self._topic)
        self._filled: dict[int, Mark] = {}
        for partition in range(self._topic.partitions):
            sink.open(partition, topic_id)

    def stands(self) -> dict[int, int]:
        return {partition: self._sink.settled(partition) for partition in range(self._topic.partitions)}

    def reached(self, partition: int) -> int:
        mark = self._events.marks().get(partition)
        return 0 if mark is None else mark.offset

    def step(self) -> None:
        self._events.forget()
        if self._events.marks() == self._filled:
            time.sleep(_READ_S)
            return
        slices = LogSlices.newest(self._events)
        fill = LogFill(slices, self._sink.view)
        for partition, mark in sorted(slices.marks.items()):
            if mark != self._filled.get(partition):
                fill.fill(self._sink, partition, self._topic_id)
        self._filled = slices.marks

    def settle(self) -> None:
        """A fill has ended with its rows in the store."""

    def close(self) -> None:
        """Nothing is held."""

    def silent(self, partition: int, end: int) -> str:
        return (
            f"the workers have logged no more of {self._topic.name}/{partition}: their log stands at "
            f"{self.reached(partition)}, and the broker has it up to {end}; look at the workers and run it again, or "
            "stop all of them (one that was killed counts until worker_session_s have passed): then the topic itself "
            "is read"
        )


class _FromTopic:
    """The topic itself, by an engine whose log is nobody's."""

    def __init__(self, settings: Settings, admin: AdminClient, sink: OnlineSink, topic_id: str) -> None:
        view, topic = sink.view, sink.view.source
        broker = broker_of(settings)
        marks: dict[int, Mark] = {}
        events = EventLog(settings.offline_path, topic)
        for partition, bounds in bounds_of(admin, topic.name, range(topic.partitions)).items():
            mark, logged = sink.open(partition, topic_id), events.marks().get(partition)
            stands = 0 if mark is None else mark.offset
            if stands < bounds.low and logged is not None and stands < logged.offset:
                # They were filled from the log just now: to go on from the topic's first offset would leave that out.
                what = f"the store lost rows of {sink.row_id} after they were filled; run it again"
                raise BackfillError(view.name, what)
            if mark is not None and stands < bounds.low:
                # Where nothing is left of a partition, nobody would ask the broker for what comes next.
                raise gone(topic.name, partition, stands)
            if mark is None and bounds.low:
                # Neither the log nor the topic knows of earlier events than these.
                mark = Mark(bounds.low, 0, topic_id)
                sink.heartbeat({partition: mark})
            if mark is not None:
                marks[partition] = mark
        self._engine = Engine(
            topic,
            topic_id,
            [sink],
            view.lateness_us,
            NoLog(topic, marks, events),
            NoLetters(),
            steady_us,
            codec=codec_of(topic, schemas_at(settings.schema_address)),
            taken_back=TakenBack(broker, admin, settings.project, worker_group(settings), topic).behind,
        )
        starts = {partition: self._engine.open(partition) for partition in range(topic.partitions)}
        self._topic = topic
        self._tail = Tail(broker, settings.project, topic.name, starts)

    def stands(self) -> dict[int, int]:
        return {partition: mark.offset for partition, mark in self._engine.marks().items()}

    def reached(self, partition: int) -> int:
        return self._engine.marks()[partition].offset

    def step(self) -> None:
        for batch in self._tail.read(_READ_S):
            self._engine.apply(batch)
        self._engine.tick()

    def settle(self) -> None:
        self._engine.flush()
        # The buckets that no event touched come to where the others are.
        self._engine.beat()

    def close(self) -> None:
        self._tail.close()

    def silent(self, partition: int, end: int) -> str:
        return (
            f"the broker gave nothing of {self._topic.name}/{partition}, which was read up to "
            f"{self.reached(partition)} and ends at {end}; look at the broker, and run it again"
        )
