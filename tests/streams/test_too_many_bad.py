"""A record of many events with more bad ones than anybody reads is one letter, and its good events wait in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore import Topic
from featurestore.event_time import SECOND_US
from featurestore.offline import EventLog
from streams.codecs import codec_of
from streams.codecs.codec import BAD_EVENTS_MAX
from streams.dead_letters import read_letters
from streams.engine import Engine
from streams.ledger import ledgers
from streams.producer import EventProducer
from streams.transport import Batch
from tests.parity.test_parity import Letters
from tests.project import Project
from tests.streams.codecs.conftest import rows
from tests.streams.codecs.test_sizes import ipc

Make = Callable[..., Project]
SCHEMA: dict[str, Any] = {"user": str, "at": "timestamp", "n": int}
TOPIC = Topic("rows", SCHEMA, "at", format="arrow", ranges={"n": (0, None)})
MENDED = Topic("rows", SCHEMA, "at", format="arrow", nullable=("n",))


def record(numbers: Sequence[int | None], at_us: int = SECOND_US, **more: pa.Array) -> bytes:
    """Of a number each; None is missing, a negative one out of range."""
    count = len(numbers)
    at = pa.array([at_us] * count, pa.timestamp("us", tz="UTC"))
    return ipc(pa.table({"user": ["u"] * count, "at": at, "n": pa.array(numbers, pa.int64()), **more}))


@pytest.mark.parametrize(
    ("missing", "outside"),
    [(BAD_EVENTS_MAX, 0), (0, BAD_EVENTS_MAX), (6_000, BAD_EVENTS_MAX - 6_000)],
    ids=["missing", "outside", "both"],
)
def test_one_bad_event_more_than_a_record_may_have_rejects_it_whole(missing: int, outside: int) -> None:
    codec = codec_of(TOPIC)
    numbers: list[int | None] = [7, *[-5] * outside, *[None] * missing, 8]
    bad, good = record(numbers), record([1, 2])
    decoded = codec.decode([good, bad, None, good])
    assert decoded.index.tolist() == [0, 0, 1, 1, 3, 3]
    assert [one.position for one in decoded.rejected] == [*range(1, BAD_EVENTS_MAX + 1), None]
    # Whichever of its columns the last one is bad in, and whatever stands behind the record.
    for last in ([-6], [None]):
        decoded = codec.decode([good, record([*numbers, *last]), None, good, record([-1, 1])])
        assert [(row["n"], place) for row, place in zip(rows(decoded), decoded.index.tolist(), strict=True)] == [
            *((1, 0), (2, 0)),
            *((1, 3), (2, 3)),
            (1, 4),
        ]
        whole, *others = decoded.rejected
        assert [(one.index, one.reason, one.position) for one in others] == [
            (2, "no_value", None),
            (4, "out_of_range", 0),
        ]
        assert (whole.index, whole.reason, whole.position) == (1, "too_many_bad", None)
        assert f"{BAD_EVENTS_MAX + 1} of its {len(numbers) + 1} events are bad" in whole.detail
        first = "out_of_range: `n` is -5, less than 0" if outside else "missing_field: no value - at `$.n`"
        assert f"the one at 1, {first}" in whole.detail


def engine_of(log: EventLog, letters: Letters, topic: Topic = TOPIC) -> Engine:
    return Engine(topic, "id", [], 60 * SECOND_US, log, letters, lambda: 0)


def test_a_letter_of_one_event_holds_the_columns_that_decide_how_it_is_read_and_no_more(tmp_path: Path) -> None:
    topic = Topic("rows", {**SCHEMA, "m": int}, "at", format="arrow", nullable=("m",), renamed={"m": ("old", "older")})
    former = {name: pa.array([number] * 3) for name, number in (("older", 4), ("old", 3), ("other", 5))}
    payload = record([None, 1, None], **former, **{f"more_{number}": pa.nulls(3) for number in range(60)})
    letters = Letters()
    engine = engine_of(EventLog(tmp_path, topic), letters, topic)
    engine.open(0)
    engine.apply(Batch("rows", 0, 0, 1, [payload], np.arange(1), np.full(1, SECOND_US)))
    made = list(letters.held.values())
    assert [(one.position, one.reason) for one in made] == [(0, "missing_field"), (2, "missing_field")]
    held = pa.ipc.open_stream(made[0].payload).read_all()
    assert held.column_names == ["user", "at", "n", "older", "old"]
    mended = Topic("rows", {**SCHEMA, "m": int}, "at", format="arrow", nullable=("m", "n"), renamed=topic.renamed)
    whole, alone = (codec_of(mended).decode(payloads) for payloads in ([payload], [one.payload for one in made]))
    assert rows(alone) == rows(whole)[::2]


def test_it_is_one_letter_at_every_reading_and_stays_one_when_the_definition_is_mended(tmp_path: Path) -> None:
    log = EventLog(tmp_path, TOPIC)
    values = [record([1, 2]), record([3, *[None] * (BAD_EVENTS_MAX + 1), 4]), record([5])]
    batch = Batch("rows", 0, 0, 3, values, np.arange(3), np.full(3, SECOND_US))

    def applied(topic: Topic) -> tuple[Letters, Engine]:
        letters = Letters()
        engine = engine_of(log, letters, topic)
        assert engine.open(0) == 0
        engine.apply(batch)
        return letters, engine

    # The first one is killed before the log has anything.
    for letters, engine in (applied(TOPIC), applied(TOPIC)):
        [letter] = letters.held.values()
        assert (letter.place, letter.reason, letter.payload) == ("rows/0/1", "too_many_bad", values[1])
        assert (engine.counts.applied, engine.counts.dead) == (3, {"too_many_bad": 1})
    engine.flush()
    logged = log.between(0, 0, 9, ["offset", "position", "n"]).to_pylist()
    assert [(one["offset"], one["position"], one["n"]) for one in logged] == [(0, 0, 1), (0, 1, 2), (2, 0, 5)]
    for topic in (TOPIC, MENDED):
        assert engine_of(log, Letters(), topic).open(0) == 3


def test_a_mended_definition_takes_the_whole_record_back_and_the_ledger_balances_before_and_after(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("many_bad")

    def definitions(more: str = "") -> str:
        return f"""
from featurestore import Entity, FeatureView, Topic, count, sum

paid = Topic({topic!r}, schema={{"user": str, "at": "timestamp", "n": int}}, event_time="at", key="user",
             partitions=1, format="arrow"{more})
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness="1h",
                      features={{"times": count(), "total": sum("n")}})
"""

    made = project(definitions())
    now_us = time.time_ns() // 1_000
    bad = record([3, *[None] * (BAD_EVENTS_MAX + 1), 4], now_us)
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for each in (bad, record([10, None], now_us)):
            producer.send_raw(topic, b"u", each)
    worker = made.start_worker()
    made.drain(worker)
    whole, other = read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic])
    assert (whole.place, whole.reason, whole.payload) == (f"{topic}/0/0", "too_many_bad", bad)
    assert (other.place, other.reason) == (f"{topic}/0/1/1", "missing_field")
    [ledger] = ledgers(made.settings, made.repository)
    assert (ledger.balanced, ledger.applied, ledger.dead) == (True, 1, {"too_many_bad": 1}), ledger
    left = made.command("dead-letters", "replay", "--json")
    assert json.loads(left.stdout)["topics"][topic]["left"] == {"too_many_bad": 1, "missing_field": 1}, left.stderr
    made.define(definitions(', nullable=("n",)'))
    worker = made.start_worker()
    made.wait_until_applied(worker)
    back = made.command("dead-letters", "replay", "--json")
    assert json.loads(back.stdout)["topics"][topic]["replayed"] == 2, back.stderr
    made.drain(worker)
    row = made.store.get("by_user", {"user": "u"})
    assert (row["by_user__times"], row["by_user__total"]) == (BAD_EVENTS_MAX + 5, 17)
    [ledger] = ledgers(made.settings, made.repository)
    assert (ledger.balanced, ledger.replayed) == (True, 2), ledger
