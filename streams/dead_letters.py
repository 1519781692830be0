"""Dead letters: events that could not be applied, kept with the reason, out of the way of the rest.

A letter is known by its topic, partition and offset, so that a replay's second copy is the same letter. Letters of one
batch travel packed, many in a record; `letters.py` has the form. That a letter was taken back is a record of its
own beside it, with a key of its own: a worker that reads the topic again writes its letters again, and neither that nor
the broker's compaction may bring one back that has been replayed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Condition

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from featurestore.errors import DeadLetterError
from streams.broker import Broker, admin_client, client_config
from streams.letters import NO_POSITION, DeadLetter, Pack, beginning_of, packs, size_bytes, unpacked

# A broker may be away or stand still for a while, which a worker without letters lives through as well; sooner than the
# watchdog would end it, who knows less of the reason.
_FLUSH_S, _POLL_S = 100.0, 0.1
# Letters that wait to be packed, each with its record: more than two batches' worth of them where a tenth is bad.
_WAITING_MAX, _WAITING_BYTES_MAX = 20_000, 32 << 20
_SUFFIX = ".dead"
_REPLAYED = b"#replayed"
# A letter is its record in base64 and more, so it may be larger than what its topic takes: ten times the usual bound.
LETTER_BYTES_MAX = 10 << 20
# Kafka bounds a record as it is compressed, so a letter may be larger than any bound. The rest is for key and framing.
_VALUE_BYTES_MAX = LETTER_BYTES_MAX - (4 << 10)
# What librdkafka holds of them while the broker takes none, beside those that wait for it.
LETTER_QUEUE_BYTES_MAX = 32 << 20


def dead_letter_topic(topic: str, project: str) -> str:
    """Name of the Kafka topic that holds a project's letters of `topic`: another one may apply what this one cannot."""
    return f"{topic}.{project}{_SUFFIX}"


class Replayed(msgspec.Struct, frozen=True):
    """That a letter was taken back: its place, and the offset at which its event stands in the same partition now."""

    place: str
    new_offset: int

    @property
    def key(self) -> bytes:
        return self.place.encode() + _REPLAYED


@dataclass(frozen=True, slots=True)
class HeldLetter:
    """A letter as its topic holds it.

    written_us  when it was last written; a worker that reads the topic again writes it again
    kept_under  key of the record that holds it, perhaps among others; a null value under it erases them
    replayed    how it was taken back, if it was
    """

    letter: DeadLetter
    written_us: int
    kept_under: bytes
    replayed: Replayed | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What the topics of letters hold.

    letters     each once, in the order in which they were written
    unreadable  where records are that hold no letter: topic/partition/offset of their own
    """

    letters: list[HeldLetter]
    unreadable: list[str]


class DeadLetterBox:
    """Sends letters; `flush` returns when the broker holds all that were put before it. Used from any thread.

    They are packed and sent in a thread of their own: an engine has its next batch to decode.

    flush_s  how long the broker may take; then none of them is taken for stored ever after
    """

    def __init__(self, producer: Producer, project: str, flush_s: float = _FLUSH_S) -> None:
        self._producer, self._project, self._flush_s = producer, project, flush_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dead-letters")
        self._failed: list[str] = []
        # Over all below: letters that wait to be sent, and what the broker may not hold: number of a put -> letters,
        # in the order of the puts.
        self._changed = Condition()
        self._waiting = self._waiting_bytes = 0
        self._unstored: dict[int, int] = {}
        self._number = 0

    def put(self, letters: Sequence[DeadLetter]) -> None:
        """Send letters; waits while too many wait."""
        if not letters:
            return
        size = size_bytes(letters)

        def has_room() -> bool:
            fits = self._waiting + len(letters) <= _WAITING_MAX and self._waiting_bytes + size <= _WAITING_BYTES_MAX
            return fits or not self._waiting or bool(self._failed)

        with self._changed:
            self._changed.wait_for(has_room)
            self._number += 1
            self._unstored[self._number] = len(letters)
            if self._failed:
                # `flush` says so, and what a dying process lets wait it would wait for.
                return
            self._waiting += len(letters)
            self._waiting_bytes += size
            self._thread.submit(self._send, self._number, letters, size)

    def flush(self) -> None:
        """Raises DeadLetterError when a letter could not be stored: its event must not count as done.

        And for ever after: the log would pass the event on the way to the process' end.
        """
        with self._changed:
            last = self._number
        deadline = time.monotonic() + self._flush_s
        # Not the producer's own flush: it waits for letters that are put meanwhile as well, so it might never end.
        while not self._failed and self._waits(last) and time.monotonic() < deadline:
            self._producer.poll(_POLL_S)
        if not self._failed and self._waits(last):
            self._fail(f"the broker did not take them within {self._flush_s:.0f} s")
        if self._failed:
            with self._changed:
                raise DeadLetterError(sum(self._unstored.values()), list(self._failed))

    @property
    def unstored(self) -> int:
        """Letters that the broker is not known to hold; waits for nobody."""
        with self._changed:
            return sum(self._unstored.values())

    def _fail(self, why: str) -> None:
        with self._changed:
            self._failed.append(why)
            self._changed.notify_all()

    def _send(self, number: int, letters: Sequence[DeadLetter], size: int) -> None:
        try:
            for pack in packs(letters):
                if self._failed:
                    return
                self._produce(number, pack if len(pack.value) <= _VALUE_BYTES_MAX else beginning_of(pack.value))
        except Exception as error:
            # Said by every `flush` from now on; nobody waits for this thread.
            self._fail(_why(error, letters[0].topic, self._project))
        finally:
            with self._changed:
                self._waiting -= len(letters)
                self._waiting_bytes -= size
                self._changed.notify_all()

    def _send_again(self, number: int, pack: Pack) -> None:
        try:
            self._produce(number, pack)
        except Exception as error:
            self._fail(_why(error, pack.topic, self._project))

    def _produce(self, number: int, pack: Pack) -> None:
        delivered = partial(self._delivered, number, pack.letters, pack.topic)
        deadline = time.monotonic() + self._flush_s
        topic = dead_letter_topic(pack.topic, self._project)
        while True:
            try:
                self._producer.produce(topic, key=pack.key, value=pack.value, on_delivery=delivered)
                return
            except BufferError:
                # The producer's queue is bounded: wait for room rather than drop a letter.
                if self._failed or time.monotonic() > deadline:
                    raise BufferError(f"the producer had no room for them within {self._flush_s:.0f} s") from None
                self._producer.poll(_POLL_S)

    def _waits(self, last: int) -> bool:
        """Whether the broker may lack a letter among those of the first `last` puts."""
        with self._changed:
            return next(iter(self._unstored), last + 1) <= last

    def _delivered(self, number: int, letters: int, topic: str, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            value = message.value() if letters == 1 and error.code() == KafkaError.MSG_SIZE_TOO_LARGE else None
            if value is not None and len((smaller := beginning_of(value)).value) < len(value):
                # A topic that was made by hand takes less than ours do.
                self._thread.submit(self._send_again, number, smaller)
            else:
                self._fail(_why(KafkaException(error), topic, self._project))
            return
        with self._changed:
            self._unstored[number] -= letters
            if not self._unstored[number]:
                del self._unstored[number]


def _why(error: Exception, topic: str, project: str) -> str:
    """Why letters of a topic were not taken."""
    said = error.args[0] if isinstance(error, KafkaException) else error
    if isinstance(said, KafkaError) and said.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
        name = dead_letter_topic(topic, project)
        return f"their topic {name!r} is gone ({said.str()}); run `featurestore apply`, which makes it again"
    return str(said)


def read_letters(
    broker: Broker | str, project: str, topics: Sequence[str], timeout_s: float = 10.0
) -> list[DeadLetter]:
    """Every letter of the topics as of now, each once, by topic, partition and offset of its event."""
    letters = [each.letter for each in held_letters(broker, project, topics, timeout_s).letters]
    return sorted(letters, key=_order)


def held_letters(broker: Broker | str, project: str, topics: Sequence[str], timeout_s: float = 10.0) -> Held:
    """Every letter of the topics as of now.

    Of each key the newest record counts, as if the broker had compacted the topic already: a null value takes what was
    written under its key, and a letter that another record holds as well is still there.
    """
    records: dict[tuple[str, bytes], list[HeldLetter] | Replayed] = {}
    unreadable: list[str] = []
    for message in _records(broker, [dead_letter_topic(topic, project) for topic in topics], timeout_s):
        topic, value = str(message.topic()), message.value()
        where = f"{topic}/{message.partition()}/{message.offset()}"
        key = message.key() or where.encode()
        try:
            held = None if value is None else _held(key, value, message.timestamp()[1] * 1_000)
        except (ValueError, RecursionError):
            unreadable.append(where)
            continue
        # Behind the others: of a letter in several records the newest one counts.
        records.pop((topic, key), None)
        if held is not None:
            records[topic, key] = held
    letters: dict[str, HeldLetter] = {}
    taken_back: dict[str, Replayed] = {}
    for each_held in records.values():
        if isinstance(each_held, Replayed):
            taken_back[each_held.place] = each_held
        else:
            letters.update({each.letter.place: each for each in each_held})
    return Held([replace(each, replayed=taken_back.get(place)) for place, each in letters.items()], unreadable)


def said_to_be_replayed(
    broker: Broker | str, project: str, topic: str, begin: dict[int, int], timeout_s: float = 10.0
) -> Iterator[tuple[int, int, int, bool]]:
    """Partition, offset and position of letters, each time that one was said to be taken back, or that was erased.

    begin    partition of the letters' topic -> where to read from; moves along
    returns  NO_POSITION where the letter is of a whole record, and False where it was erased
    """
    for message in _records(broker, [dead_letter_topic(topic, project)], timeout_s, begin):
        begin[message.partition() or 0] = (message.offset() or 0) + 1
        key, value = message.key() or b"", message.value()
        if not key.endswith(_REPLAYED):
            continue
        try:
            _, partition, offset, *position = key.removesuffix(_REPLAYED).decode().split("/")
            place = int(partition), int(offset), int(position[0]) if position else NO_POSITION
            if value is not None:
                msgspec.json.decode(value, type=Replayed)
        except ValueError:
            continue  # no letter's; `held_letters` tells of it
        yield *place, value is not None


def _held(key: bytes, value: bytes, written_us: int) -> list[HeldLetter] | Replayed:
    """What a record holds; raises ValueError or RecursionError where that is neither."""
    if key.endswith(_REPLAYED):
        return msgspec.json.decode(value, type=Replayed)
    return [HeldLetter(letter, written_us, key) for letter in unpacked(value)]


def _records(
    broker: Broker | str, topics: Sequence[str], timeout_s: float, begin: Mapping[int, int] | None = None
) -> Iterator[Message]:
    """The records of the topics that exist, up to their ends as of now.

    begin  partition -> where to read from
    """
    existing = admin_client(broker).list_topics(timeout=timeout_s).topics
    consumer = Consumer(
        {
            **client_config(broker),
            "group.id": "dead-letters-reader",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            # A replay that was killed half-way has taken nothing back.
            "isolation.level": "read_committed",
            "fetch.message.max.bytes": LETTER_BYTES_MAX,
        }
    )
    try:
        places = [
            TopicPartition(topic, partition, 0)
            for topic in topics
            if topic in existing
            for partition in existing[topic].partitions
        ]
        ends = {}
        for place in places:
            low, high = consumer.get_watermark_offsets(place, timeout=timeout_s)
            place.offset = max(low, (begin or {}).get(place.partition, 0))
            if place.offset < high:
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
                yield message
            if where in ends and (error is not None or (message.offset() or 0) + 1 >= ends[where]):
                del ends[where]
    finally:
        consumer.close()


def _order(letter: DeadLetter) -> tuple[str, int, int, int]:
    return letter.topic, letter.partition, letter.offset, -1 if letter.position is None else letter.position
