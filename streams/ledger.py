"""The ledger of a topic: every record that was acknowledged is applied, a repeat or a dead letter, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from featurestore.errors import UnknownObjectError
from featurestore.event_time import REPEATED_US
from featurestore.offline import EventLog
from featurestore.settings import Settings
from featurestore.spec import Repository
from streams.bounds import bounds_of
from streams.broker import admin_client, broker_of
from streams.dead_letters import held_letters
from streams.holes import records_in
from streams.letters import DeadLetter
from streams.progress import Progress
from streams.topics import Topics


@dataclass(frozen=True, slots=True)
class TopicLedger:
    """Records of one topic by what became of them.

    records     that the broker has: offsets, less those that hold no record (a transaction's end takes one)
    applied     taken by a view at least; of a record that holds many events, one of them at least
    dead        by reason; of a record that holds many events, all of them, and the reason of the first; a letter that
                was taken back stays here, its event counts at its new offset
    twice       offsets that stand in the log more than once, or both there and among the dead without being late
    repeated    events that their topic's `dedupe` left out
    replayed    letters that were taken back
    expired     offsets that the broker has deleted and nothing else tells of: records that never were applied, for
                which somebody ran `skip-expired`; also ends of transactions, that once could be told from these
    unreadable  records among the letters that hold none
    unread      partitions that the broker has and the definition does not: what they have is in `records` alone
    """

    topic: str
    records: int
    applied: int
    dead: dict[str, int]
    twice: int
    repeated: int = 0
    replayed: int = 0
    expired: int = 0
    unreadable: int = 0
    unread: tuple[int, ...] = ()

    @property
    def balanced(self) -> bool:
        known = self.applied + self.repeated + sum(self.dead.values()) + self.expired
        return self.records == known and not self.twice


def ledgers(settings: Settings, repository: Repository, only: str | None = None) -> list[TopicLedger]:
    """Of every topic that a view reads, from the log, the letters and the broker; the stream must stand still.

    only  of this topic; raises UnknownObjectError where no view reads it
    Raises TopicError where the broker has not one of them.
    """
    read = {view.source.name for view in repository.views.values()}
    if only is not None and only not in read:
        raise UnknownObjectError("topic that a view reads", only, read)
    Topics(broker_of(settings)).ids(sorted(read) if only is None else [only])
    out = []
    for progress in Progress(settings, repository).look():
        if only not in (None, progress.topic):
            continue
        broker, topic = broker_of(settings), repository.topic(progress.topic)
        held = held_letters(broker, settings.project, [progress.topic])
        columns = ["partition", "offset", *(["position"] if topic.is_batched else [])]
        table = EventLog(settings.offline_path, topic).read([*columns, "late_by_us"])
        places = list(zip(*(table[column].to_pylist() for column in columns), strict=True))
        logged = set(places)
        # An event that was too late for every view is kept in the log, marked, and is a dead letter as well.
        letters = [each.letter for each in held.letters]
        late = {_place(one) for one in letters if one.reason == "too_late"}
        other = {_place(one) for one in letters if one.reason != "too_late"}
        marks = table["late_by_us"].to_pylist()
        repeated = {place for place, late_by_us in zip(places, marks, strict=True) if late_by_us == REPEATED_US}
        twice = len(places) - len(logged) + len(logged & other)
        known = {place[:2] for place in logged | late | other}
        gaps = [gap for p, end in progress.ends.items() for gap in _gaps(p, end, known)]
        missing = records_in(broker, settings.project, progress.topic, gaps)
        bounds = bounds_of(admin_client(broker), progress.topic, progress.ends)
        low = {partition: each.low for partition, each in bounds.items()}
        expired = sum(max(min(end, low.get(partition, 0)) - first, 0) for partition, first, end in gaps)
        without = sum(end - first for _, first, end in gaps) - len(missing) - expired
        applied = {place[:2] for place in logged - late - repeated}
        reasons: dict[tuple[int, int], str] = {}
        for one in sorted(letters, key=lambda each: each.position or 0):
            if (one.partition, one.offset) not in applied or not topic.is_batched:
                reasons.setdefault((one.partition, one.offset), one.reason)
        out.append(
            TopicLedger(
                progress.topic,
                progress.end - without,
                len(applied),
                dict(sorted(Counter(reasons.values()).items())),
                twice,
                len(repeated),
                sum(each.replayed is not None for each in held.letters),
                expired,
                len(held.unreadable),
                progress.unread,
            )
        )
    return out


def _place(letter: DeadLetter) -> tuple[int, ...]:
    place = (letter.partition, letter.offset)
    return place if letter.position is None else (*place, letter.position)


def _gaps(partition: int, end: int, known: set[tuple[int, ...]]) -> Iterator[tuple[int, int, int]]:
    """Runs of offsets of which nothing is known."""
    first = 0
    for offset in sorted(offset for p, offset in known if p == partition and offset < end):
        if first < offset:
            yield partition, first, offset
        first = offset + 1
    if first < end:
        yield partition, first, end
