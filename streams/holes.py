"""Offsets without a record: the end of every transaction takes one in each partition, and compaction leaves some."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from featurestore.errors import BrokerError
from streams.broker import Broker, client_config
from streams.headers import is_for

_ANSWER_S = 10.0


def records_in(broker: Broker, project: str, topic: str, gaps: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Which (partition, offset) in these gaps hold a record after all; those of aborted transactions are none.

    Nor are those that were sent again for another project.

    gaps  (partition, first offset, end offset), half-open
    """
    found: list[tuple[int, int]] = []
    consumer = Consumer(
        {
            **client_config(broker),
            "group.id": "holes-reader",
            "enable.auto.commit": False,
            # Where the broker has cut a beginning off there is nothing to find.
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        for partition, first, end in gaps:
            consumer.assign([TopicPartition(topic, partition, first)])
            while True:
                message = consumer.poll(_ANSWER_S)
                if message is None:
                    raise BrokerError(broker.bootstrap, f"it did not answer in time while {topic}/{partition} was read")
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                offset = message.offset()
                if error is not None or offset is None or offset >= end:
                    break
                if is_for(message, project):
                    found.append((partition, offset))
    finally:
        consumer.close()
    return found
