"""An arrival is when the broker took a record; a producer's own stamp counts for it, but never for a later moment."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Producer, TopicPartition

from featurestore.local import LocalStack
from streams.broker import client_config
from streams.tail import Tail
from streams.transport.native import NativeConsumer
from tests.streams.transport.harness import make_topic
from tests.streams.transport.test_native import options

AHEAD_MS = 3_600_000


@pytest.mark.parametrize("stamped_by", ["CreateTime", "LogAppendTime"])
def test_a_producer_cannot_say_that_a_record_comes_later_than_it_is_read(
    stack: LocalStack, unique: Callable[[str], str], stamped_by: str
) -> None:
    topic, now = unique("stamped"), time.time_ns() // 1_000_000
    make_topic(stack.kafka_bootstrap, topic, 1, {"message.timestamp.type": stamped_by})
    producer = Producer(client_config(stack.kafka_bootstrap))
    for stamp in (1_000, now - 5_000, now + AHEAD_MS):
        producer.produce(topic, b"{}", partition=0, timestamp=stamp)
    producer.flush()
    clock = now - 4_000
    consumer = NativeConsumer(options(stack.kafka_bootstrap, topic), clock_ms=lambda: clock)
    consumer.assign([TopicPartition(topic, 0, 0)])
    read: list[int] = []
    while len(read) < 3:
        runs, _ = consumer.consume(10, 1.0)
        read += [stamp for run in runs for stamp in run.timestamps_ms.tolist()]
    consumer.close()
    if stamped_by == "CreateTime":
        assert read == [1_000, now - 5_000, clock]
    else:
        # A broker's clock is not held to ours.
        assert all(now <= stamp <= now + 60_000 for stamp in read)
    followed: list[int] = []
    with Tail(stack.kafka_bootstrap, "us", topic, {0: 0}) as tail:
        while len(followed) < 3:
            followed += [stamp // 1_000 for batch in tail.read(1.0) for stamp in batch.timestamps_us.tolist()]
    assert followed[:2] == read[:2]
    assert now <= followed[2] <= time.time_ns() // 1_000_000
