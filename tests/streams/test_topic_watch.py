"""A topic that is deleted and made again under a worker that runs, or grows."""

from __future__ import annotations

import threading
from collections.abc import Callable

from featurestore import Topic
from featurestore.errors import GrownTopicError, TopicError
from featurestore.local import LocalStack
from streams.broker import admin_client
from streams.topic_ids import Told
from streams.topic_watch import changed, watch_topics
from streams.topics import Topics


def test_a_topic_that_is_not_there_at_the_moment_is_no_other_one() -> None:
    known = {"a": Told("1", 2), "b": Told("2", 2)}
    assert changed(known, known) is changed(known, {"a": Told("1", 2)}) is None
    error = changed(known, {"a": Told("1", 2), "b": Told("3", 2)})
    assert error is not None
    assert "topic 'b': it was deleted and made again" in str(error)


def test_a_topic_may_have_fewer_partitions_than_its_definition_says_and_no_more() -> None:
    known = {"a": Told("1", 2), "b": Told("2", 2)}
    assert changed(known, {"a": Told("1", 1), "b": Told("2", 2)}) is None
    error = changed(known, {"a": Told("1", 1), "b": Told("2", 4)})
    assert isinstance(error, GrownTopicError)
    assert (error.topic, error.said, error.held) == ("b", 2, 4)
    # Made again is what matters: there is no going on with it.
    assert not isinstance(changed(known, {"b": Told("3", 4)}), GrownTopicError)


def test_it_is_told_once_the_broker_has_the_new_one(stack: LocalStack, unique: Callable[[str], str]) -> None:
    topic = Topic(unique("again"), schema={"user": str, "at": "timestamp"}, event_time="at")
    topics, admin = Topics(stack.kafka_bootstrap), admin_client(stack.kafka_bootstrap)
    told, errors = threading.Event(), list[TopicError]()
    topics.create([topic], "tests")

    def failed(error: TopicError) -> None:
        errors.append(error)
        told.set()

    asked: list[None] = []

    def ask() -> dict[str, Told]:
        asked.append(None)
        if len(asked) == 1:
            raise TimeoutError("what nobody foresaw")
        return topics.told([topic.name])

    watch_topics(topics.told([topic.name]), ask, failed)
    [deleted] = admin.delete_topics([topic.name], operation_timeout=30).values()
    deleted.result()
    # The broker says that it is deleted before its name is free.
    while topic.name not in topics.create([topic], "tests"):
        assert not told.wait(0.1)
    assert told.wait(60)
    assert f"topic {topic.name!r}: it was deleted and made again" in str(errors[0])
