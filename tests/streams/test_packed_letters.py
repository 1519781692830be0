"""Letters of one batch share records of a real broker, beside letters that earlier versions wrote one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from featurestore import Topic
from featurestore.local import LocalStack
from streams.dead_letters import DeadLetterBox, held_letters
from streams.letters import DeadLetter
from streams.producer import kafka_producer
from streams.topics import Topics
from tests.streams.test_letter_replay import records


def test_letters_of_every_form_are_read_alike_each_once(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = unique("forms")
    Topics(stack.kafka_bootstrap).create(
        [Topic(topic, schema={"user": str, "at": "timestamp"}, event_time="at", key="user", partitions=1)], "forms"
    )

    def of(offsets: Iterable[int], detail: str = "") -> list[DeadLetter]:
        return [DeadLetter(topic, 0, offset, "wrong_type", detail, b"\xff\x00", b"k") for offset in offsets]

    producer = kafka_producer(stack.kafka_bootstrap)
    # As an earlier version wrote them.
    for letter in of(range(3), "earlier"):
        producer.produce(f"{topic}.forms.dead", key=letter.key, value=msgspec.json.encode(letter))
    producer.flush()
    box = DeadLetterBox(producer, "forms")
    box.put(of(range(2, 1_500)))
    box.put([*of([1_500]), DeadLetter(topic, 0, 1_501, "wrong_type", "", b"x" * 700_000), *of([1_502])])
    # A worker that was killed finds other batch edges.
    box.put(of(range(1_000, 1_200), "again"))
    box.flush()
    held = [each.letter for each in held_letters(stack.kafka_bootstrap, "forms", [topic]).letters]
    assert [letter.offset for letter in held] == list(range(1_503))
    said = {letter.offset: letter.detail for letter in held if letter.detail}
    assert said == {0: "earlier", 1: "earlier"} | dict.fromkeys(range(1_000, 1_200), "again")
    assert {letter.payload for letter in held} == {b"\xff\x00", b"x" * 700_000}
    assert len(records(stack.kafka_bootstrap, f"{topic}.forms.dead", partitions=1)) == 3 + 3 + 3 + 1
