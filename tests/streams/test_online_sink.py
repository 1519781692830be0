"""What the engine's sink makes of each answer, on a real server: the sums come out right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from featurestore import Entity, FeatureView, Topic, count
from featurestore import sum as total
from featurestore.errors import LostTailError, OnlineStoreError
from featurestore.event_time import Mark
from featurestore.kernel import Column, Events, roll_up
from featurestore.kernel.keys import encode_keys, group_keys
from featurestore.online import OneServer, OnlineStore, StoredRows
from streams.online_sink import OnlineSink

TOPIC = Topic("paid", schema={"user": str, "at": "timestamp", "amount": float}, event_time="at", partitions=2)
VIEW = FeatureView("by_user", Entity("user", key="user"), TOPIC, features={"n": count(), "paid": total("amount")})


@pytest.fixture
def store(redis_client: redis.Redis, unique: Callable[[str], str]) -> OnlineStore:
    made = OnlineStore(OneServer(redis_client), namespace=unique("sink"), buckets=2)
    made.ensure_ready()
    return made


def apply(sink: OnlineSink, first: int, end: int, partition: int = 0, user: str = "u") -> None:
    """Events `first` to `end` of a partition, each worth its own offset."""
    offsets = np.arange(first, end)

    def events(chosen: np.ndarray, row: np.ndarray) -> Events:
        worth = Column(offsets[chosen].astype(np.float64), None)
        place = np.full(len(chosen), partition, dtype=np.int32)
        return Events(row, offsets[chosen], place, offsets[chosen], {"amount": worth})

    grouped = group_keys([pa.array([user] * len(offsets))])
    sink.apply(grouped, np.full(len(offsets), partition), offsets, {partition: Mark(end, end)}, events)
    sink.finish()


def value(store: OnlineStore, user: str = "u") -> tuple[int, float]:
    [payloads] = store.payloads([(VIEW.id, encode_keys([pa.array([user])]))])
    values = roll_up(payloads, 10**9, VIEW.plan)
    return values["n"][0].as_py(), values["paid"][0].as_py()


def expected(*spans: tuple[int, int]) -> tuple[int, float]:
    offsets = [offset for first, end in spans for offset in range(first, end)]
    return len(offsets), float(sum(offsets))


def test_a_replay_with_other_batch_edges_counts_nothing_twice(store: OnlineStore) -> None:
    first = OnlineSink(store, VIEW)
    first.open(0)
    apply(first, 0, 10)
    apply(first, 10, 25)
    again = OnlineSink(store, VIEW)
    again.open(0)
    for edges in ((0, 3), (3, 18), (18, 40)):
        apply(again, *edges)
    assert value(store) == expected((0, 40))


def test_a_hot_key_costs_one_row_write_a_batch(store: OnlineStore, redis_client: redis.Redis) -> None:
    # A batch large enough for slices: all events of a key are in one of them.
    sink = OnlineSink(store, VIEW, slice_events=100)
    sink.open(0)
    redis_client.config_resetstat()
    apply(sink, 0, 1_000)
    assert sink.rows_written == 1
    apply(sink, 1_000, 2_000)
    assert sink.rows_written == 2
    # As the server counts: one commit a batch.
    assert redis_client.info("commandstats")["cmdstat_fcall"]["calls"] == 2
    assert value(store) == expected((0, 2_000))


def test_a_zombie_is_harmless(store: OnlineStore) -> None:
    zombie, owner = OnlineSink(store, VIEW), OnlineSink(store, VIEW)
    zombie.open(0)
    apply(zombie, 0, 10)
    owner.open(0)
    apply(owner, 10, 30)
    # Its own idea of where the bucket stands is old: all of it, then part of it, is there already.
    apply(zombie, 10, 20)
    apply(zombie, 20, 35)
    assert value(store) == expected((0, 35))


def test_two_partitions_share_a_row(store: OnlineStore) -> None:
    left, right = OnlineSink(store, VIEW), OnlineSink(store, VIEW)
    left.open(0)
    right.open(1)
    for first in range(0, 40, 10):
        apply(left, first, first + 10, partition=0)
        apply(right, first, first + 10, partition=1)
    assert value(store) == expected((0, 40), (0, 40))


def test_a_lost_tail_is_raised_and_reading_again_from_there_repairs_it(
    store: OnlineStore, redis_client: redis.Redis
) -> None:
    sink = OnlineSink(store, VIEW)
    sink.open(0)
    apply(sink, 0, 10)
    saved = {name: redis_client.dump(name) for name in redis_client.scan_iter()}
    apply(sink, 10, 20)
    for name, dumped in saved.items():
        redis_client.restore(name, 0, dumped, replace=True)
    with pytest.raises(LostTailError) as raised:
        apply(sink, 20, 30)
    assert raised.value.offset == 10
    sink.open(0)
    apply(sink, 10, 30)
    assert value(store) == expected((0, 30))


def test_a_heartbeat_moves_the_buckets_that_no_event_touched(store: OnlineStore) -> None:
    sink = OnlineSink(store, VIEW)
    assert sink.open(0) is None
    apply(sink, 0, 10)
    assert sink.settled(0) == 0
    sink.heartbeat({0: Mark(10, 10)})
    assert sink.settled(0) == 10
    assert OnlineSink(store, VIEW).open(0) == Mark(10, 10)


def test_after_a_loss_no_heartbeat_moves_a_bucket_whose_events_waited_for_another_try(
    store: OnlineStore, redis_client: redis.Redis
) -> None:
    def both(sink: OnlineSink, first: int, end: int) -> None:
        offsets = np.arange(first, end)

        def events(chosen: np.ndarray, row: np.ndarray) -> Events:
            place = np.zeros(len(chosen), dtype=np.int32)
            return Events(
                row,
                offsets[chosen],
                place,
                offsets[chosen],
                {"amount": Column(offsets[chosen].astype(np.float64), None)},
            )

        # Users of two buckets, in turn.
        grouped = group_keys([pa.array(["a" if offset % 2 else "u" for offset in offsets])])
        sink.apply(grouped, np.zeros(len(offsets), dtype=np.int64), offsets, {0: Mark(end, end)}, events)

    sink, neighbour = OnlineSink(store, VIEW), OnlineSink(store, VIEW)
    sink.open(0)
    neighbour.open(1)
    both(sink, 0, 10)
    sink.finish()
    [name] = redis_client.scan_iter("*{b0}*:state")
    saved = redis_client.dump(name)
    both(sink, 10, 20)
    sink.finish()
    # Bucket 0 loses its last commit; in bucket 1 another partition's worker comes in between, so this try is refused.
    redis_client.restore(name, 0, saved, replace=True)
    read = store.read

    def meanwhile(*asked: Any) -> Any:
        found = read(*asked)
        store.read = read  # type: ignore[method-assign]
        apply(neighbour, 0, 10, partition=1)
        return found

    store.read = meanwhile  # type: ignore[method-assign]
    both(sink, 20, 30)
    with pytest.raises(LostTailError):
        sink.finish()
    # The partition is given to nobody yet, and time goes on; only opening it again makes it known where it stands.
    with pytest.raises(LostTailError):
        sink.heartbeat({0: Mark(30, 30)})
    with pytest.raises(LostTailError):
        both(sink, 30, 40)
    opened = sink.open(0)
    assert opened is not None
    assert opened.offset == 10
    both(sink, 10, 40)
    sink.finish()
    evens = [float(offset) for offset in range(0, 40, 2)]
    assert value(store) == (len(evens) + 10, sum(evens) + sum(range(10)))


def test_a_group_of_more_partitions_than_tries_may_be_found_applied_already(store: OnlineStore) -> None:
    # Of a second sending after a lost connection, or of a zombie, the store says one partition at a time.
    partitions = range(30)

    def group(sink: OnlineSink, first: int, end: int) -> None:
        offsets = np.tile(np.arange(first, end), len(partitions))
        partition = np.repeat(np.array(partitions, dtype=np.int32), end - first)

        def events(chosen: np.ndarray, row: np.ndarray) -> Events:
            worth = Column(offsets[chosen].astype(np.float64), None)
            return Events(row, offsets[chosen], partition[chosen], offsets[chosen], {"amount": worth})

        grouped = group_keys([pa.array(["u"] * len(offsets))])
        sink.apply(grouped, partition, offsets, {each: Mark(end, end) for each in partitions}, events)
        sink.finish()

    zombie, owner = OnlineSink(store, VIEW), OnlineSink(store, VIEW)
    for sink in (zombie, owner):
        for each in partitions:
            sink.open(each)
    group(owner, 0, 3)
    group(zombie, 0, 3)
    group(zombie, 3, 5)
    # All straddle.
    group(owner, 2, 7)
    assert value(store) == expected(*[(0, 7)] * len(partitions))


def apply_many(sink: OnlineSink, first: int, end: int, partition: int = 0) -> None:
    """Events `first` to `end` of a partition, in turn of forty users."""
    offsets = np.arange(first, end)

    def events(chosen: np.ndarray, row: np.ndarray) -> Events:
        worth = Column(offsets[chosen].astype(np.float64), None)
        place = np.full(len(chosen), partition, dtype=np.int32)
        return Events(row, offsets[chosen], place, offsets[chosen], {"amount": worth})

    grouped = group_keys([pa.array([f"u{offset % 40}" for offset in offsets])])
    sink.apply(grouped, np.full(len(offsets), partition), offsets, {partition: Mark(end, end)}, events)


def test_slices_of_a_batch_meet_what_others_did_to_their_buckets(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("sliced"), buckets=8)
    store.ensure_ready()
    zombie, owner = OnlineSink(store, VIEW, slice_events=30), OnlineSink(store, VIEW)
    for sink in (zombie, owner):
        sink.open(0)
    apply_many(zombie, 0, 200)
    zombie.finish()
    owner.open(0)
    apply_many(owner, 200, 320)
    owner.finish()
    # All of it is there already, then part of it, then nothing; the owner's last batch is cut in its turn.
    for edges in ((200, 320), (320, 520)):
        apply_many(zombie, *edges)
    zombie.finish()
    apply_many(owner, 320, 600)
    owner.finish()
    for user in range(40):
        offsets = range(user, 600, 40)
        assert value(store, f"u{user}") == (len(offsets), float(sum(offsets)))


class Forgetful(OnlineStore):
    """A store whose reads fail once a few were answered."""

    reads_left = 1_000

    def read(self, *arguments: Any, **named: Any) -> list[Any]:
        if not self.reads_left:
            raise OnlineStoreError("the store is away")
        self.reads_left -= 1
        return super().read(*arguments, **named)


def test_a_slice_that_cannot_be_read_ends_the_sink_and_its_batch_is_read_again(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    store = Forgetful(OneServer(redis_client), namespace=unique("half"), buckets=8)
    store.ensure_ready()
    sink = OnlineSink(store, VIEW, slice_events=30)
    sink.open(0)
    store.reads_left = 2
    with pytest.raises(OnlineStoreError):
        apply_many(sink, 0, 200)
    # Two slices are on their way, so nothing may move the buckets of the others.
    with pytest.raises(OnlineStoreError):
        sink.heartbeat({0: Mark(200, 200)})
    store.reads_left = 1_000
    again = OnlineSink(store, VIEW, slice_events=30)
    assert again.open(0) is None
    apply_many(again, 0, 300)
    again.finish()
    for user in range(40):
        offsets = range(user, 300, 40)
        assert value(store, f"u{user}") == (len(offsets), float(sum(offsets)))


class Crowded(OnlineStore):
    """A store in which somebody else changes all rows after each read of more than one bucket."""

    meddler: OnlineSink
    seen = 0

    def read(self, view_id: str, keys: Any, bucket: Any = None) -> StoredRows:
        found = super().read(view_id, keys, bucket)
        if len(found.buckets) > 1:
            apply_many(self.meddler, self.seen, self.seen + 40, partition=1)
            self.meddler.finish()
            self.seen += 40
        return found


def test_a_large_batch_comes_through_among_others_that_change_the_same_rows_all_the_time(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    name = unique("crowded")
    store, plain = (each(OneServer(redis_client), namespace=name, buckets=8) for each in (Crowded, OnlineStore))
    store.ensure_ready()
    store.meddler = OnlineSink(plain, VIEW)
    sink = OnlineSink(store, VIEW, slice_events=30)
    sink.open(0)
    store.meddler.open(1)
    apply_many(sink, 0, 400)
    sink.finish()
    assert store.seen
    for user in range(40):
        mine, others = range(user, 400, 40), range(user, store.seen, 40)
        assert value(plain, f"u{user}") == (len(mine) + len(others), float(sum(mine) + sum(others)))
