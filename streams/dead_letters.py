"""Dead letters: events that could not be applied, kept with the reason, out of the way of the rest.

A letter is keyed by topic, partition and offset, so that a replay's second copy is the same letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from featurestore.errors import DeadLetterError
from streams.broker import Broker, admin_client, client_config

_FLUSH_S = 30.0
_SUFFIX = ".dead"
# A letter is its record in base64 and more, so it may be larger than what its topic takes: ten times the usual bound.
LETTER_BYTES_MAX = 10 << 20


def dead_letter_topic(topic: str) -> str:
    """Name of the Kafka topic that holds the letters of `topic`."""
    return topic + _SUFFIX


class DeadLetter(msgspec.Struct, frozen=True):
    """One event that was not applied: where it stands in Kafka, why, and its bytes (base64 in JSON).

    position  of the event, where only that one of a record that holds many was not applied; the bytes are then a
              record of that event alone
    """

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    payload: bytes | None
    position: int | None = None

    @property
    def place(self) -> str:
        """Partition and offset, and the position where there is one."""
        return "/".join(str(each) for each in (self.partition, self.offset, self.position) if each is not None)

    @property
    def key(self) -> bytes:
        return f"{self.topic}/{self.place}".encode()


class DeadLetterBox:
    """Sends letters; `flush` returns when the broker holds them all."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._failed: list[str] = []

    def put(self, letters: Iterable[DeadLetter]) -> None:
        for letter in letters:
            while True:
                try:
                    self._producer.produce(
                        dead_letter_topic(letter.topic),
                        key=letter.key,
                        value=msgspec.json.encode(letter),
                        on_delivery=self._delivered,
                    )
                    break
                except BufferError:
                    # The producer's queue is bounded: wait for room rather than drop a letter.
                    self._producer.poll(0.1)

    def flush(self) -> None:
        """Raises DeadLetterError when a letter could not be stored: its event must not count as done."""
        left = self._producer.flush(_FLUSH_S)
        if left or self._failed:
            reasons, self._failed = self._failed, []
            raise DeadLetterError(left, reasons)

    def _delivered(self, error: KafkaError | None, message: object) -> None:
        if error is not None:
            self._failed.append(str(error))


def read_letters(broker: Broker | str, topics: Sequence[str], timeout_s: float = 10.0) -> list[DeadLetter]:
    """Every letter of the topics as of now, each once, by topic, partition and offset of its event."""
    letters: dict[bytes, DeadLetter] = {}
    existing = admin_client(broker).list_topics(timeout=timeout_s).topics
    consumer = Consumer(
        {
            **client_config(broker),
            "group.id": "dead-letters-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
        }
    )
    try:
        places = [
            TopicPartition(dead_letter_topic(topic), partition, 0)
            for topic in topics
            if dead_letter_topic(topic) in existing
            for partition in existing[dead_letter_topic(topic)].partitions
        ]
        ends = {}
        for place in places:
            low, high = consumer.get_watermark_offsets(place, timeout=timeout_s)
            place.offset = low
            if low < high:
                ends[place.topic, place.partition] = high
        consumer.assign([place for place in places if (place.topic, place.partition) in ends])
        while ends:
            message = consumer.poll(timeout_s)
            if message is None:
                raise DeadLetterError(len(ends), ["the broker did not answer in time while letters were read"])
            where = message.topic(), message.partition()
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            if error is None:
                letter = msgspec.json.decode(message.value() or b"", type=DeadLetter)
                letters[letter.key] = letter
            if where in ends and (error is not None or (message.offset() or 0) + 1 >= ends[where]):
                del ends[where]
    finally:
        consumer.close()
    return sorted(letters.values(), key=_order)


def _order(letter: DeadLetter) -> tuple[str, int, int, int]:
    return letter.topic, letter.partition, letter.offset, -1 if letter.position is None else letter.position
