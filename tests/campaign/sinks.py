"""Where the sinks stand, asked of the stores themselves and not of a worker."""

from __future__ import annotations

from dataclasses import dataclass

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from featurestore.offline import EventLog
from featurestore.online import Aliases
from featurestore.settings import Settings
from featurestore.spec import FeatureView, Repository
from streams.build import online_store


@dataclass(frozen=True, slots=True)
class Standing:
    """End offsets by partition.

    online  (view, bucket) -> partition -> end offset; a bucket that has none stands at 0
    log     of the event log
    group   what the consumer group was told; a partition may be missing
    """

    online: dict[tuple[str, int], dict[int, int]]
    log: dict[int, int]
    group: dict[int, int]

    def lowest(self, partition: int) -> int:
        """Every sink holds everything before this offset."""
        return min([self.log.get(partition, 0), *(ends.get(partition, 0) for ends in self.online.values())])


class Sinks:
    """Looks at the sinks of one topic."""

    def __init__(self, settings: Settings, repository: Repository, topic: str, admin: AdminClient) -> None:
        self._settings, self._topic, self._admin = settings, topic, admin
        self._views = [view for view in repository.views_of(topic) if view.online]
        self._store, self._definition = online_store(settings), repository.topic(topic)
        self._aliases = Aliases(self._store)
        self._log = EventLog(settings.offline_path, self._definition)

    def look(self, *, group: bool = False) -> Standing:
        """The group is asked first: what it was told, all sinks must hold already."""
        told = self._group() if group else {}
        online: dict[tuple[str, int], dict[int, int]] = {}
        for view in self._views:
            for bucket in range(self._settings.buckets):
                online[view.name, bucket] = {}
            for partition, marks in self._store.marks(self._served(view), self._topic).items():
                for bucket, mark in enumerate(marks):
                    online[view.name, bucket][partition] = 0 if mark is None else mark.offset
        self._log.forget()
        return Standing(online, {partition: mark.offset for partition, mark in self._log.marks().items()}, told)

    def online_ends(self) -> dict[int, int]:
        """Partition -> the furthest that any bucket has come."""
        out: dict[int, int] = {}
        for view in self._views:
            for partition, marks in self._store.marks(self._served(view), self._topic).items():
                out[partition] = max(out.get(partition, 0), *(0 if mark is None else mark.offset for mark in marks))
        return out

    def row_ends(self) -> dict[int, int]:
        """Partition -> what every bucket of every view holds."""
        out: dict[int, int] = {}
        for number, view in enumerate(self._views):
            marks = self._store.marks(self._served(view), self._topic)
            held = {place: min(0 if mark is None else mark.offset for mark in each) for place, each in marks.items()}
            out = held if not number else {place: min(out[place], held[place]) for place in out.keys() & held.keys()}
        return out

    def _served(self, view: FeatureView) -> str:
        """Whose rows are served: after a backfill those of another generation."""
        alias = self._aliases.get(view.id)
        return view.id if alias is None else alias.id

    def _group(self) -> dict[int, int]:
        asked = self._admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(f"{self._settings.project}-worker")]
        )
        [done] = asked.values()
        return {one.partition: one.offset for one in done.result(10.0).topic_partitions if one.topic == self._topic}
