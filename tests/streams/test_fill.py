"""Rows from the log are the rows of the stream: for every aggregate, whatever the batches, stopped anywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from featurestore import Entity, FeatureView, Topic, count, last
from featurestore.event_time import DAY_US, HOUR_US, MINUTE_US, Mark
from featurestore.kernel import PLACES_MAX, in_records, roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.monitoring import compare_shadow
from featurestore.monitoring.parity import differences
from featurestore.offline import EventLog, LogSlices, log_schema
from featurestore.online import OneServer, OnlineStore
from streams.decided import decided
from streams.engine import Engine
from streams.fill import LogFill
from streams.online_sink import OnlineSink
from streams.transport import Batch
from tests.offline.test_log_parts import log_of_texts
from tests.parity.test_parity import BASE_US, PATIENT, STRICT, TOPIC, Letters, drawn_events


class StopError(Exception):
    """Where a process would have been killed."""


def apply(engine: Engine, topic: str, partition: int, events: list[tuple[dict, int]], first: int = 0) -> None:
    values: list[bytes | None] = [json.dumps(event).encode() for event, _ in events]
    arrivals = np.array([arrival for _, arrival in events], dtype=np.int64)
    end = first + len(events)
    engine.apply(Batch(topic, partition, first, end, values, np.arange(first, end), arrivals))


@pytest.mark.parametrize("seed", range(6))
def test_rows_filled_from_the_log_equal_those_of_the_stream(
    seed: int, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    draw = random.Random(seed)
    store = OnlineStore(OneServer(redis_client), namespace=unique("fill"), buckets=3)
    store.ensure_ready()
    log, views = EventLog(tmp_path, TOPIC), (PATIENT, STRICT)
    sinks = [OnlineSink(store, view) for view in views]
    engine = Engine(TOPIC, "id", sinks, PATIENT.lateness_us, log, Letters(), lambda: BASE_US)
    events = {partition: drawn_events(draw, draw.randrange(20, 120)) for partition in (0, 1)}
    for partition, each in events.items():
        engine.open(partition)
        for first in range(0, len(each), 17):
            apply(engine, TOPIC.name, partition, each[first : first + 17], first)
            if draw.random() < 0.3:
                engine.flush()
    engine.flush()
    slices = LogSlices.newest(log)
    for view in views:
        shadow = f"{view.id}.g2"
        for partition in events:
            while True:
                stops = draw.randrange(1, 5)

                def moved(offset: int, stops: int = stops, seen: list[int] = []) -> None:  # noqa: B006
                    seen.append(offset)
                    if len(seen) % 5 == stops:
                        raise StopError

                fill = LogFill(slices, view, events_max=draw.randrange(5, 40))
                try:
                    # Each time a process of its own, as far as it can know.
                    end = fill.fill(OnlineSink(store, view, row_id=shadow), partition, "id", moved)
                except StopError:
                    continue
                assert end is not None
                assert (end.offset, end.newest_us) == (
                    slices.marks[partition].offset,
                    slices.marks[partition].newest_us,
                )
                break
        users = ["ann", "bob", "", "\u00e9\U0001f600"]
        keys = [pa.array(users)] if view is PATIENT else [pa.array(users), pa.array([1, -(2**63)] * 2, pa.int64())]
        live, filled = store.payloads([(view.id, encode_keys(keys)), (shadow, encode_keys(keys))])
        newest_us = max(arrival for each in events.values() for _, arrival in each)
        for moment_us in (newest_us, newest_us + MINUTE_US, newest_us + HOUR_US):
            wanted, found = roll_up(live, moment_us, view.plan), roll_up(filled, moment_us, view.plan)
            for name in view.outputs:
                assert differences(found[name], wanted[name]) == [], (view.name, name)
        assert "agree" in compare_shadow(store, view, shadow, log.at(slices.version), 100)


def test_what_no_window_can_reach_is_left_out_and_changes_no_value(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    topic = Topic("seen", schema={"user": str, "at": "timestamp"}, event_time="at", partitions=1)
    view = FeatureView("by_user", Entity("user", key="user"), topic, {"n": count().over("1h", "24h")}, lateness="1h")
    store = OnlineStore(OneServer(redis_client), namespace=unique("reach"), buckets=2)
    store.ensure_ready()
    log, sink = EventLog(tmp_path, topic), OnlineSink(store, view)
    engine = Engine(topic, "id", [sink], view.lateness_us, log, Letters(), lambda: BASE_US)
    engine.open(0)
    moments = [BASE_US + day * DAY_US for day in range(30)]
    events = [({"user": f"u{day}", "at": moment}, moment) for day, moment in enumerate(moments)]
    apply(engine, topic.name, 0, events)
    engine.flush()
    slices = LogSlices.newest(log)
    fresh = OnlineSink(store, view, row_id="shadow")
    end = LogFill(slices, view, events_max=4).fill(fresh, 0, "id")
    assert end is not None
    assert end.offset == 30
    assert store.marks("shadow", "seen")[0] == [end, end]
    names = encode_keys([pa.array([f"u{day}" for day in range(30)])])
    live, filled = store.payloads([(view.id, names), ("shadow", names)])
    assert sum(payload is not None for payload in live) == 30
    assert 1 <= sum(payload is not None for payload in filled) <= 4
    for name in view.outputs:
        for later_us in (0, HOUR_US, DAY_US):
            wanted, found = (roll_up(rows, moments[-1] + later_us, view.plan)[name] for rows in (live, filled))
            assert differences(found, wanted) == []
    assert "agree" in compare_shadow(store, view, "shadow", log, 100)


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_batch_of_a_fill_has_a_bounded_number_of_bytes_whatever_its_texts(
    is_compacted: bool, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    sizes, most = [6] * 900 + [5_000] * 300 + [90_000] + [6] * 50, 60_000
    topic = Topic("notes", schema={"user": str, "at": "timestamp", "note": str}, event_time="at", partitions=1)
    log = log_of_texts(tmp_path, sizes, topic=topic)
    if is_compacted:
        log.compact()
    view = FeatureView("by_user", Entity("user", key="user"), topic, {"n": count(), "note": last("note")})
    store = OnlineStore(OneServer(redis_client), namespace=unique("texts"), buckets=2)
    store.ensure_ready()
    batches: list[list[int]] = []

    class Sink(OnlineSink):
        def apply(self, grouped, partition, offsets, new, events):  # type: ignore[no-untyped-def]
            batches.append(offsets.tolist())
            assert len(offsets) == 1 or sum(sizes[offset] for offset in offsets) <= most
            super().apply(grouped, partition, offsets, new, events)

    end = LogFill(LogSlices.newest(log), view, bytes_max=most).fill(Sink(store, view), 0, "id")
    assert end == replace(LogSlices.newest(log).marks[0], topic_id="id")
    assert sorted(offset for batch in batches for offset in batch) == list(range(len(sizes)))
    assert len(batches) < 80
    [payloads] = store.payloads([(view.id, encode_keys([pa.array(["u0", "u1", "u2"])]))])
    values = roll_up(payloads, end.newest_us, view.plan)
    assert values["n"].to_pylist() == [len(range(user, len(sizes), 3)) for user in range(3)]
    newest = [max(range(user, len(sizes), 3)) for user in range(3)]
    assert values["note"].to_pylist() == [f"{place:06d}" for place in newest]


MANY = Topic("many", schema={"user": str, "at": "timestamp"}, event_time="at", format="arrow", partitions=1)


def of_many(folder: Path, sizes: list[int]) -> EventLog:
    """A log of records that hold so many events each, in several commits."""
    log = EventLog(folder, MANY)
    for first in range(0, len(sizes), 7):
        some = sizes[first : first + 7]
        offset = np.repeat(np.arange(first, first + len(some)), some)
        position = np.concatenate([np.arange(size) for size in some])
        moments = dict.fromkeys(("event_us", "effective_us", "arrival_us"), np.full(len(offset), BASE_US))
        columns = {
            **moments,
            "partition": np.zeros(len(offset), dtype=np.int32),
            "offset": offset,
            "position": position,
            "late_by_us": np.zeros(len(offset), dtype=np.int64),
            "date": ["2026-01-01"] * len(offset),
            "user": [f"u{place % 3}" for place in position],
            "at": pa.array(moments["event_us"], pa.timestamp("us", tz="UTC")),
        }
        schema = log_schema(MANY)
        rows = pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)
        # In no order: what reads a log may not rely on any.
        rows = rows.take(np.random.default_rng(first).permutation(len(rows)))
        log.append(rows, {0: Mark(first + len(some), BASE_US)})
    return log


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_of_a_fill_has_a_bounded_number_of_events_whatever_their_records_hold(
    seed: int, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    draw = random.Random(seed)
    # Small records, then large ones: what the first promise is not what comes.
    sizes = [*draw.choices([0, 1, 2], k=20), *draw.choices([0, 1, 90, 400, 1_000], k=40)]
    log, most = of_many(tmp_path, sizes), 500
    view = FeatureView("by_user", Entity("user", key="user"), MANY, features={"n": count()})
    store = OnlineStore(OneServer(redis_client), namespace=unique("bounded"), buckets=2)
    store.ensure_ready()
    batches: list[set[int]] = []

    class Sink(OnlineSink):
        def apply(self, grouped, partition, offsets, new, events):  # type: ignore[no-untyped-def]
            batches.append(set(offsets.tolist()))
            assert len(offsets) <= most or len(batches[-1]) == 1, (len(offsets), batches[-1])
            super().apply(grouped, partition, offsets, new, events)

    end = LogFill(LogSlices.newest(log), view, events_max=most).fill(Sink(store, view), 0, "id")
    assert end is not None
    assert end.offset == len(sizes)
    assert sum(map(len, batches)) == sum(size > 0 for size in sizes), "each record is folded once, and whole"
    [payloads] = store.payloads([(view.id, encode_keys([pa.array(["u0", "u1", "u2"])]))])
    wanted = [sum(len(range(user, size, 3)) for size in sizes) for user in range(3)]
    assert roll_up(payloads, BASE_US, view.plan)["n"].to_pylist() == wanted


@pytest.mark.parametrize("seed", range(4))
def test_what_the_log_decided_is_read_in_bounded_parts_whatever_records_hold(
    seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw, most = random.Random(seed), 100
    monkeypatch.setattr("streams.decided._EVENTS_MAX", most)
    sizes = draw.choices([0, 1, 3, 40, 300], k=60)
    places = [(offset, position) for offset, size in enumerate(sizes) for position in range(size)]
    log, read = of_many(tmp_path, sizes), []
    whole = EventLog.between

    def between(self: EventLog, partition: int, first: int, end: int, columns: list[str]) -> pa.Table:
        table = whole(self, partition, first, end, columns)
        read.append((first, end))
        assert len(table) <= most or end == first + 1
        return table

    monkeypatch.setattr(EventLog, "between", between)
    first = draw.randrange(10)
    found = decided(log, 0, first, len(sizes), is_batched=True)
    assert [start for start, _ in read] == [first, *(end for _, end in read[:-1])]
    asked = np.array([in_records(np.int64(o), np.int64(p)) for o in range(first, len(sizes)) for p in range(302)])
    held = {offset * PLACES_MAX + position for offset, position in places}
    assert found.is_dead(asked).tolist() == [place not in held for place in asked.tolist()]
