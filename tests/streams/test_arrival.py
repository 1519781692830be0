"""An arrival is when the broker took a record; a producer's own stamp counts for it, but never for a later moment."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.event_time import SECOND_US
from featurestore.local import LocalStack
from streams.broker import client_config
from streams.engine import Engine
from streams.online_sink import OnlineSink
from streams.tail import Tail
from streams.transport import Batch
from streams.transport.native import NativeConsumer
from tests.simulation.history import History
from tests.simulation.world import (
    START_US,
    TOPIC,
    VIEWS,
    Server,
    SimulatedLetters,
    SimulatedLog,
    SimulatedStore,
    SteppedThread,
    Table,
)
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


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_that_are_made_again_count_an_event_where_the_log_has_it(data: st.DataObject) -> None:
    """What producers say of the future is held to the reader's clock, which is another one at the next reading."""
    seconds = st.integers(0, 400)
    ahead_s = data.draw(st.lists(st.one_of(st.just(0), seconds), min_size=1, max_size=8))
    # Whether each stamp is of the future as well, so that a clock decides.
    by_clock = data.draw(st.lists(st.booleans(), min_size=len(ahead_s), max_size=len(ahead_s)))
    clocks_s, logged = data.draw(st.tuples(seconds, seconds)), data.draw(st.integers(1, len(ahead_s)))
    same = {"user": "u0", "shop": "s", "amount": 1.0, "id": None}
    at_us = [START_US + (number + each_s) * SECOND_US for number, each_s in enumerate(ahead_s)]
    payloads: list[bytes | None] = [json.dumps({**same, "at": each}).encode() for each in at_us]

    def read(clock_s: int, end: int) -> Batch:
        """The first records as a reader hands them over at this time."""
        offsets, ahead = np.arange(end), np.where(by_clock[:end], clock_s, 0)
        arrived_us = START_US + (offsets + np.minimum(ahead, ahead_s[:end])) * SECOND_US
        return Batch("paid", 0, 0, end, payloads[:end], offsets, arrived_us, 0)

    def rows(*, lost: bool) -> bytes | None:
        """Of a first worker with one clock, and a second one that goes on with another."""
        server, table, view = Server(), Table(), VIEWS[0]
        store = SimulatedStore(server, lambda: os.urandom(16), lambda: "")
        for number, batch in enumerate((read(clocks_s[0], logged), read(clocks_s[1], len(ahead_s)))):
            log: Any = SimulatedLog(table, lambda: "")
            sink, letters = OnlineSink(store, view, SteppedThread()), SimulatedLetters({})
            engine = Engine(TOPIC, "id", [sink], 60 * SECOND_US, log, letters, lambda: START_US, SteppedThread())
            if number and lost:
                server.lose(1_000)
            assert engine.open(0) == (logged if number else 0)
            engine.apply(batch)
            engine.close(0)
        return History._stored(store, view.id, "u0")

    assert rows(lost=True) == rows(lost=False)
