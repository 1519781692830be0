"""The reader on a real broker, member by member, without Faust: rebalances, holes, errors, membership."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from featurestore.errors import BrokerAccessError, RecordsGoneError
from featurestore.local import LocalStack
from streams.broker import client_config
from streams.transport import Batch, ReaderOptions
from streams.transport.native import NativeConsumer, Said
from streams.transport.options import Rebalance
from streams.transport.reader import Reader, _Waiting
from tests.streams.transport.harness import LIMIT_S, SESSION_S, Member, Sinks, fill, make_topic

Unique = Callable[[str], str]
METHODS = (
    "subscribe", "consume", "commit", "seek", "pause", "resume", "assign", "unassign", "incremental_assign",
    "incremental_unassign", "close",
)  # fmt: skip


class Watched(NativeConsumer):
    """librdkafka's consumer, with a note of which thread called what."""

    calls: defaultdict[str, set[str]]


def _noted(name: str) -> Callable[..., Any]:
    def method(self: Watched, *arguments: Any, **named: Any) -> Any:
        vars(self).setdefault("calls", defaultdict(set))[name].add(threading.current_thread().name)
        return getattr(NativeConsumer, name)(self, *arguments, **named)

    return method


for _name in METHODS:
    setattr(Watched, _name, _noted(_name))


@pytest.mark.parametrize("rebalance", ["eager", "cooperative"])
def test_members_come_and_go_under_load_and_every_record_is_applied_once(
    stack: LocalStack, unique: Unique, rebalance: Rebalance
) -> None:
    # Traps 6 and 12: one `consume` may return records together with a rebalance; covering ranges would hide that
    # they were dropped, so records are counted.
    topic = unique(f"load-{rebalance}")
    make_topic(stack.kafka_bootstrap, topic, 4)
    fill(stack.kafka_bootstrap, topic, dict.fromkeys(range(4), 40_000))
    sinks = Sinks()
    options = ReaderOptions(batch_records_max=500, rebalance=rebalance, session_s=SESSION_S)

    def member() -> Member:
        return Member(stack.kafka_bootstrap, topic, topic, sinks, options, body=lambda batch: time.sleep(0.01))

    members = [member()]
    sinks.wait(lambda: sinks.applied > 5_000)
    members.append(member())
    sinks.wait(lambda: members[1].batches > 5)
    assert sinks.applied < 160_000
    members[0].stop()
    sinks.wait(lambda: sinks.applied >= 160_000)
    members[1].stop()
    assert sinks.holes == []
    assert sinks.records == {(topic, partition): 40_000 for partition in range(4)}
    assert not any(member.failure.done() or member.losses for member in members)
    if rebalance == "cooperative":
        # What stays is not given up: nobody ever loses all.
        assert all(len(each) < 4 for each in members[0].revocations)


def test_the_group_is_told_what_is_settled_by_the_poll_thread_alone(stack: LocalStack, unique: Unique) -> None:
    # Trap 5: librdkafka's consumer has one gate, and a commit from another thread while a callback waits would never
    # return. So whatever other threads ask for is noted down, also in the middle of a rebalance.
    topic = unique("gate")
    make_topic(stack.kafka_bootstrap, topic)
    fill(stack.kafka_bootstrap, topic, {0: 1_000})
    sinks, made = Sinks(), []

    def consumer(config: dict[str, Any], project: str) -> Watched:
        made.append(Watched(config, project))
        return made[0]

    member = Member(stack.kafka_bootstrap, topic, topic, sinks, consumer_class=consumer)
    sinks.wait(lambda: sinks.applied == 1_000)
    others = ThreadPoolExecutor(1)

    def ask(places: list[tuple[str, int]]) -> None:
        def everything() -> bool:
            for place in places:
                member.reader.settle(place, 1_000)
                member.reader.seek_back(place, 900)
                member.reader.take(place)
            member.reader.ends(), member.reader.counts(), member.reader.statistics()
            return True

        assert others.submit(everything).result(LIMIT_S)
        member.reader.serve()

    member.at_revoke = ask
    member.stop()
    assert not member.failure.done()
    calls = made[0].calls
    assert {"subscribe", "consume", "assign", "commit", "close"} <= set(calls)
    assert set().union(*calls.values()) == {"kafka-reader"}


def test_the_group_stands_where_the_sinks_do_when_a_member_has_left(stack: LocalStack, unique: Unique) -> None:
    topic = unique("told")
    make_topic(stack.kafka_bootstrap, topic)
    fill(stack.kafka_bootstrap, topic, {0: 700})
    sinks = Sinks()
    member = Member(stack.kafka_bootstrap, topic, topic, sinks)
    sinks.wait(lambda: sinks.applied == 700)
    member.stop()
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    [asked] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(topic)]).values()
    assert [each.offset for each in asked.result().topic_partitions] == [700]


def test_offsets_that_the_broker_has_no_more_end_the_reader_and_name_the_place(
    stack: LocalStack, unique: Unique
) -> None:
    # Trap 7: errors ride in the list of records; one that is dropped unseen leaves a partition silent for ever.
    topic = unique("gone")
    make_topic(stack.kafka_bootstrap, topic)
    fill(stack.kafka_bootstrap, topic, {0: 100})
    admin = AdminClient({"bootstrap.servers": stack.kafka_bootstrap})
    for done in admin.delete_records([TopicPartition(topic, 0, 60)]).values():
        done.result(LIMIT_S)
    member = Member(stack.kafka_bootstrap, topic, topic, Sinks())
    error = member.failure.result(LIMIT_S)
    assert isinstance(error, RecordsGoneError)
    assert (error.topic, error.partition, error.offset, error.bounds) == (topic, 0, 0, (60, 100))
    assert f"offsets 0 to 60 of {topic}/0 are incomplete" in str(error)
    member.stop()


def test_an_error_inside_a_callback_is_told_as_what_it_is(stack: LocalStack, unique: Unique) -> None:
    # Trap 15: raised through librdkafka it would be an unreadable SystemError.
    topic = unique("raised")
    make_topic(stack.kafka_bootstrap, topic)
    wrong = ValueError("the sinks cannot be asked")

    def fail(places: object) -> None:
        raise wrong

    member = Member(stack.kafka_bootstrap, topic, topic, Sinks())
    member.at_assign = fail
    assert member.failure.result(LIMIT_S) is wrong
    member.stop()


def test_what_waited_for_a_login_that_was_cut_off_does_not_end_the_reader() -> None:
    # librdkafka joins again by itself, but says that this once failed, in the list of records and by a refusal's code.
    reader = Reader({}, ReaderOptions(), None, lambda config, project: None)  # type: ignore[arg-type, return-value]
    code = KafkaError._AUTHENTICATION
    reader._check(Said("", 0, -1001, KafkaError(code, "JoinGroup failed: Local: Authentication failure")))
    with pytest.raises(BrokerAccessError):
        reader._check(Said("", 0, -1001, KafkaError(code, "Authentication failed: Invalid username or password")))


def test_a_body_that_takes_longer_than_the_poll_interval_keeps_its_partitions(
    stack: LocalStack, unique: Unique
) -> None:
    # Traps 11 and 20: the poll thread goes on while a body works, and before the first assignment.
    topic = unique("slow")
    make_topic(stack.kafka_bootstrap, topic)
    fill(stack.kafka_bootstrap, topic, {0: 10})
    sinks, released = Sinks(), threading.Event()
    options = ReaderOptions(session_s=1.5, config={"max.poll.interval.ms": 1_500})

    def body(batch: Batch) -> None:
        released.wait(LIMIT_S)

    member = Member(stack.kafka_bootstrap, topic, topic, sinks, options, body)
    assert member.was_assigned.wait(LIMIT_S)
    # Statistics come once a second, by the poll thread: four intervals have gone by when four were heard.
    heard = 0
    last = member.reader.statistics()
    while heard < 6:
        if (now := member.reader.statistics()) is not last:
            heard, last = heard + 1, now
        assert not released.wait(0.05)
    released.set()
    sinks.wait(lambda: sinks.applied == 10)
    assert (len(member.assignments), member.losses) == (1, [])
    member.stop()


def test_aborted_transactions_and_markers_are_passed_over_without_a_hole(stack: LocalStack, unique: Unique) -> None:
    # F3: markers and aborted records take offsets. Ranges cover them, at the end of the log as well.
    topic = unique("transactions")
    make_topic(stack.kafka_bootstrap, topic)
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap, "transactional.id": topic})
    producer.init_transactions(LIMIT_S)
    for kept, count in ((True, 3), (False, 4), (True, 2), (False, 1)):
        producer.begin_transaction()
        for _ in range(count):
            producer.produce(topic, value=b"kept" if kept else b"aborted", partition=0)
        producer.flush(LIMIT_S)
        (producer.commit_transaction if kept else producer.abort_transaction)(LIMIT_S)
    sinks, seen = Sinks(), []
    member = Member(stack.kafka_bootstrap, topic, topic, sinks, body=lambda batch: seen.extend(batch.values))
    place = (topic, 0)
    # Ten records and four markers.
    sinks.wait(lambda: sinks.ends.get(place) == 14)
    member.stop()
    assert seen == [b"kept"] * 5
    assert sinks.holes == []
    assert sinks.ranges[0][1] == 0
    assert all(one[2] == other[1] for one, other in zip(sinks.ranges, sinks.ranges[1:], strict=False))


def test_a_member_with_a_lasting_name_comes_back_without_a_rebalance(stack: LocalStack, unique: Unique) -> None:
    topic = unique("static")
    make_topic(stack.kafka_bootstrap, topic, 2)
    sinks = Sinks()

    def member(name: str) -> Member:
        options = ReaderOptions(session_s=60.0, instance_id=f"{topic}-{name}")
        made = Member(stack.kafka_bootstrap, topic, topic, sinks, options)
        assert made.was_assigned.wait(LIMIT_S)
        return made

    one = member("one")
    fill(stack.kafka_bootstrap, topic, {0: 50, 1: 50})
    sinks.wait(lambda: sinks.applied == 100)
    one.stop()
    fill(stack.kafka_bootstrap, topic, {0: 50, 1: 50})
    # Its old self's session lasts a minute; under its name it need not wait for that.
    again = member("one")
    sinks.wait(lambda: sinks.applied == 200)
    assert sinks.holes == []
    assert again.assignments == [[(topic, 0), (topic, 1)]]
    again.stop()


def test_a_partition_is_read_again_from_where_its_sinks_stand(stack: LocalStack, unique: Unique) -> None:
    topic = unique("back")
    make_topic(stack.kafka_bootstrap, topic)
    fill(stack.kafka_bootstrap, topic, {0: 1_000})
    sinks = Sinks()
    member = Member(stack.kafka_bootstrap, topic, topic, sinks, ReaderOptions(batch_records_max=50))
    sinks.wait(lambda: sinks.applied == 1_000)
    place = (topic, 0)
    sinks.ends[place] = 400  # the tail is lost
    member.reader.seek_back(place, 400)
    sinks.wait(lambda: sinks.applied == 1_600)
    fill(stack.kafka_bootstrap, topic, {0: 10})
    sinks.wait(lambda: sinks.applied == 1_610)
    member.stop()
    assert sinks.holes == []


class Reluctant(NativeConsumer):
    """librdkafka's consumer, whose seeks are too early while a record of the new place may come first."""

    refusals = 0

    def seek(self, place: TopicPartition) -> None:
        if type(self).refusals:
            type(self).refusals -= 1
            raise KafkaException(KafkaError(KafkaError._STATE))
        super().seek(place)


def test_records_that_come_before_a_seek_is_done_hide_no_hole(stack: LocalStack, unique: Unique) -> None:
    topic = unique("reluctant")
    make_topic(stack.kafka_bootstrap, topic)
    fill(stack.kafka_bootstrap, topic, {0: 1_000})
    sinks = Sinks()
    member = Member(stack.kafka_bootstrap, topic, topic, sinks, consumer_class=Reluctant)
    sinks.wait(lambda: sinks.applied == 1_000)
    place = (topic, 0)
    sinks.ends[place] = 400  # the tail is lost
    Reluctant.refusals = 100
    member.reader.seek_back(place, 400)
    fill(stack.kafka_bootstrap, topic, {0: 10})
    sinks.wait(lambda: sinks.ends[place] == 1_010)
    member.stop()
    assert sinks.applied == 1_610


def test_a_few_large_records_are_cut_into_batches_by_their_bytes(stack: LocalStack, unique: Unique) -> None:
    topic = unique("large")
    make_topic(stack.kafka_bootstrap, topic)
    fill(stack.kafka_bootstrap, topic, {0: 400}, size=20_000)
    sinks, most = Sinks(), []
    options = ReaderOptions(
        batch_records_max=10, batch_bytes_max=100_000, ahead_bytes_max=1_000_000, session_s=SESSION_S
    )

    def body(batch: Batch) -> None:
        counts = member.reader.counts()
        most.append((sum(map(len, batch.values)), counts.waiting_bytes, counts.in_hand_bytes))

    member = Member(stack.kafka_bootstrap, topic, topic, sinks, options, body)
    sinks.wait(lambda: sinks.applied == 400)
    member.stop()
    # A poll brings ten records at most; it may be one over each bound.
    assert max(batch for batch, _, _ in most) <= 300_000
    assert max(waiting for _, waiting, _ in most) <= 1_200_000
    assert max(out for _, _, out in most) <= 600_000


class Nobody:
    """An owner that is not asked: this reader is never started."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name!r} was not to be asked")


def test_what_a_seek_has_cut_off_a_batch_waits_nowhere_when_that_batch_is_taken_back() -> None:
    place = ("clicks", 0)
    away: dict[str, Any] = {**client_config("127.0.0.1:1"), "group.id": "nobody"}
    reader = Reader(away, ReaderOptions(batch_records_max=100), Nobody())
    reader._ranges.assign({place: 0})
    reader._queues[place] = _Waiting()

    def read(first: int, end: int) -> None:
        offsets = np.arange(first, end)
        reader._put(Batch(*place, first, end, [b""] * (end - first), offsets, offsets))

    read(0, 200)
    read(200, 300)
    assert reader.take(place) is not None
    # Another worker has written beyond; then the store lost its tail, and partitions changed hands.
    reader._seek_back(place, 150, reader._ranges.epoch(place))
    reader.take_back()
    read(150, 400)
    seen: list[int] = []
    while (taken := reader.take(place)) is not None:
        reader.finish(taken[1])
        seen += taken[0].offsets.tolist()
    assert seen == list(range(400))
