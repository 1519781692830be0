"""A topic that was made again is seen where its event log is all that knows of the one before."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import redis
from confluent_kafka.admin import AdminClient

from featurestore import Entity, FeatureView, Topic, count
from featurestore.errors import OtherLogError, OtherProjectError, TopicError, WorkersRunningError
from featurestore.event_time import SECOND_US, Mark
from featurestore.offline import EventLog, LogSlices, log_schema
from featurestore.online import OneServer, OnlineStore
from streams.build import build_worker
from streams.engine import Engine
from streams.fill import LogFill
from streams.group import refuse_workers
from streams.online_sink import OnlineSink
from streams.producer import EventProducer
from streams.topics import Topics
from streams.transport import Batch
from tests.parity.test_parity import Letters
from tests.project import Project

TOPIC = Topic("paid", schema={"user": str, "at": "timestamp"}, event_time="at", partitions=2)
VIEW = FeatureView("by_user", Entity("user", key="user"), TOPIC, features={"n": count()})
VALUE = b'{"user": "u", "at": 1}'
DEFINITIONS = """
from featurestore import Entity, FeatureView, Topic, count

paid = Topic("TOPIC", schema={"user": str, "at": "timestamp", "amount": float}, event_time="at", partitions=1)
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness="1h", online=False,
                      features={"n": count()})
"""


def engine_of(folder: Path, topic_id: str) -> Engine:
    return Engine(TOPIC, topic_id, [], 60 * SECOND_US, EventLog(folder, TOPIC), Letters(), lambda: 0)


def apply(engine: Engine, first: int, end: int) -> None:
    assert engine.open(0) == first
    offsets = np.arange(first, end)
    engine.apply(Batch("paid", 0, first, end, [VALUE] * len(offsets), offsets, np.full(len(offsets), SECOND_US)))
    engine.flush()


@pytest.mark.parametrize("partition", [0, 1])
def test_whatever_partition_is_opened_first_the_topic_that_was_made_again_is_seen(
    partition: int, tmp_path: Path
) -> None:
    apply(engine_of(tmp_path, "old"), 0, 3)
    with pytest.raises(TopicError, match=r"made again after offset 3 of partition 0 was applied.*another name"):
        engine_of(tmp_path, "new").open(partition)
    assert EventLog(tmp_path, TOPIC).marks() == {0: Mark(3, 1, "old")}
    apply(engine_of(tmp_path, "old"), 3, 4)


def test_a_log_of_before_that_says_no_topic_is_taken_and_says_it_with_its_next_commit(tmp_path: Path) -> None:
    EventLog(tmp_path, TOPIC).append(log_schema(TOPIC).empty_table(), {0: Mark(3, 1), 1: Mark(1, 1)})
    apply(engine_of(tmp_path, "new"), 3, 5)
    assert EventLog(tmp_path, TOPIC).marks() == {0: Mark(5, 1, "new"), 1: Mark(1, 1)}
    with pytest.raises(TopicError, match="made again"):
        engine_of(tmp_path, "newer").open(1)


def test_rows_of_a_lost_store_are_not_filled_with_events_of_another_topic(
    redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("lost"), buckets=2)
    store.ensure_ready()
    apply(engine_of(tmp_path, "old"), 0, 3)
    fill = LogFill(LogSlices.newest(EventLog(tmp_path, TOPIC)), VIEW)
    with pytest.raises(TopicError, match="made again"):
        fill.fill(OnlineSink(store, VIEW), 0, "new")
    assert store.marks(VIEW.id, TOPIC.name) == {}
    fill.fill(OnlineSink(store, VIEW), 0, "old")
    assert store.marks(VIEW.id, TOPIC.name) == {0: [Mark(3, 1, "old")] * 2}


def send(made: Project, topic: str, amounts: range) -> None:
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for amount in amounts:
            event = {"user": "u", "at": time.time_ns() // 1_000, "amount": float(amount)}
            producer.send(made.repository.topic(topic), event)


def logged(made: Project, topic: str) -> list[float]:
    amounts: list[float] = made.store.event_log(made.repository.topic(topic)).read(["amount"])["amount"].to_pylist()
    return sorted(amounts)


def test_a_worker_without_online_views_ends_and_goes_on_where_it_is_told_to(
    project: Callable[..., Project], unique: Callable[[str], str]
) -> None:
    topic = unique("remade-offline")
    made = project(DEFINITIONS.replace("TOPIC", topic))
    worker = made.start_worker()
    send(made, topic, range(30))
    made.drain(worker)
    admin, topics = (
        AdminClient({"bootstrap.servers": made.settings.kafka_bootstrap}),
        Topics(made.settings.kafka_bootstrap),
    )
    for done in admin.delete_topics([topic], operation_timeout=30).values():
        done.result()
    deadline = time.monotonic() + 30
    while topic not in topics.create(made.repository.topics.values(), made.settings.project):
        assert time.monotonic() < deadline, "the broker is slow to delete"
        time.sleep(0.2)
    # More than before: nothing but the topic's identity tells.
    send(made, topic, range(100, 140))
    worker = made.start_worker()
    assert worker.wait(60) == 1
    assert "deleted and made again" in made.said()
    assert "use another project, with an offline_path of its own" in made.said()
    assert logged(made, topic) == [float(amount) for amount in range(30)]
    made.settings = made.settings.model_copy(update={"project": unique("another")})
    made.define(DEFINITIONS.replace("TOPIC", topic))
    with pytest.raises(OtherProjectError, match="an offline_path of its own"):
        build_worker(made.settings, made.repository)
    made.settings = made.settings.model_copy(update={"offline_path": made.folder / "another" / "offline"})
    made.define(DEFINITIONS.replace("TOPIC", topic))
    topics.create(made.repository.topics.values(), made.settings.project)
    worker = made.start_worker()
    made.wait_until_applied(worker)
    assert logged(made, topic) == [float(amount) for amount in range(100, 140)]
    # A worker of the same project on another machine, whose path names another disk.
    made.settings = made.settings.model_copy(update={"offline_path": made.folder / "lost" / "offline"})
    made.define(DEFINITIONS.replace("TOPIC", topic))
    with pytest.raises(OtherLogError, match="share one offline_path"):
        build_worker(made.settings, made.repository)
    with pytest.raises(WorkersRunningError):
        refuse_workers(made.settings)
    worker.terminate()
    assert worker.wait(30) == 0
    assert made.command("forget-log", topic).stdout.startswith("forgot ")
    made.wait_until_applied(made.start_worker())
    assert logged(made, topic) == [float(amount) for amount in range(100, 140)]
