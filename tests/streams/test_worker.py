"""Real workers on a real broker: what happens when they are joined, stopped, misled or broken."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from urllib.error import HTTPError
from urllib.request import urlopen

import pyarrow as pa
import pytest
import redis
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from featurestore.client import FeatureStore
from featurestore.errors import NotServedError
from featurestore.spec import load
from streams.dead_letters import read_letters
from streams.ledger import ledgers
from streams.producer import EventProducer
from streams.topics import Topics
from tests.project import Project

Make = Callable[..., Project]


def definitions(topic: str, partitions: int = 4, lateness: str = "1h") -> str:
    return f"""
from featurestore import Entity, FeatureView, Topic, count, last, sum

paid = Topic({topic!r}, schema={{"user": str, "at": "timestamp", "amount": float}},
             event_time="at", key="user", partitions={partitions})
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness={lateness!r},
                      features={{"n": count(), "paid": sum("amount"), "newest": last("amount")}})
"""


def now_us() -> int:
    return time.time_ns() // 1_000


def send(project: Project, topic: str, count: int, first: int = 0) -> None:
    with EventProducer(project.settings.kafka_bootstrap) as producer:
        for number in range(first, first + count):
            event = {"user": f"u{number % 50}", "at": now_us(), "amount": float(number)}
            producer.send(project.repository.topic(topic), event)


def counted(project: Project) -> int:
    table = project.store.get_many("by_user", {"user": [f"u{n}" for n in range(50)]})
    return sum(table["by_user__n"].to_pylist())


def test_a_clock_that_is_set_back_holds_nothing_up(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("set-back")
    made = project(definitions(topic, partitions=1))
    back = made.folder / "back"
    worker = made.start_worker("tests.streams.set_back", str(back))
    made.wait_until_said("reading ")
    send(made, topic, 100)
    made.wait_until_applied(worker)
    back.touch()
    # The log, and what looks after rows that were lost.
    send(made, topic, 100, first=100)
    made.wait_until_applied(worker, 30)
    for key in redis_client.scan_iter(f"{made.settings.project}:*"):
        redis_client.delete(key)
    made.wait_until_applied(worker, 30)
    assert counted(made) == 200


def test_two_workers_share_the_partitions_and_one_takes_over_when_the_other_goes(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("shared")
    made = project(definitions(topic))
    first = made.start_worker()
    made.wait_until_said("reading ")
    send(made, topic, 3_000)
    second = made.start_worker()
    deadline = time.monotonic() + 60
    while (made.log.read_text().count("reading ")) < 3:
        assert time.monotonic() < deadline, made.said()
        time.sleep(0.05)
    send(made, topic, 3_000, first=3_000)
    made.wait_until_applied(first)
    assert counted(made) == 6_000
    first.terminate()
    assert first.wait(30) == 0, made.said()
    send(made, topic, 1_000, first=6_000)
    made.wait_until_applied(second)
    assert counted(made) == 7_000
    assert second.poll() is None
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced
    assert ledger.applied == 7_000


def test_a_worker_whose_name_another_one_takes_says_so(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("fenced")
    made = project(definitions(topic), worker_id="w1")
    first = made.start_worker()
    made.wait_until_said("reading ")
    second = made.start_worker()
    assert first.wait(60) == 1, made.said()
    assert "worker_id, which another worker has taken" in " ".join(made.said().split())
    assert "Traceback" not in made.said()
    send(made, topic, 100)
    made.wait_until_applied(second)
    assert counted(made) == 100


def test_sigterm_drains_and_tells_the_group_where_all_sinks_stand(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("drained")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    made.wait_until_said("reading ")
    send(made, topic, 5_000)
    made.wait_until_applied(worker)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0, made.said()
    assert time.monotonic() - began < 20
    admin = AdminClient({"bootstrap.servers": made.settings.kafka_bootstrap})
    group = f"{made.settings.project}-worker"
    [asked] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
    committed = {(each.topic, each.partition): each.offset for each in asked.result().topic_partitions}
    assert committed == {(topic, 0): 5_000}


def test_deleted_group_offsets_lose_nothing_and_double_nothing(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("forgotten")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 2_000)
    made.drain(worker)
    admin = AdminClient({"bootstrap.servers": made.settings.kafka_bootstrap})
    for done in admin.delete_consumer_groups([f"{made.settings.project}-worker"]).values():
        done.result()
    send(made, topic, 1_000, first=2_000)
    worker = made.start_worker()
    made.wait_until_applied(worker)
    assert counted(made) == 3_000


def test_records_that_the_broker_has_no_more_stop_the_worker_with_an_error(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("cut")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    send(made, topic, 1_000)
    made.drain(worker)
    send(made, topic, 1_000, first=1_000)
    admin = AdminClient({"bootstrap.servers": made.settings.kafka_bootstrap})
    for done in admin.delete_records([TopicPartition(topic, 0, 1_500)]).values():
        done.result()
    worker = made.start_worker()
    assert worker.wait(60) != 0
    assert "are incomplete" in made.said().lower()
    assert counted(made) == 1_000


def test_a_store_that_refuses_ends_the_worker_and_a_new_one_goes_on_without_a_loss(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("refused")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    send(made, topic, 500)
    made.wait_until_applied(worker)
    # A state of another type makes the function fail in the middle of a batch.
    names = list(redis_client.scan_iter(f"{made.settings.project}:*:state"))
    saved = {name: redis_client.dump(name) for name in names}
    for name in names:
        redis_client.set(name, "spoilt")
    send(made, topic, 500, first=500)
    assert worker.wait(60) == 1, made.said()
    assert "refused a call" in made.said()
    for name, dumped in saved.items():
        redis_client.restore(name, 0, dumped, replace=True)
    worker = made.start_worker()
    made.wait_until_applied(worker)
    assert counted(made) == 1_000


def test_a_lost_store_is_filled_again_from_the_topic(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("lost")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 2_000)
    made.wait_until_applied(worker)
    redis_client.flushall()
    send(made, topic, 100, first=2_000)
    deadline = time.monotonic() + 60
    while counted(made) != 2_100:
        assert worker.poll() is None, made.said()
        assert time.monotonic() < deadline, (counted(made), made.said())
        time.sleep(0.2)
    made.wait_until_applied(worker)
    assert len(made.store.event_log(made.repository.topic(topic)).read(["offset"])) == 2_100


def test_bad_events_become_letters_and_the_good_ones_around_them_count(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("mixed")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    moment = now_us()

    def line(at: int, user: str = '"u1"') -> bytes:
        return b'{"user": %b, "at": %d, "amount": 1.0}' % (user.encode(), at)

    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for payload in (
            line(moment),
            b"{",
            line(moment + 3_600_000_000),
            line(moment - 7_200_000_000),
            line(moment - 1_800_000_000),
            line(moment, "7"),
            b'{"user": "u1", "amount": 1.0}',
            line(moment),
        ):
            producer.send_raw(topic, b"u1", payload)
    made.wait_until_applied(worker)
    letters = read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic])
    assert [(one.offset, one.reason) for one in letters] == [
        (1, "broken_json"),
        (2, "future"),
        (3, "too_late"),
        (5, "wrong_type"),
        (6, "missing_field"),
    ]
    assert letters[0].payload == b"{"
    assert counted(made) == 3
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced
    shown = made.command("dead-letters", "list", "--topic", topic)
    assert shown.returncode == 0, shown.stderr
    assert "too_late" in shown.stdout


def test_a_new_view_on_an_old_topic_starts_from_the_beginning(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("grown")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 1_000)
    made.wait_until_applied(worker)
    worker.terminate()
    worker.wait(30)
    more = (
        definitions(topic)
        + 'total = FeatureView("total", Entity("user", key="user"), paid, features={"n": count()})\n'
        + 'off = FeatureView("off", Entity("user", key="user"), paid, features={"n": count()}, online=False)\n'
    )
    made.folder.joinpath("definitions", "all.py").write_text(more)
    made.repository = load(made.folder / "definitions")
    made.store = FeatureStore(made.settings, made.repository)
    worker = made.start_worker()
    made.wait_until_applied(worker)
    table = made.store.get_many("total", {"user": [f"u{n}" for n in range(50)]})
    assert sum(table["total__n"].to_pylist()) == 1_000
    assert counted(made) == 1_000
    with pytest.raises(NotServedError):
        made.store.get("off", {"user": "u1"})
    spine = pa.table({"user": ["u1"], "event_timestamp": pa.array([now_us()], pa.int64())})
    assert made.store.point_in_time("off", spine)["off__n"].to_pylist() == [20]


def test_a_worker_tells_its_health_lag_and_counts_at_its_own_port(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("told")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    send(made, topic, 700)
    made.wait_until_applied(worker)
    found = re.search(r"metrics and health at (http://127\.0\.0\.1:\d+)", made.said())
    assert found is not None
    with urlopen(f"{found[1]}/health", timeout=10) as answer:
        assert json.load(answer)["partitions"] == {topic: [0]}
    deadline = time.monotonic() + 15
    while True:
        with urlopen(f"{found[1]}/metrics", timeout=10) as answer:
            said = answer.read().decode()
        if f'featurestore_lag_events{{partition="0",topic="{topic}"}} 0.0' in said:
            break
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
    assert f'featurestore_events_applied_total{{topic="{topic}"}} 700.0' in said
    assert f'featurestore_offset{{partition="0",topic="{topic}"}} 700.0' in said
    assert f'featurestore_partitions{{topic="{topic}"}} 1.0' in said
    with pytest.raises(HTTPError):
        urlopen(f"{found[1]}/elsewhere", timeout=10)


def told(project: Project) -> dict[str, float]:
    """What a worker says at its port, by name and labels; records of one topic, so labels tell nothing but reasons."""
    found = re.search(r"metrics and health at (http://127\.0\.0\.1:\d+)", project.log.read_text())
    assert found is not None
    with urlopen(f"{found[1]}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if line.startswith("featurestore_")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@pytest.mark.parametrize("how", ["a lost tail", "a flushed store"])
def test_counts_at_the_port_balance_and_the_watermark_is_that_of_lookups_also_after_a_loss(
    how: str, project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("balanced")
    made = project(definitions(topic, partitions=2))
    worker = made.start_worker()
    send(made, topic, 500)
    made.wait_until_applied(worker)
    names = list(redis_client.scan_iter(f"{made.settings.project}:*"))
    saved = {name: redis_client.dump(name) for name in names}
    send(made, topic, 500, first=500)
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for payload in (b"{", b'{"user": "u1", "at": %d, "amount": 1.0}' % (now_us() - 7_200_000_000)) * 5:
            producer.send_raw(topic, b"u1", payload)
    made.wait_until_applied(worker)
    redis_client.flushall()
    if how == "a lost tail":
        for name, dumped in saved.items():
            redis_client.restore(name, 0, dumped, replace=True)

    def check(records: int) -> None:
        made.wait_until_applied(worker)
        assert counted(made) == records - 10
        label = f'topic="{topic}"'
        deadline = time.monotonic() + 30
        while True:
            said = told(made)
            dead = {reason: said.get(f'featurestore_events_dead_total{{reason="{reason}",{label}}}', 0.0)
                    for reason in ("broken_json", "too_late")}  # fmt: skip
            assert sum(value for name, value in said.items() if "events_dead_total" in name) == sum(dead.values())
            counts = [said[f"featurestore_{name}_total{{{label}}}"]
                      for name in ("records", "events_applied", "events_repeated")]  # fmt: skip
            assert counts[0] == counts[1] + counts[2] + sum(dead.values()), said
            assert counts[0] <= records, said
            # One of the second partition holds a key of the first: what lookups call the watermark is by bucket.
            row = made.store.get("by_user", {"user": "u1"}, watermark=True)
            if said.get('featurestore_watermark_seconds{view="by_user"}') == row["by_user__watermark"].timestamp():
                break
            assert time.monotonic() < deadline, (said, row)
            time.sleep(0.2)
        assert counts == [records, records - 10, 0]
        assert dead == {"broken_json": 5, "too_late": 5}

    check(1_010)
    send(made, topic, 300, first=1_010)
    check(1_310)
    assert worker.poll() is None


def test_a_topic_made_again_ends_the_worker_before_it_mixes_two_topics(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("remade")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    send(made, topic, 300)
    made.drain(worker)
    admin = AdminClient({"bootstrap.servers": made.settings.kafka_bootstrap})
    for done in admin.delete_topics([topic], operation_timeout=30).values():
        done.result()
    topics = Topics(made.settings.kafka_bootstrap)
    deadline = time.monotonic() + 30
    while topic not in topics.create(made.repository.topics.values(), made.settings.project):
        assert time.monotonic() < deadline, "the broker is slow to delete"
        time.sleep(0.2)
    send(made, topic, 400)
    worker = made.start_worker()
    assert worker.wait(60) != 0
    assert "deleted and made again" in made.said()
    assert counted(made) == 300


def test_partitions_may_grow_with_their_definition(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("grown")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    send(made, topic, 500)
    made.drain(worker)
    # The broker's topic grows first: what its definition does not know is not read.
    admin = AdminClient({"bootstrap.servers": made.settings.kafka_bootstrap})
    for done in admin.create_partitions([NewPartitions(topic, 2)]).values():
        done.result()
    worker = made.start_worker()
    assert worker.wait(60) != 0
    assert "say partitions=2" in made.said()
    # Nor can anything be made whole without them.
    for command in (("ledger",), ("backfill", "by_user"), ("replay", topic), ("skip-expired",)):
        done = made.command(*command)
        assert "has 2 partitions of it, but its definition says partitions=1" in done.stderr, (command, done)
        # The ledger looks, and all records of before are somewhere.
        assert done.returncode == (command[0] != "ledger"), (command, done)
    (made.folder / "definitions" / "all.py").write_text(definitions(topic, partitions=3))
    applied = made.command("apply")
    assert applied.returncode == 0, applied.stderr
    made.repository = load(made.folder / "definitions")
    worker = made.start_worker()
    send(made, topic, 700, first=500)
    made.wait_until_applied(worker)
    assert counted(made) == 1_200
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced
    assert ledger.unread == ()


def test_partitions_that_no_definition_says_end_a_running_worker_within_seconds(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("administered")
    made = project(definitions(topic, partitions=2))
    worker = made.start_worker()
    send(made, topic, 200)
    made.wait_until_applied(worker)
    admin = AdminClient({"bootstrap.servers": made.settings.kafka_bootstrap})
    for done in admin.create_partitions([NewPartitions(topic, 4)]).values():
        done.result()
    # The watch of topics asks twice a second, and the group looks for partitions every five; librdkafka by itself
    # would take five minutes.
    assert worker.wait(60) == 1
    assert "the broker has 4 partitions of it, but its definition says partitions=2" in made.said()
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for number in range(100):
            payload = json.dumps({"user": f"u{number % 50}", "at": now_us(), "amount": 1.0}).encode()
            producer.send_raw(topic, str(number).encode(), payload)
    [ledger] = ledgers(made.settings, made.repository)
    assert (ledger.records, ledger.applied, ledger.unread) == (300, 200, (2, 3))
    assert not ledger.balanced
    ended = made.command("ledger")
    assert ended.returncode == 1
    assert "say partitions=4 there" in ended.stderr
    made.define(definitions(topic, partitions=4))
    made.wait_until_applied(made.start_worker())
    assert counted(made) == 300
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced


def test_a_worker_reads_partitions_that_its_definition_says_soon_after_they_are_made(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("foreseen")
    made = project(definitions(topic, partitions=1))
    made.define(definitions(topic, partitions=2))
    worker = made.start_worker()
    made.wait_until_said(f"reading {topic}/0 from 0")
    assert made.command("apply").returncode == 0
    made.wait_until_said(f"{topic}/1 from 0", limit_s=60.0)
    assert worker.poll() is None
