"""A file of JSON lines into a topic, in the topic's format: all of it is checked before any of it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from featurestore.errors import InvalidEventError
from featurestore.spec import Topic
from streams.codecs.codec import Decoded
from streams.codecs.contract import kept
from streams.codecs.json import JsonCodec
from streams.producer import EventProducer

# Enough to decode them at the price of a batch, few enough that a progress bar moves.
_PART_LINES = 10_000


@dataclass(frozen=True)
class Part:
    """Some lines of a file, which keep their topic's contract."""

    topic: Topic
    lines: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.lines)

    def send(self, producer: EventProducer) -> None:
        """Send them in order; their acknowledgement comes with the producer's flush."""
        if self.topic.format == "json":
            for line in self.lines:
                producer.send_json(self.topic, line)
            return
        arrays = _decoded(self.topic, self.lines).arrays
        columns = {
            name: (arrays[name].cast("int64") if dtype == "timestamp" else arrays[name]).to_pylist()
            for name, dtype in self.topic.schema.items()
        }
        rows = zip(*columns.values(), strict=True)
        producer.send_many(self.topic, [dict(zip(columns, row, strict=True)) for row in rows])


def checked(topic: Topic, lines: Sequence[bytes]) -> Iterator[Part]:
    """The lines part by part; raises InvalidEventError at the first that breaks the contract, with its number."""
    for start in range(0, len(lines), _PART_LINES):
        part = [line.strip() for line in lines[start : start + _PART_LINES]]
        rejected = _decoded(topic, part).rejected
        if rejected:
            first = min(rejected, key=lambda one: one.index)
            raise InvalidEventError(topic.name, f"line {start + first.index + 1}: {first.reason}: {first.detail}")
        yield Part(topic, part)


def _decoded(topic: Topic, lines: Sequence[bytes]) -> Decoded:
    return kept(JsonCodec(topic).decode(lines), topic)
