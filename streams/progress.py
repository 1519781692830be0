"""How far the sinks have come, seen from outside the workers: by their own watermarks and the broker's end offsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin._listoffsets import OffsetSpec

from featurestore.errors import TopicError
from featurestore.offline import EventLog
from featurestore.online import Aliases, OnlineStore
from featurestore.settings import Settings
from featurestore.spec import Repository
from streams.bounds import NO_PARTITION
from streams.broker import admin_client, answer_of, broker_of
from streams.build import online_store
from streams.topics import Topics

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class TopicProgress:
    """Records of a topic, and how many of them every sink holds.

    end     records that the broker has (sum of end offsets)
    done    records before the watermark of the sink that is furthest behind
    rows    partition -> offset before which every row of the online store holds everything
    ends    partition -> end offset, of all that the broker or the definition has
    stale   views whose rows are not complete yet
    unread  partitions that the broker has and the definition does not: no worker reads them
    """

    topic: str
    end: int
    done: int
    rows: Mapping[int, int]
    ends: Mapping[int, int]
    stale: tuple[str, ...] = ()
    unread: tuple[int, ...] = ()

    @property
    def lag(self) -> int:
        return self.end - self.done

    @property
    def online(self) -> int:
        """Records before the watermark of the online store alone."""
        return sum(self.rows.values())


class Progress:
    """Looks at all topics of a repository that a view reads."""

    def __init__(self, settings: Settings, repository: Repository) -> None:
        self._repository, self._store = repository, online_store(settings)
        self._aliases = Aliases(self._store)
        self._admin, self._asked = admin_client(broker_of(settings)), Topics(broker_of(settings))
        self._topics = sorted({view.source.name for view in repository.views.values()})
        self._logs = {name: EventLog(settings.offline_path, repository.topic(name)) for name in self._topics}

    def look(self) -> list[TopicProgress]:
        """One line a topic; three kinds of servers are asked."""
        there = {name: self._partitions(name) for name in self._topics}
        # All that there are, also those that only the definition has, or only the broker.
        held = {name: range(max(self._repository.topic(name).partitions, count)) for name, count in there.items()}
        ends = self._ends(there)
        out = []
        for name in self._topics:
            partitions = held[name]
            log = self._logs[name]
            log.forget()
            logged = {partition: mark.offset for partition, mark in log.marks().items()}
            views = [view for view in self._repository.views_of(name) if view.online]
            aliases = [self._aliases.get(view.id) for view in views]
            stored = [
                _online_ends(self._store, view.id if alias is None else alias.id, name)
                for view, alias in zip(views, aliases, strict=True)
            ]
            stale = tuple(v.name for v, a in zip(views, aliases, strict=True) if a is None or not a.is_ready)
            rows = {p: min([each.get(p, 0) for each in stored], default=ends.get((name, p), 0)) for p in partitions}
            done = sum(min(logged.get(p, 0), rows[p]) for p in partitions)
            end = sum(ends.get((name, p), 0) for p in partitions)
            of_partition = {p: ends.get((name, p), 0) for p in partitions}
            unread = tuple(partitions[self._repository.topic(name).partitions :])
            out.append(TopicProgress(name, end, done, rows, of_partition, stale, unread))
        return out

    def _partitions(self, name: str) -> int:
        """How many the broker has; none of a topic that is not there yet, or no more."""
        try:
            return self._asked.told([name])[name].partitions
        except TopicError:
            return 0

    def _ends(self, there: Mapping[str, int]) -> dict[tuple[str, int], int]:
        places = [TopicPartition(name, partition) for name, count in there.items() for partition in range(count)]
        if not places:
            return {}
        asked = self._admin.list_offsets(
            {place: OffsetSpec.latest() for place in places},  # type: ignore[no-untyped-call]  # no types there
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_TIMEOUT_S,
        )
        out = {}
        for place, done in asked.items():
            try:
                out[place.topic, place.partition] = answer_of(done, _TIMEOUT_S).offset
            except KafkaException as error:
                # It went this moment.
                if error.args[0].code() not in NO_PARTITION:
                    raise
        return out


def _online_ends(store: OnlineStore, view_id: str, topic: str) -> dict[int, int]:
    """Partition -> offset before which every bucket holds everything."""
    found = store.marks(view_id, topic)
    return {p: min(0 if mark is None else mark.offset for mark in marks) for p, marks in found.items()}
