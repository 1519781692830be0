"""Rows of one view that follow their topic by themselves, beside the workers: no group, no log, no letters."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from featurestore.errors import BackfillError
from featurestore.event_time import Mark
from featurestore.offline import EventLog
from featurestore.online import OnlineStore
from featurestore.settings import Settings
from featurestore.spec import FeatureView
from streams.bounds import bounds_of
from streams.broker import admin_client, broker_of
from streams.codecs import codec_of
from streams.engine import Engine, steady_us
from streams.group import worker_group
from streams.online_sink import OnlineSink
from streams.schemas import schemas_at
from streams.sink import NoLetters, NoLog
from streams.tail import Tail, gone
from streams.taken_back import TakenBack

_READ_S = 0.1


class Follower:
    """Brings the rows under an id up to where the topic ends, and keeps them there.

    They hold what the log has already. Raises BackfillError where they do not and the topic lacks it, TopicError where
    log and topic have both lost what the rows still lack, LostTailError where the store lost what the rows had.
    """

    def __init__(self, settings: Settings, store: OnlineStore, view: FeatureView, row_id: str, topic_id: str) -> None:
        topic = view.source
        self._sink = sink = OnlineSink(store, view, row_id=row_id)
        marks: dict[int, Mark] = {}
        broker = broker_of(settings)
        self._admin = admin_client(broker)
        events = EventLog(settings.offline_path, topic)
        for partition, bounds in bounds_of(self._admin, topic.name, range(topic.partitions)).items():
            mark, logged = sink.open(partition, topic_id), events.marks().get(partition)
            stands = 0 if mark is None else mark.offset
            if stands < bounds.low and logged is not None and stands < logged.offset:
                # They were filled from the log just now: to go on from the topic's first offset would leave that out.
                raise BackfillError(view.name, f"the store lost rows of {row_id} after they were filled; run it again")
            if mark is not None and stands < bounds.low:
                # Where nothing is left of a partition, nobody would ask the broker for what comes next.
                raise gone(topic.name, partition, stands)
            if mark is None and bounds.low:
                # Neither the log nor the topic knows of earlier events than these.
                mark = Mark(bounds.low, 0, topic_id)
                sink.heartbeat({partition: mark})
            if mark is not None:
                marks[partition] = mark
        log = NoLog(topic, marks, events)
        self._engine = Engine(
            topic,
            topic_id,
            [sink],
            view.lateness_us,
            log,
            NoLetters(),
            steady_us,
            codec=codec_of(topic, schemas_at(settings.schema_address)),
            taken_back=TakenBack(broker, self._admin, settings.project, worker_group(settings), topic).behind,
        )
        starts = {partition: self._engine.open(partition) for partition in range(topic.partitions)}
        self._topic = topic
        self._tail = Tail(broker, settings.project, topic.name, starts)

    def until_caught_up(self, moved: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Return when the rows hold everything that the topic had when this was called.

        moved  is told how far all partitions have come together, and how far they must
        """
        bounds = bounds_of(self._admin, self._topic.name, range(self._topic.partitions))
        ends = {partition: each.end for partition, each in bounds.items() if each.low < each.end}
        while True:
            stands = self._engine.marks()
            lacking = [p for p, end in ends.items() if stands[p].offset < end]
            moved(sum(min(stands[p].offset, end) for p, end in ends.items()), sum(ends.values()))
            if not lacking:
                break
            self._step()
        self._engine.flush()
        # The buckets that no event touched come to where the others are.
        self._engine.beat()

    def for_seconds(self, seconds: float) -> None:
        """Follow this long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._step()
        self._engine.flush()

    def settled(self) -> dict[int, int]:
        """Partition -> offset before which the rows hold everything, unless the store has lost some since."""
        return {partition: self._sink.settled(partition) for partition in range(self._topic.partitions)}

    def close(self) -> None:
        self._tail.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _step(self) -> None:
        for batch in self._tail.read(_READ_S):
            self._engine.apply(batch)
        self._engine.tick()
