"""Letters that were taken back, for who reads a topic on from where its log ends.

The log says itself which of its offsets were dead letters. One that was lost, or came back older, is made again from
the topic, where the event of such a letter stands at two places, and a mended definition would take it at both. It
counts where it stands again, as it did before: so the log that is made again is the one that was lost.
"""

from __future__ import annotations

import logging
import time
from array import array
from typing import NamedTuple

import numpy as np
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from featurestore.spec import Topic
from streams.bounds import bounds_of
from streams.broker import Broker, answer_of
from streams.dead_letters import said_to_be_replayed
from streams.decided import NOTHING, Decided, dead_at

_TIMEOUT_S = 10.0
# Partitions that are taken over together share what was asked for the first of them.
_SHARED_S = 1.0
_NO_END = (1 << 63) - 1

log = logging.getLogger("featurestore.worker")


class _Said(NamedTuple):
    """What the letters' topic says of one partition, in the order in which it was written: the newest counts.

    offsets, positions  of a letter
    is_back             1: it was taken back, 0: that was erased
    """

    offsets: array[int]
    positions: array[int]
    is_back: array[int]


class TakenBack:
    """The letters of one topic that a project has taken back; used from one thread.

    group  of the project's workers

    Holds 17 bytes for each of them, once it had to read them.
    """

    def __init__(self, broker: Broker | str, admin: AdminClient, project: str, group: str, topic: Topic) -> None:
        self._broker, self._admin, self._project, self._group, self._topic = broker, admin, project, group, topic
        self._asked: dict[int, int] | None = None
        self._said: dict[int, _Said] = {}
        # Partition of the letters' topic -> where to read on.
        self._next: dict[int, int] = {}
        self._asked_s = self._read_s = -_SHARED_S

    def behind(self, partition: int, end: int) -> Decided:
        """Of a partition whose log ends at an offset, those that stand there or later. Most often there are none.

        No letter is taken back before the log has decided its offset. So there are some only where the log had come
        further once: the group of the workers was told so, or nobody knows.
        """
        if 0 < self._told().get(partition, 0) <= end:
            return NOTHING
        if not self._has_more(partition, end):
            return NOTHING
        found = self.between(partition, end, _NO_END)
        if found.end:
            log.info(
                "%s/%d is read again from %d on: the events of %d dead letters count where they were taken back to",
                *(self._topic.name, partition, end, len(found.gap_first)),
            )
        return found

    def _has_more(self, partition: int, end: int) -> bool:
        """Whether the partition may have records from an offset on: also where the broker does not say.

        One that was made a moment ago may have no leader yet, or not be listed.
        """
        try:
            held = bounds_of(self._admin, self._topic.name, [partition]).get(partition)
        except KafkaException as error:
            log.info("the broker does not say where %s/%d ends: %s", self._topic.name, partition, error)
            return True
        return held is None or held.end > end

    def between(self, partition: int, first: int, end: int) -> Decided:
        """Those that stand at the offsets [first, end) of a partition."""
        self._read()
        if partition not in self._said:
            return NOTHING
        offsets, positions, is_back = (np.array(column, dtype=np.int64) for column in self._said[partition])
        order = np.lexsort((positions, offsets))
        offsets, positions, is_back = offsets[order], positions[order], is_back[order]
        # The sort is stable: of what was said of one letter the newest comes last.
        is_newest = np.append((np.diff(offsets) != 0) | (np.diff(positions) != 0), True)
        chosen = is_newest & (is_back == 1) & (offsets >= first) & (offsets < end)
        return dead_at(offsets[chosen], positions[chosen], is_batched=self._topic.is_batched)

    def _told(self) -> dict[int, int]:
        """Partition -> offset that the group of the workers was told."""
        if self._asked is None or time.monotonic() - self._asked_s > _SHARED_S:
            self._asked, self._asked_s = self._ask(), time.monotonic()
        return self._asked

    def _ask(self) -> dict[int, int]:
        places = [TopicPartition(self._topic.name, partition) for partition in range(self._topic.partitions)]
        groups = [ConsumerGroupTopicPartitions(self._group, places)]
        [told] = self._admin.list_consumer_group_offsets(groups, request_timeout=_TIMEOUT_S).values()
        try:
            return {place.partition: place.offset for place in answer_of(told, _TIMEOUT_S).topic_partitions}
        except KafkaException:
            # Whoever may not ask, or has no answer, knows nothing of the group, and reads the letters.
            return {}

    def _read(self) -> None:
        """Read what was said since the last time."""
        if time.monotonic() - self._read_s <= _SHARED_S:
            return
        told = said_to_be_replayed(self._broker, self._project, self._topic.name, self._next)
        for partition, offset, position, is_back in told:
            said = self._said.setdefault(partition, _Said(array("q"), array("q"), array("b")))
            said.offsets.append(offset)
            said.positions.append(position)
            said.is_back.append(is_back)
        self._read_s = time.monotonic()
