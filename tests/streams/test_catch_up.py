"""Rows that are behind the event log get what they lack from it, whatever Kafka has now and the definition says now."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Topic
from featurestore.event_time import SECOND_US
from streams import catch_up
from streams.engine import Engine
from streams.online_sink import OnlineSink
from streams.transport import Batch
from tests.simulation.history import History
from tests.simulation.world import (
    TOPIC,
    VIEWS,
    Record,
    Server,
    SimulatedLetters,
    SimulatedLog,
    SimulatedStore,
    SteppedThread,
    Table,
    batch_of,
    records,
)

# As if what is good had become bad: no record of before would be taken any more.
TIGHTER = Topic(
    "paid", TOPIC.schema, "at", key="user", partitions=TOPIC.partitions, nullable=("id",), dedupe="id", within="40s",
    ranges={"amount": (-1, -1)},
)  # fmt: skip


class Worker:
    """An engine with both views' rows, and its sinks."""

    def __init__(self, server: Server, table: Table, topic: Topic = TOPIC) -> None:
        store = SimulatedStore(server, lambda: os.urandom(16), lambda: "")
        log: Any = SimulatedLog(table, lambda: "")
        letters: Any = SimulatedLetters({})
        self.sinks = [OnlineSink(store, view, SteppedThread()) for view in VIEWS]
        self.engine = Engine(
            topic, "id", self.sinks, 60 * SECOND_US, log, letters, lambda: 0, SteppedThread()
        )  # fmt: skip

    def apply(self, held: list[Record], end: int) -> int:
        """Partition 0 from where it is told to read; how far that was."""
        first = self.engine.open(0)
        if first < end:
            self.engine.apply(batch_of(0, held, first, end))
        else:
            self.engine.tick()
        self.engine.close(0)
        return first


def rows(server: Server, held: list[Record]) -> dict[tuple[str, str], bytes | None]:
    store = SimulatedStore(server, lambda: os.urandom(16), lambda: "")
    return {
        (view.name, str(record.event[view.entity.keys[0]])): History._stored(
            store, view.id, str(record.event[view.entity.keys[0]])
        )
        for view in VIEWS
        for record in held
        if record.event is not None
    }


@pytest.mark.parametrize("events_max", [1, 3, 200_000])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rows_are_those_of_the_log_though_the_broker_forgot_records_and_the_definition_has_changed(
    events_max: int, seed: int
) -> None:
    draw = random.Random(seed)
    held = records(draw, 40)[0]
    end = held[-1].offset + 1
    before = draw.randint(0, end)
    whole, server, table = Server(), Server(), Table()
    Worker(whole, Table()).apply(held, end)
    if before:
        Worker(server, table).apply(held, before)
    saved = dict(server.data)
    Worker(server, table).apply(held, end)
    # An older copy of the rows is there again, and of the records that the log has nothing.
    server.data = saved
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(catch_up, "_EVENTS_MAX", events_max)
        assert Worker(server, table, draw.choice([TOPIC, TIGHTER])).apply([], end) == end
    assert rows(server, held) == rows(whole, held)


def test_an_epoch_of_rows_that_are_behind_is_not_said_of_where_the_log_ends() -> None:
    held = records(random.Random(5), 40)[0]
    end, middle = held[-1].offset + 1, held[len(held) // 2].offset
    server, table = Server(), Table()
    first = Worker(server, table)
    assert first.engine.open(0) == 0
    first.engine.apply(replace(batch_of(0, held, 0, middle), leader_epoch=5))
    first.engine.close(0)
    saved = dict(server.data)
    second = Worker(server, table)
    second.apply(held, end)
    server.data = saved
    worker = Worker(server, table)
    assert worker.engine.open(0) == end
    assert worker.engine.marks()[0].leader_epoch == 5
    assert worker.engine.read_from(0) == table.marks[0]
    assert table.marks[0].leader_epoch != 5
    steps = worker.engine.steps
    worker.engine.tick()
    assert worker.engine.steps == steps + 1


@pytest.mark.parametrize("comes_again", [True, False])
def test_a_record_is_taken_after_what_the_log_has_before_it(comes_again: bool) -> None:
    held = records(random.Random(5), 40)[0]
    end = held[-1].offset + 1
    server, table = Server(), Table()
    Worker(server, table).apply(held[:-1], held[-1].offset)
    server.lose(1_000)
    worker = Worker(server, table)
    assert worker.engine.open(0) == worker.engine.stands(0) == held[-1].offset
    # Neither what comes again nor what comes next overtakes it.
    if comes_again:
        worker.engine.apply(Batch(TOPIC.name, 0, 0, 1, [], np.empty(0, np.int64), np.empty(0, np.int64), 0))
    worker.engine.apply(batch_of(0, held[-1:], held[-1].offset, end))
    worker.engine.close(0)
    whole = Server()
    Worker(whole, Table()).apply(held, end)
    assert rows(server, held) == rows(whole, held)


def test_a_partition_is_given_up_with_all_buckets_where_the_engine_stood() -> None:
    held = records(random.Random(5), 40)[0]
    server, end = Server(), held[-1].offset + 1
    Worker(server, Table()).apply(held, end)
    store = SimulatedStore(server, lambda: os.urandom(16), lambda: "")
    for view in VIEWS:
        stood = store.marks(view.id, TOPIC.name)[0]
        assert len(stood) > 1
        assert {None if mark is None else mark.offset for mark in stood} == {end}
