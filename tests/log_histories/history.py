"""One history: a seed draws writers, how they meet, and what goes wrong; after each step the table must be right."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deltalake.exceptions import CommitFailedError

from featurestore import Topic
from featurestore.errors import EventLogError
from featurestore.event_time import Mark
from featurestore.offline import EventLog
from tests.histories import ViolationError
from tests.log_histories.events import COLUMNS, DEFINITIONS, PARTITIONS, WIDEST, Events, Row, table_of, told
from tests.log_histories.plain_table import PlainTable
from tests.log_histories.stepped import KilledError, SteppedLog, SteppedWork

_STEPS = 70
# Those who work, and zombies, whose partitions have another owner that they do not know of.
_WRITERS_MAX = 4
# One of two is refused.
_COMPACTING_MAX = 2
# Of a step, in the order of `_step`.
_WEIGHTS = [70, 24, 3, 3, 4, 3, 4]
# After these places an answer may be lost, and Delta may refuse or the disk be full instead of what comes next.
_BREAKABLE = ("has created", "has widened", "has written files", "has committed")
_CRASHES = (KilledError, OSError)


@dataclass(eq=False)
class Writer:
    """A worker, as far as its log sees it.

    position  partition -> what it reads next; it never begins behind what the log has passed
    asked     the marks of the append that is at work
    seen      how far its handle has said that the log is
    """

    name: str
    definition: Topic
    log: SteppedLog
    position: dict[int, int]
    asked: dict[int, Mark] = field(default_factory=dict)
    seen: dict[int, Mark] = field(default_factory=dict)

    @property
    def is_at_work(self) -> bool:
        return self.log.work is not None


class History:
    """Everything that one seed draws, on a table in an empty folder. `trace` says what happened, for people."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._draw, self._folder = random.Random(seed), folder
        self.trace: list[str] = []
        self._events = Events(self._draw)
        self._table = PlainTable(folder / WIDEST.name)
        self._writers: list[Writer] = []
        self._made = 0
        self._marks: Mapping[int, Mark] = {}
        # (partition, offset) -> by whose definition it was written
        self._written: dict[tuple[int, int], Topic] = {}
        self._versions: list[list[Row]] = []

    def run(self) -> None:
        """Play it; raises ViolationError."""
        # Each history has its own mind: some faults often, others never, so that they meet in many ways.
        weights = [*_WEIGHTS[:2], *(weight * self._draw.choice([0, 1, 1, 4]) for weight in _WEIGHTS[2:])]
        try:
            for _ in range(self._draw.choice([2, 3])):
                self._new_writer(set(range(PARTITIONS)))
            for _ in range(_STEPS):
                self._step(weights)
            self._heal()
            self._check_all()
        finally:
            for writer in self._writers:
                if writer.log.work is not None:
                    writer.log.work.end()

    # -- what may happen --------------------------------------------------------------------------------------------

    def _step(self, weights: list[int]) -> None:
        may_happen = [
            self._go_on,
            self._begin,
            self._break,
            self._kill,
            self._take_over,
            self._look_again,
            self._compact,
        ]
        self._draw.choices(may_happen, weights)[0]()

    def _go_on(self) -> None:
        writer = self._one(is_at_work=True)
        if writer is not None:
            self._let(writer)

    def _begin(self) -> None:
        writer = self._one(is_at_work=False)
        if writer is not None:
            self._append(writer, [1, 2, 5, 8])

    def _break(self) -> None:
        """An answer that is lost looks like a refusal, or ends the process that waits for it."""
        broken = [one for one in self._writers if one.log.work is not None and one.log.work.where in _BREAKABLE]
        if broken:
            error = self._draw.choice([CommitFailedError("the answer was lost"), OSError("the disk is full")])
            self._let(self._draw.choice(broken), error)

    def _kill(self) -> None:
        writer = self._draw.choice(self._writers)
        if writer.is_at_work:
            self._let(writer, KilledError())
        else:
            self._replace(writer)

    def _take_over(self) -> None:
        """Some partitions get another owner, which the one of before does not know yet."""
        if sum(bool(one.position) for one in self._writers) == _WRITERS_MAX:
            return
        partitions = self._draw.choice([{0}, {1}, {0, 1}])
        self._new_writer(partitions)

    def _look_again(self) -> None:
        """A writer opens its partitions again, or reads again what came before."""
        writer = self._one(is_at_work=False)
        if writer is None:
            return
        if self._draw.random() < 0.5:
            writer.log.forget()
            self._open(writer, set(writer.position))
        else:
            partition = self._draw.choice(list(writer.position))
            writer.position[partition] = self._draw.randint(0, writer.position[partition])
            self.trace.append(f"{writer.name} goes back in {partition} to {writer.position[partition]}")

    def _compact(self) -> None:
        """Somebody with any definition puts the files together; others go on meanwhile."""
        if sum(not one.position for one in self._writers) == _COMPACTING_MAX:
            return
        writer = self._new_writer(set())
        writer.log.work = SteppedWork(writer.log.compact)
        self.trace.append(f"{writer.name} is there to compact")

    # -- writers ----------------------------------------------------------------------------------------------------

    def _one(self, *, is_at_work: bool) -> Writer | None:
        some = [one for one in self._writers if one.is_at_work == is_at_work]
        return self._draw.choice(some) if some else None

    def _new_writer(self, partitions: set[int]) -> Writer:
        self._made += 1
        # Columns come with later writers, and some of these still have an earlier definition.
        definition = self._draw.choice(DEFINITIONS[: 1 + self._made // 2])
        name = f"writer {self._made} ({len(definition.nullable)} more columns)"
        writer = Writer(name, definition, SteppedLog(self._folder, definition), {})
        self._writers.append(writer)
        self._open(writer, partitions)
        return writer

    def _open(self, writer: Writer, partitions: set[int]) -> None:
        """Read from where the log is, or where another sink is that has less."""
        marks = writer.log.marks()
        for partition in partitions:
            end = marks[partition].offset if partition in marks else 0
            writer.position[partition] = max(0, end - self._draw.choice([0, 0, 1, 4]))
        self.trace.append(f"{writer.name} begins at {writer.position}")

    def _append(self, writer: Writer, lengths: list[int]) -> None:
        """What it has read since, with edges of its own, and where it stands in all partitions of its own."""
        rows, ends = [], {}
        for partition, first in writer.position.items():
            ends[partition] = min(first + self._draw.choice([0, *lengths]), self._events.ends[partition])
            rows += self._events.between(partition, first, ends[partition])
        self.trace.append(f"{writer.name} appends from {writer.position} to {ends}")
        writer.asked = {partition: self._events.mark(partition, end) for partition, end in ends.items() if end}
        given = table_of(rows, writer.definition), dict(writer.asked)
        writer.log.work = SteppedWork(lambda: writer.log.append(*given))
        writer.position = ends

    def _let(self, writer: Writer, error: BaseException | None = None) -> None:
        """One step of one writer; then everything must be right, whoever stands where."""
        work = writer.log.work
        assert work is not None
        place = work.where
        work.go_on(error)
        said = f", where {error!r} meets it" if error is not None else ""
        self.trace.append(f"{writer.name} {place}{said}; then {work.where or 'ends'}")
        while self._table.look():
            self._check_commit(writer)
        if work.where is None:
            writer.log.work = None
            self._ended(writer, work.error)
        for each in self._writers:
            self._check_handle(each)

    def _ended(self, writer: Writer, error: BaseException | None) -> None:
        if not writer.position:
            # It came to compact, which is refused where somebody else does, or columns came meanwhile.
            self._writers.remove(writer)
            if error is not None and not isinstance(error, (KilledError, EventLogError)):
                raise ViolationError(f"{writer.name} compacts: {error!r}") from error
        elif error is None:
            for partition, mark in writer.asked.items():
                for whose, marks in (("log", self._table.marks), ("handle", writer.log.marks())):
                    if partition not in marks or marks[partition].offset < mark.offset:
                        raise ViolationError(f"{writer.name} is done up to {mark}; the {whose} has {marks}")
        elif isinstance(error, _CRASHES):
            self._replace(writer)
        else:
            raise ViolationError(f"{writer.name} ends by {error!r}") from error

    def _replace(self, writer: Writer) -> None:
        """It is gone, with all that it had read; another one begins where the log is."""
        self.trace.append(f"{writer.name} is gone")
        self._writers.remove(writer)
        self._new_writer(set(writer.position))

    # -- the end ----------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """All who are at work come to an end in any order; then one brings the log to the end of Kafka."""
        while any(writer.is_at_work for writer in self._writers):
            self._go_on()
        last = self._new_writer(set(range(PARTITIONS)))
        while any(last.position[partition] < end for partition, end in enumerate(self._events.ends)):
            self._append(last, [max(self._events.ends)])
            while last.is_at_work:
                self._let(last)

    # -- what must hold ---------------------------------------------------------------------------------------------

    def _check_commit(self, writer: Writer) -> None:
        """Each event before its partition's mark is in the table, once and as its writer's definition has it."""
        before, marks = self._marks, self._table.marks
        _ensure_onward(f"the log at version {self._table.version}", before, marks)
        for partition, mark in marks.items():
            since = before[partition].offset if partition in before else 0
            for row in self._events.between(partition, since, mark.offset):
                self._written[partition, row["offset"]] = writer.definition
            if mark != self._events.mark(partition, mark.offset):
                raise ViolationError(f"the log's mark of partition {partition} is {mark}")
        self._marks = marks
        self._versions.append(self._expected(marks))
        _ensure_same(f"version {self._table.version}", self._table.rows, self._versions[-1])

    def _expected(self, marks: Mapping[int, Mark]) -> list[Row]:
        return [
            told(row, self._written[partition, row["offset"]])
            for partition, mark in sorted(marks.items())
            for row in self._events.between(partition, 0, mark.offset)
        ]

    def _check_handle(self, writer: Writer) -> None:
        """What a handle says was true at some time: it never runs ahead of the table, and never goes back."""
        marks = dict(writer.log.marks())
        _ensure_onward(f"the handle of {writer.name}", writer.seen, marks)
        _ensure_onward(f"the table beside the handle of {writer.name}", marks, self._table.marks)
        writer.seen = marks

    def _check_all(self) -> None:
        """At the end everything is there, read as anybody would read it, now and as of any version of before."""
        log, marks = EventLog(self._folder, WIDEST), {}
        if self._draw.random() < 0.5:
            log.compact()
        for partition, end in enumerate(self._events.ends):
            first = self._draw.randrange(end)
            some = [row for row in self._versions[-1] if row["partition"] == partition and row["offset"] >= first]
            _ensure_same("what is between", log.between(partition, first, end, COLUMNS).to_pylist(), some)
            marks[partition] = self._events.mark(partition, end)
        if log.marks() != marks:
            raise ViolationError(f"the log says that it is at {log.marks()}")
        version = self._draw.randrange(len(self._versions))
        read = log.at(version).read(COLUMNS).sort_by([("partition", "ascending"), ("offset", "ascending")])
        _ensure_same(f"version {version} at the end", read.to_pylist(), self._versions[version])


def _ensure_onward(what: str, before: Mapping[int, Mark], after: Mapping[int, Mark]) -> None:
    for partition, mark in before.items():
        if partition not in after or after[partition].offset < mark.offset:
            raise ViolationError(f"{what}: partition {partition} was at {mark}, then {after.get(partition)}")


def _ensure_same(what: str, held: list[Row], expected: list[Row]) -> None:
    if held == expected:
        return
    places = [(row["partition"], row["offset"]) for row in held]
    wanted = [(row["partition"], row["offset"]) for row in expected]
    twice = sorted({place for place in places if places.count(place) > 1})
    lost, beyond = sorted(set(wanted) - set(places)), sorted(set(places) - set(wanted))
    wrong = [place for place, one, other in zip(places, held, expected, strict=False) if one != other]
    raise ViolationError(f"{what}: twice {twice}, lost {lost}, beyond the marks {beyond}, first wrong {wrong[:1]}")
