"""The producer SDK: acknowledgements that can be awaited, order a key, and records of many events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from featurestore import Topic
from featurestore.errors import InvalidEventError, NotAcknowledgedError
from featurestore.local import LocalStack
from streams.codecs import codec_of
from streams.producer import EventProducer
from streams.topics import Topics

SCHEMA = {"user": str, "at": "timestamp", "n": int, "note": str}


def topic_of(stack: LocalStack, name: str, **said: object) -> Topic:
    topic = Topic(name, SCHEMA, "at", key="user", partitions=3, nullable=("note",), **said)  # type: ignore[arg-type]
    Topics(stack.kafka_bootstrap).create([topic], "tests")
    return topic


def held(stack: LocalStack, topic: Topic, count: int) -> list[tuple[int, bytes | None, bytes]]:
    """Partition, key and value of each record, by partition and offset."""
    config = {"bootstrap.servers": stack.kafka_bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"}
    consumer = Consumer(config)
    try:
        consumer.assign([TopicPartition(topic.name, partition, 0) for partition in range(topic.partitions)])
        found = []
        deadline = time.monotonic() + 30
        while len(found) < count:
            assert time.monotonic() < deadline, found
            message = consumer.poll(1.0)
            if message is not None:
                assert message.error() is None
                found.append((message.partition(), message.offset(), message.key(), message.value()))
        assert consumer.poll(0.5) is None
        return [(partition, key, value) for partition, _, key, value in sorted(found)]
    finally:
        consumer.close()


def test_sends_can_be_awaited_and_events_of_one_key_keep_their_order(
    stack: LocalStack, unique: Callable[[str], str]
) -> None:
    topic = topic_of(stack, unique("awaited"))

    async def send() -> list[tuple[int, int]]:
        with EventProducer(stack.kafka_bootstrap) as producer:
            events = [{"user": f"u{number % 7}", "at": 1, "n": number} for number in range(300)]
            places = await asyncio.gather(*(producer.send_and_wait(topic, event) for event in events))
            assert producer.acknowledged[topic.name] == 300
            with pytest.raises(InvalidEventError):
                await producer.send_and_wait(topic, {"user": "u1", "at": 1, "n": "one"})
            again = await producer.send_and_wait(topic, events[0])
            assert again not in places
            return places

    places = asyncio.run(send())
    assert len(set(places)) == 300
    of: dict[bytes | None, list[int]] = {}
    for partition, key, value in held(stack, topic, 301)[:]:
        of.setdefault(key, []).append(codec_of(topic).decode([value]).arrays["n"][0].as_py())
        assert partition in range(3)
    assert of.pop(b"u0") == [*range(0, 300, 7), 0]
    assert of == {f"u{user}".encode(): list(range(user, 300, 7)) for user in range(1, 7)}


def test_an_awaited_send_that_the_broker_refuses_raises(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = topic_of(stack, unique("refused"))

    async def send() -> None:
        with EventProducer(stack.kafka_bootstrap) as producer:
            large = {"user": "u1", "at": 1, "n": 1, "note": "x" * 2_000_000}
            with pytest.raises(NotAcknowledgedError):
                await producer.send_and_wait(topic, large)
            await producer.send_and_wait(topic, {"user": "u1", "at": 1, "n": 1})

    asyncio.run(send())


def test_many_are_checked_before_any_is_sent(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = topic_of(stack, unique("checked"), ranges={"n": (0, 10)})
    with EventProducer(stack.kafka_bootstrap) as producer:
        with pytest.raises(InvalidEventError, match="`n` is 11, more than 10"):
            producer.send_many(topic, [{"user": "u1", "at": 1, "n": number} for number in range(12)])
        with pytest.raises(InvalidEventError, match="`n` is -1, less than 0"):
            producer.send_json(topic, b'{"user": "u1", "at": 1, "n": -1}')
        producer.send(topic, {"user": "u2", "at": 1, "n": 5})
    [(_, key, _)] = held(stack, topic, 1)
    assert key == b"u2"


def test_a_record_of_many_holds_events_of_one_key_in_order_and_no_more_than_a_broker_takes(
    stack: LocalStack, unique: Callable[[str], str], tmp_path: Path
) -> None:
    topic = topic_of(stack, unique("many"), format="arrow")
    # Long notes: a thousand of them together are more than a record may have.
    events = [{"user": f"u{number % 2}", "at": 1, "n": number, "note": "x" * 2_000} for number in range(2_400)]
    with EventProducer(stack.kafka_bootstrap) as producer:
        producer.send_many(topic, events)
    records = producer.acknowledged[topic.name]
    assert 6 <= records <= 12
    of: dict[bytes | None, list[int]] = {}
    for _, key, value in held(stack, topic, records):
        assert len(value) <= 900_000
        of.setdefault(key, []).extend(codec_of(topic).decode([value]).arrays["n"].to_pylist())
    assert of == {b"u0": list(range(0, 2_400, 2)), b"u1": list(range(1, 2_400, 2))}
