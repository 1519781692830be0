"""The producer SDK: events are checked against their topic's contract, then sent so that none is lost or doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import msgspec
from confluent_kafka import KafkaError, Producer

from featurestore.errors import InvalidEventError, NotAcknowledgedError
from featurestore.spec import Topic
from streams.broker import client_config
from streams.codecs.json import JsonCodec

_FLUSH_S = 60.0
# Answers of the broker are looked at this often: each look costs as much as a send.
_POLL_EVERY = 1_000


def kafka_producer(bootstrap: str, compression: str = "lz4", more: Mapping[str, Any] | None = None) -> Producer:
    """An idempotent producer: every acknowledged record is stored once, in order a key.

    more  settings of librdkafka beside these
    """
    return Producer(
        {
            **client_config(bootstrap),
            **(more or {}),
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": compression,
            "linger.ms": 5,
            # Java's hash, so that every client puts a key into the same partition.
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 200_000,
        }
    )


class EventProducer:
    """Sends events of any topic; counts what the broker acknowledged.

    with EventProducer("127.0.0.1:9092") as producer:
        producer.send(arrivals, {"tailnum": "N14228", "arrived_at": 1_767_225_600_000_000, "arr_delay": 4.0})
    """

    def __init__(self, bootstrap: str, compression: str = "lz4") -> None:
        self._producer = kafka_producer(bootstrap, compression)
        self._codecs: dict[str, JsonCodec] = {}
        self._failed: list[str] = []
        self._unpolled = 0
        self.acknowledged: Counter[str] = Counter()

    def send(self, topic: Topic, event: Mapping[str, Any]) -> None:
        """Check and send one event; raises InvalidEventError before anything is sent."""
        codec = self._codec(topic)
        try:
            payload = codec.check(event)
        except (msgspec.ValidationError, TypeError) as error:
            raise InvalidEventError(topic.name, str(error)) from error
        key = None if topic.key is None or event.get(topic.key) is None else str(event[topic.key]).encode()
        self.send_raw(topic.name, key, payload)

    def send_json(self, topic: Topic, payload: bytes) -> None:
        """Check and send one event that is JSON already; raises InvalidEventError before anything is sent."""
        codec = self._codec(topic)
        try:
            event = codec.read(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidEventError(topic.name, str(error)) from error
        named = None if topic.key is None else getattr(event, topic.key)
        self.send_raw(topic.name, None if named is None else str(named).encode(), payload)

    def send_raw(self, topic: str, key: bytes | None, payload: bytes) -> None:
        """Send bytes as they are, unchecked: for replays and for tests of bad input."""
        while True:
            try:
                self._producer.produce(topic, key=key, value=payload, on_delivery=self._delivered)
                break
            except BufferError:
                # The queue is bounded: wait for the broker rather than grow.
                self._producer.poll(0.1)
        self._unpolled += 1
        if self._unpolled >= _POLL_EVERY:
            self._unpolled = 0
            self._producer.poll(0)

    def flush(self) -> None:
        """Return when the broker has acknowledged everything; raises NotAcknowledgedError when it refused something."""
        left = self._producer.flush(_FLUSH_S)
        if left or self._failed:
            reason = self._failed[0] if self._failed else f"{left} events were not acknowledged within {_FLUSH_S:.0f} s"
            raise NotAcknowledgedError(reason)

    def __enter__(self) -> EventProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._producer.close()

    def _codec(self, topic: Topic) -> JsonCodec:
        # Building one costs as much as twenty sends, so `setdefault` will not do.
        if topic.name not in self._codecs:
            self._codecs[topic.name] = JsonCodec(topic)
        return self._codecs[topic.name]

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is None:
            self.acknowledged[message.topic()] += 1
        else:
            self._failed.append(str(error))
