"""A record as large as its topic takes may be no event: its letter is larger still."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Producer
from confluent_kafka.cimpl import NewTopic

from featurestore.local import LocalStack
from streams.broker import admin_client
from streams.dead_letters import DeadLetterBox, read_letters
from streams.letters import BEGINNING_BYTES, DeadLetter
from streams.producer import kafka_producer
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
