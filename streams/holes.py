"""Offsets without a record: the end of every transaction takes one in each partition, and compaction leaves some."""

from __future__ import annotations

import time
from collections.abc import Iterable

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from featurestore.errors import BrokerError
from streams.broker import Broker, client_config
from streams.transport.native import NativeConsumer

_ANSWER_S = 10.0
# A call lasts as long as this, however soon there is an answer.
_LOOK_S = 0.05
_CONSUME_MAX = 10_000


def records_in(broker: Broker, project: str, topic: str, gaps: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Which (partition, offset) in these gaps hold a record after all; those of aborted transactions are none.

    Nor are those that were sent again for another project.

    gaps  (partition, first offset, end offset), half-open
    """
    found: list[tuple[int, int]] = []
    # Not the client of confluent_kafka, which ends the process at a header whose name is no text.
    consumer = NativeConsumer(
        {
            **client_config(broker),
            "group.id": "holes-reader",
            "enable.auto.commit": False,
            # Where the broker has cut a beginning off there is nothing to find.
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        },
        project,
    )
    try:
        for partition, first, end in gaps:
            consumer.assign([TopicPartition(topic, partition, first)])
            at, heard_s = first, time.monotonic()
            while at < end:
                runs, said = consumer.consume(_CONSUME_MAX, _LOOK_S)
                # What was on its way for the gap before may come yet.
                for run in [run for run in runs if run.partition == partition]:
                    found += [(partition, offset) for offset in run.offsets.tolist() if first <= offset < end]
                    at = int(run.offsets[-1]) + 1
                for one in [one for one in said if one.partition == partition]:
                    if one.error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(one.error)
                    at = end
                heard_s = time.monotonic() if runs or said else heard_s
                if time.monotonic() - heard_s > _ANSWER_S:
                    raise BrokerError(broker.bootstrap, f"it did not answer in time while {topic}/{partition} was read")
    finally:
        consumer.close()
    return found
