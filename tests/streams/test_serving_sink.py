"""What a served view's sink notices of a store that lost something, on a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from featurestore import Entity, FeatureView, Topic, count
from featurestore.errors import LostTailError
from featurestore.event_time import Mark
from featurestore.kernel import Events
from featurestore.kernel.keys import group_keys
from featurestore.offline import EventLog
from featurestore.online import Aliases, OneServer, OnlineStore
from streams.bounds import Bounds
from streams.serving_sink import ServingSink

TOPIC = Topic("paid", schema={"user": str, "at": "timestamp"}, event_time="at", partitions=1)
VIEW = FeatureView("by_user", Entity("user", key="user"), TOPIC, features={"n": count()})


class Restarted(OnlineStore):
    """A store whose server says as often as it is told to that it was started anew."""

    starts = 1

    def incarnation(self) -> str:
        return str(self.starts)


class Flushed(OnlineStore):
    """A store that is flushed right after it has said for the so-manyth time where buckets stand."""

    flushed_at = 0

    def marks(self, view_id: str, topic: str) -> dict[int, list[Mark | None]]:
        stood = super().marks(view_id, topic)
        self.flushed_at -= 1
        if self.flushed_at == 0:
            [client] = self._clients()
            client.flushall()
        return stood


def apply(sink: ServingSink, first: int, end: int) -> None:
    offsets = np.arange(first, end)

    def events(chosen: np.ndarray, row: np.ndarray) -> Events:
        return Events(row, offsets[chosen], np.zeros(len(chosen), dtype=np.int32), offsets[chosen], {})

    grouped = group_keys([pa.array(["u"] * len(offsets))])
    sink.apply(grouped, np.zeros(len(offsets), dtype=np.int32), offsets, {0: Mark(end, end)}, events)


def test_rows_that_the_store_took_and_lost_again_before_that_was_learned_are_missed(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = Restarted(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 10)}, lambda: 1)
    sink.open(0)
    apply(sink, 0, 10)
    sink.heartbeat({0: Mark(10, 10)})
    sink.look()
    saved = {name: redis_client.dump(name) for name in redis_client.scan_iter(f"{store.name('')[:-1].decode()}*")}
    apply(sink, 10, 20)
    work = sink._inner._work
    assert work is not None
    [commit] = work.commits
    # The store has answered, and nobody has looked at the answer.
    commit.result()
    for name, dumped in saved.items():
        redis_client.restore(name, 0, dumped, replace=True)
    store.starts = 2
    with pytest.raises(LostTailError):
        sink.look()
    sink.open(0)
    assert sink.settled(0) == 10


@pytest.mark.parametrize("has_alias", [False, True])
def test_rows_that_were_flushed_right_after_they_were_found_complete_are_not_called_ready(
    has_alias: bool, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = Flushed(OneServer(redis_client), namespace=unique("serving"), buckets=2)
    store.ensure_ready()
    aliases = Aliases(store)
    sink = ServingSink(store, VIEW, EventLog(tmp_path, TOPIC), lambda: {0: Bounds(0, 10)}, lambda: 1)
    sink.open(0)
    apply(sink, 0, 10)
    sink.heartbeat({0: Mark(10, 10)})
    if not has_alias:
        redis_client.hdel(store.name("aliases"), VIEW.id)
    # A look asks twice: for what was lost, and for what is complete.
    store.flushed_at = 2
    sink.look()
    assert store.flushed_at == 0
    assert aliases.get(VIEW.id) is None
    with pytest.raises(LostTailError):
        sink.look()
    alias = aliases.get(VIEW.id)
    assert alias is not None
    assert not alias.is_ready
