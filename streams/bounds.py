"""What the broker holds of each partition: its first offset, and the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from streams.broker import answer_of

_TIMEOUT_S = 10.0
# The broker's word for it, and the client's, which knows how many there are.
NO_PARTITION = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION)


@dataclass(frozen=True, slots=True)
class Bounds:
    """low: the first offset that can still be read; end: the next one that will be written, as far as committed."""

    low: int
    end: int


def bounds_of(admin: AdminClient, topic: str, partitions: Iterable[int]) -> dict[int, Bounds]:
    """The bounds of those partitions that there are; raises KafkaException when the broker does not say."""
    places = [TopicPartition(topic, partition) for partition in partitions]

    def offsets(spec: OffsetSpec) -> dict[int, int]:
        asked = admin.list_offsets(
            dict.fromkeys(places, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_TIMEOUT_S,
        )
        out = {}
        for place, done in asked.items():
            try:
                out[place.partition] = answer_of(done, _TIMEOUT_S).offset
            except KafkaException as error:
                # A definition may say more partitions than the topic has yet.
                if error.args[0].code() not in NO_PARTITION:
                    raise
        return out

    low = offsets(OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # no types there
    end = offsets(OffsetSpec.latest())  # type: ignore[no-untyped-call]
    return {partition: Bounds(low[partition], end[partition]) for partition in low}
