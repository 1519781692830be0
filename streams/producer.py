"""The producer SDK: events are checked against their topic's contract, then sent so that none is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from featurestore.errors import InvalidEventError, NotAcknowledgedError, OtherProcessError
from featurestore.kernel import decimal_type
from featurestore.spec import Topic
from streams.broker import Broker, Refusals, client_config, unusable
from streams.codecs import Codec, codec_of
from streams.codecs.columns import microseconds
from streams.codecs.json import JsonCodec
from streams.schemas import Schemas

_FLUSH_S = 60.0
_LOOK_S = 0.5
# Answers of the broker are looked at this often: each look costs as much as a send.
_POLL_EVERY = 1_000
# How long one wait for answers takes while somebody awaits one; an answer ends it at once.
_POLL_S = 0.1
# Events that one record holds at most, where a format has many; brokers take records of a megabyte.
_BATCH_EVENTS = 1_000
_RECORD_BYTES_MAX = 900_000
# What waits to be sent, while the broker is slow; more than as many records as may wait have as a rule.
_QUEUE_BYTES_MAX = 128 << 20
# Refused records are told one by one up to this many, and counted beyond it: they may be as many as were sent.
_TOLD_MAX = 5
_KEY_SHOWN_MAX = 60

# Records that nobody waits for any more, or for too long: the broker may have them.
_UNSURE = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._MSG_TIMED_OUT)

# Takes None of a record that the broker has, or why it refused it.
Answered = Callable[[str | None], None]
_Made = TypeVar("_Made")


def kafka_producer(
    broker: Broker | str,
    compression: str = "lz4",
    on_error: Callable[[KafkaError], None] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Producer:
    """An idempotent producer: every acknowledged record is stored once, in order a key.

    more  settings of librdkafka beside these

    Raises BrokerAccessError for a login or certificate that cannot be used.
    """
    config = {
        **client_config(broker),
        **({} if on_error is None else {"error_cb": on_error}),
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": compression,
        "linger.ms": 5,
        # Java's hash, so that every client puts a key into the same partition.
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 200_000,
        # A gibibyte by itself.
        "queue.buffering.max.kbytes": _QUEUE_BYTES_MAX >> 10,
        **(more or {}),
    }
    try:
        return Producer(config)
    except KafkaException as error:
        raise unusable(error) from error


class EventProducer:
    """Sends events of any topic, in the topic's format; counts the records that the broker acknowledged.

    schemas  where the schemas of Avro and Protobuf events are kept

    with EventProducer("127.0.0.1:9092") as producer:
        producer.send(arrivals, {"tailnum": "N14228", "arrived_at": 1_767_225_600_000_000, "arr_delay": 4.0})
    """

    def __init__(self, broker: Broker | str, compression: str = "lz4", schemas: Schemas | None = None) -> None:
        self._refusals = Refusals()
        self._producer = kafka_producer(broker, compression, self._refusals)
        self._schemas = schemas
        # Each with the definition that it was made of: a mended one of the same name takes its place.
        self._codecs: dict[str, tuple[Topic, Codec]] = {}
        self._lines: dict[str, tuple[Topic, JsonCodec]] = {}
        self._refused, self._refused_said = 0, list[str]()
        self._made_in, self._where = os.getpid(), str(broker)
        self._unpolled = 0
        self._answers = _Answers(self._producer)
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="send")
        self._counting = threading.Lock()
        self.acknowledged: Counter[str] = Counter()

    def send(self, topic: Topic, event: Mapping[str, Any]) -> None:
        """Check and send one event; raises InvalidEventError before anything is sent."""
        [payload] = self._codec(topic).encode([event])
        self.send_raw(topic.name, _key(topic, event.get), payload)

    def send_many(self, topic: Topic, events: Sequence[Mapping[str, Any]]) -> None:
        """Check and send events, in order a key; raises InvalidEventError before any of them is sent.

        Cheaper than one by one. A format that holds many events in a record gets them together, a record a key.
        """
        for key, payload, _ in list(self.records(topic, events)):
            self.send_raw(topic.name, key, payload)

    async def send_and_wait(self, topic: Topic, event: Mapping[str, Any]) -> tuple[int, int]:
        """Send one event and wait until the broker has it; the partition and offset that it has there.

        Events that are awaited together, as by `asyncio.gather`, travel together.
        Raises InvalidEventError before it is sent, NotAcknowledgedError when the broker refused it.
        """
        self._check_process()
        answer: Future[tuple[int, int]] = Future()

        def delivered(error: KafkaError | None, message: Any) -> None:
            if error is None:
                self._count(message.topic())
                answer.set_result((message.partition(), message.offset()))
            else:
                answer.set_exception(NotAcknowledgedError(_said(error, message), 1))

        def send() -> None:
            [payload] = self._codec(topic).encode([event])
            self._produce(topic.name, _key(topic, event.get), payload, delivered)

        # It may wait for a full queue or a schema registry, so not on the event loop's thread; one thread keeps order.
        await asyncio.get_running_loop().run_in_executor(self._sender, send)
        with self._answers:
            return await asyncio.shield(asyncio.wrap_future(answer))

    def send_json(
        self, topic: Topic, payload: bytes, answered: Answered | None = None, *, is_checked: bool = False
    ) -> None:
        """Check and send one event that is JSON already; raises InvalidEventError before anything is sent.

        answered    as `send_raw` has it
        is_checked  whether its values are known to keep to ranges, lengths and choices: these are looked at by the
                    column, which for one event alone costs many times what the sending does
        """
        try:
            event = self._line(topic).read(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidEventError(topic.name, str(error)) from error
        if topic.format != "json":
            values = {name: getattr(event, name) for name in topic.schema}
            [(key, record, _)] = self.records(topic, [values])
            self.send_raw(topic.name, key, record, answered)
            return
        if topic.contract and not is_checked:
            rejected = self._codec(topic).decode([payload]).rejected
            if rejected:
                raise InvalidEventError(topic.name, f"{rejected[0].reason}: {rejected[0].detail}")
        self.send_raw(topic.name, _key(topic, partial(getattr, event)), payload, answered)

    def send_raw(self, topic: str, key: bytes | None, payload: bytes, answered: Answered | None = None) -> None:
        """Send bytes as they are, unchecked: for replays and for tests of bad input.

        answered  is told, in place of the next flush, that the broker has the record or why it refused it; it is told
                  nothing where nobody knows
        """
        if answered is None:
            self._produce(topic, key, payload, self._delivered)
        elif (error := self._put(topic, key, payload, partial(self._tell, answered))) is not None:
            answered(error.str())
        self._unpolled += 1
        if self._unpolled >= _POLL_EVERY:
            self._unpolled = 0
            self._producer.poll(0)

    def records(
        self, topic: Topic, events: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[bytes | None, bytes, Sequence[int]]]:
        """Key and bytes of each record of some events, and which of them it holds; raises InvalidEventError."""
        codec = self._codec(topic)
        if not topic.is_batched:
            payloads = codec.encode(events)
            for place, (event, payload) in enumerate(zip(events, payloads, strict=True)):
                yield _key(topic, event.get), payload, (place,)
            return
        # A record has one key, and events of one key stay in order.
        alike: dict[bytes | None, list[int]] = {}
        for place, event in enumerate(events):
            try:
                key = _key(topic, event.get)
            except Exception:
                # No key can be made of what breaks the contract; the check says in whose words.
                codec.encode([event])
                raise
            alike.setdefault(key, []).append(place)
        for key, places in alike.items():
            for start in range(0, len(places), _BATCH_EVENTS):
                for payload, some in _small_enough(codec, events, places[start : start + _BATCH_EVENTS]):
                    yield key, payload, some

    def flush(self) -> None:
        """Return when the broker has answered everything; raises NotAcknowledgedError when it refused something.

        A refusal is told once, by the next flush or the exit. Raises BrokerAccessError when it refuses us.
        """
        self._check_process()
        deadline = time.monotonic() + _FLUSH_S
        while (left := self._producer.flush(_LOOK_S)) and time.monotonic() < deadline:
            # No retry mends a login that is refused.
            self._refusals.check()
        with self._counting:
            refused, said = self._refused, self._refused_said
            self._refused, self._refused_said = 0, []
        if refused > len(said):
            said = [*said, f"and {refused - len(said):,} more"]
        if left:
            said = [*said, f"{left:,} records had no answer within {_FLUSH_S:.0f} s"]
        if said:
            raise NotAcknowledgedError("; ".join(said), refused + left)

    def __enter__(self) -> EventProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._made_in:
            # What was sent before the fork is the other process's to wait for, and since then nothing was.
            return
        try:
            self._sender.shutdown()
            self.flush()
        except Exception:
            # What the broker does not have was told; closing would wait for it for five minutes more.
            self._producer.purge()
            raise
        finally:
            self._answers.close()
            self._producer.close()

    def _produce(
        self, topic: str, key: bytes | None, payload: bytes, delivered: Callable[[KafkaError | None, Any], None]
    ) -> None:
        error = self._put(topic, key, payload, delivered)
        if error is not None:
            raise NotAcknowledgedError(_named(topic, key, None, error), 1)

    def _put(
        self, topic: str, key: bytes | None, payload: bytes, delivered: Callable[[KafkaError | None, Any], None]
    ) -> KafkaError | None:
        """Hand a record to librdkafka; why it would not have it, if so."""
        self._check_process()
        while True:
            try:
                self._producer.produce(topic, key=key, value=payload, on_delivery=delivered)
                return None
            except BufferError:
                # The queue is bounded: wait for the broker rather than grow.
                self._producer.poll(0.1)
            except KafkaException as error:
                refused: KafkaError = error.args[0]
                return refused

    def _codec(self, topic: Topic) -> Codec:
        return _kept(self._codecs, topic, lambda: codec_of(topic, self._schemas))

    def _line(self, topic: Topic) -> JsonCodec:
        return _kept(self._lines, topic, lambda: JsonCodec(topic))

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self._count(message.topic())
            return
        with self._counting:
            self._refused += 1
            if len(self._refused_said) < _TOLD_MAX:
                self._refused_said.append(_said(error, message))

    def _tell(self, answered: Answered, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self._count(message.topic())
            answered(None)
        elif error.code() not in _UNSURE:
            answered(error.str())

    def _check_process(self) -> None:
        # A fork takes none of librdkafka's threads along: what is sent there would wait for ever.
        if os.getpid() != self._made_in:
            raise OtherProcessError(self._where, self._made_in, os.getpid())

    def _count(self, topic: str) -> None:
        # Answers come on whichever thread asks for them.
        with self._counting:
            self.acknowledged[topic] += 1


class _Answers:
    """Asks for the broker's answers, on a thread of its own, as long as somebody waits for one."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._waiting, self._is_closed = 0, False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        with self._changed:
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._ask, name="kafka-answers", daemon=True)
                self._thread.start()
            self._changed.notify()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread; answers still come with `flush`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _ask(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if self._is_closed:
                    return
            self._producer.poll(_POLL_S)


def _small_enough(
    codec: Codec, events: Sequence[Mapping[str, Any]], places: Sequence[int]
) -> Iterator[tuple[bytes, Sequence[int]]]:
    """Records of some of the events that a broker takes: halves, where all in one would be too large."""
    [payload] = codec.encode([events[place] for place in places])
    if len(payload) <= _RECORD_BYTES_MAX or len(places) == 1:
        yield payload, places
    else:
        middle = len(places) // 2
        yield from _small_enough(codec, events, places[:middle])
        yield from _small_enough(codec, events, places[middle:])


def _kept(made: dict[str, tuple[Topic, _Made]], topic: Topic, make: Callable[[], _Made]) -> _Made:
    """What was made of this definition before, or is made now: it costs as much as twenty sends."""
    found = made.get(topic.name)
    if found is None or (found[0] is not topic and found[0] != topic):
        found = made[topic.name] = topic, make()
    return found[1]


def _said(error: KafkaError, message: Any) -> str:
    return _named(message.topic(), message.key(), message.partition(), error)


def _named(topic: str, key: bytes | None, partition: int | None, error: KafkaError) -> str:
    """Which record was refused, and why."""
    shown = "no key" if key is None else f"key {key[:_KEY_SHOWN_MAX]!r}"
    where = "" if partition is None or partition < 0 else f", partition {partition}"
    return f"a record of topic {topic!r} ({shown}{where}): {error.str()}"


def _key(topic: Topic, value_of: Callable[[str], Any]) -> bytes | None:
    """The key of an event's record: events of one key are in one partition, in order.

    It is made of the value as the contract has it, so it is the same whichever way the event came: 1 and 1.0 are one
    number of a float column, and a moment is its microseconds whether it was a datetime or a text.

    value_of  gives the value of a column, of an event that keeps the contract
    """
    value = None if topic.key is None else value_of(topic.key)
    if topic.key is None or value is None:
        return None
    dtype = topic.schema[topic.key]
    if dtype == "string":
        # Not `str`, which gives a text of an enum its member's name.
        return str.encode(value)
    if dtype == "int64":
        value = int(value)
    elif dtype == "float64":
        # Zero has one sign, here and below.
        value = float(value) + 0.0
    elif dtype == "timestamp":
        value = microseconds(msgspec.convert(value, datetime) if isinstance(value, str) else value)
    elif decimals := decimal_type(dtype):
        value = decimals.exactly(str(value))
        value = value if value else value.copy_abs()
    return str(value).encode()
