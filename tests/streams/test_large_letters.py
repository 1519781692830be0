"""A record as large as its topic takes may be no event: its letter is larger still."""

from __future__ import annotations

from collections.abc import Callable

from confluent_kafka import Producer

from streams.dead_letters import read_letters
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
