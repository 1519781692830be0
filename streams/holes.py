"""Offsets without a record: the end of every transaction takes one in each partition, and compaction leaves some."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from featurestore.errors import BrokerError
from streams.broker import Broker, client_config
from streams.transport.native import NativeConsumer

_ANSWER_S = 10.0
# A call lasts as long as this, however soon there is an answer.
_LOOK_S = 0.02
# At the end of a partition the broker waits as long as this for more, and nothing else is read meanwhile.
_WAIT_MS = 5
_CONSUME_MAX = 10_000
# Gaps that are no further apart are read on to: one call brings as much, and to begin anew elsewhere costs a few.
_NEAR = 10_000

_Ints = npt.NDArray[np.int64]


def records_in(
    broker: Broker,
    project: str,
    topic: str,
    gaps: Iterable[tuple[int, int, int]],
    client: Callable[..., NativeConsumer] = NativeConsumer,
) -> list[tuple[int, int]]:
    """Which (partition, offset) in these gaps hold a record after all; those of aborted transactions are none.

    Nor are those that were sent again for another project.

    gaps     (partition, first offset, end offset), half-open
    client   makes the consumer
    returns  sorted, each one once
    """
    found: list[tuple[int, int]] = []
    # Not the client of confluent_kafka, which ends the process at a header whose name is no text.
    consumer = client(
        {
            **client_config(broker),
            "group.id": "holes-reader",
            "enable.auto.commit": False,
            # Where the broker has cut a beginning off there is nothing to find.
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": _WAIT_MS,
        },
        project,
    )
    try:
        for partition, places in groupby(sorted(gaps), itemgetter(0)):
            spans = np.array([place[1:] for place in places], dtype=np.int64)
            # Gaps may overlap: what lies before the furthest end so far lies in one of them.
            firsts, ends = spans[:, 0], np.maximum.accumulate(spans[:, 1])
            held = _offsets_in(consumer, broker, TopicPartition(topic, partition), firsts, ends)
            found += [(partition, offset) for offset in held]
    finally:
        consumer.close()
    return found


def _offsets_in(consumer: NativeConsumer, broker: Broker, of: TopicPartition, firsts: _Ints, ends: _Ints) -> list[int]:
    """The records of one partition in its gaps, read in one pass that leaves out what lies far from any.

    firsts, ends  (gaps) each rising
    """
    found: list[int] = []
    # All before this offset is known.
    at, heard_s = -1 - _NEAR, time.monotonic()
    while (gap := int(np.searchsorted(ends, at, side="right"))) < len(ends):
        if firsts[gap] - at > _NEAR:
            at = int(firsts[gap])
            consumer.assign([TopicPartition(of.topic, of.partition, at)])
        runs, said = consumer.consume(_CONSUME_MAX, _LOOK_S)
        # What was on its way for the partition before, or for the gap before, may come yet.
        for run in [run for run in runs if run.partition == of.partition]:
            offsets = run.offsets[run.offsets >= at]
            place = np.searchsorted(firsts, offsets, side="right") - 1
            found += offsets[(place >= 0) & (offsets < ends[place])].tolist()
            at = max(at, int(run.offsets[-1]) + 1)
        for one in [one for one in said if one.partition == of.partition]:
            if one.error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(one.error)
            at = int(ends[-1])
        heard_s = time.monotonic() if runs or said else heard_s
        if time.monotonic() - heard_s > _ANSWER_S:
            raise BrokerError(broker.bootstrap, f"it did not answer in time while {of.topic}/{of.partition} was read")
    return found
