"""Workers of one project that live have one online store; one store may take the place of another."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer

from featurestore.errors import OtherStoreError
from featurestore.local import LocalStack
from featurestore.online import OneServer, OnlineStore
from featurestore.settings import Settings
from streams.broker import admin_client
from streams.group import OneStore, is_read, members, worker_group
from streams.transport import ReaderOptions
from streams.worker import EnginePort
from tests.streams.transport.harness import make_topic


def test_a_store_is_refused_while_workers_of_another_live_and_not_once_they_have_gone(
    stack: LocalStack, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    settings = Settings(project=unique("stores"), kafka_bootstrap=stack.kafka_bootstrap)
    admin, topic = admin_client(stack.kafka_bootstrap), unique("shared")
    make_topic(stack.kafka_bootstrap, topic)

    def store_of(name: str) -> OnlineStore:
        return OnlineStore(OneServer(redis_client), namespace=f"{settings.project}:{name}")

    def begun(store: OnlineStore) -> OneStore:
        return OneStore(admin, settings, store, wait_s=0.0)

    first, other = store_of("first"), store_of("other")
    client_id = begun(first).join()
    # Two that begin at once: the second one finds the first when it takes partitions over.
    early = begun(other)
    early.join()
    worker = Consumer(
        {
            "bootstrap.servers": stack.kafka_bootstrap,
            "group.id": worker_group(settings),
            "client.id": client_id,
            "session.timeout.ms": 6_000,
        }
    )
    worker.subscribe([topic])
    while not worker.assignment():
        worker.poll(0.1)
    assert is_read(admin, settings, topic, 10.0)
    assert not is_read(admin, settings, f"{topic}.other", 10.0), "they have all that they read"
    said = re.escape(f"'{worker_group(settings)}') write into another online store") + ".*share one redis_url"
    with pytest.raises(OtherStoreError, match=said):
        begun(other).join()
    with pytest.raises(OtherStoreError):
        EnginePort({}, ReaderOptions(), allowed=early.check).open([(topic, 0)])
    assert begun(store_of("first")).join() == client_id
    # Emptied: whose store it was is not known until those who live have said it again.
    redis_client.delete(first.name("aliases"))
    with pytest.raises(OtherStoreError):
        begun(store_of("first")).join()
    first.claim()
    again = begun(store_of("first"))
    assert again.join() == client_id
    # It came back as it was before: that it is called otherwise since then is what those say who live.
    redis_client.hset(first.name("aliases"), "store", "older")
    again.check()
    first.claim()
    assert begun(store_of("first")).join() == client_id
    worker.close()
    assert members(admin, settings, 10.0) == []
    assert not is_read(admin, settings, topic, 10.0)
    assert begun(other).join() != client_id
