"""A commit that failed is not forgotten: nothing after it moves a bucket past events that it does not hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from featurestore.errors import OnlineStoreError
from featurestore.event_time import Mark
from featurestore.online import OnlineStore
from streams.online_sink import OnlineSink
from tests.streams.test_online_sink import VIEW, apply, expected, value


def test_after_a_commit_that_failed_no_heartbeat_moves_a_bucket_past_its_events(
    redis_client: redis.Redis, unique: Callable[[str], str]
) -> None:
    store = OnlineStore(redis_client, namespace=unique("failed"), buckets=2)
    store.ensure_ready()
    sink = OnlineSink(store, VIEW)
    sink.open(0)
    apply(sink, 0, 10)
    # The store answers reads and refuses writes.
    redis_client.config_set("maxmemory", 1)
    try:
        with pytest.raises(OnlineStoreError):
            apply(sink, 10, 20)
    finally:
        redis_client.config_set("maxmemory", 0)
    # The worker is on its way to its end, and its clock ticks on.
    for _ in range(2):
        with pytest.raises(OnlineStoreError):
            sink.heartbeat(0, Mark(20, 20))
    with pytest.raises(OnlineStoreError):
        apply(sink, 20, 30)
    again = OnlineSink(store, VIEW)
    again.open(0)
    apply(again, 10, 30)
    assert value(store) == expected((0, 30))
