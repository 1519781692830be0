"""The producer SDK: acknowledgements that can be awaited, order a key, and records of many events."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic

from featurestore import Topic
from featurestore.errors import InvalidEventError, NotAcknowledgedError
from featurestore.local import LocalStack
from streams.broker import admin_client
from streams.codecs import codec_of
from streams.producer import Answered, EventProducer
from streams.schemas import FolderSchemas
from streams.send import Fate, Part
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


@pytest.mark.parametrize("format", ["json", "arrow"])
@pytest.mark.parametrize(("key", "value"), [("user", 5), ("n", "abc"), ("n", float("inf")), ("at", "yesterday")])
def test_a_key_that_breaks_the_contract_is_an_invalid_event_in_records_of_many_too(
    stack: LocalStack, format: Literal["json", "arrow"], key: str, value: object
) -> None:
    topic = Topic("nobodys", SCHEMA, "at", key=key, nullable=("note",), format=format)
    good = {"user": "u", "at": 1, "n": 2}
    with EventProducer(stack.kafka_bootstrap) as producer, pytest.raises(InvalidEventError, match=key):
        producer.send_many(topic, [good, {**good, key: value}])


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


def small_topic(stack: LocalStack, name: str) -> Topic:
    """A topic whose records have a kilobyte at most: the broker refuses others, and not librdkafka."""
    topic = Topic(name, SCHEMA, "at", key="user", partitions=3, nullable=("note",))
    made = NewTopic(name, 3, 1, config={"max.message.bytes": "1000"})
    admin = admin_client(stack.kafka_bootstrap)
    admin.create_topics([made])[name].result(30)
    return topic


def test_a_refusal_is_told_once_with_its_record_and_what_comes_after_it_is_sent(
    stack: LocalStack, unique: Callable[[str], str]
) -> None:
    topic = small_topic(stack, unique("small"))
    with EventProducer(stack.kafka_bootstrap, compression="none") as producer:
        for round_ in range(2):
            for number in range(12):
                producer.send(topic, {"user": f"large-{round_}", "at": 1, "n": number, "note": "x" * 2_000})
            with pytest.raises(NotAcknowledgedError) as told:
                producer.flush()
            assert told.value.count == 12
            assert str(told.value).count(f"a record of topic {topic.name!r} (key b'large-{round_}'") == 5
            assert "and 7 more" in str(told.value)
            producer.send(topic, {"user": "u1", "at": 1, "n": round_})
            producer.flush()
    assert [key for _, key, _ in held(stack, topic, 2)] == [b"u1", b"u1"]


def test_a_refusal_that_no_flush_has_told_is_told_at_the_exit(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = small_topic(stack, unique("exit"))
    with (
        pytest.raises(NotAcknowledgedError, match=r"key b'large', partition \d\): .*too large"),
        EventProducer(stack.kafka_bootstrap, compression="none") as producer,
    ):
        producer.send(topic, {"user": "large", "at": 1, "n": 1, "note": "x" * 2_000})


def test_a_mended_definition_of_the_same_name_is_what_counts(stack: LocalStack, unique: Callable[[str], str]) -> None:
    before = topic_of(stack, unique("mended"), ranges={"n": (0, 10)})
    mended = Topic(before.name, SCHEMA, "at", key="user", partitions=3, nullable=("note",), ranges={"n": (0, 20)})
    with EventProducer(stack.kafka_bootstrap) as producer:
        for topic, most in ((before, 10), (mended, 20), (before, 10)):
            for number in (most, most + 1):
                event = {"user": "u1", "at": 1, "n": number}
                sends: list[Callable[[], None]] = [
                    lambda topic=topic, event=event: producer.send(topic, event),  # type: ignore[misc]  # bound now
                    lambda topic=topic, number=number: producer.send_json(  # type: ignore[misc]
                        topic, f'{{"user": "u1", "at": 1, "n": {number}}}'.encode()
                    ),
                ]
                for send in sends:
                    if number == most:
                        send()
                    else:
                        with pytest.raises(InvalidEventError, match=f"more than {most}"):
                            send()
    assert producer.acknowledged[before.name] == 6


class Colour(str, Enum):  # noqa: UP042  # `StrEnum` would show as its text
    """A text that `str` shows otherwise."""

    RED = "red"


_MOMENT = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize("form", ["json", "avro", "protobuf", "arrow"])
@pytest.mark.parametrize(
    ("kind", "values", "texts", "key"),
    [
        (float, [1, 1.0], ["1", "1.0", "1e0"], b"1.0"),
        (float, [0, -0.0], ["0", "-0.0"], b"0.0"),
        (int, [7], ["7"], b"7"),
        (str, ["red", Colour.RED], ['"red"', '"r\\u0065d"'], b"red"),
        (bool, [True], ["true"], b"True"),
        ("decimal(12, 2)", [Decimal("1.5"), "1.50", 1.5], ["1.5", '"1.50"', "15e-1"], b"1.50"),
        ("decimal(12, 2)", [Decimal("-0"), 0], ["-0.00", "0"], b"0.00"),
        (
            "timestamp",
            [_MOMENT, _MOMENT.astimezone(UTC), "2026-01-01T00:00:00Z", 1_767_225_600_000_000],
            ["1767225600000000", '"2026-01-01T00:00:00Z"', '"2026-01-01T01:00:00+01:00"'],
            b"1767225600000000",
        ),
    ],
)
def test_a_key_is_made_of_the_value_as_the_contract_has_it_whichever_way_it_comes(
    form: Any, kind: Any, values: list[Any], texts: list[str], key: bytes, tmp_path: Path
) -> None:
    if form != "json" and str(kind).startswith("decimal"):
        pytest.skip("only JSON has decimals")
    topic = Topic("keyed", {"k": kind, "at": "timestamp"}, "at", key="k", format=form)
    sent: list[bytes | None] = []

    class Listening(EventProducer):
        """Keeps the keys of what it would send."""

        def send_raw(self, topic: str, key: bytes | None, payload: bytes, answered: Answered | None = None) -> None:
            sent.append(key)

    with Listening("127.0.0.1:1", schemas=FolderSchemas(tmp_path / "schemas")) as producer:
        for value in values:
            producer.send(topic, {"k": value, "at": 1})
            producer.send_many(topic, [{"k": value, "at": 1}])
        lines = [f'{{"k": {text}, "at": 1}}'.encode() for text in texts]
        for line in lines:
            producer.send_json(topic, line)
        Part(topic, lines, range(1, len(lines) + 1), 0).send(producer, Fate(topic.name))
    assert set(sent) == {key}


_FORKED = """
import asyncio, os, sys, time
from featurestore import Topic
from featurestore.errors import OtherProcessError
from streams.producer import Answered, EventProducer

topic = Topic(sys.argv[2], {"user": str, "at": "timestamp"}, "at", key="user")
began = time.monotonic()
with EventProducer(sys.argv[1]) as producer:
    producer.send(topic, {"user": "before", "at": 1})
    child = os.fork()
    if child == 0:
        event = {"user": "child", "at": 1}
        awaited = lambda: asyncio.run(producer.send_and_wait(topic, event))
        for use in (lambda: producer.send(topic, event), awaited, producer.flush):
            try:
                use()
            except OtherProcessError as error:
                assert (error.made_in, error.used_in) == (os.getppid(), os.getpid())
                print(error, flush=True)
    else:
        assert os.waitpid(child, 0)[1] == 0
        producer.send(topic, {"user": "after", "at": 1})
assert time.monotonic() - began < 45, "the exit waited"
if child:
    assert producer.acknowledged == {topic.name: 2}
"""


def test_a_producer_that_a_fork_took_along_says_so_at_once_and_its_exit_does_not_wait(
    stack: LocalStack, unique: Callable[[str], str]
) -> None:
    topic = Topic(unique("forked"), {"user": str, "at": "timestamp"}, "at", key="user")
    Topics(stack.kafka_bootstrap).create([topic], "tests")
    command = [sys.executable, "-c", _FORKED, stack.kafka_bootstrap, topic.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"the EventProducer for {stack.kafka_bootstrap} was made in process") == 3
    assert done.stdout.count("make one in each process, after the fork") == 3
