"""Rows from the log are the rows of the stream: for every aggregate, whatever the batches, stopped anywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from featurestore import Entity, FeatureView, Topic, count
from featurestore.event_time import DAY_US, HOUR_US, MINUTE_US
from featurestore.kernel import roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.monitoring import compare_shadow
from featurestore.monitoring.parity import differences
from featurestore.offline import EventLog, LogSlices
from featurestore.online import OneServer, OnlineStore
from streams.engine import Engine
from streams.fill import LogFill
from streams.online_sink import OnlineSink
from streams.transport import Batch
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
