"""A record as large as its topic takes may be no event: its letter is larger still."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.cimpl import NewTopic

from featurestore import Topic
from featurestore.local import LocalStack
from featurestore.offline import EventLog
from streams.broker import admin_client
from streams.codecs import codec_of
from streams.dead_letters import DeadLetterBox, read_letters
from streams.engine import Engine
from streams.ledger import ledgers
from streams.letters import BEGINNING_BYTES, DeadLetter
from streams.producer import kafka_producer
from streams.transport import Batch
from streams.transport.batch import RECORD_BYTES_MAX
from tests.parity.test_parity import Letters
from tests.project import Project
from tests.streams.test_worker import definitions

Make = Callable[..., Project]


def test_the_largest_record_that_a_topic_takes_becomes_a_letter_with_all_its_bytes(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("large")
    made = project(definitions(topic, partitions=1))
    payload = b"{broken".ljust(1_048_000)
    producer = Producer({"bootstrap.servers": made.settings.kafka_bootstrap, "message.max.bytes": 2 << 20})
    producer.produce(topic, payload)
    assert producer.flush(30) == 0
    worker = made.start_worker()
    made.wait_until_applied(worker)
    [letter] = read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic])
    assert letter.reason == "broken_json"
    assert letter.payload == payload


def test_a_record_that_is_small_only_while_compressed_stops_no_worker(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("compressed")
    made = project(definitions(topic, partitions=1))
    payload, key = b"{broken".ljust(9_000_000), b"k" * 300_000
    producer = Producer(
        {
            "bootstrap.servers": made.settings.kafka_bootstrap,
            "message.max.bytes": 12 << 20,
            "compression.type": "lz4",
        }
    )
    producer.produce(topic, payload, key)
    producer.produce(topic, b"{also broken", b"k")
    assert producer.flush(30) == 0
    worker = made.start_worker()
    made.wait_until_applied(worker)
    first, second = read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic])
    assert (first.place, first.reason, first.whole_bytes) == (f"{topic}/0/0", "broken_json", 9_300_000)
    assert first.payload == payload[:BEGINNING_BYTES]
    assert first.record_key == key[:BEGINNING_BYTES]
    assert (second.payload, second.whole_bytes) == (b"{also broken", None)
    listed = made.command("dead-letters", "list")
    assert "cut: 9,300,000 bytes" in listed.stdout, listed.stderr
    shown = made.command("dead-letters", "show", first.place)
    assert f"all of them are at {first.place}" in shown.stdout, shown.stderr
    replayed = made.command("dead-letters", "replay")
    assert "left: too_large" in replayed.stdout, replayed.stderr
    assert "9,300,000 bytes" in replayed.stdout


def test_a_record_above_the_bound_is_never_read_and_the_next_event_counts_at_every_start(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("bomb")
    made = project(definitions(topic, partitions=1))
    bomb = b'{"user": "' + b"x" * RECORD_BYTES_MAX + b'", "at": 1700000000000000, "amount": 1}'
    bootstrap = made.settings.kafka_bootstrap
    packed = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 2 * len(bomb), "compression.type": "gzip"})
    packed.produce(topic, bomb, b"k")
    assert packed.flush(60) == 0
    plain = Producer({"bootstrap.servers": bootstrap})
    plain.produce(topic, b'{"user": "b", "at": %d, "amount": 2}' % (time.time_ns() // 1_000), b"k")
    assert plain.flush(30) == 0
    for _ in range(2):
        worker = made.start_worker()
        made.wait_until_applied(worker)
        worker.kill()
        worker.wait()
    [letter] = read_letters(bootstrap, made.settings.project, [topic])
    assert (letter.place, letter.reason, letter.whole_bytes) == (f"{topic}/0/0", "too_large", len(bomb) + 1)
    assert (letter.payload, letter.record_key) == (bomb[:BEGINNING_BYTES], b"k")
    replayed = made.command("dead-letters", "replay")
    assert "left: too_large" in replayed.stdout, replayed.stderr
    [ledger] = ledgers(made.settings, made.repository)
    assert (ledger.balanced, ledger.applied, ledger.dead) == (True, 1, {"too_large": 1}), ledger


@pytest.mark.parametrize("format", ["json", "arrow"])
def test_what_is_cut_is_one_letter_at_every_reading_whatever_its_beginning_says(format: Any, tmp_path: Path) -> None:
    topic = Topic("large", {"n": int, "at": "timestamp"}, "at", format=format, ranges={"n": (0, None)})
    log, codec = EventLog(tmp_path, topic), codec_of(topic)
    values = [record for n in range(5) for record in codec.encode([{"n": n, "at": n}])]
    # Places of another batch of the partition are named as well.
    batch = Batch("large", 0, 0, 5, values, np.arange(5), np.full(5, 9), -1, [b"k"] * 5, {1: 99, 3: 77, 8: 55})

    def read(*parts: Batch) -> tuple[Engine, list[DeadLetter]]:
        letters = Letters()
        engine = Engine(topic, "id", [], 0, log, letters, lambda: 0)
        assert engine.open(0) == 0
        for part in parts:
            engine.apply(part)
        assert (engine.counts.records, engine.counts.applied, engine.counts.dead.total()) == (5, 3, 2)
        return engine, list(letters.held.values())

    # Killed before the log has anything; the next one reads in other batches.
    halves = batch.before(2), batch.after(2)
    for parts in ((batch,), halves, (halves[0].followed_by(halves[1:]),)):
        engine, letters = read(*parts)
        assert [(one.offset, one.reason, one.whole_bytes) for one in letters] == [
            (1, "too_large", 99),
            (3, "too_large", 77),
        ]
        assert [(one.payload, one.record_key) for one in letters] == [(values[1], b"k"), (values[3], b"k")]
    engine.flush()
    assert log.between(0, 0, 9, ["n"])["n"].to_pylist() == [0, 2, 4]


def test_a_letter_that_a_topic_made_by_hand_refuses_is_cut(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = unique("byhand")
    admin = admin_client(stack.kafka_bootstrap)
    [made] = admin.create_topics([NewTopic(f"{topic}.hand.dead", 1, 1)]).values()
    made.result(30)
    box = DeadLetterBox(kafka_producer(stack.kafka_bootstrap, "none", more={"message.max.bytes": 10 << 20}), "hand")
    box.put([DeadLetter(topic, 0, offset, "wrong_type", "", b"x" * size) for offset, size in ((0, 9), (1, 900_000))])
    box.put([DeadLetter(topic, 0, 2, "wrong_type", "", b"x" * 700_000)])
    box.flush()
    letters = read_letters(stack.kafka_bootstrap, "hand", [topic])
    assert [(one.offset, one.whole_bytes) for one in letters] == [(0, None), (1, 900_000), (2, None)]
    assert [len(one.payload or b"") for one in letters] == [9, BEGINNING_BYTES, 700_000]
