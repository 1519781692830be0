"""The ledger of a topic: every record that was acknowledged is applied, a repeat or a dead letter, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from featurestore.event_time import REPEATED_US
from featurestore.offline import EventLog
from featurestore.settings import Settings
from featurestore.spec import Repository
from streams.dead_letters import held_letters
from streams.holes import records_in
from streams.progress import Progress


@dataclass(frozen=True, slots=True)
class TopicLedger:
    """Records of one topic by what became of them.

    records   that the broker has: offsets, less those that hold no record (a transaction's end takes one)
    applied   taken by a view at least
    dead      by reason; a letter that was taken back stays here, its event counts at its new offset
    twice     offsets that stand in the log more than once, or both there and among the dead without being late
    repeated  events that their topic's `dedupe` left out
    replayed  letters that were taken back
    """

    topic: str
    records: int
    applied: int
    dead: dict[str, int]
    twice: int
    repeated: int = 0
    replayed: int = 0

    @property
    def balanced(self) -> bool:
        return self.records == self.applied + self.repeated + sum(self.dead.values()) and not self.twice


def ledgers(settings: Settings, repository: Repository) -> list[TopicLedger]:
    """Of every topic that a view reads, from the log, the letters and the broker; the stream must stand still."""
    out = []
    for progress in Progress(settings, repository).look():
        held = held_letters(settings.kafka_bootstrap, [progress.topic])
        table = EventLog(settings.offline_path, repository.topic(progress.topic)).read(
            ["partition", "offset", "late_by_us"]
        )
        places = list(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))
        logged = set(places)
        # An event that was too late for every view is kept in the log, marked, and is a dead letter as well.
        letters = [each.letter for each in held]
        late = {(one.partition, one.offset) for one in letters if one.reason == "too_late"}
        other = {(one.partition, one.offset) for one in letters if one.reason != "too_late"}
        marks = table["late_by_us"].to_pylist()
        repeated = {place for place, late_by_us in zip(places, marks, strict=True) if late_by_us == REPEATED_US}
        twice = len(places) - len(logged) + len(logged & other)
        gaps = [gap for p, end in progress.ends.items() for gap in _gaps(p, end, logged | late | other)]
        missing = records_in(settings.kafka_bootstrap, progress.topic, gaps)
        without = sum(end - first for _, first, end in gaps) - len(missing)
        dead = Counter(one.reason for one in letters)
        out.append(
            TopicLedger(
                progress.topic,
                progress.end - without,
                len(logged - late - repeated),
                dict(sorted(dead.items())),
                twice,
                len(repeated),
                sum(each.replayed is not None for each in held),
            )
        )
    return out


def _gaps(partition: int, end: int, known: set[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Runs of offsets of which nothing is known."""
    first = 0
    for offset in sorted(offset for p, offset in known if p == partition and offset < end):
        if first < offset:
            yield partition, first, offset
        first = offset + 1
    if first < end:
        yield partition, first, end
