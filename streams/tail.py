"""Partitions of a topic read from given offsets, as batches, without a group: for whoever stands beside the workers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from types import TracebackType

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from featurestore.errors import TopicError
from streams.broker import Broker, client_config
from streams.headers import is_for
from streams.transport import Batch

_CONSUME_MAX = 10_000


class Tail:
    """Reads on for ever; `ends` says which partitions have been read to their end as it was then.

    project  what was sent again for another one is no record here
    starts   partition -> the first offset to read

    Raises TopicError where the broker does not have what is to be read.
    """

    def __init__(self, broker: Broker | str, project: str, topic: str, starts: Mapping[int, int]) -> None:
        self._project, self._topic, self._next = project, topic, dict(starts)
        self.ends: set[int] = set()
        self._consumer = Consumer(
            {
                **client_config(broker),
                "group.id": "featurestore-tail",  # asked for, and never joined
                "enable.auto.commit": False,
                # An offset that the broker no longer has is lost data: stop, do not skip.
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "check.crcs": True,
            }
        )
        self._consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])

    def read(self, timeout_s: float) -> list[Batch]:
        """What came since, after at most this long; each partition's batches follow each other without a hole."""
        messages = self._consumer.consume(_CONSUME_MAX, timeout_s)
        out = []
        for partition, run in groupby(messages, lambda message: message.partition() or 0):
            records: list[Message] = []
            end = self._next[partition]
            for message in run:
                error = message.error()
                if error is None:
                    if is_for(message, self._project):
                        records.append(message)
                    self.ends.discard(partition)
                    end = (message.offset() or 0) + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    # The end lies behind the markers of transactions, which no record tells of.
                    self.ends.add(partition)
                    end = max(end, message.offset() or 0)
                elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                    raise gone(self._topic, partition, self._next[partition])
                else:
                    raise KafkaException(error)
            if end > self._next[partition]:
                out.append(self._batch(partition, records, end))
                self._next[partition] = end
        return out

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Tail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _batch(self, partition: int, records: list[Message], end: int) -> Batch:
        # As the workers' reader: an arrival is known to the end of its millisecond.
        stamps = np.array([message.timestamp()[1] for message in records], dtype=np.int64) * 1_000 + 999
        offsets = np.array([message.offset() for message in records], dtype=np.int64)
        epoch = records[-1].leader_epoch() if records else None
        values = [message.value() for message in records]
        first = self._next[partition]
        return Batch(self._topic, partition, first, end, values, offsets, stamps, -1 if epoch is None else epoch)


def gone(topic: str, partition: int, offset: int) -> TopicError:
    """What to say of records that come next, and that neither the broker nor the log has."""
    what = f"the broker has partition {partition} no longer from offset {offset} on, and the event log does not reach"
    return TopicError(topic, f"{what} that far; `featurestore skip-expired --topic {topic}` goes on without them")
