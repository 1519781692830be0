"""One bucket loses its tail while another one refuses: too rare a meeting for histories that are drawn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import LostTailError
from featurestore.event_time import Mark
from featurestore.kernel import Column, Events, roll_up
from featurestore.kernel.keys import bucket_of, encode_keys, group_keys
from featurestore.online import TOKEN_BYTES
from streams.online_sink import OnlineSink
from tests.simulation.world import BUCKETS, TOPIC, VIEWS, Server, SimulatedStore, SteppedThread

VIEW = VIEWS[0]


def key_of(user: str) -> bytes:
    [key] = encode_keys([pa.array([user])])
    return key


def user_in(bucket: int) -> str:
    return next(name for n in itertools.count() if bucket_of(key_of(name := f"u{n}"), BUCKETS) == bucket)


def apply(sink: OnlineSink, partition: int, first: int, users: Sequence[str]) -> None:
    """One event of each user from offset `first` on."""
    offsets = np.arange(first, first + len(users))

    def events(chosen: np.ndarray, row: np.ndarray) -> Events:
        place = np.full(len(chosen), partition, dtype=np.int32)
        return Events(row, offsets[chosen], place, offsets[chosen], {"amount": Column(np.ones(len(chosen)))})

    end = first + len(users)
    place = np.full(len(users), partition, dtype=np.int32)
    sink.apply(group_keys([pa.array(users)]), place, offsets, {partition: Mark(end, end)}, events)


def count_of(store: SimulatedStore, user: str) -> int:
    [row] = store.read(VIEW.id, [key_of(user)]).rows
    [count] = roll_up([None if row is None else row[TOKEN_BYTES:]], 1_000, VIEW.plan)["n"].to_pylist()
    return int(count)


@pytest.mark.parametrize("after", ["a heartbeat", "the next batch"])
def test_nothing_moves_a_bucket_whose_events_went_with_those_of_a_lost_one(after: str) -> None:
    server, tokens = Server(), itertools.count(1)
    store = SimulatedStore(server, lambda: next(tokens).to_bytes(TOKEN_BYTES, "little"), lambda: "", has_all=False)
    sink, other = OnlineSink(store, VIEW, SteppedThread()), OnlineSink(store, VIEW, SteppedThread())
    a, b = user_in(0), user_in(1)
    for each in (sink, other):
        for partition in range(TOPIC.partitions):
            each.open(partition)
    apply(sink, 0, 0, [a, b])
    sink.finish()
    # Read, folded, and on its way, when b's row changes under it and a's node of the cluster loses its tail.
    apply(sink, 0, 2, [a, b])
    apply(other, 1, 0, [b])
    other.finish()
    assert server.lose(1, b"{b0}") == 1
    with pytest.raises(LostTailError):
        sink.finish()
    # Another partition came or went meanwhile, and nobody has read this one again: b must wait for its event, too.
    with pytest.raises(LostTailError):
        sink.heartbeat({0: Mark(4, 4)}) if after == "a heartbeat" else apply(sink, 0, 4, [b])
    start = sink.open(0)
    first = 0 if start is None else start.offset
    apply(sink, 0, first, [a, b, a, b][first:])
    sink.finish()
    assert (count_of(store, a), count_of(store, b)) == (2, 3)
