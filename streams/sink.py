"""What an engine asks of its sinks and its log: rows that are kept, served, shadowed or scratched alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import TopicError
from featurestore.event_time import Mark
from featurestore.kernel import Events
from featurestore.kernel.keys import Grouped
from featurestore.spec import FeatureView, Topic
from streams.letters import DeadLetter

Ints = npt.NDArray[np.int64]
Partitions = npt.NDArray[np.int32]


class Sink(Protocol):
    """Online rows of one view; `OnlineSink` says what each call promises."""

    @property
    def view(self) -> FeatureView: ...

    @property
    def rows_written(self) -> int: ...

    def open(self, partition: int, topic_id: str = "") -> Mark | None: ...

    def close(self, partition: int) -> None: ...

    def apply(
        self,
        grouped: Grouped,
        partition: Partitions,
        offsets: Ints,
        new: Mapping[int, Mark],
        events: Callable[[Ints, Ints], Events],
    ) -> None: ...

    def finish(self) -> None: ...

    def heartbeat(self, new: Mapping[int, Mark]) -> None: ...

    def settled(self, partition: int) -> int: ...

    def look(self) -> None:
        """Called about once a second; raises LostTailError where a partition must be read again from earlier."""


class Log(Protocol):
    """Where an engine's events are kept; `EventLog` says what each call promises."""

    topic: Topic

    def append(self, rows: pa.Table, marks: Mapping[int, Mark]) -> None: ...

    def marks(self) -> dict[int, Mark]: ...

    def forget(self) -> None: ...

    def decided(self, partition: int) -> Mark | None:
        """How far events have been judged: what lies before is not judged anew."""

    def between(self, partition: int, first: int, end: int, columns: Sequence[str]) -> pa.Table: ...

    def between_within(
        self, partition: int, first: int, end: int, columns: Sequence[str], bytes_max: int | None
    ) -> pa.Table | None: ...

    def end_within(self, partition: int, first: int, end: int, events_max: int) -> int:
        """Up to where `between` finds at most so many events; asked where records hold many."""


class Letters(Protocol):
    """Where an engine's dead letters go; `DeadLetterBox` says what each call promises."""

    def put(self, letters: Sequence[DeadLetter]) -> None: ...

    def flush(self) -> None: ...


class NoLog:
    """Keeps no event: whoever follows a topic for one view's rows alone starts where those rows stand.

    held  the log that the workers keep: what it has decided counts here as well
    """

    def __init__(self, topic: Topic, marks: Mapping[int, Mark], held: Log) -> None:
        self.topic, self._marks, self._held = topic, dict(marks), held

    def append(self, rows: pa.Table, marks: Mapping[int, Mark]) -> None:
        self._marks.update(marks)

    def marks(self) -> dict[int, Mark]:
        return dict(self._marks)

    def forget(self) -> None:
        self._held.forget()

    def decided(self, partition: int) -> Mark | None:
        return self._held.decided(partition)

    def between(self, partition: int, first: int, end: int, columns: Sequence[str]) -> pa.Table:
        return self._held.between(partition, first, end, columns)

    def between_within(
        self, partition: int, first: int, end: int, columns: Sequence[str], bytes_max: int | None
    ) -> pa.Table | None:
        return self._held.between_within(partition, first, end, columns, bytes_max)

    def end_within(self, partition: int, first: int, end: int, events_max: int) -> int:
        return self._held.end_within(partition, first, end, events_max)


class NoLetters:
    """Drops letters: the worker that keeps the log has posted them."""

    def put(self, letters: Sequence[DeadLetter]) -> None:
        """Posted already."""

    def flush(self) -> None:
        """Nothing waits."""


def refuse_other_topic(topic: Topic, topic_id: str, stands: Iterable[tuple[int, Mark]]) -> None:
    """Raises TopicError where what stands at a mark of a partition was read from another topic of that name.

    topic_id  of the topic as it is. Marks of before topics were noted say none, and are taken
    """
    for partition, mark in stands:
        if topic_id and mark.topic_id not in ("", topic_id):
            raise TopicError(
                topic.name,
                f"it was deleted and made again after offset {mark.offset} of partition {partition} was applied, so "
                "its offsets mean other events now; give the topic another name, or use another project, with an "
                "offline_path of its own",
            )
