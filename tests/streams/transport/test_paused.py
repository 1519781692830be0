"""Back-pressure pauses a real consumer, and rebalances come meanwhile: every partition goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from confluent_kafka import TopicPartition

from featurestore.errors import UnreadError
from featurestore.local import LocalStack
from streams.transport import Batch, ReaderOptions
from streams.transport.consumer import Consumer
from streams.watchdog import Unread
from streams.worker import EnginePort, stream_app
from tests.streams.transport.harness import LIMIT_S, SESSION_S, Member, Sinks, fill, make_topic

PARTITIONS, RECORDS, LATER = 4, 1_000, 10


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


@pytest.mark.parametrize("rebalance", ["eager", "cooperative"])
def test_what_was_paused_goes_on_after_a_member_came_and_went(
    stack: LocalStack, unique: Callable[[str], str], rebalance: Literal["eager", "cooperative"]
) -> None:
    topic = unique("paused")
    make_topic(stack.kafka_bootstrap, topic, PARTITIONS)
    fill(stack.kafka_bootstrap, topic, dict.fromkeys(range(PARTITIONS), RECORDS), size=200)
    sinks, go = Sinks(), threading.Event()
    options = ReaderOptions(
        batch_records_max=10,
        batch_bytes_max=2_000,
        ahead_bytes_max=20_000,
        session_s=SESSION_S,
        rebalance=rebalance,
    )

    def waits(_: object) -> None:
        assert go.wait(LIMIT_S)

    one = Member(stack.kafka_bootstrap, topic, topic, sinks, options, body=waits)
    until(lambda: one.reader.counts().paused == PARTITIONS)
    one.at_revoke = lambda places: go.set()
    two = Member(stack.kafka_bootstrap, topic, topic, sinks, options)
    until(lambda: len(two.reader.places()) == PARTITIONS // 2)
    two.stop()
    until(lambda: len(one.reader.places()) == PARTITIONS)
    fill(stack.kafka_bootstrap, topic, dict.fromkeys(range(PARTITIONS), LATER))

    sinks.wait(lambda: sinks.applied == PARTITIONS * (RECORDS + LATER))

    one.stop()
    assert not sinks.holes
    assert not one.failure.done()
    assert not two.failure.done()


def test_a_partition_that_gets_nothing_of_what_the_broker_has_is_seen(
    stack: LocalStack, unique: Callable[[str], str]
) -> None:
    topic = unique("unread")
    make_topic(stack.kafka_bootstrap, topic, 2)
    fill(stack.kafka_bootstrap, topic, {0: 10, 1: 30_000}, size=200)
    sinks, paused = Sinks(), threading.Event()

    def pause() -> None:
        one.reader._consumer.pause([TopicPartition(topic, 1)])
        paused.set()

    def body(batch: Batch) -> None:
        if batch.partition == 1 and not paused.is_set():
            # Behind the reader's back, as a fault of librdkafka would.
            one.reader._commands.append(pause)
            assert paused.wait(LIMIT_S)

    one = Member(stack.kafka_bootstrap, topic, topic, sinks, ReaderOptions(batch_records_max=10), body=body)
    until(one.reader.unread)
    fill(stack.kafka_bootstrap, topic, {0: 10})
    sinks.wait(lambda: sinks.records[topic, 0] == 20)

    assert one.reader.unread() == {(topic, 1): sinks.ends[topic, 1]}
    assert sinks.ends[topic, 1] < 30_000
    one.stop()


def test_a_poll_thread_that_does_not_come_back_is_seen(
    stack: LocalStack, unique: Callable[[str], str], tmp_path: Path
) -> None:
    topic = unique("silent")
    make_topic(stack.kafka_bootstrap, topic)
    hangs, go = threading.Event(), threading.Event()
    one = Member(stack.kafka_bootstrap, topic, topic, Sinks())
    until(one.reader.places)
    consumer = stream_app("group", "127.0.0.1:1", EnginePort({}, ReaderOptions()), str(tmp_path)).consumer
    assert isinstance(consumer, Consumer)
    consumer._reader = one.reader
    assert consumer.progress(0.5) == (0, "")

    one.reader._commands.append(lambda: (hangs.set(), go.wait(LIMIT_S), None)[-1])
    assert hangs.wait(LIMIT_S)
    until(lambda: "the broker was not polled for 1 s" in consumer.progress(0.5)[1])
    go.set()
    until(lambda: consumer.progress(0.5) == (0, ""))

    one.stop()
    assert one.reader.silent_s(time.monotonic() + 1_000.0) == 0.0


def test_only_who_stands_at_one_offset_for_so_long_is_unread() -> None:
    unread, here, there = Unread(12.0), ("t", 0), ("t", 1)
    assert unread.look(0.0, {here: 5, there: 7}) is None
    assert unread.look(11.0, {here: 6, there: 7}) is None
    error = unread.look(12.0, {here: 6, there: 7})
    assert isinstance(error, UnreadError)
    assert "topic 't', partition 1: nothing was read after offset 7 for 12 s" in str(error)

    assert unread.look(13.0, {here: 6}) is None
    assert unread.look(22.9, {here: 6, there: 7}) is None
    assert unread.look(24.0, {there: 7}) is None
