"""Events that share an offset: what decides ties is their place in the record, in rows and in the join alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Entity, FeatureView, Topic, first, first_n, last, last_n, newest
from featurestore import sum as total
from featurestore.kernel import PLACES_MAX, Column, Events, fold, in_records, roll_up, values_at

TOPIC = Topic("t", {"who": str, "at": "timestamp", "n": int}, "at", format="arrow")
PLAN = FeatureView(
    "v",
    Entity("who", key="who"),
    TOPIC,
    {
        "oldest": first("n"),
        "newest": last("n"),
        "three": last_n("n", 3),
        "one": first_n("n", 1),
        "of_two": total("n").over(newest(2)),
    },
).plan
# Records of one partition, each a list of event times; few different ones, so that most events tie.
RECORDS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=6)


def events_of(records: list[list[int]], first_offset: int) -> Events:
    offset = np.repeat(np.arange(len(records), dtype=np.int64) + first_offset, [len(one) for one in records])
    position = np.concatenate([np.arange(len(one), dtype=np.int64) for one in records])
    times = np.array([at for one in records for at in one], dtype=np.int64)
    count = len(times)
    columns = {"n": Column(offset * 100 + position)}
    return Events(np.zeros(count, np.int64), times, np.zeros(count, np.int32), in_records(offset, position), columns)


@settings(deadline=None)
@given(records=RECORDS, cut=st.integers(0, 6), shuffle=st.randoms(use_true_random=False))
def test_ties_go_to_the_place_in_the_record_in_any_batches_and_any_order(
    records: list[list[int]], cut: int, shuffle: Any
) -> None:
    plain = sorted(
        (at, offset * 100 + position) for offset, record in enumerate(records) for position, at in enumerate(record)
    )
    order = [number for _, number in plain]
    wanted = {
        "oldest": order[0],
        "newest": order[-1],
        "three": order[-3:][::-1],
        "one": order[:1],
        "of_two_last_2_events": sum(order[-2:]),
    }
    row: list[bytes | None] = [None]
    parts = [(records[:cut], 0), (records[cut:], cut)]
    for some, offset in parts:
        if some:
            events = events_of(some, offset)
            mixed = list(range(len(events)))
            shuffle.shuffle(mixed)
            row = list(fold(row, events.take(np.array(mixed, dtype=np.int64)), PLAN))
    whole = events_of(records, 0)
    mixed = list(range(len(whole)))
    shuffle.shuffle(mixed)
    zero, moment = np.zeros(1, np.int64), np.full(1, 10, np.int64)
    for found in (roll_up(row, 10, PLAN), values_at(whole.take(np.array(mixed, dtype=np.int64)), zero, moment, PLAN)):
        values = [array[0].as_py() for array in found.values()]
        assert values == list(wanted.values()), list(found)


def test_the_last_place_of_a_record_comes_before_the_next_record() -> None:
    places = in_records(np.array([6, 6, 7], np.int64), np.array([0, PLACES_MAX - 1, 0], np.int64))
    assert np.all(np.diff(places) > 0)
