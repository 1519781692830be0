"""Taking dead letters back, each exactly once, however often the command is killed, repeated, or run by two at a time.

A batch of letters is one Kafka transaction: their events go into the source topic again, and beside each letter goes
the record that it was taken back. Readers see both or neither. The transactional id is the project's and the topic's,
so a run that begins ends the one before: the broker aborts what that had open, and refuses what it sends later. Letters
are read after that, so none that another run took back is taken again.

An event that came alone just found room may find none with what says that it comes again. Where the broker refuses a
batch for the size of a record, the batch goes in halves, down to the letters that are refused alone: these are left.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Producer

from featurestore.errors import LetterReplayError, UnknownObjectError
from featurestore.event_time import FUTURE_MAX_US, SECOND_US
from featurestore.kernel import PLACES_MAX, in_records
from featurestore.spec import Topic
from streams.broker import Broker
from streams.codecs import Codec, codec_of
from streams.dead_letters import LETTER_BYTES_MAX, HeldLetter, Replayed, dead_letter_topic, held_letters
from streams.decided import decided
from streams.headers import REPLAYED_FOR, REPLAYED_FROM
from streams.letters import DeadLetter, size_bytes
from streams.producer import kafka_producer
from streams.sink import Log

# Readers of the topic wait for an open transaction: a batch is done in milliseconds, and one that was killed in the
# middle is aborted by the broker after this long, or at once by the next run.
_TRANSACTION_MS = 10_000
_BATCH_LETTERS_MAX = 500
_BATCH_BYTES_MAX = 8 << 20
_COMMIT_TRIES_MAX = 5
_ANSWER_S, _POLL_S = 30.0, 0.1
# What says that a record is larger than its topic takes, or than a file of it; of many, that they are together.
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)

Step = Literal["begun", "sent", "noted", "committed"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant; None means any."""

    reason: str | None = None
    place: str | None = None

    def __call__(self, letter: DeadLetter) -> bool:
        return self.reason in (None, letter.reason) and self.place in (None, letter.place)


@dataclass(slots=True)
class LetterReport:
    """What became of the wanted letters of one topic.

    replayed  taken back now (or, of a trial, that would be)
    before    taken back by an earlier run
    left      reason -> letters that would die again, and are left as they are
    example   reason -> what is wrong with one of them
    unreadable  where in the letters' topic records are that hold no letter
    """

    replayed: int = 0
    before: int = 0
    left: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def leave(self, letter: DeadLetter, reason: str, detail: str) -> None:
        self.left[reason] += 1
        self.example.setdefault(reason, f"{letter.place}: {detail}")


def transactional_id(project: str, topic: str) -> str:
    """Of the runs that take back a project's letters of one topic, and end each other by it."""
    # Both names may hold "-", and neither holds ".".
    return f"featurestore-dead-letters.{project}.{topic}"


class LetterReplay:
    """Takes a project's letters of one topic back; for others that read the topic, nothing has come.

    lateness_us  the longest that any view of the topic waits
    newest_us    partition -> newest event time that its log has: what is too late by it will be too late
    codec        of the topic; Avro and Protobuf need their registry
    log          of the topic, which says what was a dead letter for good; without one, every letter was
    on_step      told of every step of every batch, after it was done
    """

    def __init__(
        self,
        broker: Broker | str,
        project: str,
        topic: Topic,
        lateness_us: int,
        newest_us: Mapping[int, int],
        clock_us: Callable[[], int],
        on_step: Callable[[Step, int], None] = lambda step, replayed: None,
        codec: Codec | None = None,
        log: Log | None = None,
    ) -> None:
        self._broker, self._project, self._topic, self._lateness_us = broker, project, topic, lateness_us
        self._newest_us, self._clock_us, self._on_step = newest_us, clock_us, on_step
        self._codec, self._log = codec or codec_of(topic), log

    def look(self, wanted: Wanted) -> LetterReport:
        """What `run` would do; changes nothing. Raises UnknownObjectError as `run` does."""
        good, report = self._checked(wanted)
        report.replayed = len(good)
        return report

    def run(self, wanted: Wanted) -> LetterReport:
        """Take the letters back that the definition accepts by now; raises LetterReplayError, and is safe to repeat.

        Raises UnknownObjectError where the one that is wanted by its place is not there.
        """
        more = {
            "transactional.id": transactional_id(self._project, self._topic.name),
            "transaction.timeout.ms": _TRANSACTION_MS,
            "message.timeout.ms": _TRANSACTION_MS,
            "message.max.bytes": LETTER_BYTES_MAX,
        }
        report = LetterReport()
        producer = kafka_producer(self._broker, more=more)
        try:
            producer.init_transactions(_ANSWER_S)
            good, report = self._checked(wanted)
            self._take_all_back(producer, good, report)
        except KafkaException as error:
            # Not closed: the client's `close` fails for a producer that another one has ended; it is freed unclosed.
            raise LetterReplayError(self._topic.name, report.replayed, _said(error)) from error
        producer.close()
        return report

    def _take_all_back(self, producer: Producer, letters: Sequence[DeadLetter], report: LetterReport) -> None:
        batches, was_refused = deque(_batches(letters)), False
        while batches:
            batch = batches.popleft()
            try:
                self._take_back(producer, batch, report)
            except KafkaException as error:
                half = len(batch) // 2
                if _is_of(error, _TOO_LARGE) and half:
                    batches.extendleft((batch[half:], batch[:half]))
                elif _is_of(error, _TOO_LARGE):
                    report.leave(
                        batch[0], "too_large", "the topic takes no record as large as it is when it comes again"
                    )
                elif was_refused and _is_of(error, (KafkaError._PURGE_QUEUE,)):
                    # librdkafka counts refused records as sent, so the broker finds a gap before the next ones; that
                    # this batch was aborted began the counting anew.
                    batches.appendleft(batch)
                else:
                    raise
                was_refused = _is_of(error, _TOO_LARGE)

    def _take_back(self, producer: Producer, batch: Sequence[DeadLetter], report: LetterReport) -> None:
        """All letters of a batch or none."""
        producer.begin_transaction()
        try:
            self._send(producer, batch, report)
        except BaseException as error:
            ended = _abort(producer)
            if ended is not None and _is_of(error, (KafkaError._FATAL, *_TOO_LARGE)):
                # Sending says only that something fatal came before; the transaction knows what it was.
                raise ended from error
            raise

    def _send(self, producer: Producer, batch: Sequence[DeadLetter], report: LetterReport) -> None:
        topic = self._topic.name
        letters = dead_letter_topic(topic, self._project)
        offsets: dict[str, int] = {}
        failed: list[KafkaError] = []
        self._on_step("begun", report.replayed)
        for letter in batch:

            def delivered(error: KafkaError | None, message: object, place: str = letter.place) -> None:
                if error is None:
                    offsets[place] = message.offset()  # type: ignore[attr-defined]
                else:
                    failed.append(error)

            # Into its own partition: there its producer put it, among the events of its key.
            producer.produce(
                topic,
                partition=letter.partition,
                key=letter.record_key,
                value=letter.payload,
                headers=[(REPLAYED_FROM, letter.key), (REPLAYED_FOR, self._project.encode())],
                on_delivery=delivered,
            )
        deadline = time.monotonic() + _ANSWER_S
        # Behind one that is refused nothing is sent any more.
        while producer.flush(_POLL_S) and not failed and time.monotonic() < deadline:
            pass
        self._on_step("sent", report.replayed)
        if failed:
            raise KafkaException(next((each for each in failed if each.code() in _TOO_LARGE), failed[0]))
        if len(offsets) < len(batch):
            raise LetterReplayError(topic, report.replayed, "the broker did not acknowledge the events in time")
        for letter in batch:
            replayed = Replayed(letter.place, offsets[letter.place])
            producer.produce(letters, key=replayed.key, value=msgspec.json.encode(replayed))
        # A commit waits for all that was sent, and fails when some of it could not be stored.
        self._on_step("noted", report.replayed)
        _commit(producer)
        report.replayed += len(batch)
        self._on_step("committed", report.replayed)

    def _checked(self, wanted: Wanted) -> tuple[list[DeadLetter], LetterReport]:
        """The wanted letters that the definition accepts by now, and what is to be said of the others."""
        found, good = held_letters(self._broker, self._project, [self._topic.name]), []
        if wanted.place is not None and all(each.letter.place != wanted.place for each in found.letters):
            raise UnknownObjectError("dead letter", wanted.place, [each.letter.place for each in found.letters])
        report = LetterReport(unreadable=found.unreadable)
        held = [each for each in found.letters if wanted(each.letter)]
        report.before = sum(each.replayed is not None for each in held)
        open_letters = [each.letter for each in held if each.replayed is None]
        # Events of one partition come back in the order in which they came.
        open_letters.sort(key=lambda letter: (letter.partition, letter.offset))
        twofold = self.twofold(found.letters)
        for letter, fault in zip(open_letters, self.faults(open_letters), strict=True):
            why = fault or twofold.get(letter.place)
            if why is None:
                good.append(letter)
            else:
                report.leave(letter, *why)
        return good, report

    def faults(self, letters: Sequence[DeadLetter]) -> list[tuple[str, str] | None]:
        """For each letter, why it would die again: reason and detail; None where it comes back.

        A letter of many events comes back when a view would take one of them by now: the others become letters again,
        each of its own, as if the record came for the first time. Where none would be taken, the first says why.
        """
        # A codec has a bound of its own, and letters may be as many as events.
        faults = [why for part in _batches(letters) for why in self._faults_of_part(part)]
        for index, why in self._unsure(letters):
            faults[index] = faults[index] or why
        return faults

    def twofold(self, held: Sequence[HeldLetter]) -> dict[str, tuple[str, str]]:
        """By place, why a letter is left whose events come back with another letter of the same record.

        A worker that is killed before the log has its decision leaves letters of one kind, and the next one, with
        another definition, may send those of the other: of the whole record, and of its events. The record has them
        all, so it is the one that comes back, unless one of its events has.
        """
        events: dict[tuple[int, int], list[HeldLetter]] = {}
        for each in held:
            if each.letter.position is not None:
                events.setdefault((each.letter.partition, each.letter.offset), []).append(each)
        # One that is cut never comes back, and takes nothing with it.
        whole = [
            each
            for each in held
            if each.letter.position is None
            and not each.letter.is_cut
            and (each.letter.partition, each.letter.offset) in events
        ]
        # Where the log has some of its events, the others are letters for good.
        counted = {index for index, _ in self._unsure([each.letter for each in whole])}
        out = {}
        for index, record in enumerate(whole):
            if index in counted:
                continue
            of_it = events[record.letter.partition, record.letter.offset]
            back = next((each.letter.place for each in of_it if each.replayed is not None), None)
            if back is not None and record.replayed is None:
                out[record.letter.place] = "in_events", f"its event {back} was taken back by itself"
            else:
                why = "in_record", f"it comes back with all of its record, {record.letter.place}"
                out.update(dict.fromkeys([each.letter.place for each in of_it], why))
        return out

    def _faults_of_part(self, letters: Sequence[DeadLetter]) -> list[tuple[str, str] | None]:
        """The same by what the letters themselves say."""
        decoded = self._codec.decode([letter.payload for letter in letters])
        faults: list[tuple[str, str] | None] = [None] * len(letters)
        # Where in its record the event stands that a letter's reason is of.
        at = [PLACES_MAX] * len(letters)
        for bad in decoded.rejected:
            # By place in the record: the first of a letter is its first bad event.
            if faults[bad.index] is None:
                faults[bad.index], at[bad.index] = (bad.reason, bad.detail), bad.position or 0
        now_us, taken = self._clock_us(), set[int]()
        times = decoded.arrays[self._topic.event_time].cast(pa.int64()).to_pylist()
        places = [0] * len(times) if decoded.position is None else decoded.position.tolist()
        for index, place, event_us in zip(decoded.index.tolist(), places, times, strict=True):
            if index in taken:
                continue
            # By what was newest before its record: no event that is too late moves that, so the first one that is not
            # too late for it is not too late behind those before it either.
            why = self._untimely(letters[index], event_us, now_us)
            if why is None:
                taken.add(index)
                faults[index] = None
            elif place < at[index]:
                faults[index], at[index] = why, place
        for index, letter in enumerate(letters):
            if letter.is_cut:
                # Whatever its beginning says.
                faults[index] = "too_large", f"only the beginning of its {letter.whole_bytes:,} bytes is here"
        return faults

    def _unsure(self, letters: Sequence[DeadLetter]) -> Iterator[tuple[int, tuple[str, str]]]:
        """Letters whose events count where they stand, or may yet: a letter is sent before the log has its decision.

        A worker that is killed in between leaves such a letter, and a mended definition takes the event itself.
        """
        if self._log is None:
            return
        self._log.forget()
        by_partition: dict[int, list[int]] = {}
        for index, letter in enumerate(letters):
            by_partition.setdefault(letter.partition, []).append(index)
        for partition, indices in by_partition.items():
            mark = self._log.decided(partition)
            end, first = 0 if mark is None else mark.offset, min(letters[index].offset for index in indices)
            past = decided(self._log, partition, first, end, is_batched=self._topic.is_batched)
            places = np.array([letters[index].offset for index in indices], dtype=np.int64)
            ends = places + 1
            if self._topic.is_batched:
                # Of a letter of a whole record all events count, whichever of them the log has.
                at = [letters[index].position for index in indices]
                begins = np.array([one or 0 for one in at], dtype=np.int64)
                lasts = np.array([PLACES_MAX - 1 if one is None else one for one in at], dtype=np.int64)
                places, ends = in_records(places, begins), in_records(places, lasts) + 1
            for index, is_dead in zip(indices, past.is_dead(places, ends).tolist(), strict=True):
                if letters[index].offset >= end:
                    yield index, ("undecided", "no worker has passed it since; start one and run this again")
                elif not is_dead:
                    yield index, ("applied", "it is in the log: a worker took it after all")

    def _untimely(self, letter: DeadLetter, event_us: int, now_us: int) -> tuple[str, str] | None:
        """Time is judged anew, for an arrival of now: an event cannot come back earlier than it comes back."""
        if letter.reason == "too_late":
            # Its event is in the log, marked with how late it was: a second one would count twice in a patient view.
            return "too_late", "it is in the log; a view with more lateness takes it from there"
        if event_us - now_us > FUTURE_MAX_US:
            return "future", f"still {(event_us - now_us) // SECOND_US} s ahead"
        late_by_us = self._newest_us.get(letter.partition, 0) - min(event_us, now_us)
        if late_by_us > self._lateness_us:
            behind_s, allowed_s = late_by_us // SECOND_US, self._lateness_us // SECOND_US
            return "too_late", f"{behind_s} s behind the newest event of its partition, views allow {allowed_s} s"
        return None


def _batches(letters: Sequence[DeadLetter]) -> list[list[DeadLetter]]:
    out: list[list[DeadLetter]] = []
    size = 0
    for letter in letters:
        size += size_bytes([letter])
        if not out or len(out[-1]) == _BATCH_LETTERS_MAX or size > _BATCH_BYTES_MAX:
            out.append([])
            size = size_bytes([letter])
        out[-1].append(letter)
    return out


def _commit(producer: Producer) -> None:
    for attempt in range(_COMMIT_TRIES_MAX):
        try:
            producer.commit_transaction(_ANSWER_S)
            return
        except KafkaException as error:
            # Asked again, a commit whose answer was lost says that it is done.
            if not error.args[0].retriable() or attempt == _COMMIT_TRIES_MAX - 1:
                raise


def _abort(producer: Producer) -> KafkaException | None:
    """What kept it from being aborted, if anything."""
    # A run that was ended by another one has nothing open any more; else the broker aborts by itself before long.
    try:
        producer.abort_transaction(_ANSWER_S)
    except KafkaException as error:
        return error
    return None


def _is_of(error: BaseException, codes: Sequence[int]) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in codes


def _said(error: KafkaException) -> str:
    said = error.args[0]
    if said.code() in (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED):
        return "another run began meanwhile and goes on in its place"
    return str(said.str())
