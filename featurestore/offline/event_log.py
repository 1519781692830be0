"""The event log: one append-only Delta table a topic, partitioned by day, that knows its own offsets.

Every commit carries, for each topic-partition, an app transaction with the end offset. The next commit reads
it on the very table handle it then commits with, and leaves out the rows that the table holds already: Delta
does not refuse repeats by itself, but it does refuse a commit from a handle that another writer has overtaken.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from featurestore.errors import EventLogError, GoneVersionError, OtherProjectError, TopicError
from featurestore.event_time import Mark
from featurestore.offline.log_cleaning import Cleaned, clean, first_version
from featurestore.offline.log_files import FILTERED_BY, write_files
from featurestore.offline.log_marks import LogTransactions
from featurestore.offline.log_parts import Former, as_columns, held_within, is_read_as, names_of
from featurestore.spec import Topic
from featurestore.spec.contract import log_columns

if TYPE_CHECKING:
    # With it comes pandas, where that is installed: a third of the time of a command that reads no log.
    import pyarrow.dataset as pds

# Another writer's commit in between makes ours read again; this many in a row means that something is wrong.
_TRIES_MAX = 10
# In the table's description: by which column its events have their times.
_TIMED = "event_time="
# In the table's configuration: the project whose workers write it. Who changes that refuses all others who try at once.
_OWNER = "featurestore.project"
# In the table's folder; Delta passes over names that begin like this.
_COMPACTING = "_compacting"
# In the name of a transaction, between a partition and the identity of its topic.
_TOPIC_ID = "#topic_id="
# Delta would list its whole log for old entries behind every commit, at 20 ms of three thousand; `clean` does it.
_NO_HOOKS = deltalake.PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def log_schema(topic: Topic) -> pa.Schema:
    """Columns of a topic's log: where and when, then the event itself."""
    kinds = {"partition": pa.int32(), "date": pa.string()}
    head = [pa.field(name, kinds.get(name, pa.int64()), nullable=False) for name in log_columns(topic.format)]
    return pa.schema([*head, *(field.with_nullable(True) for field in topic.arrow_schema)])


def former_columns(topic: Topic) -> Former:
    """Under which other columns of its log a topic's columns may be found."""
    own = log_columns(topic.format)
    # A writer's `date` is another one than the log's.
    return {column: [name for name in names if name not in own] for column, names in topic.renamed.items()}


def columns_of(dataset: pds.Dataset, topic: Topic, columns: Sequence[str], wanted: pc.Expression) -> pa.Table:
    """Some columns of a version of a topic's log; nulls where the definition has gained a column since."""
    schema, former = log_schema(topic), former_columns(topic)
    asked = pa.schema([schema.field(name) for name in columns])
    table = dataset.to_table(columns=names_of(asked, former, dataset.schema.names), filter=wanted)
    return as_columns(table, asked, former)


def halved(dataset: pds.Dataset, wanted: Callable[[int], pc.Expression], first: int, end: int, events_max: int) -> int:
    """An end of a range of offsets that is halved until it has at most so many events; one offset is the least.

    wanted  end -> which events are meant
    """
    while end - first > 1 and _has_more(dataset, wanted(end), events_max):
        end = first + (end - first) // 2
    return end


def _has_more(dataset: pds.Dataset, wanted: pc.Expression, events: int) -> bool:
    # It is known after so many events, however many there are: little is read ahead.
    for batch in dataset.to_batches(columns=["offset"], filter=wanted, batch_readahead=1, fragment_readahead=1):
        events -= len(batch)
        if events < 0:
            return True
    return False


def _between(partition: int, first: int, end: int) -> pc.Expression:
    return (pc.field("partition") == partition) & (pc.field("offset") >= first) & (pc.field("offset") < end)


class _Committed(NamedTuple):
    """Our last commit, whose answer came: the version from which it was made, and the marks behind it."""

    table_id: str
    since: int
    marks: dict[int, Mark]


class EventLog:
    """The log of one topic under a folder; raises EventLogError when a commit keeps failing.

    partition, offset    where Kafka had the event; topics whose records hold many have its `position` in the record too
    event_us             event time as the producer said it
    effective_us         min(event time, arrival)
    arrival_us           when the broker took it
    late_by_us           how far it was behind the newest event of its partition; REPEATED_US of a repeat,
                         which no view takes
    date                 day of the effective time, the partition column; MANY_DAYS where a commit had too many days.
                         Who filters by it asks for days from one on, and for `effective_us` as well

    What a project's definitions refuse is not in its log, so no other project may write there, nor make rows of it.

    project  who writes, and is refused with OtherProjectError where the log is another one's; None: nobody asks, as
             for who only reads
    """

    # Opening a table and committing to it each replay its commits since the last checkpoint, at 0.8 ms a commit in all;
    # a checkpoint takes 20 ms, 80 ms of a thousand files. Twenty is the best to choose in between.
    _CHECKPOINT_EVERY = 20

    def __init__(self, folder: Path, topic: Topic, version: int | None = None, *, project: str | None = None) -> None:
        self.topic, self.path, self._folder, self._version = topic, folder / topic.name, folder, version
        self._project = project
        # Its identity, once this has said whose it is: a log that vanishes under a worker is not made again in silence.
        self._claimed: str | None = None
        self._marks: dict[int, Mark] | None = None
        self._committed: _Committed | None = None
        self._kept = LogTransactions(self.path)

    def at(self, version: int) -> EventLog:
        """The log as of one of its versions, to read."""
        return EventLog(self._folder, self.topic, version)

    def claim(self) -> str:
        """Make the log where there is none, and the project's where it is nobody's; its identity.

        One that says no project was made before logs did, and belongs to the first that writes.
        """
        for _ in range(_TRIES_MAX):
            try:
                table = self._open()
                self._refuse_other_project(table)
                if self._project is None or _OWNER in table.metadata().configuration:
                    self._claimed = str(table.metadata().id)
                    return self._claimed
                said = {_OWNER: self._project}
                table.alter.set_table_properties(said, raise_if_not_exists=False, post_commithook_properties=_NO_HOOKS)
            except CommitFailedError:
                # Whoever was first is found when the table is opened again.
                continue
        raise EventLogError(self.topic.name, f"{_TRIES_MAX} commits in a row met other writers")

    def append(self, rows: pa.Table, marks: Mapping[int, Mark]) -> None:
        """Add the rows that the log lacks, and move to `marks`, in one commit."""
        assert self._version is None, "a past version is for reading"
        for _ in range(_TRIES_MAX):
            try:
                table = self._open()
                held = self._held(table)
                moved = {p: mark for p, mark in marks.items() if p not in held or held[p].offset < mark.offset}
                if not moved:
                    self._marks = held
                    return
                if self._widen(table):
                    # To a version that others may have written to since the marks were read: no conflict would tell.
                    continue
                self._commit(table, write_files(self.path, _lacking(rows, held)), moved)
            except CommitFailedError:
                # Somebody else committed, or the answer was lost: the table itself tells which, on the next round.
                continue
            if table.version() % self._CHECKPOINT_EVERY == 0:
                table.create_checkpoint()
            self._marks = {**held, **moved}
            # A handle still shows the version from which it committed.
            self._committed = _Committed(str(table.metadata().id), table.version(), self._marks)
            return
        raise EventLogError(self.topic.name, f"{_TRIES_MAX} commits in a row met other writers")

    def marks(self) -> dict[int, Mark]:
        """How far each partition has come; as of the last look by this object, or a fresh one."""
        if self._marks is None:
            kept = self._kept.newest() if self._version is None else None
            if kept is not None:
                self._marks = self._marks_in(kept)
            else:
                self._marks = self._marks_of(self._open()) if self.exists() else {}
        return self._marks

    def forget(self) -> None:
        """See on the next `marks` whether anybody has committed since."""
        self._marks = None

    def decided(self, partition: int) -> Mark | None:
        """How far events have been judged: those before are here, or were dead letters."""
        return self.marks().get(partition)

    def exists(self) -> bool:
        return bool(deltalake.DeltaTable.is_deltatable(str(self.path)))

    def version(self) -> int:
        """Version of the table, -1 before its first commit; the one asked for, of a log `at` one."""
        if self._version is not None:
            return self._version
        return int(deltalake.DeltaTable(str(self.path)).version()) if self.exists() else -1

    def identity(self) -> str:
        """Of the table; a log that was removed and made again is another one. Empty before its first commit."""
        return str(deltalake.DeltaTable(str(self.path)).metadata().id) if self.exists() else ""

    def files(self) -> int:
        """Parquet files that the newest version is made of."""
        return len(deltalake.DeltaTable(str(self.path)).file_uris()) if self.exists() else 0

    def check_types(self) -> None:
        """Raises TopicError where the events here do not fit the definition; changes nothing.

        A column has another type, the event time is another column's, or a new column may not be null. Raises
        OtherProjectError where the log is not the project's.

        For whoever is about to act on a definition that may have changed: `append` asks the same, but only after rows
        were made and letters were sent by it.
        """
        if self.exists():
            self._gained(deltalake.DeltaTable(str(self.path)))

    def read(
        self, columns: Sequence[str], *, until_us: int | None = None, late_by_max_us: int | None = None
    ) -> pa.Table:
        """Some columns of the events with effective time <= until_us that are not later than allowed."""
        schema = log_schema(self.topic)
        if self._version == -1 or not self.exists():
            return pa.schema([schema.field(name) for name in columns]).empty_table()
        wanted = None
        if until_us is not None:
            wanted = pc.field("effective_us") <= until_us
        if late_by_max_us is not None:
            in_time = pc.field("late_by_us") <= late_by_max_us
            wanted = in_time if wanted is None else wanted & in_time
        dataset = self.dataset()
        return columns_of(dataset, self.topic, columns, wanted)

    def between(self, partition: int, first: int, end: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of one partition's events with first <= offset < end, in the order of their offsets."""
        schema = log_schema(self.topic)
        if first >= end or not self.exists():
            return pa.schema([schema.field(name) for name in columns]).empty_table()
        wanted = _between(partition, first, end)
        dataset = self.dataset()
        asked = list(dict.fromkeys(["offset", *columns]))
        return columns_of(dataset, self.topic, asked, wanted).sort_by("offset").select(list(columns))

    def between_within(
        self, partition: int, first: int, end: int, columns: Sequence[str], bytes_max: int | None
    ) -> pa.Table | None:
        """As `between`; None where it is more than so many bytes, of which no more are held meanwhile."""
        if first >= end or not self.exists():
            return self.between(partition, first, end, columns)
        schema = log_schema(self.topic)
        asked = pa.schema([schema.field(name) for name in dict.fromkeys(["offset", *columns])])
        wanted = _between(partition, first, end)
        table = held_within(self.dataset(), asked, wanted, bytes_max, former=former_columns(self.topic))
        return None if table is None else table.sort_by("offset").select(list(columns))

    def end_within(self, partition: int, first: int, end: int, events_max: int) -> int:
        """An offset up to which a partition has at most so many events from `first` on; one offset is the least."""
        if not self.exists():
            return end
        dataset = self.dataset()
        return halved(dataset, lambda stop: _between(partition, first, stop), first, end, events_max)

    def compact(self) -> None:
        """Many small files of live commits become few large ones; nothing else changes. Writers may go on meanwhile.

        One at a time, on all machines that share the disk: Delta commits two that overlap, and then has the events
        of the same small files twice. Raises EventLogError where another one is at work, or columns came meanwhile.
        """
        assert self._version is None, "a past version is for reading"
        if not self.exists():
            return
        with self._alone():
            table = self._open()
            self._refuse_other_project(table)
            try:
                table.optimize.compact(post_commithook_properties=_NO_HOOKS)
            except CommitFailedError as error:
                raise EventLogError(self.topic.name, "it was changed while it was compacted") from error

    def clean(self, keep_us: int, now_us: int, needed: Collection[int] = ()) -> Cleaned:
        """Remove what no version of the last `keep_us` needs, and none from the earliest of `needed` on.

        Every version that is not removed reads as before; one that is raises GoneVersionError. Writers and readers may
        go on meanwhile. Raises EventLogError where somebody compacts or cleans.
        """
        assert self._version is None, "a past version is for reading"
        if not self.exists():
            return Cleaned(0, 0, 0)
        with self._alone():
            table = self._open()
            # Its own backfills say which versions they need.
            self._refuse_other_project(table)
            table.create_checkpoint()
            return clean(self.path, keep_us, now_us, needed)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.path / _COMPACTING).open("w") as lock:
            try:
                # Given back by the system when a process ends, however it ends.
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise EventLogError(self.topic.name, "somebody else is compacting it") from None
            yield

    def dataset(self) -> pds.Dataset:
        """The files of the log's version; there is one. Raises GoneVersionError."""
        return self._table().to_pyarrow_dataset()

    def _open(self) -> deltalake.DeltaTable:
        try:
            table = self._table()
        except TableNotFoundError:
            if self._claimed is not None:
                raise EventLogError(self.topic.name, f"it is gone from {self.path} since it was opened") from None
            return self._create()
        if self._claimed not in (None, str(table.metadata().id)):
            raise EventLogError(self.topic.name, f"another one lies in {self.path} since it was opened")
        return table

    def _table(self) -> deltalake.DeltaTable:
        try:
            return deltalake.DeltaTable(str(self.path), version=self._version)
        except DeltaError:
            if self._version is not None:
                self._refuse_gone(self._version)
            raise

    def _refuse_gone(self, version: int) -> None:
        first = first_version(self.path)
        if version < first:
            raise GoneVersionError(self.topic.name, version, first) from None

    def _create(self) -> deltalake.DeltaTable:
        """Made beside, then moved into place, which one alone can do.

        Of two that make a table in one place, Delta may let the second one say anew what it is, and whose.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        made = self.path.with_name(f".{self.path.name}.{uuid4().hex}")
        deltalake.DeltaTable.create(
            str(made),
            schema=log_schema(self.topic),
            partition_by=["date"],
            name=self.topic.name,
            description=f"{_TIMED}{self.topic.event_time}",
            # Compaction writes files too, and must say no more of them.
            configuration={
                "delta.dataSkippingStatsColumns": ",".join(FILTERED_BY),
                **({} if self._project is None else {_OWNER: self._project}),
            },
            # Of Delta's own ones.
            raise_if_key_not_exists=False,
        )
        try:
            made.rename(self.path)
        except OSError as error:
            shutil.rmtree(made)
            if not self.exists():
                what = f"{self.path} is there, and is no Delta table ({error}); move it away"
                raise EventLogError(self.topic.name, what) from error
        return deltalake.DeltaTable(str(self.path))

    def _widen(self, table: deltalake.DeltaTable) -> bool:
        """A definition may gain columns: events of before have nulls there. It may not change the type of one.

        Returns whether the table has gained any, and so is another version now.
        """
        gained = self._gained(table)
        if gained:
            table.alter.add_columns(gained, post_commithook_properties=_NO_HOOKS)
        return bool(gained)

    def _gained(self, table: deltalake.DeltaTable) -> list[deltalake.Field]:
        """Columns of the definition that the table lacks; raises TopicError where its events do not fit the definition.

        Delta commits files of other types without a look, and nobody could read the log after that.
        """
        self._refuse_other_project(table)
        self._refuse_other_times(table)
        held = {field.name: field.type for field in table.schema().fields}
        wanted = list(deltalake.Schema.from_arrow(log_schema(self.topic)).fields)
        for field in wanted:
            if held.get(field.name, field.type) != field.type:
                raise TopicError(
                    self.topic.name,
                    f"column {field.name!r} has the type {_said(held[field.name])} in its event log, and "
                    f"{_said(field.type)} in its definition; a type cannot change in place: set it back, and "
                    + _way_on(self.topic, field.name),
                )
        gained = [field for field in wanted if field.name not in held]
        self._refuse_without_history(table, [field.name for field in gained])
        return gained

    def _refuse_other_project(self, table: deltalake.DeltaTable) -> None:
        owner = table.metadata().configuration.get(_OWNER)
        if owner is not None and self._project not in (None, owner):
            raise OtherProjectError(self.topic.name, self._folder, owner, self._project)

    def _refuse_other_times(self, table: deltalake.DeltaTable) -> None:
        """Times that are in the log were made of the column that was the event time when they came."""
        said, topic = table.metadata().description or "", self.topic
        # A log of before does not say, and is taken as it is.
        if not said.startswith(_TIMED):
            return
        held = said.removeprefix(_TIMED)
        if held not in (topic.event_time, *topic.renamed.get(topic.event_time, ())):
            same = f", or say renamed={{{topic.event_time!r}: {held!r}}} where it is the same column"
            raise TopicError(
                topic.name,
                f"the events in its event log have their times by column {held!r}, and its definition says "
                f"event_time={topic.event_time!r}; times that were logged cannot change: set it back, or send the "
                f"events to a topic of another name{'' if topic.format == 'json' else same}",
            )

    def _refuse_without_history(self, table: deltalake.DeltaTable, gained: Sequence[str]) -> None:
        """Nulls where the definition allows none would change values, and nobody would be told."""
        bare = [name for name in gained if name not in self.topic.nullable and not self._has_former(table, name)]
        if bare and table.file_uris():
            raise TopicError(
                self.topic.name,
                f"column {bare[0]!r} may not be null in its definition, and the events in its event log lack it; make "
                f"it nullable, with nullable=({bare[0]!r},)",
            )

    def _has_former(self, table: deltalake.DeltaTable, name: str) -> bool:
        held, kind = pa.schema(table.schema()), log_schema(self.topic).field(name).type
        former = former_columns(self.topic).get(name, ())
        return any(is_read_as(held.field(each).type, kind) for each in former if each in held.names)

    def _commit(
        self, table: deltalake.DeltaTable, files: list[AddAction | RemoveAction], moved: Mapping[int, Mark]
    ) -> None:
        """Rows and marks become part of the table, both or none."""
        table.create_write_transaction(
            files,
            mode="append",
            schema=log_schema(self.topic),
            partition_by=["date"],
            commit_properties=deltalake.CommitProperties(app_transactions=self._transactions(moved)),
            post_commithook_properties=_NO_HOOKS,
        )

    def _transactions(self, marks: Mapping[int, Mark]) -> list[deltalake.Transaction]:
        # A transaction's version is any int64: two of them keep a mark, through checkpoints and clean-ups. A topic's
        # identity is text, so it is part of the name of a third one.
        out = []
        for partition, mark in marks.items():
            place = f"{self.topic.name}/{partition}"
            out.append(deltalake.Transaction(place, mark.offset))
            out.append(deltalake.Transaction(f"{place}#newest_us", mark.newest_us))
            if mark.topic_id:
                out.append(deltalake.Transaction(f"{place}{_TOPIC_ID}{mark.topic_id}", mark.offset))
        return out

    def _held(self, table: deltalake.DeltaTable) -> dict[int, Mark]:
        """The marks of this very version; what is remembered of our last commit may be them.

        One version after that from which it was made, there is our commit and nobody else's: asking the table would
        say the same. What failed, or had no answer, is not remembered.
        """
        last, self._committed = self._committed, None
        if last is not None and (str(table.metadata().id), table.version()) == (last.table_id, last.since + 1):
            return last.marks
        return self._marks_of(table)

    def _marks_of(self, table: deltalake.DeltaTable) -> dict[int, Mark]:
        version = table.version()
        try:
            return self._marks_in(self._kept.at(str(table.metadata().id), version))
        except FileNotFoundError as error:
            self._refuse_gone(version)
            raise EventLogError(self.topic.name, f"entries of its version {version} are missing") from error

    def _marks_in(self, kept: Mapping[str, int]) -> dict[int, Mark]:
        # Of each place the topic that it was last read from; commits of before topics were noted have none.
        ids: dict[str, tuple[int, str]] = {}
        for name, offset in kept.items():
            place, has_id, topic_id = name.partition(_TOPIC_ID)
            if has_id:
                ids[place] = max(ids.get(place, (-1, "")), (offset, topic_id))
        out = {}
        for partition in range(self.topic.partitions):
            place = f"{self.topic.name}/{partition}"
            if place in kept:
                # Both are written in one commit.
                out[partition] = Mark(kept[place], kept[f"{place}#newest_us"], ids.get(place, (-1, ""))[1])
        return out


def check_types(folder: Path, topics: Iterable[Topic], project: str | None = None) -> None:
    """Raises TopicError at the first topic whose log under a folder does not fit it; see `EventLog.check_types`."""
    for topic in topics:
        EventLog(folder, topic, project=project).check_types()


def _way_on(topic: Topic, column: str) -> str:
    """How events of the new type can be had; each format has a way that its definitions take."""
    new = f"{column}_2"
    if topic.format == "json":
        return (
            f"send events of the new type to a topic of another name, or in a column of a new name, such as {new!r}, "
            "that is nullable"
        )
    return f"give the column of the new type a new name, with renamed={{{new!r}: {column!r}}} and nullable=({new!r},)"


def _said(kind: object) -> str:
    return str(getattr(kind, "type", kind))


def _lacking(rows: pa.Table, held: Mapping[int, Mark]) -> pa.Table:
    """The rows at or after the end offset that the log has for their partition."""
    keep = pa.chunked_array([pa.array([True] * len(rows), pa.bool_())])
    for partition, mark in held.items():
        had = pc.and_(pc.equal(rows["partition"], partition), pc.less(rows["offset"], mark.offset))
        keep = pc.and_not(keep, had)
    return rows.filter(keep)
