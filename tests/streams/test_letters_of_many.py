"""Dead letters of records that hold many events: one that would be taken brings its record back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Topic
from featurestore.event_time import FUTURE_MAX_US, HOUR_US
from featurestore.offline import EventLog
from streams.codecs.arrow import ArrowCodec
from streams.dead_letters import DeadLetterBox, HeldLetter, Replayed, read_letters
from streams.engine import Engine
from streams.ledger import ledgers
from streams.letter_replay import LetterReplay
from streams.letters import DeadLetter
from streams.producer import EventProducer, kafka_producer
from streams.transport import Batch
from tests.parity.test_parity import Letters
from tests.project import Project
from tests.streams.codecs.test_evolution import ipc

Make = Callable[..., Project]
TOPIC = Topic("t", {"user": str, "at": "timestamp", "amount": float}, "at", format="arrow", partitions=2)
LETTERS_OF_BOTH_KINDS = {
    "other": Topic("t", {"user": str, "at": "timestamp", "price": float}, "at", format="arrow", partitions=2),
    "strict": replace(TOPIC, ranges={"amount": (0.0, 1.0)}),
    "mended": TOPIC,
}
NOW_US, LATENESS_US = 1_000 * HOUR_US, HOUR_US
# Event time before now, whether the amount is there; among them the edges of what is late and what is ahead.
ROW = st.tuples(
    st.sampled_from(
        [-FUTURE_MAX_US - 1, -FUTURE_MAX_US, 0, HOUR_US - 1, HOUR_US, HOUR_US + 1, 2 * HOUR_US, 9 * HOUR_US]
    ),
    st.booleans(),
)
RECORDS = st.lists(st.tuples(st.integers(0, 1), st.lists(ROW, max_size=5)), max_size=6)


def record(rows: Sequence[tuple[int, float | None]], user: str = "a") -> bytes:
    """An Arrow record of (event time, amount) rows."""
    times = pa.array([at_us for at_us, _ in rows], pa.timestamp("us", tz="UTC"))
    amounts = pa.array([amount for _, amount in rows], pa.float64())
    return ipc(pa.table({"user": pa.array([user] * len(rows), pa.string()), "at": times, "amount": amounts}))


def plainly(rows: Sequence[tuple[int, bool]], newest_us: int) -> str | None:
    """The reason of a record's first event, None where one is taken as the record comes; event after event."""
    reasons = []
    for before_us, is_there in rows:
        event_us = NOW_US - before_us
        effective_us = min(event_us, NOW_US)
        if not is_there:
            reasons.append("missing_field")
        elif event_us > NOW_US + FUTURE_MAX_US:
            reasons.append("future")
        elif newest_us - effective_us > LATENESS_US:
            reasons.append("too_late")
            newest_us = max(newest_us, effective_us)
        else:
            return None
    return reasons[0] if reasons else "no_events"


@settings(deadline=None)
@given(records=RECORDS, newest=st.lists(st.integers(-HOUR_US, 3 * HOUR_US), min_size=2, max_size=2))
def test_a_record_comes_back_when_one_of_its_events_would_be_taken_as_it_came_for_the_first_time(
    records: list[tuple[int, list[tuple[int, bool]]]], newest: list[int]
) -> None:
    letters, wanted = [], []
    newest_us = {partition: NOW_US - before_us for partition, before_us in enumerate(newest)}
    for offset, (partition, rows) in enumerate(records):
        payload = record([(NOW_US - before_us, 1.0 if is_there else None) for before_us, is_there in rows])
        letters.append(DeadLetter("t", partition, offset, "incompatible_schema", "was", payload))
        wanted.append(plainly(rows, newest_us[partition]))
    replay = LetterReplay("", "p", TOPIC, LATENESS_US, newest_us, lambda: NOW_US, codec=ArrowCodec(TOPIC))
    assert [None if why is None else why[0] for why in replay.faults(letters)] == wanted


@settings(deadline=None, max_examples=30)
@given(records=st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_letter_of_a_record_of_which_any_event_is_in_the_log_is_left(
    records: list[list[bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A worker that was killed before the log had its decision leaves such a letter, where a mended one takes events.
    payloads = [record([(NOW_US, 1.0 if is_there else None) for is_there in each]) for each in records]
    log, count = EventLog(tmp_path_factory.mktemp("log"), TOPIC), len(records)
    engine = Engine(TOPIC, "id", [], LATENESS_US, log, Letters(), lambda: 0)
    engine.open(0)
    engine.apply(Batch("t", 0, 0, count, payloads, np.arange(count), np.full(count, NOW_US)))
    engine.flush()
    good = record([(NOW_US, 1.0)] * 4)
    letters = [DeadLetter("t", 0, offset, "too_many_bad", "was", good) for offset in range(count)]
    replay = LetterReplay("", "p", TOPIC, LATENESS_US, {}, lambda: NOW_US, codec=ArrowCodec(TOPIC), log=log)
    wanted = ["applied" if any(each) else None for each in records]
    assert [None if why is None else why[0] for why in replay.faults(letters)] == wanted
    rows = [DeadLetter("t", 0, n, "", "", good, None, at) for n, each in enumerate(records) for at in range(len(each))]
    there = ["applied" if is_there else None for each in records for is_there in each]
    assert [None if why is None else why[0] for why in replay.faults(rows)] == there


def test_a_record_with_letters_of_both_kinds_comes_back_once(tmp_path: Path) -> None:
    at, sent = LETTERS_OF_BOTH_KINDS, Letters()
    payload, log = record([(NOW_US, 5.0), (NOW_US, 7.0)]), EventLog(tmp_path, at["mended"])
    for which in ("other", "strict"):
        # Killed before the log had its decision; started again with another definition.
        engine = Engine(at[which], "id", [], LATENESS_US, log, sent, lambda: 0)
        assert engine.open(0) == 0
        engine.apply(Batch("t", 0, 0, 1, [payload], np.arange(1), np.full(1, NOW_US)))
    engine.flush()
    whole, *events = sent.held.values()
    assert [(each.position, each.reason) for each in (whole, *events)] == [
        (None, "incompatible_schema"),
        (0, "out_of_range"),
        (1, "out_of_range"),
    ]
    replay = LetterReplay("", "p", at["mended"], LATENESS_US, {}, lambda: NOW_US, codec=ArrowCodec(TOPIC), log=log)
    assert replay.faults([whole, *events]) == [None] * 3

    def left(*letters: DeadLetter, back: DeadLetter | None = None) -> dict[str, str]:
        replayed = {each: Replayed(each.place, 9) if each == back else None for each in letters}
        held = [HeldLetter(each, 0, b"", taken) for each, taken in replayed.items()]
        return {place: reason for place, (reason, _) in replay.twofold(held).items()}

    assert left(whole, *events) == {"t/0/0/0": "in_record", "t/0/0/1": "in_record"}
    assert left(whole, *events, back=whole) == {"t/0/0/0": "in_record", "t/0/0/1": "in_record"}
    assert left(whole, *events, back=events[1]) == {"t/0/0": "in_events"}
    # One alone, and where nothing else of the record will ever come back.
    assert left(whole) == left(*events) == left(msgspec.structs.replace(whole, whole_bytes=9), *events) == {}


def test_of_a_record_that_comes_back_what_is_in_time_counts_and_the_rest_are_letters_of_their_own(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("many")

    def definitions(column: str) -> str:
        return f"""
from featurestore import Entity, FeatureView, Topic, count, sum

paid = Topic({topic!r}, schema={{"user": str, "at": "timestamp", {column!r}: float}},
             event_time="at", key="user", partitions=1, format="arrow")
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness="1m",
                      features={{"n": count(), "paid": sum({column!r})}})
"""

    made = project(definitions("price"))
    worker = made.start_worker()
    moment = time.time_ns() // 1_000
    old = moment - HOUR_US
    records = [
        record([(moment, float(number)) for number in range(9)] + [(old, 100.0)]),
        record([(old, 200.0)] + [(moment, 10.0)] * 2),
        record([(old, 400.0)] * 3),
    ]
    other = pa.table({"user": ["a"], "at": pa.array([moment], pa.timestamp("us", tz="UTC")), "price": [0.5]})
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for each in (*records, ipc(other)):
            producer.send_raw(topic, b"a", each)
    made.drain(worker)
    letters = read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic])
    assert [(one.offset, one.reason) for one in letters] == [(n, "incompatible_schema") for n in range(3)]
    made.define(definitions("price").replace("partitions=1,", 'partitions=1, renamed={"price": "amount"},'))
    worker = made.start_worker()
    made.wait_until_applied(worker)
    # As one leaves it that was killed before the log had its decision.
    box = DeadLetterBox(kafka_producer(made.settings.kafka_bootstrap), made.settings.project)
    box.put([DeadLetter(topic, 0, 0, "out_of_range", "was", record([(moment, 1.0)]), b"a", 1)])
    box.flush()
    done = made.command("dead-letters", "replay", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["topics"][topic]
    assert (said["replayed"], said["left"]) == (2, {"too_late": 1, "in_record": 1})
    made.drain(worker)
    row = made.store.get("by_user", {"user": "a"})
    assert (row["by_user__n"], row["by_user__paid"]) == (1 + 9 + 2, 0.5 + 36 + 20)
    letters = read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic])
    assert [(one.offset, one.position, one.reason) for one in letters[4:]] == [(4, 9, "too_late"), (5, 0, "too_late")]
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced, ledger


def test_the_letters_of_a_record_with_very_many_are_told_while_they_are_sent(tmp_path: Path) -> None:
    seen = []

    class Looked(Letters):
        def put(self, letters: Sequence[DeadLetter]) -> None:
            # Who watches the worker sees that it goes on, long before the record is done.
            seen.append((engine.letters_put, engine.counts.batches))
            super().put(letters)

    letters = Looked()
    engine = Engine(TOPIC, "id", [], LATENESS_US, EventLog(tmp_path, TOPIC), letters, lambda: NOW_US)
    engine.open(0)
    payload = record([(NOW_US + 2 * FUTURE_MAX_US, 1.0)] * 2_500)
    engine.apply(Batch("t", 0, 0, 1, [payload], np.arange(1), np.full(1, NOW_US), keys=[None]))
    assert (len(letters.held), engine.letters_put) == (2_500, 2_500)
    assert sorted(set(seen)) == [(0, 0), (1_000, 0), (2_000, 0)]
