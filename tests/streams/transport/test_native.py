"""What leaves librdkafka as columns is what `confluent_kafka` says of each record."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from featurestore.errors import TransportError
from featurestore.local import LocalStack
from streams.broker import client_config
from streams.headers import REPLAYED_FOR
from streams.letters import BEGINNING_BYTES
from streams.transport.native import NativeConsumer
from streams.transport.options import ReaderOptions, consumer_config
from tests.streams.transport.harness import LIMIT_S, make_topic

PARTITIONS = 3
LAST = b"the last one"
# Of records for all, for us, and for others.
HEADERS: list[list[tuple[str, bytes | None]] | None] = [
    None,
    [("a", b"b"), ("", None)],
    [("replayed-from", b"paid/0/7"), ("replayed-for", b"us")],
    [("replayed-for", b"them"), ("replayed-for", b"us")],
    [("replayed-for", b"us"), ("replayed-for", b"them")],
    [("a", None), ("replayed-for", b"ut"), ("b", b"us")],
    [("replayed-for", b"use")],
    [("replayed-for", b"")],
    [("replayed-for", None)],
]
Told = dict[int, list[tuple[Any, ...]]]


def payload(draw: random.Random) -> bytes | None:
    size = draw.choice([None, 0, 1, 7, 100, 5_000])
    return None if size is None else draw.randbytes(size)


def write(bootstrap: str, topic: str, draw: random.Random) -> None:
    """Records of every kind, in transactions of which some are aborted, so that markers lie between them."""
    large = draw.randrange(20)
    producer = Producer({**client_config(bootstrap), "transactional.id": topic, "message.max.bytes": 1 << 21})
    producer.init_transactions(LIMIT_S)
    for number in range(20):
        producer.begin_transaction()
        for _ in range(draw.randrange(40)):
            producer.produce(
                topic,
                value=payload(draw),
                key=payload(draw),
                partition=draw.randrange(PARTITIONS),
                timestamp=draw.choice([0, 1, 1_700_000_000_000, 2**40]),
                headers=draw.choice(HEADERS),
            )
        if number == large:
            producer.produce(topic, value=draw.randbytes(900_000), partition=0)
        # librdkafka may end a transaction before the broker knows of its partitions, and the broker refuses that (issue
        # 4849 of librdkafka). Acknowledged records are proof that it knows; and only what was sent is aborted.
        producer.flush(LIMIT_S)
        if draw.random() < 0.3 and number != large:
            producer.abort_transaction(LIMIT_S)
        else:
            producer.commit_transaction(LIMIT_S)
    # Markers are written after a commit is answered: who has this record has passed them all.
    plain = Producer(client_config(bootstrap))
    for partition in range(PARTITIONS):
        plain.produce(topic, value=LAST, partition=partition)
    plain.flush(LIMIT_S)


def is_read(told: Told, ends: Mapping[int, int | None]) -> bool:
    """Whether each partition has been read to behind its last record."""
    return all(
        told[partition] and told[partition][-1][2] == LAST and (ends.get(partition) or 0) > told[partition][-1][0]
        for partition in range(PARTITIONS)
    )


def options(bootstrap: str, group: str) -> dict[str, Any]:
    return consumer_config(ReaderOptions(), {**client_config(bootstrap), "group.id": group})


def is_for(message: Message, project: str) -> bool:
    """Whether the record counts for this project: the last of a header's values is the one that is meant."""
    headers = dict(message.headers() or ())
    return REPLAYED_FOR not in headers or (headers[REPLAYED_FOR] or b"") == project.encode()


def as_messages(
    bootstrap: str, topic: str, starts: list[TopicPartition], project: str
) -> tuple[Told, dict[int, int | None]]:
    """One record after the other, but for those of other projects, and the offset at which each partition ends."""
    consumer, told, ends = Consumer(options(bootstrap, topic)), defaultdict(list), dict[int, int | None]()
    consumer.assign(starts)
    while not is_read(told, ends):
        for message in consumer.consume(500, 1.0):
            partition, error = message.partition(), message.error()
            assert partition is not None
            if error is None:
                if not is_for(message, project):
                    continue
                told[partition].append(
                    (message.offset(), message.timestamp()[1], message.value(), message.key(), message.leader_epoch())
                )
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                ends[partition] = message.offset()
    consumer.close()
    return told, ends


def as_columns(
    bootstrap: str, topic: str, starts: list[TopicPartition], project: str, at_once: int
) -> tuple[Told, dict[int, int]]:
    consumer, told, ends = NativeConsumer(options(bootstrap, topic), project), defaultdict(list), dict[int, int]()
    consumer.assign(starts)
    while not is_read(told, ends):
        runs, said = consumer.consume(at_once, 1.0)
        assert sum(len(run.offsets) for run in runs) + len(said) <= at_once
        for run in runs:
            assert run.topic == topic
            columns = run.offsets.tolist(), run.timestamps_ms.tolist(), run.values, run.keys
            told[run.partition] += [(*each, run.leader_epoch) for each in zip(*columns, strict=True)]
        for one in said:
            assert (one.topic, one.error.code()) == (topic, KafkaError._PARTITION_EOF)
            ends[one.partition] = one.offset
    consumer.close()
    return told, ends


@pytest.mark.parametrize("seed", range(3))
def test_the_columns_are_what_messages_say(stack: LocalStack, unique: Callable[[str], str], seed: int) -> None:
    draw, topic = random.Random(seed), unique("native")
    make_topic(stack.kafka_bootstrap, topic, PARTITIONS)
    write(stack.kafka_bootstrap, topic, draw)
    starts = [TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)]
    counts = {}
    for project in ("us", "nobody", ""):
        wanted = as_messages(stack.kafka_bootstrap, topic, starts, project)
        counts[project] = sum(map(len, wanted[0].values()))
        assert counts[project] > 40
        assert 900_000 in {len(value or b"") for told in wanted[0].values() for _, _, value, _, _ in told}
        for at_once in (7, 500):
            assert as_columns(stack.kafka_bootstrap, topic, starts, project, at_once) == wanted
    assert counts["us"] > counts["nobody"]
    assert counts[""] > counts["nobody"]


def test_of_a_record_above_the_bound_only_the_beginnings_leave_and_how_large_it_was(
    stack: LocalStack, unique: Callable[[str], str]
) -> None:
    topic, most = unique("native"), 2 * BEGINNING_BYTES
    make_topic(stack.kafka_bootstrap, topic, 1)
    sizes = [
        (most, None),
        (most + 1, None),
        (most, 1),
        (most - 1, 1),
        (1, most),
        (None, most + 1),
        (most, most),
        (3, 3),
    ]
    records = [[None if size is None else (bytes(range(1, 100)) * 400)[:size] for size in each] for each in sizes]
    producer = Producer(client_config(stack.kafka_bootstrap))
    for value, key in records:
        producer.produce(topic, value=value, key=key, partition=0)
    assert producer.flush(LIMIT_S) == 0
    consumer = NativeConsumer(options(stack.kafka_bootstrap, topic), record_bytes_max=most)
    consumer.assign([TopicPartition(topic, 0, 0)])
    told, cut = list[tuple[Any, ...]](), dict[int, int]()
    while len(told) < len(records):
        for run in consumer.consume(500, 1.0)[0]:
            told += zip(run.values, run.keys, strict=True)
            cut |= run.cut
    consumer.close()
    whole = [sum(len(part or b"") for part in each) for each in records]
    assert cut == {offset: size for offset, size in enumerate(whole) if size > most}
    for offset, (held, were) in enumerate(zip(told, records, strict=True)):
        parts = [part and part[:BEGINNING_BYTES] for part in were] if offset in cut else were
        assert list(held) == list(parts)


@pytest.mark.parametrize(
    ("more", "error", "named"),
    [
        ({"no.such.option": 1}, KafkaException, "no.such.option"),
        ({"session.timeout.ms": "soon"}, KafkaException, "session.timeout.ms"),
        ({"oauth_cb": print}, TransportError, "oauth_cb"),
    ],
    ids=["unknown", "no number", "function"],
)
def test_options_that_cannot_be_are_refused(more: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        NativeConsumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "none", **more})


def test_a_closed_consumer_says_so_where_c_would_end_the_process() -> None:
    consumer = NativeConsumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "none"})
    consumer.close()
    consumer.close()
    place = TopicPartition("none", 0, 1)
    for call in (
        lambda: consumer.consume(1, 0.0),
        lambda: consumer.commit(offsets=[place], asynchronous=True),
        lambda: consumer.pause([place]),
        consumer.unassign,
    ):
        with pytest.raises(AssertionError, match="closed"):
            call()
