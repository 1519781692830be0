"""A range of a topic run again into a scratch place, for people who want to see what became of it.

From Kafka, the range goes through the whole engine: decoded, judged, folded, logged, its bad events kept as letters.
From the event log, where Kafka has it no more, what was logged is folded again. The scratch place is a namespace of
its own in the online store and a folder; nothing that is served, logged or posted is touched. A replay that was
killed goes on when it is run again, since its scratch rows carry watermarks like all others.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import TopicPartition
from confluent_kafka.admin._listoffsets import OffsetSpec

from featurestore.errors import LostTailError, ReplayError, TopicError
from featurestore.event_time import REPEATED_US, Mark, moment_us
from featurestore.kernel import roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.offline import EventLog, LogSlices, Stride, log_schema
from featurestore.online import OnlineStore
from featurestore.settings import Settings
from featurestore.spec import FeatureView, Repository
from streams.alone import alone
from streams.bounds import bounds_of
from streams.broker import admin_client, answer_of, broker_of, in_words
from streams.codecs import codec_of
from streams.engine import Engine, steady_us
from streams.fill import LogFill
from streams.group import worker_group
from streams.letters import DeadLetter
from streams.online_sink import OnlineSink
from streams.schemas import schemas_at
from streams.sink import refuse_other_topic
from streams.tail import Tail
from streams.taken_back import TakenBack
from streams.topics import Topics

_TIMEOUT_S = 10.0
_READ_S = 0.1
# A broker that gives nothing of a range that it has for this long is stuck.
_SILENT_MAX_S = 60.0
# Events that are counted at once, and entities that are shown.
_COUNTED_MAX, _COUNTED_BYTES_MAX = 200_000, 64 << 20
_SAMPLE = 5
_RANGE = "range.json"
# It names a folder and a namespace, and both are deleted by it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Source = Literal["kafka", "log"]


class Range(msgspec.Struct, frozen=True):
    """What is replayed, as it was understood at first: the topic may have grown since.

    views  their ids: under these the rows lie in the scratch place
    first  partition -> offset and the newest event time before it, by which lateness is judged
    end    partition -> the offset to stop before
    said   what was asked for: from and to, as they were written
    """

    topic: str
    source: Source
    views: list[str]
    first: dict[int, tuple[int, int]]
    end: dict[int, int]
    said: tuple[str | None, str | None] | None = None


@dataclass(frozen=True, slots=True)
class ViewReplayed:
    """What one view made of the range.

    applied, late, too_late  events: counted in, counted in although late, left out for it
    repeats                  events left out since an earlier one has their id, however late they are
    rows                     entities that have a row
    sample                   values of some of them at `moment_us`
    """

    view: str
    applied: int
    late: int
    too_late: int
    repeats: int
    rows: int
    sample: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came out.

    offsets    in the range, holes included
    events     that could be decoded
    dead       reason -> letters; of a replay from Kafka
    taken_back letters whose events stand in the topic again and count there alone; of a replay from Kafka
    moment_us  newest event time of the range
    """

    name: str
    folder: Path
    offsets: int
    events: int
    dead: dict[str, int]
    taken_back: int
    moment_us: int
    views: list[ViewReplayed]


class Replay:
    """One replay, by name; the same name finds its scratch place again. Raises ReplayError for a name that is none.

    first, end  an offset (of every partition), or a moment of arrival as ISO 8601 with its zone; None: all there is
    at          is told the points at which a process may be killed
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        topic: str,
        *,
        first: str | None = None,
        end: str | None = None,
        views: Sequence[str] = (),
        source: Source = "kafka",
        name: str | None = None,
        moved: Callable[[str, int, int], None] = lambda stage, done, total: None,
        at: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._settings, self._topic, self._source = settings, repository.topic(topic), source
        self._first, self._end, self._moved, self._at = first, end, moved, at
        chosen = [repository.view(view) for view in views] if views else repository.views_of(topic)
        other = [view.name for view in chosen if view.source.name != topic]
        if other:
            raise ReplayError(topic, f"view {other[0]!r} reads another topic")
        self._views: list[FeatureView] = list(chosen)
        # A late event is dead where no view of the topic takes it, whichever of them are looked at.
        self._lateness_us = max((view.lateness_us for view in repository.views_of(topic)), default=0)
        # Not their ids: a changed definition finds the place of before, and is told so.
        said = repr((topic, first, end, [view.name for view in self._views], source))
        self.name = blake2b(said.encode(), digest_size=4).hexdigest() if name is None else name
        if not _NAME.fullmatch(self.name):
            wanted = "up to 64 letters, digits, dots, dashes and underscores, a letter or a digit first"
            raise ReplayError(topic, f"{self.name!r} is no name for a replay; say {wanted}")
        # Logs of several projects may lie side by side.
        self.folder = settings.offline_path.resolve().parent / "replays" / settings.project / self.name
        self._store = OnlineStore.at(
            settings.redis_url, namespace=f"{settings.project}:replay:{self.name}", buckets=settings.buckets
        )
        self._admin = admin_client(broker_of(settings))
        self._taken_back = TakenBack(
            broker_of(settings), self._admin, settings.project, worker_group(settings), self._topic
        )

    def run(self) -> Replayed:
        """Replay what is left of the range, and say what came out.

        Raises ReplayError, GrownTopicError where the topic has partitions that its definition does not have, TopicError
        where the log does not fit the definition, or is of another topic of that name; BrokerError, BrokerAccessError.
        """
        self._refuse_unread()
        with self._alone(), in_words(broker_of(self._settings)):
            try:
                return self._run()
            except LostTailError as error:
                place = f"{error.topic}/{error.partition}"
                what = f"the store lost scratch rows, which stand at offset {error.offset} of {place} again"
                raise ReplayError(self._topic.name, f"{what}; run it again") from error

    def _run(self) -> Replayed:
        log = EventLog(self._settings.offline_path, self._topic)
        log.check_types()
        topic_id = Topics(broker_of(self._settings)).whole_ids([self._topic])[self._topic.name]
        # Also of a range from Kafka: what it means, and how late its events are, is asked of the log.
        refuse_other_topic(self._topic, topic_id, log.marks().items())
        if self._dropped.exists():
            self._end_drop()
        asked = self._range()
        # Only now: what is refused leaves nothing behind.
        self._store.ensure_ready()
        if asked.source == "kafka":
            self._from_kafka(asked, topic_id)
        else:
            self._from_log(asked, topic_id)
        total = sum(asked.end[p] - offset for p, (offset, _) in asked.first.items())
        self._moved("replay", total, total)
        return self._replayed(asked)

    def drop(self) -> bool:
        """Delete the scratch place; whether there was one. Raises ReplayError where nothing can ever have been.

        Killed on the way, it is ended by the next process of that name, whether that one drops too or runs.
        """
        with self._alone():
            return self._drop()

    def _drop(self) -> bool:
        if self._path.exists():
            # In one step, and before anything goes: what is half dropped would be taken for a whole place.
            self.folder.rename(self._dropped)
        elif not self._dropped.exists():
            # One that has a name outlives the views that it was made of.
            self._refuse_unread()
        return self._end_drop()

    def _end_drop(self) -> bool:
        """Delete what a drop has set aside, its rows first: their views are named in the folder."""
        self._at("before-drop")
        held = _range_at(self._dropped)
        for view_id in {*self._view_ids(), *(() if held is None else held.views)}:
            self._store.drop(view_id)
        self._store.unclaim()
        if not self._dropped.exists():
            return False
        shutil.rmtree(self._dropped)
        return True

    def _alone(self) -> AbstractContextManager[None]:
        """No other run of this name meanwhile, and no drop: what goes from under a run, it would begin to make anew."""
        # Beside the projects' folders, where no replay's name can be: the scratch place is deleted, the lock is not.
        path = self.folder.parents[1] / ".locks" / self._settings.project / f"{self.name}.lock"
        what = f"another run of {self.name!r} is at work; wait until that one has ended"
        return alone(path, ReplayError(self._topic.name, what))

    def _refuse_unread(self) -> None:
        if not self._views:
            raise ReplayError(self._topic.name, "no feature view reads it, so there is nothing to make of its events")

    # -- what is asked -----------------------------------------------------------------------------------------------

    def _range(self) -> Range:
        held = _range_at(self.folder)
        if held is not None:
            # What an earlier process of this name was asked.
            question = (self._topic.name, self._source, self._view_ids(), (self._first, self._end))
            if (held.topic, held.source, held.views, held.said) != question:
                what = f"{self.name!r} is another replay, of {_shown(held)}"
                raise ReplayError(self._topic.name, f"{what}; choose a --name, or delete that one with --drop")
            return held
        made = self._resolved()
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".new")
        unfinished.write_bytes(msgspec.json.encode(made))
        unfinished.replace(self._path)
        return made

    @property
    def _path(self) -> Path:
        return self.folder / _RANGE

    @property
    def _dropped(self) -> Path:
        """The folder's name while it is dropped; no replay can have it."""
        return self.folder.with_name(f".{self.name}")

    def _scratch_log(self) -> EventLog:
        return EventLog(self.folder / "log", self._topic)

    def _view_ids(self) -> list[str]:
        return [view.id for view in self._views]

    def _resolved(self) -> Range:
        """Offsets of each partition that has some of the range."""
        logged = LogSlices.newest(EventLog(self._settings.offline_path, self._topic))
        partitions = range(self._topic.partitions)
        if self._source == "kafka":
            held = {p: (b.low, b.end) for p, b in bounds_of(self._admin, self._topic.name, partitions).items()}
        else:
            held = {partition: (0, mark.offset) for partition, mark in logged.marks.items()}
        first, end = self._places(self._first, held, logged), self._places(self._end, held, logged)
        out = Range(self._topic.name, self._source, self._view_ids(), {}, {}, (self._first, self._end))
        for partition, (low, high) in held.items():
            begin = low if self._first is None else first[partition]
            stop = high if self._end is None else min(end[partition], high)
            if begin < low and stop > begin:
                raise ReplayError(
                    self._topic.name,
                    f"Kafka holds partition {partition} from offset {low} only; say --source log, or --from {low}",
                )
            if begin < stop:
                out.first[partition] = (begin, logged.newest_before_us(partition, begin))
                out.end[partition] = stop
        if not out.first:
            raise ReplayError(self._topic.name, "no partition has anything of that range")
        return out

    def _places(self, text: str | None, held: Mapping[int, tuple[int, int]], logged: LogSlices) -> dict[int, int]:
        """Partition -> the first offset at or after what was written."""
        if text is None or text.isdecimal():
            return dict.fromkeys(held, int(text or 0))
        try:
            moment = moment_us(datetime.fromisoformat(text))
        except ValueError as error:
            wanted = "an offset, or a moment such as 2026-01-31T12:00:00Z"
            raise ReplayError(self._topic.name, f"{text!r} is neither an offset nor a moment; say {wanted}") from error
        if moment < 0:
            # To the broker some of these mean its newest or its oldest record, and the others nothing.
            raise ReplayError(self._topic.name, f"{text!r} is before 1970-01-01T00:00:00Z, where moments begin")
        if self._source == "log":
            found = {partition: logged.first_offset(partition, moment) for partition in held}
        else:
            # The broker's clock counts milliseconds.
            spec = OffsetSpec.for_timestamp(moment // 1_000)
            places = {TopicPartition(self._topic.name, partition): spec for partition in held}
            asked = self._admin.list_offsets(places, request_timeout=_TIMEOUT_S)
            found = {place.partition: answer_of(done, _TIMEOUT_S).offset for place, done in asked.items()}
        return {p: held[p][1] if offset is None or offset < 0 else offset for p, offset in found.items()}

    # -- the work ----------------------------------------------------------------------------------------------------

    def _sinks(self, asked: Range, topic_id: str) -> list[OnlineSink]:
        """Scratch rows that stand at the beginning of the range, or where an earlier process left them."""
        # What is looked at is long past, and may be told again days later: the rows stay until they are dropped.
        sinks = [OnlineSink(self._store, view, expires=False) for view in self._views]
        for partition, (offset, newest_us) in asked.first.items():
            for sink in sinks:
                if sink.open(partition, topic_id) is None:
                    sink.heartbeat({partition: Mark(offset, newest_us, topic_id)})
        return sinks

    def _from_kafka(self, asked: Range, topic_id: str) -> None:
        begin = {partition: Mark(offset, newest_us) for partition, (offset, newest_us) in asked.first.items()}
        log = self._scratch_log()
        # One that goes away meanwhile is not made anew in silence, without what it had.
        log.claim()
        missing = {partition: mark for partition, mark in begin.items() if partition not in log.marks()}
        if missing:
            log.append(log_schema(self._topic).empty_table(), missing)
        letters = _FileLetters(self.folder / "letters.jsonl")
        sinks = self._sinks(asked, topic_id)
        codec = codec_of(self._topic, schemas_at(self._settings.schema_address))
        engine = Engine(
            self._topic,
            topic_id,
            sinks,
            self._lateness_us,
            log,
            letters,
            steady_us,
            codec=codec,
            taken_back=lambda partition, first: self._taken_back.between(partition, first, asked.end[partition]),
        )
        opened = {partition: engine.open(partition) for partition in asked.first}
        # Of one that is done already, Kafka may have deleted what stands there.
        starts = {partition: offset for partition, offset in opened.items() if offset < asked.end[partition]}
        total = sum(asked.end[partition] - mark.offset for partition, mark in begin.items())
        heard = dict.fromkeys(begin, time.monotonic())
        with Tail(broker_of(self._settings), self._settings.project, self._topic.name, starts) as tail:
            while lacking := [p for p, mark in engine.marks().items() if mark.offset < asked.end[p]]:
                try:
                    batches = tail.read(_READ_S)
                except TopicError as error:
                    raise (self._cut(engine, lacking) or error) from error
                heard.update(dict.fromkeys((batch.partition for batch in batches), time.monotonic()))
                for batch in batches:
                    engine.apply(batch.before(asked.end[batch.partition]))
                    self._at("mid-replay")
                # Of each by itself: another one may have live traffic behind the range.
                stuck = [partition for partition in lacking if time.monotonic() - heard[partition] > _SILENT_MAX_S]
                if stuck:
                    raise ReplayError(
                        self._topic.name, f"the broker gave nothing of partition {stuck[0]} for {_SILENT_MAX_S:.0f} s"
                    )
                done = sum(mark.offset - begin[partition].offset for partition, mark in engine.marks().items())
                self._moved("replay", done, total)
                engine.tick()
        engine.flush()

    def _cut(self, engine: Engine, lacking: Sequence[int]) -> ReplayError | None:
        """What to say where Kafka has deleted some of a range that was there when it was understood."""
        marks, bounds = engine.marks(), bounds_of(self._admin, self._topic.name, lacking)
        for partition, bound in bounds.items():
            if (offset := marks[partition].offset) < bound.low:
                what = f"since it began Kafka has deleted offsets {offset} to {bound.low} of partition {partition}"
                advice = "delete its scratch place by the same command with --drop, then say --source log"
                return ReplayError(self._topic.name, f"{what}; {advice}, or --from {bound.low}")
        return None

    def _from_log(self, asked: Range, topic_id: str) -> None:
        slices = LogSlices.newest(EventLog(self._settings.offline_path, self._topic))
        total = sum(asked.end[partition] - offset for partition, (offset, _) in asked.first.items())
        for sink in self._sinks(asked, topic_id):
            fill, before = LogFill(slices, sink.view, is_whole=True), 0
            for partition, (first, _) in asked.first.items():

                def moved(offset: int, done: int = before - first) -> None:
                    self._moved("replay", done + offset, total)
                    self._at("mid-replay")

                end = Mark(asked.end[partition], slices.newest_before_us(partition, asked.end[partition]))
                fill.fill(sink, partition, topic_id, moved, end)
                before += asked.end[partition] - first

    # -- what came out -----------------------------------------------------------------------------------------------

    def _replayed(self, asked: Range) -> Replayed:
        kept = self._scratch_log() if asked.source == "kafka" else EventLog(self._settings.offline_path, self._topic)
        slices = LogSlices.newest(kept)
        events, moment = 0, 0
        counts: dict[str, Counter[str]] = {view.name: Counter() for view in self._views}
        entities: dict[str, dict[bytes, dict[str, Any]]] = {view.name: {} for view in self._views}
        keys = sorted({key for view in self._views for key in view.entity.keys})
        stride = Stride(_COUNTED_BYTES_MAX)
        for partition, (first, _) in asked.first.items():
            start, end = first, asked.end[partition]
            while start < end:
                most = slices.end_within(partition, start, end, _COUNTED_MAX)
                part, stop = slices.read(["effective_us", "late_by_us", *keys], partition, start, most, stride)
                events += len(part)
                moment = max(moment, pc.max(part["effective_us"]).as_py() or 0)
                for view in self._views:
                    self._count(view, part, counts[view.name], entities[view.name])
                start = stop if len(part) else slices.next_offset(partition, stop, end)
        taken_back = [
            self._taken_back.between(partition, first, asked.end[partition])
            for partition, (first, _) in asked.first.items()
            if asked.source == "kafka"
        ]
        again = sum(len(letters.gap_first) for letters in taken_back)
        dead = _FileLetters(self.folder / "letters.jsonl").reasons()
        views = [self._of_view(view, counts[view.name], entities[view.name], moment) for view in self._views]
        offsets = sum(asked.end[partition] - first for partition, (first, _) in asked.first.items())
        return Replayed(self.name, self.folder, offsets, events, dict(sorted(dead.items())), again, moment, views)

    def _count(
        self, view: FeatureView, part: pa.Table, counts: Counter[str], entities: dict[bytes, dict[str, Any]]
    ) -> None:
        named = part.filter(_valid(part, view.entity.keys))
        late_by = named["late_by_us"].to_numpy()
        counts["applied"] += int((late_by <= view.lateness_us).sum())
        counts["late"] += int(((late_by > 0) & (late_by <= view.lateness_us)).sum())
        counts["too_late"] += int(((late_by > view.lateness_us) & (late_by != REPEATED_US)).sum())
        counts["repeats"] += int((late_by == REPEATED_US).sum())
        if len(entities) < _SAMPLE and len(named):
            some = named.select(list(view.entity.keys)).slice(0, 100)
            columns = [some[key].combine_chunks() for key in view.entity.keys]
            for key, values in zip(encode_keys(columns), some.to_pylist(), strict=True):
                if len(entities) < _SAMPLE:
                    entities[key] = values

    def _of_view(
        self, view: FeatureView, counts: Counter[str], entities: dict[bytes, dict[str, Any]], moment: int
    ) -> ViewReplayed:
        [payloads] = self._store.payloads([(view.id, list(entities))])
        values = roll_up(payloads, moment, view.plan)
        sample = [
            {**keys, **{name: values[name][place].as_py() for name in view.outputs}}
            for place, keys in enumerate(entities.values())
        ]
        rows = self._store.rows(view.id)
        late, repeats = counts["late"], counts["repeats"]
        return ViewReplayed(view.name, counts["applied"], late, counts["too_late"], repeats, rows, sample)


class _FileLetters:
    """Letters as lines of a file; a replay that was killed may write one twice, and it is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            with self._path.open("ab") as file:
                # The first byte ends a line that a killed process may have left unfinished.
                file.write(b"\n" + b"\n".join(map(msgspec.json.encode, letters)) + b"\n")

    def flush(self) -> None:
        if self._path.exists():
            with self._path.open("ab") as file:
                os.fsync(file.fileno())

    def reasons(self) -> Counter[str]:
        """How many letters there are of each; of a letter no more is kept than its place, however large it is."""
        found: dict[bytes, str] = {}
        with suppress(FileNotFoundError), self._path.open("rb") as lines:
            for line in lines:
                try:
                    letter = msgspec.json.decode(line, type=DeadLetter)
                except msgspec.DecodeError:
                    continue  # cut short by a kill: the next process wrote it again
                found[letter.key] = letter.reason
        return Counter(found.values())


def _range_at(folder: Path) -> Range | None:
    path = folder / _RANGE
    return msgspec.json.decode(path.read_bytes(), type=Range) if path.exists() else None


def _shown(asked: Range) -> str:
    """A replay, as one would ask for it."""
    first, end = asked.said or (None, None)
    places = "".join(f" {name} {text}" for name, text in (("--from", first), ("--to", end)) if text is not None)
    return f"{asked.topic}{places} --source {asked.source} with {', '.join(asked.views)}"


def _valid(part: pa.Table, keys: Sequence[str]) -> pa.Array:
    held = part[keys[0]].is_valid()
    for key in keys[1:]:
        held = pc.and_(held, part[key].is_valid())
    return held
