"""Records that the broker deleted before they were read: a worker stops at them, and goes on where a person says so.

What is written is one mark of the event log: rows are filled up to a mark from the log, which has nothing of such
records, and from there on the topic is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter

from featurestore.event_time import Mark
from featurestore.offline import EventLog, log_schema
from featurestore.settings import Settings
from featurestore.spec import Repository
from streams.bounds import bounds_of
from streams.broker import admin_client, broker_of
from streams.group import refuse_workers
from streams.sink import refuse_other_topic
from streams.topics import Topics


@dataclass(frozen=True, slots=True)
class Expired:
    """Offsets of one partition that can be read no more.

    first  what comes next in the event log
    end    the first offset that the broker still has
    """

    topic: str
    partition: int
    first: int
    end: int

    @property
    def offsets(self) -> int:
        return self.end - self.first


def expired(settings: Settings, repository: Repository, topic: str | None = None) -> list[Expired]:
    """What the broker deleted and the event log lacks, of one topic, or of all that a view reads.

    Raises UnknownObjectError and TopicError where the definitions or the broker have no such topic.
    """
    read = sorted({view.source.name for view in repository.views.values()})
    broker = broker_of(settings)
    admin, topics = admin_client(broker), Topics(broker)
    found = []
    for name in read if topic is None else [topic]:
        wanted = repository.topic(name)
        # The bounds of a topic that is not there are none, which would read as if nothing had expired, and so would
        # those of partitions that nobody looks at.
        topic_id = topics.whole_ids([wanted])[name]
        marks = EventLog(settings.offline_path, wanted).marks()
        refuse_other_topic(wanted, topic_id, marks.items())
        for partition, bounds in sorted(bounds_of(admin, name, range(wanted.partitions)).items()):
            first = marks[partition].offset if partition in marks else 0
            if first < bounds.low:
                found.append(Expired(name, partition, first, bounds.low))
    return found


def skip_expired(settings: Settings, repository: Repository, topic: str | None = None) -> list[Expired]:
    """Bring the event log past what `expired` finds, in one commit a topic; returns what it found.

    Raises WorkersRunningError, and as `expired`.
    """
    refuse_workers(settings)
    found = expired(settings, repository, topic)
    for name, parts in groupby(found, attrgetter("topic")):
        log = EventLog(settings.offline_path, repository.topic(name), project=settings.project)
        held = log.marks()
        # Lateness is judged on from the newest event that is known: those that expired are not.
        marks = {part.partition: replace(held.get(part.partition, Mark(0, 0)), offset=part.end) for part in parts}
        log.append(log_schema(log.topic).empty_table(), marks)
    return found
