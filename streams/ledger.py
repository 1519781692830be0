"""The ledger of a topic: every record that was acknowledged is applied or a dead letter, once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from featurestore.offline import EventLog
from featurestore.settings import Settings
from featurestore.spec import Repository
from streams.broker import broker_of
from streams.dead_letters import DeadLetter, read_letters
from streams.progress import Progress


@dataclass(frozen=True, slots=True)
class TopicLedger:
    """Records of one topic by what became of them.

    records  that the broker has
    applied  taken by a view at least; of a record that holds many events, one of them at least
    dead     by reason; of a record that holds many events, all of them, and the reason of the first
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
        topic = repository.topic(progress.topic)
        columns = ["partition", "offset", *(["position"] if topic.is_batched else [])]
        table = EventLog(settings.offline_path, topic).read(columns)
        places = list(zip(*(table[column].to_pylist() for column in columns), strict=True))
        logged = set(places)
        # An event that was too late for every view is kept in the log, marked, and is a dead letter as well.
        late = {_place(one) for one in letters if one.reason == "too_late"}
        other = {_place(one) for one in letters if one.reason != "too_late"}
        twice = len(places) - len(logged) + len(logged & other)
        applied = {place[:2] for place in logged - late}
        reasons: dict[tuple[int, int], str] = {}
        for one in letters:
            if (one.partition, one.offset) not in applied or not topic.is_batched:
                reasons.setdefault((one.partition, one.offset), one.reason)
        dead = Counter(reasons.values())
        out.append(TopicLedger(progress.topic, progress.end, len(applied), dict(sorted(dead.items())), twice))
    return out


def _place(letter: DeadLetter) -> tuple[int, ...]:
    place = (letter.partition, letter.offset)
    return place if letter.position is None else (*place, letter.position)
