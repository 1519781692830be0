"""What an engine counts adds up, and each record is counted once, however often its partition is read again."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import FeatureView, Topic
from featurestore.errors import LostTailError
from featurestore.event_time import FUTURE_MAX_US, SECOND_US, Mark
from featurestore.offline import EventLog
from streams.counts import Counts
from streams.decided import dead_at
from streams.engine import HEARTBEAT_US, Engine
from streams.letters import NO_POSITION
from streams.sink import NoLetters, NoLog
from streams.transport import Batch
from tests.parity.test_parity import Letters
from tests.simulation.world import (
    PARTITIONS,
    START_US,
    TOPIC,
    VIEWS,
    Record,
    SimulatedLetters,
    SimulatedLog,
    Table,
    batch_of,
    records,
)
from tests.streams.codecs.test_evolution import ipc

LATENESS_US = max(view.lateness_us for view in VIEWS)


class Rows:
    """A sink that keeps nothing but where it stands.

    loses  partition -> where it is found to stand at the next commit
    held   partition -> before which its rows are complete, where they are filled from the log; nothing else moves them
    """

    def __init__(self, view: FeatureView) -> None:
        self.view, self.rows_written = view, 0
        self.stands: dict[int, Mark] = {}
        self.loses: dict[int, Mark] = {}
        self.held: dict[int, int] = {}

    def open(self, partition: int, topic_id: str = "") -> Mark | None:
        return self.stands.get(partition)

    def close(self, partition: int) -> None:
        """Stands where it stood."""

    def apply(self, grouped: Any, partition: Any, offsets: Any, new: Mapping[int, Mark], events: Any) -> None:
        if self.loses:
            partition, self.stands[partition] = lost = self.loses.popitem()
            raise LostTailError(self.view.name, TOPIC.name, partition, lost[1].offset)
        self.heartbeat(new)

    def finish(self) -> None:
        """Everything is done at once."""

    def heartbeat(self, new: Mapping[int, Mark]) -> None:
        for partition, mark in new.items():
            if partition not in self.stands or self.stands[partition].offset < mark.offset:
                self.stands[partition] = mark

    def settled(self, partition: int) -> int:
        return self.held.get(partition, self.stands.get(partition, Mark(0, 0)).offset)

    def look(self) -> None:
        """Nothing happens by itself."""


class Alone:
    """An engine with everything that it talks to; its clock stands still unless it is told."""

    def __init__(self, table: Table | None = None) -> None:
        self.sinks, self.now_us = [Rows(view) for view in VIEWS], 0
        log: Any = SimulatedLog(table or Table(), lambda: "")
        letters: Any = SimulatedLetters({})
        self.engine = Engine(TOPIC, "id", self.sinks, LATENESS_US, log, letters, lambda: self.now_us)

    def read(self, held: list[list[Record]], edges: Callable[[int], Iterator[int]] = lambda end: iter([end])) -> None:
        """Each partition from where the engine stands to its end, in batches with such edges."""
        for partition, some in enumerate(held):
            end = some[-1].offset + 1
            for edge in [*edges(end), end]:
                while (first := self.engine.stands(partition)) is not None and first < edge:
                    try:
                        self.engine.apply(batch_of(partition, some, first, edge))
                    except LostTailError as error:
                        self.engine.reopen(error.partition)

    def beat(self) -> None:
        self.now_us += HEARTBEAT_US
        self.engine.tick()


def opened(table: Table | None = None) -> Alone:
    alone = Alone(table)
    for partition in range(PARTITIONS):
        alone.engine.open(partition)
    return alone


def check_balance(counts: Counts) -> None:
    assert counts.records == counts.applied + counts.repeated + counts.dead.total(), counts


@pytest.mark.parametrize("seed", range(20))
def test_records_that_stand_elsewhere_since_their_log_was_lost_count_there(seed: int) -> None:
    draw = random.Random(seed)
    held = records(draw, 40)[0]
    offsets = np.array(sorted(draw.sample([record.offset for record in held], len(held) // 2)), dtype=np.int64)
    behind = dead_at(offsets, np.full(len(offsets), NO_POSITION), is_batched=False)
    log: Any = SimulatedLog(Table(), lambda: "")
    letters: Any = SimulatedLetters({})
    engine = Engine(TOPIC, "id", [], LATENESS_US, log, letters, lambda: 0, taken_back=lambda *_: behind)
    engine.open(0)
    for first, end in itertools.pairwise([0, held[len(held) // 2].offset, held[-1].offset + 1]):
        engine.apply(batch_of(0, held, first, end))
    check_balance(engine.counts)
    good = {record.offset for record in held if record.event is not None}
    assert engine.counts.records == len(held) - len(good & set(offsets.tolist()))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_records_that_are_read_again_count_once(seed: int) -> None:
    draw = random.Random(seed)
    held = records(draw, 40)
    plain = opened()
    plain.read(held)
    alone = opened()
    for _ in range(6):
        partition = draw.randrange(PARTITIONS)
        match draw.choice(["loses", "reopen", "taken over", "read"]):
            case "loses":
                # An older copy of the rows, where the sink has been before.
                stood = [Mark(0, 0), *alone.sinks[0].stands.values()]
                draw.choice(alone.sinks).loses[partition] = min(stood, key=lambda mark: mark.offset)
            case "reopen":
                draw.choice(alone.sinks).stands.pop(partition, None)
                alone.engine.reopen(partition)
            case "taken over":
                alone.engine.close(partition)
                draw.choice(alone.sinks).stands.pop(partition, None)
                alone.engine.open(partition)
            case "read":
                upto = [some[: draw.randint(1, len(some))] for some in held]
                alone.read(upto, lambda end: iter(sorted(draw.sample(range(1, end + 1), min(3, end)))))
        check_balance(alone.engine.counts)
    alone.read(held)
    counts, wanted = alone.engine.counts, plain.engine.counts
    assert counts.records == sum(map(len, held))
    assert (counts.applied, counts.repeated, counts.clamped) == (wanted.applied, wanted.repeated, wanted.clamped)
    assert counts.dead == wanted.dead


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_new_process_counts_what_the_log_has_not_passed_also_where_rows_are_behind_it(seed: int) -> None:
    draw = random.Random(seed)
    held, table = records(draw, 40), Table()
    whole = opened()
    whole.read(held)
    before = opened(table)
    before.read([some[: draw.randint(1, len(some))] for some in held])
    before.engine.flush()
    after = opened(table)
    after.read(held)
    check_balance(after.engine.counts)
    was, now, both = before.engine.counts, after.engine.counts, whole.engine.counts
    assert (was.records + now.records, was.applied + now.applied) == (both.records, both.applied)
    assert was.dead + now.dead == both.dead


def test_a_batch_that_a_sink_refused_is_counted_when_it_is_applied() -> None:
    held = records(random.Random(4), 40)
    alone = opened()
    alone.sinks[1].loses[0] = Mark(0, 0)
    batch = batch_of(0, held[0], 0, held[0][-1].offset + 1)
    with pytest.raises(LostTailError):
        alone.engine.apply(batch)
    assert alone.engine.counts == Counts()
    alone.engine.reopen(0)
    alone.engine.apply(batch)
    assert alone.engine.counts.records == len(held[0])


def test_of_records_that_hold_many_events_each_event_counts_and_a_bad_record_as_one(tmp_path: Path) -> None:
    topic = Topic("rows", {"user": str, "at": "timestamp", "n": int}, "at", format="arrow", ranges={"n": (0, None)})
    log = EventLog(tmp_path, topic)

    def record(*rows: tuple[int, int]) -> bytes:
        times = pa.array([START_US + seconds * SECOND_US for seconds, _ in rows], pa.timestamp("us", tz="UTC"))
        numbers = pa.array([number for _, number in rows], pa.int64())
        return ipc(pa.table({"user": ["u"] * len(rows), "at": times, "n": numbers}))

    ahead_s = FUTURE_MAX_US // SECOND_US + 3
    values = [
        record((0, 1), (1, 2), (-120, 3), (0, -1)),
        b"\x00",
        record(),
        record((ahead_s, 4), (5, 5)),
        record((6, 6)),
    ]
    numbers = np.arange(len(values))
    batch = Batch("rows", 0, 0, len(values), values, numbers, np.full(len(values), START_US + 2 * SECOND_US))

    engine = Engine(topic, "id", [], 60 * SECOND_US, log, Letters(), lambda: 0)
    engine.open(0)
    engine.apply(batch.before(3))
    engine.close(0)
    assert engine.open(0) == 3
    engine.apply(batch)
    counts = engine.counts
    assert counts.records == 5
    # The events of the three good records are seven, and two records are bad as a whole.
    assert counts.applied + counts.repeated + counts.dead.total() == 7 + 2
    assert (counts.applied, counts.clamped) == (4, 2)
    assert counts.dead == {"too_late": 1, "out_of_range": 1, "broken_arrow": 1, "no_events": 1, "future": 1}


def test_what_a_follower_reads_again_ahead_of_the_workers_log_counts_once(tmp_path: Path) -> None:
    rows: Any = Rows(VIEWS[0])
    good = b'{"user": "u", "shop": "s", "at": %d, "amount": 1.0, "id": null}'
    ahead = good % (START_US + 2 * FUTURE_MAX_US)
    values = [good % START_US, b"{", ahead, good % (START_US - LATENESS_US - SECOND_US), b"{"]
    batch = Batch(TOPIC.name, 0, 0, 5, values, np.arange(5), np.full(5, START_US))
    # No worker has decided on any of these.
    log = NoLog(TOPIC, {}, EventLog(tmp_path, TOPIC))
    engine = Engine(TOPIC, "id", [], LATENESS_US, log, NoLetters(), lambda: 0)
    assert engine.open(0) == 0
    engine.apply(batch.before(4))
    engine._sinks = [rows]
    assert engine.open(0) == 0
    engine._sinks = []
    engine.apply(batch)
    assert (engine.counts.records, engine.counts.applied) == (5, 1)
    assert engine.counts.dead == {"broken_json": 2, "future": 1, "too_late": 1}


def test_the_watermark_is_of_the_partition_that_is_furthest_behind_and_of_rows_that_hold_what_was_passed() -> None:
    def held(partition: int, seconds: int) -> list[Record]:
        at_us = START_US + seconds * SECOND_US
        value = b'{"user": "u", "shop": "s", "at": %d, "amount": 1.0, "id": null}' % at_us
        return [Record(offset, value, at_us, None) for offset in range(3)]

    alone = opened()
    assert alone.engine.watermarks() == {}
    user, shop = alone.sinks

    def wanted(sink: Rows, seconds: int) -> int:
        return START_US + seconds * SECOND_US - sink.view.lateness_us

    alone.read([held(0, 100)])
    alone.beat()
    # A partition that never had a record holds nothing back.
    assert alone.engine.watermarks() == {each.view.name: wanted(each, 100) for each in alone.sinks}
    alone.engine.apply(batch_of(1, held(1, 40), 0, 3))
    alone.beat()
    assert alone.engine.watermarks() == {each.view.name: wanted(each, 40) for each in alone.sinks}
    # The rows of one view are lost; those of the other stay what they were.
    del user.stands[1]
    alone.engine.reopen(1)
    assert alone.engine.watermarks() == {shop.view.name: wanted(shop, 40)}
    # They are filled from the log while the topic is read on for the other view.
    user.held[1] = 1
    alone.engine.apply(batch_of(1, held(1, 40), 0, 3))
    alone.beat()
    assert alone.engine.watermarks() == {shop.view.name: wanted(shop, 40)}
    user.held.clear()
    alone.beat()
    assert alone.engine.watermarks() == {each.view.name: wanted(each, 40) for each in alone.sinks}
    # Given up, the other partition is all that this engine speaks of.
    alone.engine.close(1)
    assert alone.engine.watermarks() == {each.view.name: wanted(each, 100) for each in alone.sinks}
