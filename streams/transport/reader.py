"""The poll thread: the only one that touches librdkafka's consumer, which serialises all its methods.

It polls for ever, groups records into batches a partition, and hands rebalances to its owner while it keeps
serving commits. Every record is in exactly one batch: what cannot be used is read again by seeking.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import ne
from typing import Any, Protocol

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from streams.transport.batch import Batch

Place = tuple[str, int]

# librdkafka leaves the broker idle with its defaults: it waits a second whenever its queue was full once.
_FETCH = {
    "fetch.queue.backoff.ms": 20,
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 16_384,
    "fetch.max.bytes": 16_777_216,
    "max.partition.fetch.bytes": 4_194_304,
    "fetch.wait.max.ms": 10,
}
# A dead worker's partitions are another's after this long; the poll thread never pauses for as long.
_MEMBERSHIP = {"session.timeout.ms": 10_000, "heartbeat.interval.ms": 1_000}
_COMMIT_EVERY_S = 1.0
_POLL_S = 0.02
# More at once would keep more message objects alive than the processor's cache can hold.
_CONSUME_MAX = 10_000
# Beyond this a backlog waits in the broker: polling stops, and after a while its fetches pause.
_WAITING_BYTES_MAX = 32 << 20
_WAITING_BATCHES_MAX = 4
_STALLED_S = 5.0


@dataclass(frozen=True)
class ReaderOptions:
    """Bounds of a batch, and what librdkafka is told beyond them."""

    batch_records_max: int = 50_000
    config: Mapping[str, Any] = field(default_factory=dict)


class Owner(Protocol):
    """Who the reader reads for; every call comes from the poll thread."""

    def assigned(self, places: list[Place]) -> Mapping[Place, int]:
        """Take partitions over; returns where to start each."""

    def revoked(self, places: list[Place]) -> None:
        """Finish what is in flight; afterwards the partitions are another's."""

    def lost(self, places: list[Place]) -> None:
        """The partitions are another's already."""

    def ready(self) -> None:
        """There are batches to `take`."""

    def failed(self, error: BaseException) -> None: ...


class _Waiting:
    """What was read of one partition and not taken yet, in order."""

    def __init__(self) -> None:
        self._parts: deque[tuple[Batch, int]] = deque()
        self.records = self.bytes = 0

    def put(self, part: Batch) -> None:
        size = sum(map(len, filter(None, part.values)))
        self._parts.append((part, size))
        self.records += len(part.values)
        self.bytes += size

    def take(self, records_max: int) -> list[Batch]:
        taken: list[Batch] = []
        count = 0
        while self._parts and (not taken or count + len(self._parts[0][0].values) <= records_max):
            part, size = self._parts.popleft()
            count += len(part.values)
            self.records -= len(part.values)
            self.bytes -= size
            taken.append(part)
        return taken

    def clear(self) -> None:
        self._parts.clear()
        self.records = self.bytes = 0


def _runs(messages: list[Message]) -> Iterator[tuple[Place, list[Message]]]:
    """Records that follow each other in one partition; librdkafka hands them over in long runs.

    Each question to each record is asked in C: a hundred nanoseconds more a record are a tenth of all there are.
    """
    if not messages:
        return
    topics = list(map(Message.topic, messages))
    partitions = np.fromiter(map(Message.partition, messages), dtype=np.int64, count=len(messages))
    begins = partitions[1:] != partitions[:-1]
    if len(set(topics)) > 1:
        begins |= np.fromiter(map(ne, topics[1:], topics), dtype=np.bool_, count=len(begins))
    edges = [0, *(np.flatnonzero(begins) + 1).tolist(), len(messages)]
    for first, end in pairwise(edges):
        yield (topics[first] or "", int(partitions[first])), messages[first:end]


class Reader:
    """Reads topics as a member of a group, from offsets of its owner's choice."""

    def __init__(self, config: Mapping[str, Any], options: ReaderOptions, owner: Owner) -> None:
        self._options, self._owner = options, owner
        self._consumer = Consumer(
            {
                **_FETCH,
                **_MEMBERSHIP,
                **options.config,
                **config,
                "enable.auto.commit": False,
                # Our start offsets are the sinks'. One that the broker no longer has is lost data: stop, do not skip.
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "check.crcs": True,
                "statistics.interval.ms": 1_000,
                "stats_cb": self._on_statistics,
            }
        )
        self._commands: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._queues: dict[Place, _Waiting] = {}
        self._next: dict[Place, int] = {}
        self._settled: dict[Place, int] = {}
        self._committed: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._rebalanced = False
        self._paused = False
        self._stalled_since: float | None = None
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-reader", daemon=True)

    def start(self, topics: list[str]) -> None:
        self._consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        self._thread.start()

    def stop(self) -> None:
        """Commit what is settled and leave the group."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self, place: Place) -> Batch | None:
        """All that waits of a partition, up to the bound, as one batch: small without lag, large behind a backlog.

        None when nothing waits.
        """
        with self._lock:
            waiting = self._queues.get(place)
            parts = waiting.take(self._options.batch_records_max) if waiting else []
        return parts[0].followed_by(parts[1:]) if parts else None

    def places(self) -> list[Place]:
        with self._lock:
            return list(self._queues)

    def settle(self, place: Place, end_offset: int) -> None:
        """Every sink holds the partition up to here: the group may be told."""
        with self._lock:
            if place in self._queues:
                self._settled[place] = end_offset

    def seek_back(self, place: Place, offset: int) -> None:
        """Read the partition again from an earlier offset; batches that wait are dropped."""
        self._commands.append(lambda: self._seek(place, offset))

    def serve(self) -> None:
        """Run what other threads asked for; also while a rebalance callback waits for its owner."""
        while self._commands:
            self._commands.popleft()()

    def _run(self) -> None:
        committed_at = time.monotonic()
        try:
            while not self._stopping.is_set():
                self.serve()
                if self._must_wait():
                    self._stopping.wait(_POLL_S)
                else:
                    self._poll()
                if time.monotonic() - committed_at >= _COMMIT_EVERY_S:
                    committed_at = time.monotonic()
                    self._commit(asynchronous=True)
        except Exception as error:  # told to the owner, which ends the process
            self._owner.failed(error)
        finally:
            self._close()

    def _must_wait(self) -> bool:
        with self._lock:
            held = self._queues.values()
            records_max = _WAITING_BATCHES_MAX * self._options.batch_records_max
            full = any(waiting.records >= records_max for waiting in held)
            full = full or sum(waiting.bytes for waiting in held) >= _WAITING_BYTES_MAX
        now = time.monotonic()
        if not full:
            self._stalled_since = None
            if self._paused:
                self._consumer.resume([TopicPartition(*place) for place in self.places()])
                self._paused = False
            return False
        if self._stalled_since is None:
            self._stalled_since = now
        if now - self._stalled_since < _STALLED_S:
            return True
        if not self._paused:
            # The group must hear from us, so polling goes on; pausing drops what was prefetched, hence so late.
            self._consumer.pause([TopicPartition(*place) for place in self.places()])
            self._paused = True
        return False

    def _poll(self) -> None:
        self._rebalanced = False
        messages = self._consumer.consume(_CONSUME_MAX, _POLL_S)
        if self._failure is not None:
            raise self._failure
        # Errors ride in the same list as records: look at all of them before anything is dropped.
        error = next(filter(None, map(Message.error, messages)), None)
        if error is not None:
            raise KafkaException(error)
        if self._rebalanced:
            # Records of before and after the rebalance may be mixed: read them again from where we stand.
            for place, offset in list(self._next.items()):
                self._seek(place, offset)
            return
        for place, run in _runs(messages):
            self._enqueue(place, run)
        if messages:
            self._owner.ready()

    def _enqueue(self, place: Place, messages: list[Message]) -> None:
        first = self._next.get(place)
        if first is None:
            return
        offsets = np.fromiter(map(Message.offset, messages), dtype=np.int64, count=len(messages))
        skipped = int(np.searchsorted(offsets, first))
        fresh, offsets = messages[skipped:], offsets[skipped:]
        if not fresh:
            return
        # Kafka's clock counts milliseconds: an arrival is known to its end, so that an event of the very same
        # millisecond does not seem to come from the future.
        stamps = np.fromiter((at for _, at in map(Message.timestamp, fresh)), dtype=np.int64, count=len(fresh))
        stamps = stamps * 1_000 + 999
        epoch = fresh[-1].leader_epoch()
        end = int(offsets[-1]) + 1
        values = list(map(Message.value, fresh))
        batch = Batch(*place, first, end, values, offsets, stamps, -1 if epoch is None else epoch)
        with self._lock:
            self._queues[place].put(batch)
        self._next[place] = end

    def _seek(self, place: Place, offset: int) -> None:
        if place not in self._next:
            return
        with self._lock:
            if offset < self._next[place]:
                self._queues[place].clear()
        self._next[place] = offset
        self._consumer.seek(TopicPartition(*place, offset))

    def _commit(self, *, asynchronous: bool) -> None:
        with self._lock:
            moved = {place: end for place, end in self._settled.items() if self._committed.get(place) != end}
        if moved:
            offsets = [TopicPartition(*place, end) for place, end in moved.items()]
            if asynchronous:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            self._committed.update(moved)

    def ends(self) -> dict[Place, int]:
        """End offsets of the assigned partitions, as the broker told them within the last seconds."""
        return dict(self._ends)

    def _on_statistics(self, said: str) -> None:
        topics = msgspec.json.decode(said).get("topics", {})
        ends = {
            (topic, int(partition)): each["ls_offset"]
            for topic, about in topics.items()
            for partition, each in about["partitions"].items()
            if each["ls_offset"] >= 0
        }
        self._ends = {place: end for place, end in ends.items() if place in self._next}

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        def assign() -> None:
            places = [(each.topic, each.partition) for each in partitions]
            starts = self._owner.assigned(places)
            with self._lock:
                self._queues = {place: _Waiting() for place in places}
                self._settled, self._committed = {}, {}
            self._next = {place: starts[place] for place in places}
            consumer.assign([TopicPartition(*place, starts[place]) for place in places])

        self._callback(assign)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        def revoke() -> None:
            self._owner.revoked([(each.topic, each.partition) for each in partitions])
            self._commit(asynchronous=False)
            self._forget()
            consumer.unassign()

        self._callback(revoke)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        def lose() -> None:
            self._owner.lost([(each.topic, each.partition) for each in partitions])
            self._forget()
            consumer.unassign()

        self._callback(lose)

    def _callback(self, act: Callable[[], None]) -> None:
        self._rebalanced, self._paused = True, False
        try:
            act()
        except Exception as error:
            # An exception inside a callback would surface as an unreadable SystemError: keep it for `_poll`.
            self._failure = error

    def _forget(self) -> None:
        with self._lock:
            self._queues, self._settled, self._committed = {}, {}, {}
        self._next = {}

    def _close(self) -> None:
        try:
            if self._failure is None:
                self._commit(asynchronous=False)
            self._consumer.close()
        except KafkaException as error:
            self._owner.failed(error)
