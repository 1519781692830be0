"""A member of a consumer group over librdkafka itself: records leave it as columns, without one Python object each.

Its methods are those of `confluent_kafka.Consumer`, and mean the same, but for `consume`. All of them are to be called
by one thread, which callbacks come to as well, from within `consume`, `commit` and `close`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from ctypes import c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streams import librdkafka as c
from streams.arrival import now_ms
from streams.headers import REPLAYED_FOR
from streams.letters import BEGINNING_BYTES
from streams.payloads import Payloads
from streams.transport import message_loop
from streams.transport.batch import RECORD_BYTES_MAX

Ints = npt.NDArray[np.int64]
OnRebalance = Callable[["NativeConsumer", list[TopicPartition]], None]

_CALLBACKS = ("stats_cb", "error_cb", "on_commit", "logger")
_HEADER = np.frombuffer(REPLAYED_FOR.encode() + b"\0", dtype=np.uint8)
# syslog's levels -> Python's.
_LOG_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)
_FOR_EVER_MS = -1
_CLOSED = "the consumer is closed"


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one partition in their order, as one `consume` brought them.

    offsets, timestamps_ms  (n)
    leader_epoch            of the last one, -1 when unknown
    cut                     offset -> bytes of value and key, of records of which only the beginnings are here
    """

    topic: str
    partition: int
    offsets: Ints
    timestamps_ms: Ints
    values: Payloads
    keys: Payloads
    leader_epoch: int
    cut: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Said:
    """What came instead of a record: an error, or that a partition ends at this offset."""

    topic: str
    partition: int
    offset: int
    error: KafkaError


class NativeConsumer:
    """config: librdkafka's options, and the functions `stats_cb`, `error_cb` and `on_commit`, and a `logger`.

    project  what was sent again for another one is no record here; "" for one that has none
    record_bytes_max  of a larger record only the beginnings of value and key leave it
    clock_ms what a record is stamped with that its producer stamped later than that, or not at all

    A fatal error goes to `error_cb` as itself. Raises KafkaException for options that librdkafka refuses,
    TransportError for those that need another function of ours.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        project: str = "",
        clock_ms: Callable[[], int] = now_ms,
        record_bytes_max: int = RECORD_BYTES_MAX,
    ) -> None:
        self._clock_ms, self._bounds = clock_ms, (record_bytes_max, BEGINNING_BYTES)
        self._project = np.frombuffer(project.encode(), dtype=np.uint8)
        self._client: int | None = None
        self._queue: int | None = None
        self._raised: BaseException | None = None
        self._on_assign: OnRebalance | None = None
        self._on_revoke: OnRebalance | None = None
        self._on_lost: OnRebalance | None = None
        self._has_answered = False
        self._room = _Room(0)
        self._c = c.library()
        self._functions = np.array(
            [
                c.address_of(self._c.message_timestamp),
                c.address_of(self._c.message_leader_epoch),
                c.address_of(self._c.message_destroy),
                c.address_of(self._c.message_headers),
                c.address_of(self._c.header_get_last),
            ],
            dtype=np.int64,
        )
        self._given = {name: config[name] for name in _CALLBACKS if config.get(name) is not None}
        # C holds no reference to what it calls: they live as long as the client.
        self._called = (
            c.RebalanceCallback(self._rebalance),
            c.CommitCallback(self._committed),
            c.ErrorCallback(self._failed),
            c.StatisticsCallback(self._counted),
            c.LogCallback(self._logged),
        )
        self._start({name: value for name, value in config.items() if name not in _CALLBACKS})

    def _start(self, options: Mapping[str, Any]) -> None:
        lib = self._c
        if "logger" in self._given:
            # The log comes to the thread that consumes, like everything else.
            options = {**options, "log.queue": True}
        conf = lib.conf(options)
        if "logger" in self._given:
            lib.conf_set_log_cb(conf, self._called[4])
        lib.conf_set_rebalance_cb(conf, self._called[0])
        lib.conf_set_offset_commit_cb(conf, self._called[1])
        lib.conf_set_error_cb(conf, self._called[2])
        if "stats_cb" in self._given:
            lib.conf_set_stats_cb(conf, self._called[3])
        self._client = lib.client(c.CONSUMER, conf)
        if "logger" in self._given:
            lib.check(lib.set_log_queue(self._client, None))
        lib.check(lib.poll_set_consumer(self._client))
        self._queue = lib.queue_get_consumer(self._client)

    # -- membership ------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topics: Iterable[str],
        on_assign: OnRebalance | None = None,
        on_revoke: OnRebalance | None = None,
        on_lost: OnRebalance | None = None,
    ) -> None:
        self._on_assign, self._on_revoke, self._on_lost = on_assign, on_revoke, on_lost
        self._with(self._c.subscribe, [TopicPartition(topic) for topic in topics])

    def assign(self, partitions: list[TopicPartition]) -> None:
        self._has_answered = True
        self._with(self._c.assign, partitions)

    def unassign(self) -> None:
        self._has_answered = True
        self._c.check(self._c.assign(self._ours, None))

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self._has_answered = True
        self._with(self._c.incremental_assign, partitions)

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        self._has_answered = True
        self._with(self._c.incremental_unassign, partitions)

    def close(self) -> None:
        """Leave the group, after a last revoke."""
        if self._client is None:
            return
        self._c.consumer_close(self._client)
        self._let_go(lambda client: self._c.destroy(client))
        self._raise()

    def __del__(self) -> None:
        # Of one that was not closed, nor perhaps begun: its threads end, and its group finds out by itself.
        if getattr(self, "_client", None) is not None:
            self._let_go(lambda client: self._c.destroy_flags(client, c.NO_CONSUMER_CLOSE))

    # -- records ---------------------------------------------------------------------------------------------------

    def consume(self, records_max: int, timeout_s: float) -> tuple[list[Run], list[Said]]:
        """What has come, up to so many records or after at most this long: a run of each partition, and what else."""
        assert self._queue is not None, _CLOSED
        room = self._room if self._room.size >= records_max else _Room(records_max)
        self._room = room
        size = self._c.consume_batch_queue(self._queue, int(timeout_s * 1_000), room.messages.ctypes.data, records_max)
        if size < 0:
            self._raise()
            self._c.check(self._c.last_error())
        try:
            self._raise()
            return self._runs(room, size) if size > 0 else ([], [])
        finally:
            message_loop.drop(room.messages, max(size, 0), self._functions[2])

    def _runs(self, room: _Room, size: int) -> tuple[list[Run], list[Said]]:
        groups = message_loop.survey(
            room.messages,
            size,
            room.group,
            room.topic,
            room.partition,
            room.count,
            room.value_bytes,
            room.key_bytes,
            _HEADER,
            self._project,
            *self._bounds,
            self._functions,
        )
        no_records = np.flatnonzero(room.group[:size] == message_loop.NO_RECORD).tolist()
        said = [self._said(int(room.messages[index])) for index in no_records]
        return [self._run(room, size, group) for group in range(groups)], said

    def _run(self, room: _Room, size: int, group: int) -> Run:
        topic, count = self._topic(int(room.topic[group])), int(room.count[group])
        values, keys = (np.empty(int(of[group]), dtype=np.uint8) for of in (room.value_bytes, room.key_bytes))
        value_at, value_size, key_at, key_size, offsets, stamps, whole = np.empty((7, count), dtype=np.int64)
        epoch = message_loop.take(
            room.messages,
            size,
            room.group,
            group,
            values,
            value_at,
            value_size,
            keys,
            key_at,
            key_size,
            offsets,
            stamps,
            whole,
            self._clock_ms(),
            *self._bounds,
            self._functions,
        )
        held = Payloads(values, value_at, value_size), Payloads(keys, key_at, key_size)
        cut = {int(offsets[at]): int(whole[at]) for at in np.flatnonzero(whole).tolist()}
        return Run(topic, int(room.partition[group]), offsets, stamps, *held, epoch, cut)

    def _said(self, address: int) -> Said:
        message = c.Message.from_address(address)
        error = self._cause(message.err, self._c.message_errstr(address))
        return Said(self._topic(message.topic), message.partition, message.offset, error)

    def _topic(self, address: int | None) -> str:
        return self._c.topic_name(address).decode() if address else ""

    # -- positions -------------------------------------------------------------------------------------------------

    def seek(self, place: TopicPartition) -> None:
        """Raises KafkaException, also while the partition's fetcher has not started."""
        [answer] = self._with(self._c.seek_partitions, [place], _FOR_EVER_MS)
        if answer.error is not None:
            raise KafkaException(answer.error)

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._with(self._c.pause_partitions, partitions)

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._with(self._c.resume_partitions, partitions)

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[c.Answered]:
        """Tell the group; what it says comes back, or to `on_commit`."""
        answers = self._with(self._c.commit, offsets, int(asynchronous))
        return [] if asynchronous else answers

    def bounds(self, topic: str, partition: int, timeout_s: float) -> tuple[int, int] | None:
        """The first offset that the broker has, and the end; None where it does not say in time."""
        low, end = ctypes.c_int64(), ctypes.c_int64()
        asked = topic.encode(), partition, ctypes.byref(low), ctypes.byref(end), int(timeout_s * 1_000)
        return None if self._c.query_watermark_offsets(self._ours, *asked) else (low.value, end.value)

    # -- within --------------------------------------------------------------------------------------------------

    def _with(self, function: Callable[..., Any], places: Iterable[TopicPartition], *more: int) -> list[c.Answered]:
        """Call with partitions. What is returned is an error's code, or an error; each partition may have its own."""
        ours, held = self._ours, self._c.partitions(places)
        try:
            returned = function(ours, held, *more)
            if function.restype is c_void_p:  # type: ignore[attr-defined]  # a function of C
                self._c.check_error(returned)
            else:
                self._c.check(returned)
            return self._c.answers(held)
        finally:
            self._c.topic_partition_list_destroy(held)

    @property
    def _ours(self) -> int:
        """The client, of which C asks no leave to follow a null pointer."""
        assert self._client is not None, _CLOSED
        return self._client

    def _let_go(self, destroy: Callable[[int], None]) -> None:
        if self._queue is not None:
            self._c.queue_destroy(self._queue)
        if self._client is not None:
            destroy(self._client)
        self._client = self._queue = None

    def _raise(self) -> None:
        """What a callback raised."""
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    # -- librdkafka calls ------------------------------------------------------------------------------------------

    def _guard(self, act: Callable[[], None]) -> None:
        """An exception would be lost on its way through C: it is kept for who called, and told without delay."""
        try:
            act()
        except BaseException as error:
            self._raised = self._raised or error
            if self._client is not None:
                self._c.serve_no_more(self._client)

    def _rebalance(self, _: int, code: int, partitions: Any, __: Any) -> None:
        self._has_answered = False
        self._guard(lambda: self._ask(code, partitions))
        if not self._has_answered:
            # librdkafka waits for an answer, also from who failed to find one.
            self._guard(lambda: self._answer(code, partitions))

    def _ask(self, code: int, partitions: Any) -> None:
        asked = None
        if code == KafkaError._ASSIGN_PARTITIONS:
            asked = self._on_assign
        elif code == KafkaError._REVOKE_PARTITIONS:
            is_lost = self._on_lost is not None and self._c.assignment_lost(self._client)
            asked = self._on_lost if is_lost else self._on_revoke
        if asked is not None:
            asked(self, self._c.places(partitions))

    def _answer(self, code: int, partitions: Any) -> None:
        is_gain = code == KafkaError._ASSIGN_PARTITIONS
        if self._c.rebalance_protocol(self._client) == b"COOPERATIVE":
            change = self._c.incremental_assign if is_gain else self._c.incremental_unassign
            self._c.check_error(change(self._client, partitions))
        else:
            self._c.check(self._c.assign(self._client, partitions if is_gain else None))

    def _committed(self, _: int, code: int, partitions: Any, __: Any) -> None:
        told = self._given.get("on_commit")
        if told is not None:
            self._guard(lambda: told(self._c.error(code) if code else None, self._c.answers(partitions)))

    def _failed(self, _: int, code: int, reason: bytes | None, __: Any) -> None:
        def tell() -> None:
            error = self._cause(code, reason)
            told = self._given.get("error_cb")
            if told is not None:
                told(error)
            elif error.fatal():
                raise KafkaException(error)

        self._guard(tell)

    def _cause(self, code: int, reason: bytes | None) -> KafkaError:
        """An error, and of one that only says that there is a fatal one, that."""
        if code != KafkaError._FATAL:
            return self._c.error(code, reason)
        text = ctypes.create_string_buffer(c.TEXT_MAX)
        cause = self._c.fatal_error(self._client, text, c.TEXT_MAX)
        return KafkaError(cause, text.value.decode(errors="replace"), True)

    def _counted(self, _: int, text: int, size: int, __: Any) -> int:
        self._guard(lambda: self._given["stats_cb"](ctypes.string_at(text, size).decode()))
        # The text is librdkafka's to free.
        return 0

    def _logged(self, _: int, level: int, facility: bytes | None, text: bytes | None) -> None:
        said = [(part or b"").decode(errors="replace") for part in (facility, self._c.name(self._client), text)]
        self._guard(lambda: self._given["logger"].log(_LOG_LEVELS[level], "%s [%s] %s", *said))


class _Room:
    """What the loops write to, for so many messages at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.messages = np.zeros(size, dtype=np.int64)
        self.group = np.empty(size, dtype=np.int64)
        # Of a group; there may be as many as messages.
        self.topic, self.partition, self.count, self.value_bytes, self.key_bytes = np.empty((5, size), dtype=np.int64)
