"""The poll thread: the only one that touches librdkafka's consumer, which serialises all its methods.

It polls for ever, groups records into batches a partition, and hands rebalances to its owner while it keeps
serving commits. Every record is in exactly one batch: what cannot be used is read again by seeking. What is read,
handed out and finished is `Ranges`' to know.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from featurestore.errors import RecordsGoneError
from streams.broker import is_broken_off, refusal
from streams.librdkafka import Answered
from streams.transport.batch import Batch
from streams.transport.native import NativeConsumer, Run, Said
from streams.transport.options import ReaderOptions, consumer_config
from streams.transport.pressure import Pressure
from streams.transport.ranges import Place, Ranges, Ticket
from streams.transport.statistics import ReaderCounts, Statistics, read_statistics

log = logging.getLogger("featurestore.transport")

_COMMIT_EVERY_S = 1.0
# librdkafka fills a batch until this is over, also where records have come: half of it is how long an event waits here.
# What comes of one costs 7 to 10 ms of a core however few records it brings.
_POLL_S = 0.03
# More at once would keep more messages alive than the processor's cache can hold.
_CONSUME_MAX = 10_000
# Read ahead of a partition: four batches, so that the next is there when one is done; and never less than some of
# librdkafka's runs, which has tens of thousands of one partition in a row. Stopped within one, the others starve.
_AHEAD_BATCHES_MAX = 4
_AHEAD_RECORDS_MIN = 100_000
# One batch at work and one waiting for it, so that the body never waits for the loop.
_CREDIT = 2
# What the broker still has is told to people; it need not be known.
_BOUNDS_S = 5.0
# A seek needs its partition's fetcher to have started, which takes milliseconds after an assignment.
_SEEK_S = 30.0
_NOT_YET = (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS, KafkaError._TIMED_OUT)


class Owner(Protocol):
    """Who the reader reads for; every call comes from the poll thread."""

    def assigned(self, places: list[Place]) -> Mapping[Place, int]:
        """Take partitions over; returns where to start each."""

    def epochs(self, places: list[Place]) -> Mapping[Place, int]:
        """Leader epochs of the records before these starts, as far as they are known."""

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
        self._count(part, part.size_bytes, self._parts.append)

    def put_back(self, parts: list[Batch]) -> None:
        """Before everything that waits."""
        for part in reversed(parts):
            self._count(part, part.size_bytes, self._parts.appendleft)

    def take(self, records_max: int, bytes_max: int) -> tuple[list[Batch], int]:
        """Parts up to both bounds, one at least if there is one, and their bytes."""
        taken: list[Batch] = []
        count = size = 0
        while self._parts:
            part, part_bytes = self._parts[0]
            if taken and (count + len(part.values) > records_max or size + part_bytes > bytes_max):
                break
            self._parts.popleft()
            count += len(part.values)
            size += part_bytes
            taken.append(part)
        self.records -= count
        self.bytes -= size
        return taken, size

    def clear(self) -> None:
        self._parts.clear()
        self.records = self.bytes = 0

    def _count(self, part: Batch, size: int, put: Callable[[tuple[Batch, int]], None]) -> None:
        put((part, size))
        self.records += len(part.values)
        self.bytes += size


class Reader:
    """Reads topics as a member of a group, from offsets of its owner's choice.

    client          where the broker is and how to log in; group and client id
    consumer_class  librdkafka's consumer, or one that looks on
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        options: ReaderOptions,
        owner: Owner,
        consumer_class: Callable[[dict[str, Any], str], NativeConsumer] = NativeConsumer,
    ) -> None:
        self._options, self._owner = options, owner
        self._is_cooperative = options.rebalance == "cooperative"
        callbacks = {"stats_cb": self._on_statistics, "error_cb": self._on_error, "on_commit": self._on_commit}
        self._consumer = consumer_class({**consumer_config(options, client), **callbacks}, options.project)
        self._consume_max = min(_CONSUME_MAX, options.batch_records_max)
        self._commands: deque[Callable[[], None]] = deque()
        # Over what the event loop asks of and tells the poll thread: ranges, queues, parts and counts.
        self._lock = threading.Lock()
        self._ranges = Ranges()
        self._queues: dict[Place, _Waiting] = {}
        self._out: dict[Ticket, Batch] = {}
        self._counts = ReaderCounts()
        ahead_max = max(_AHEAD_BATCHES_MAX * options.batch_records_max, _AHEAD_RECORDS_MIN)
        self._pressure = Pressure(ahead_max, options.ahead_bytes_max)
        # Where librdkafka does not stand where we do: until it is told to, what it hands over is not for us.
        self._to_seek: dict[Place, float] = {}
        # Start offsets, each with the leader epoch of the record before it: by these the broker knows whether what was
        # read is in its log still. librdkafka asks it at a seek, not at an assignment.
        self._epochs: dict[Place, tuple[int, int]] = {}
        self._rebalanced = False
        self._statistics = Statistics()
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._topics: list[str] = []
        self._thread = threading.Thread(target=self._run, name="kafka-reader", daemon=True)
        self._served_s = time.monotonic()

    # -- from any thread -------------------------------------------------------------------------------------------

    def start(self, topics: list[str]) -> None:
        self._topics = topics
        self._thread.start()

    def stop(self, limit_s: float) -> bool:
        """Commit what is settled and leave the group; whether that was done in time."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(limit_s)
        return not self._thread.is_alive()

    @property
    def is_at_work(self) -> bool:
        """Whether it polls, or is on its way out of the group."""
        return self._thread.is_alive()

    def silent_s(self, now_s: float) -> float:
        """For how long the poll thread has not come back from a call of librdkafka; 0 when it does not run."""
        return now_s - self._served_s if self._thread.is_alive() else 0.0

    def take(self, place: Place) -> tuple[Batch, Ticket] | None:
        """All that waits of a partition, up to the bounds, as one batch: small without lag, large behind a backlog.

        None when nothing waits, or when the partition has as many batches out as it may: two, the second only while
        the bytes of all that are out allow it.
        """
        with self._lock:
            waiting, out = self._queues.get(place), self._ranges.in_hand(place)
            if waiting is None or out >= _CREDIT:
                return None
            if out and 2 * self._ranges.in_hand_bytes() >= self._options.ahead_bytes_max:
                return None
            parts, size = waiting.take(self._options.batch_records_max, self._options.batch_bytes_max)
            if not parts:
                return None
            ticket = self._ranges.hand(place, parts[-1].end_offset, size)
            batch = self._out[ticket] = parts[0].followed_by(parts[1:])
            self._counts.batches += 1
            self._counts.records += len(batch.values)
        return batch, ticket

    def begin(self, ticket: Ticket) -> bool:
        """Whether the batch is still to be applied."""
        with self._lock:
            return self._ranges.begin(ticket)

    def finish(self, ticket: Ticket) -> None:
        """The batch is done with: there is room for another one of its partition."""
        with self._lock:
            self._ranges.finish(ticket)
            self._out.pop(ticket, None)

    def take_back(self) -> None:
        """What was handed out and not begun waits again, in its place: Faust has emptied its queues."""
        with self._lock:
            for place in self._ranges.places():
                back = self._ranges.take_back(place)
                # A seek into a range has cut it: what lies behind is read again, and must not wait here as well.
                parts = [self._out.pop(ticket).before(ticket.end) for ticket in back]
                self._queues[place].put_back(parts)

    def places(self) -> list[Place]:
        with self._lock:
            return self._ranges.places()

    def settle(self, place: Place, end_offset: int) -> None:
        """Every sink holds the partition up to here: the group may be told."""
        with self._lock:
            self._ranges.settle(place, end_offset)

    def seek_back(self, place: Place, offset: int) -> None:
        """Read the partition again from an earlier offset; batches that wait are dropped."""
        with self._lock:
            epoch = self._ranges.epoch(place)
        self._commands.append(lambda: self._seek_back(place, offset, epoch))

    def ends(self) -> dict[Place, int]:
        """End offsets of the assigned partitions, as the broker told them within the last seconds."""
        ours = set(self.places())
        return {place: end for place, end in self._statistics.ends.items() if place in ours}

    def unread(self) -> dict[Place, int]:
        """Partitions of which the broker has more, that can be had from it, and nothing is here: where each stands."""
        said = self._statistics
        with self._lock:
            return {
                place: at
                for place, waiting in self._queues.items()
                if place in said.reachable and place not in self._pressure.paused
                if not waiting.records and not self._ranges.in_hand(place)
                if (at := self._ranges.expected(place)) is not None and at < said.ends.get(place, 0)
            }

    def statistics(self) -> Statistics:
        """What librdkafka said within the last seconds."""
        return self._statistics

    def counts(self) -> ReaderCounts:
        with self._lock:
            return replace(
                self._counts,
                waiting_records=sum(waiting.records for waiting in self._queues.values()),
                waiting_bytes=sum(waiting.bytes for waiting in self._queues.values()),
                in_hand_bytes=self._ranges.in_hand_bytes(),
                finished=self._ranges.finished,
                in_hand=sum(self._ranges.in_hand(place) for place in self._ranges.places()),
                paused=len(self._pressure.paused),
            )

    # -- the poll thread -------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Run what other threads asked for; also while a rebalance callback waits for its owner."""
        self._served_s = time.monotonic()
        while self._commands:
            self._commands.popleft()()

    def _run(self) -> None:
        committed_at = time.monotonic()
        try:
            self._consumer.subscribe(
                self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping.is_set():
                self.serve()
                if self._to_seek:
                    self._seek()
                if self._must_wait():
                    self._stopping.wait(_POLL_S)
                else:
                    self._poll()
                if time.monotonic() - committed_at >= _COMMIT_EVERY_S:
                    committed_at = time.monotonic()
                    self._commit(wait=False)
        except Exception as error:  # told to the owner, which ends the process
            self._failure = error
            self._owner.failed(error)
        finally:
            self._close()

    def _must_wait(self) -> bool:
        with self._lock:
            held = {place: (waiting.records, waiting.bytes) for place, waiting in self._queues.items()}
        advice = self._pressure.look(held, time.monotonic())
        if advice.resume:
            self._consumer.resume([TopicPartition(*place) for place in advice.resume])
            # A pause makes librdkafka go on from the last record that it handed over: a seek of before, of which no
            # record had come yet, would be forgotten, and all up to the old place be taken for a hole.
            for place in advice.resume:
                self._to_seek[place] = time.monotonic() + _SEEK_S
        if advice.pause:
            # The group must hear from us, so polling goes on; pausing drops what was prefetched, hence so late.
            self._consumer.pause([TopicPartition(*place) for place in advice.pause])
            self._counts.pauses += len(advice.pause)
        return advice.wait

    def _poll(self) -> None:
        self._rebalanced = False
        runs, said = self._consumer.consume(self._consume_max, _POLL_S)
        if self._failure is not None:
            raise self._failure
        # Errors ride in the same list as records: look at all of them before anything is dropped.
        for one in said:
            self._check(one)
        if self._rebalanced:
            # Records of before and after the rebalance may be mixed: read them again from where we stand.
            places = [(run.topic, run.partition) for run in runs] + [(one.topic, one.partition) for one in said]
            self._to_seek.update(dict.fromkeys(places, time.monotonic() + _SEEK_S))
            return
        # A seek may have been too early, and a partition that goes on may do so from an old place: taken as what
        # follows, its records would hide all that lies before them.
        for run in runs:
            if (run.topic, run.partition) not in self._to_seek:
                self._enqueue(run)
        for one in said:
            if (one.topic, one.partition) not in self._to_seek:
                self._pass_over((one.topic, one.partition), one.offset)
        if runs or said:
            self._owner.ready()

    def _enqueue(self, run: Run) -> None:
        place = run.topic, run.partition
        first = self._ranges.expected(place)
        if first is None:
            return
        skipped = int(np.searchsorted(run.offsets, first))
        offsets, values, keys = run.offsets[skipped:], run.values[skipped:], run.keys[skipped:]
        if not len(offsets):
            return
        # Kafka's clock counts milliseconds: an arrival is known to its end, so that an event of the very same
        # millisecond does not seem to come from the future.
        stamps_us = run.timestamps_ms[skipped:] * 1_000 + 999
        self._put(
            Batch(*place, first, int(offsets[-1]) + 1, values, offsets, stamps_us, run.leader_epoch, keys, run.cut)
        )

    def _pass_over(self, place: Place, end: int) -> None:
        """The partition ends here: what lies between the last record and its end are markers and holes."""
        first = self._ranges.expected(place)
        if first is not None and first < end:
            nothing = np.empty(0, dtype=np.int64)
            self._put(Batch(*place, first, end, [], nothing, nothing))

    def _put(self, part: Batch) -> None:
        place = part.topic, part.partition
        with self._lock:
            self._queues[place].put(part)
            self._ranges.read(place, part.end_offset)

    def _check(self, said: Said) -> None:
        error = said.error
        if error.code() == KafkaError._PARTITION_EOF:
            return
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            expected = self._ranges.expected((said.topic, said.partition))
            bounds = self._consumer.bounds(said.topic, said.partition, _BOUNDS_S)
            raise RecordsGoneError(said.topic, said.partition, expected, error.str(), bounds)
        if is_broken_off(error):
            # Such as a join of the group that waited for the connection: librdkafka tries that again by itself.
            log.warning("librdkafka: %s", error.str())
            return
        raise refusal(error) or KafkaException(error)

    def _seek_back(self, place: Place, offset: int, epoch: int) -> None:
        with self._lock:
            if not self._ranges.seek_back(place, offset, epoch):
                return
            self._queues[place].clear()
        self._counts.seeks += 1
        self._to_seek[place] = time.monotonic() + _SEEK_S

    def _seek(self) -> None:
        """Bring librdkafka to where we stand, before it is polled again."""
        for place, until_s in list(self._to_seek.items()):
            expected = self._ranges.expected(place)
            if expected is not None:
                try:
                    start, epoch = self._epochs.get(place, (expected, -1))
                    known = epoch if start == expected else -1
                    self._consumer.seek(TopicPartition(*place, expected, leader_epoch=known))
                except KafkaException as error:
                    if error.args[0].code() not in _NOT_YET or time.monotonic() > until_s:
                        raise
                    continue
            del self._to_seek[place]

    def _commit(self, *, wait: bool) -> None:
        """Tell the group. It may refuse, in the middle of a rebalance; nothing but its own figures depends on it."""
        with self._lock:
            moved = self._ranges.to_commit()
        if not moved:
            return
        offsets = [TopicPartition(*place, end) for place, end in moved.items()]
        try:
            if wait:
                self._answered(None, self._consumer.commit(offsets=offsets, asynchronous=False))
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._answered(error.args[0], offsets)

    def _answered(self, error: KafkaError | None, partitions: Sequence[TopicPartition | Answered]) -> None:
        refused = [each for each in partitions if error is not None or each.error is not None]
        with self._lock:
            for each in partitions:
                (self._ranges.refused if each in refused else self._ranges.told)(
                    (each.topic, each.partition), each.offset
                )
            self._counts.commits_refused += len(refused)
        if refused:
            log.warning("the group did not take offsets, they are told again: %s", error or refused[0].error)

    # -- librdkafka calls, from within `consume` -------------------------------------------------------------------

    def _on_statistics(self, said: str) -> None:
        self._guard(lambda: setattr(self, "_statistics", read_statistics(said)))

    def _on_error(self, error: KafkaError) -> None:
        def judge() -> None:
            refused = refusal(error)
            if refused is not None:
                raise refused
            if error.fatal():
                raise KafkaException(error)
            log.warning("librdkafka: %s", error.str())

        self._guard(judge)

    def _on_commit(self, error: KafkaError | None, partitions: list[Answered]) -> None:
        self._guard(lambda: self._answered(error, partitions))

    def _on_assign(self, consumer: NativeConsumer, partitions: list[TopicPartition]) -> None:
        def assign() -> None:
            places = [(each.topic, each.partition) for each in partitions]
            starts = self._owner.assigned(places)
            with self._lock:
                if not self._is_cooperative:
                    self._forget(self._ranges.places())
                self._ranges.assign({place: starts[place] for place in places})
                self._queues.update({place: _Waiting() for place in places})
            for place, epoch in self._owner.epochs(places).items():
                self._epochs[place] = starts[place], epoch
                self._to_seek[place] = time.monotonic() + _SEEK_S
            begin = [TopicPartition(*place, starts[place]) for place in places]
            if self._is_cooperative:
                consumer.incremental_assign(begin)
            else:
                consumer.assign(begin)

        self._rebalance(assign)

    def _on_revoke(self, consumer: NativeConsumer, partitions: list[TopicPartition]) -> None:
        def revoke() -> None:
            self._owner.revoked([(each.topic, each.partition) for each in partitions])
            self._commit(wait=True)
            self._leave(consumer, partitions)

        self._rebalance(revoke)

    def _on_lost(self, consumer: NativeConsumer, partitions: list[TopicPartition]) -> None:
        def lose() -> None:
            self._owner.lost([(each.topic, each.partition) for each in partitions])
            self._leave(consumer, partitions)

        self._rebalance(lose)

    def _leave(self, consumer: NativeConsumer, partitions: list[TopicPartition]) -> None:
        with self._lock:
            self._forget([(each.topic, each.partition) for each in partitions])
        if self._is_cooperative:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _forget(self, places: list[Place]) -> None:
        self._ranges.revoke(places)
        for place in places:
            self._queues.pop(place, None)
            self._to_seek.pop(place, None)
            self._epochs.pop(place, None)
        self._out = {ticket: parts for ticket, parts in self._out.items() if ticket.place in self._queues}

    def _rebalance(self, act: Callable[[], None]) -> None:
        self._rebalanced = True
        self._counts.rebalances += 1
        # It is judged anew who is to be paused. Before partitions go: librdkafka keeps a pause for those that leave and
        # come back, as all do at each rebalance that is not cooperative, and nobody would know of it.
        paused = [TopicPartition(*place) for place in self._pressure.forget()]
        if paused:
            self._guard(lambda: self._consumer.resume(paused))
        self._guard(act)

    def _guard(self, act: Callable[[], None]) -> None:
        """An exception inside a callback would surface as an unreadable SystemError: keep it for `_poll`."""
        try:
            act()
        except Exception as error:
            self._failure = self._failure or error

    def _close(self) -> None:
        told = self._failure
        try:
            # What is settled is told when the partitions are given up, behind the last flush. Not before it: a broker
            # that does not answer would keep from the sinks what they could still have.
            self._consumer.close()
        except KafkaException as error:
            self._failure = self._failure or error
        if self._failure is not None and self._failure is not told:
            self._owner.failed(self._failure)
