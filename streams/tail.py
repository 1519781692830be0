"""Partitions of a topic read from given offsets, as batches, without a group: for whoever stands beside the workers."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

import numpy as np
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from featurestore.errors import TopicError
from streams.broker import Broker, Refusals, client_config, refusal, unusable
from streams.transport import Batch
from streams.transport.native import NativeConsumer, Run

_CONSUME_MAX = 10_000
# How long a topic that the broker does not list may be one that was made a moment ago; librdkafka waits half a minute.
_NEW_MS = 5_000
_NO_TOPIC = (KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART)


class Tail:
    """Reads on for ever; `ends` says which partitions have been read to their end as it was then.

    project  what was sent again for another one is no record here
    starts   partition -> the first offset to read

    Raises TopicError where the broker does not have what is to be read, BrokerAccessError where it refuses us.
    """

    def __init__(self, broker: Broker | str, project: str, topic: str, starts: Mapping[int, int]) -> None:
        self._topic, self._next = topic, dict(starts)
        self.ends: set[int] = set()
        self._refusals, self._is_gone = Refusals(), False
        # Not the client of confluent_kafka, which ends the process at a header whose name is no text.
        options = {
            **client_config(broker),
            "error_cb": self._hear,
            "topic.metadata.propagation.max.ms": _NEW_MS,
            "group.id": "featurestore-tail",  # asked for, and never joined
            "enable.auto.commit": False,
            # An offset that the broker no longer has is lost data: stop, do not skip.
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "check.crcs": True,
        }
        try:
            self._consumer = NativeConsumer(options, project)
        except KafkaException as error:
            raise unusable(error) from error
        self._consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])

    def read(self, timeout_s: float) -> list[Batch]:
        """What came since, after at most this long; each partition's batches follow each other without a hole."""
        runs, said = self._consumer.consume(_CONSUME_MAX, timeout_s)
        self._refusals.check()
        if self._is_gone:
            raise TopicError(self._topic, "the broker does not have it; see whether it was deleted")
        out = []
        for run in runs:
            self.ends.discard(run.partition)
            out.append(self._batch(run))
        for one in said:
            if one.error.code() == KafkaError._PARTITION_EOF:
                self.ends.add(one.partition)
                first = self._next[one.partition]
                if first < one.offset:
                    # The end lies behind the markers of transactions, which no record tells of.
                    nothing = np.empty(0, dtype=np.int64)
                    out.append(Batch(self._topic, one.partition, first, one.offset, [], nothing, nothing))
                    self._next[one.partition] = one.offset
            elif one.error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise gone(self._topic, one.partition, self._next[one.partition])
            else:
                raise refusal(one.error) or KafkaException(one.error)
        return out

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Tail:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hear(self, error: KafkaError) -> None:
        # Of a partition that is not there yet, as a definition may say, librdkafka complains otherwise.
        self._is_gone = self._is_gone or error.code() in _NO_TOPIC
        self._refusals(error)

    def _batch(self, run: Run) -> Batch:
        first, end = self._next[run.partition], int(run.offsets[-1]) + 1
        self._next[run.partition] = end
        # As the workers' reader: an arrival is known to the end of its millisecond.
        stamps_us = run.timestamps_ms * 1_000 + 999
        place = self._topic, run.partition
        return Batch(*place, first, end, run.values, run.offsets, stamps_us, run.leader_epoch, run.keys, run.cut)


def gone(topic: str, partition: int, offset: int) -> TopicError:
    """What to say of records that come next, and that neither the broker nor the log has."""
    what = f"the broker has partition {partition} no longer from offset {offset} on, and the event log does not reach"
    return TopicError(topic, f"{what} that far; `featurestore skip-expired --topic {topic}` goes on without them")
