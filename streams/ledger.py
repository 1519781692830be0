"""The ledger of a topic: every record that was acknowledged is applied or a dead letter, once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from featurestore.offline import EventLog
from featurestore.settings import Settings
from featurestore.spec import Repository
from streams.broker import broker_of
from streams.dead_letters import read_letters
from streams.progress import Progress


@dataclass(frozen=True, slots=True)
class TopicLedger:
    """Records of one topic by what became of them.

    records  that the broker has
    applied  taken by a view at least
    dead     by reason
    twice    offsets that stand in the log more than once, or both there and among the dead without being late
    """

    topic: str
    records: int
    applied: int
    dead: dict[str, int]
    twice: int

    @property
    def balanced(self) -> bool:
        return self.records == self.applied + sum(self.dead.values()) and not self.twice


def ledgers(settings: Settings, repository: Repository) -> list[TopicLedger]:
    """Of every topic that a view reads, from the log, the letters and the broker; the stream must stand still."""
    out = []
    for progress in Progress(settings, repository).look():
        letters = read_letters(broker_of(settings), [progress.topic])
        table = EventLog(settings.offline_path, repository.topic(progress.topic)).read(["partition", "offset"])
        places = list(zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True))
        logged = set(places)
        # An event that was too late for every view is kept in the log, marked, and is a dead letter as well.
        late = {(one.partition, one.offset) for one in letters if one.reason == "too_late"}
        other = {(one.partition, one.offset) for one in letters if one.reason != "too_late"}
        twice = len(places) - len(logged) + len(logged & other)
        dead = Counter(one.reason for one in letters)
        out.append(TopicLedger(progress.topic, progress.end, len(logged - late), dict(sorted(dead.items())), twice))
    return out
