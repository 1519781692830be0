"""Members of a group without Faust: the real reader, a thread that applies, and sinks that compare and set."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from streams.broker import client_config
from streams.transport import Batch, Place, ReaderOptions
from streams.transport.native import NativeConsumer
from streams.transport.reader import Reader

LIMIT_S = 120.0
SESSION_S = 4.0


def make_topic(bootstrap: str, name: str, partitions: int = 1, config: dict[str, Any] | None = None) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for done in admin.create_topics([NewTopic(name, partitions, 1, config=config or {})]).values():
        done.result(LIMIT_S)


def fill(bootstrap: str, topic: str, counts: Mapping[int, int], size: int = 20) -> None:
    """So many records into each partition."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    for partition, count in counts.items():
        for number in range(count):
            producer.produce(topic, value=b"%0*d" % (size, number), partition=partition)
    assert producer.flush(LIMIT_S) == 0
    producer.close()


class Sinks:
    """What all members write to: a partition moves on from where it stands, and from nowhere else."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self.ends: dict[Place, int] = {}
        self.records: dict[Place, int] = {}
        self.order: list[Place] = []
        self.ranges: list[tuple[Place, int, int, int]] = []
        self.holes: list[str] = []

    def apply(self, batch: Batch) -> None:
        place = batch.topic, batch.partition
        with self._moved:
            stands = self.ends.get(place, 0)
            if batch.first_offset > stands:
                self.holes.append(f"{place}: {stands} to {batch.first_offset} was passed over")
            if batch.end_offset > stands:
                fresh = batch.after(stands)
                self.ends[place] = batch.end_offset
                self.records[place] = self.records.get(place, 0) + len(fresh.values)
                self.ranges.append((place, batch.first_offset, batch.end_offset, len(batch.values)))
                self.order.append(place)
                self._moved.notify_all()

    def wait(self, what: Callable[[], bool]) -> None:
        with self._moved:
            assert self._moved.wait_for(what, LIMIT_S), (self.ends, self.records)

    @property
    def applied(self) -> int:
        return sum(self.records.values())


class Member:
    """One member; `body` is what a batch costs."""

    def __init__(
        self,
        bootstrap: str,
        group: str,
        topic: str,
        sinks: Sinks,
        options: ReaderOptions | None = None,
        body: Callable[[Batch], None] = lambda batch: None,
        consumer_class: Callable[[dict[str, Any], str], NativeConsumer] = NativeConsumer,
    ) -> None:
        self.sinks, self._body = sinks, body
        self.assignments: list[list[Place]] = []
        self.revocations: list[list[Place]] = []
        self.losses: list[list[Place]] = []
        self.failure: Future[BaseException] = Future()
        self.at_assign: Callable[[list[Place]], None] = lambda places: None
        self.at_revoke: Callable[[list[Place]], None] = lambda places: None
        self._ready, self._stopping, self._work = threading.Event(), threading.Event(), threading.Lock()
        self.was_assigned = threading.Event()
        self.batches = 0
        client = {**client_config(bootstrap), "group.id": group}
        self.reader = Reader(client, options or ReaderOptions(session_s=SESSION_S), self, consumer_class)
        self._pump = threading.Thread(target=self._run, daemon=True)
        self.reader.start([topic])
        self._pump.start()

    def assigned(self, places: list[Place]) -> Mapping[Place, int]:
        self.at_assign(places)
        with self._work:
            self.reader.take_back()
        self.assignments.append(places)
        self.was_assigned.set()
        return {place: self.sinks.ends.get(place, 0) for place in places}

    def epochs(self, places: list[Place]) -> Mapping[Place, int]:
        return {}

    def revoked(self, places: list[Place]) -> None:
        self.at_revoke(places)
        with self._work:  # no batch is at work
            self.revocations.append(places)

    def lost(self, places: list[Place]) -> None:
        self.losses.append(places)

    def ready(self) -> None:
        self._ready.set()

    def failed(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_result(error)

    def stop(self) -> None:
        """In order: what is at work is finished, the group is left."""
        self._stopping.set()
        self._pump.join(LIMIT_S)
        assert self.reader.stop(LIMIT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._ready.wait(0.05)
            self._ready.clear()
            while not self._stopping.is_set() and self._round():
                pass

    def _round(self) -> bool:
        some = False
        for place in sorted(self.reader.places()):
            with self._work:
                taken = self.reader.take(place)
                if taken is not None and self.reader.begin(taken[1]):
                    self._body(taken[0])
                    self.batches += 1
                    self.sinks.apply(taken[0])
                    self.reader.finish(taken[1])
                    self.reader.settle(place, self.sinks.ends[place])
                    some = True
        return some
