"""Who the topics are, asked of librdkafka itself: as confluent_kafka says it, and nothing of it is kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, TopicCollection

from featurestore import Topic
from featurestore.errors import BrokerError, GrownTopicError, TopicError
from featurestore.local import LocalStack, free_port
from streams.broker import admin_client
from streams.topic_ids import TopicIds
from streams.topics import Topics
from tests.campaign.servers import Broker
from tests.streams.transport.harness import make_topic

CALLS = 5_000
KEPT = """
import ctypes, gc, sys
from streams.topic_ids import TopicIds

class Info(ctypes.Structure):
    names = "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in names)

count = ctypes.CDLL(None).mallinfo2
count.restype = Info
ids, topic, calls = TopicIds(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def held():
    gc.collect()
    return len(gc.get_objects()), count().uordblks + count().hblkhd

def ask(times):
    for _ in range(times):
        assert ids.of([topic])[topic]

ask(calls // 10)
before = held()
ask(calls)
print(*(after - first for after, first in zip(held(), before)))
"""
LEFT = """
import sys, threading, time
from streams.topic_ids import TopicIds

silent, there = TopicIds(sys.argv[1]), TopicIds(sys.argv[2])
answers = []

def ask_for_ever():
    while True:
        answers.append(there.of([sys.argv[3]]))

threading.Thread(target=lambda: silent.of(["a"]), daemon=True).start()
for _ in range(3):
    threading.Thread(target=ask_for_ever, daemon=True).start()
while len(answers) < 100:
    time.sleep(0.01)
print("left")
"""


def told(bootstrap: str, topic: str) -> str:
    # By its name until the answer is there: a client that nobody holds ends what was asked of it.
    admin = admin_client(bootstrap)
    [done] = admin.describe_topics(TopicCollection([topic])).values()
    return str(done.result(60).topic_id)


def run(code: str, *arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def make_topics(bootstrap: str, *names: str) -> None:
    """A broker says that a topic is created before it knows it itself."""
    for name in names:
        make_topic(bootstrap, name, 2)
    admin = admin_client(bootstrap)
    while not set(names) <= set(admin.list_topics(timeout=30).topics):
        time.sleep(0.05)


@pytest.fixture
def topics(stack: LocalStack, unique: Callable[[str], str]) -> list[str]:
    names = [unique("who") for _ in range(4)]
    make_topics(stack.kafka_bootstrap, *names)
    return names


def test_they_are_the_texts_of_confluent_kafka(stack: LocalStack, topics: list[str]) -> None:
    ids = Topics(stack.kafka_bootstrap).ids(topics)
    assert ids == {name: told(stack.kafka_bootstrap, name) for name in topics}
    assert len(set(ids.values())) == len(topics)
    assert Topics(stack.kafka_bootstrap).ids([]) == {}


def test_the_partitions_of_each_are_counted(stack: LocalStack, unique: Callable[[str], str]) -> None:
    one, three = unique("one"), unique("three")
    make_topic(stack.kafka_bootstrap, one, 1)
    make_topic(stack.kafka_bootstrap, three, 3)
    make_topics(stack.kafka_bootstrap)
    topics = Topics(stack.kafka_bootstrap)
    assert {name: told.partitions for name, told in topics.told([three, one]).items()} == {one: 1, three: 3}
    schema = {"user": str, "at": "timestamp"}
    smaller, larger = (Topic(three, schema=schema, event_time="at", partitions=count) for count in (2, 4))
    assert topics.whole_ids([larger]) == topics.ids([three])
    with pytest.raises(GrownTopicError, match=r"has 3 partitions .* partitions=2, .* say partitions=3 there"):
        topics.whole_ids([smaller])


def test_a_topic_that_is_not_there_is_told_as_confluent_kafka_tells_it(stack: LocalStack, topics: list[str]) -> None:
    with pytest.raises(KafkaException) as unknown:
        told(stack.kafka_bootstrap, "nowhere")
    with pytest.raises(TopicError) as error:
        Topics(stack.kafka_bootstrap).ids([topics[0], "nowhere"])
    assert error.value.topic == "nowhere"
    assert str(error.value) == f"topic 'nowhere': {unknown.value}; run `featurestore apply` to create it"


def test_what_else_is_wrong_is_the_brokers(stack: LocalStack, topics: list[str]) -> None:
    ids = TopicIds(stack.kafka_bootstrap)
    with pytest.raises(BrokerError, match="Invalid topic"):
        ids.of(["no name"])
    with pytest.raises(BrokerError, match="Duplicate topics"):
        ids.of([topics[0], topics[0]])
    with pytest.raises(BrokerError, match="Timed out"):
        TopicIds(f"127.0.0.1:{free_port()}", timeout_s=0.5).of(topics)


@pytest.mark.servers
def test_what_a_stopped_broker_answers_later_is_no_answer_to_another_question(tmp_path: Path) -> None:
    broker = Broker(tmp_path / "kafka").start()
    try:
        make_topics(broker.bootstrap, "a", "b")
        ids = TopicIds(broker.bootstrap, timeout_s=3.0)
        known = ids.of(["a", "b"])
        broker.signal(signal.SIGSTOP)
        with pytest.raises(BrokerError, match="waiting for response from broker: Local: Timed out"):
            ids.of(["a"])
        broker.signal(signal.SIGCONT)
        # Once somebody else has an answer, the broker has answered what was asked before.
        assert TopicIds(broker.bootstrap).of(["b"]) == {"b": known["b"]}
        assert ids.of(["b"]) == {"b": known["b"]}
        assert ids.of(["a"]) == {"a": known["a"]}
    finally:
        broker.stop()


def test_threads_that_ask_at_once_get_their_own_answers(stack: LocalStack, topics: list[str]) -> None:
    ids = TopicIds(stack.kafka_bootstrap)
    known = ids.of(topics)
    asked = topics * 100
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda name: ids.of([name]), asked))
    assert answers == [{name: known[name]} for name in asked]


def test_thousands_of_questions_keep_nothing(stack: LocalStack, topics: list[str]) -> None:
    # All of Python and of C from one heap, which then knows to the byte what is held. AdminClient.describe_topics holds
    # an object a call, and 200 bytes.
    kept = run(KEPT, stack.kafka_bootstrap, topics[0], CALLS, PYTHONMALLOC="malloc", MALLOC_ARENA_MAX="1")
    objects, size = map(int, kept.split())
    assert objects < CALLS / 100
    assert size < CALLS * 20


def test_the_client_ends_with_who_asks(stack: LocalStack, topics: list[str]) -> None:
    before = set(os.listdir("/proc/self/task"))
    ids = TopicIds(stack.kafka_bootstrap)
    ids.of(topics)
    assert len(set(os.listdir("/proc/self/task")) - before) > 1
    del ids
    assert set(os.listdir("/proc/self/task")) <= before


def test_a_process_ends_while_threads_of_it_ask(stack: LocalStack, topics: list[str]) -> None:
    assert run(LEFT, f"127.0.0.1:{free_port()}", stack.kafka_bootstrap, topics[0]) == "left\n"
