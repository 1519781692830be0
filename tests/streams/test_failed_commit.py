"""A commit that failed is not forgotten: nothing after it moves a bucket past events that it does not hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis
from confluent_kafka import KafkaError

from featurestore.errors import DeadLetterError, OnlineStoreError
from featurestore.event_time import Mark
from featurestore.local import LocalStack
from featurestore.offline import EventLog
from featurestore.online import OneServer, OnlineStore
from streams.dead_letters import DeadLetterBox
from streams.engine import Engine
from streams.letters import DeadLetter
from streams.online_sink import OnlineSink
from streams.producer import kafka_producer
from streams.transport import Batch
from tests.parity.test_parity import Letters
from tests.streams.test_online_sink import TOPIC, VIEW, apply, expected, value


def test_after_a_commit_that_failed_no_heartbeat_moves_a_bucket_past_its_events(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("failed"), buckets=2)
    store.ensure_ready()
    sink = OnlineSink(store, VIEW)
    sink.open(0)
    apply(sink, 0, 10)
    # The store answers reads and refuses writes.
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(OnlineStoreError):
            apply(sink, 10, 20)
    finally:
        redis_client.config_set("maxmemory", 0)
    # The worker is on its way to its end, and its clock ticks on.
    for _ in range(2):
        with pytest.raises(OnlineStoreError):
            sink.heartbeat({0: Mark(20, 20)})
    with pytest.raises(OnlineStoreError):
        apply(sink, 20, 30)
    again = OnlineSink(store, VIEW)
    again.open(0)
    apply(again, 10, 30)
    assert value(store) == expected((0, 30))


def test_after_a_failed_commit_the_log_never_passes_the_rows_that_it_lacks(tmp_path: Path) -> None:
    failing = [False]

    class Log(EventLog):
        def append(self, rows: object, marks: object) -> None:
            if failing[0]:
                failing[0] = False
                raise OSError("no space left on device")
            super().append(rows, marks)  # type: ignore[arg-type]

    clock_us = [10_000_000]
    engine = Engine(TOPIC, "id", [], 0, Log(tmp_path, TOPIC), Letters(), lambda: clock_us[0])
    engine.open(0)

    def event(offset: int) -> None:
        value = b'{"user": "u", "at": %d, "amount": 1}' % offset
        engine.apply(Batch("paid", 0, offset, offset + 1, [value], np.array([offset]), np.array([offset])))

    event(0)
    engine.flush()
    event(1)
    failing[0] = True
    clock_us[0] += 500_000
    with pytest.raises(OSError, match="no space"):
        engine.flush()
    # On its way to its end the worker applies what is in hand and gives its partition up.
    event(2)
    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            engine.close(0)
    log = EventLog(tmp_path, TOPIC)
    assert log.marks()[0].offset == len(log.read(["offset"])) == 1


def test_a_letter_that_could_not_be_stored_is_never_taken_for_stored() -> None:
    class Refusing:
        def produce(self, topic: str, on_delivery: Callable[[KafkaError, None], None], **record: object) -> None:
            on_delivery(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), None)

        def poll(self, timeout_s: float) -> int:
            return 0

    box = DeadLetterBox(Refusing(), "tests")  # type: ignore[arg-type]
    box.put([DeadLetter("paid", 0, offset, "wrong_type", "", b"") for offset in range(3)])
    for _ in range(2):
        with pytest.raises(DeadLetterError, match="3 outstanding") as raised:
            box.flush()
        assert raised.value.left == 3


def test_letters_whose_topic_is_gone_name_it_and_the_way_back(stack: LocalStack) -> None:
    at_once = {"topic.metadata.propagation.max.ms": 0}
    box = DeadLetterBox(kafka_producer(stack.kafka_bootstrap, more=at_once), "nobody")
    box.put([DeadLetter("gone", 0, 0, "wrong_type", "", b"")])
    said = r"their topic 'gone.nobody.dead' is gone \(.*\); run `featurestore apply`, which makes it again"
    with pytest.raises(DeadLetterError, match=said):
        box.flush()


# Where each letter that waits waited for itself, it would be minutes.
@pytest.mark.timeout(20)
def test_letters_that_find_no_room_end_the_worker_once_and_wait_within_bounds() -> None:
    class Full:
        def produce(self, topic: str, **record: object) -> None:
            raise BufferError

        def poll(self, timeout_s: float) -> int:
            time.sleep(0.01)
            return 0

    box = DeadLetterBox(Full(), "tests", flush_s=1.0)  # type: ignore[arg-type]

    def put(payload: bytes, letters: int = 1) -> None:
        box.put([DeadLetter("paid", 0, 0, "wrong_type", "", payload)] * letters)

    # A second one of so many bytes waits for the first, and only until it is known that nothing goes.
    # Keys count, and what is said: both may be as large as records.
    for _ in range(4):
        box.put([DeadLetter("paid", 0, 0, "wrong_type", "x" * (5 << 20), b"x" * (7 << 20), b"x" * (8 << 20))])
        assert box._waiting_bytes in (0, 20 << 20)
    for _ in range(50):
        put(b"x")
    with pytest.raises(DeadLetterError, match="54 outstanding"):
        box.flush()
    put(b"x", 30_000)
    with pytest.raises(DeadLetterError, match="30054 outstanding"):
        box.flush()
    box._thread.shutdown(wait=True)
