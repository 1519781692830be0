"""A store that lost its rows, some or all: readers are told, and the rows come back exact, from the log and Kafka."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka import TopicPartition

from featurestore.client import FeatureStore
from featurestore.errors import ChangedBucketsError
from featurestore.local.process import ChildServer, free_port
from featurestore.local.valkey import start_valkey
from featurestore.monitoring import prove
from streams.broker import admin_client
from streams.producer import EventProducer
from tests.project import Project

Make = Callable[..., Project]
USERS = [f"u{number}" for number in range(40)]


def definitions(topic: str, partitions: int = 2) -> str:
    return f"""
from featurestore import Entity, FeatureView, Topic, count, last, mean, sum

paid = Topic({topic!r}, schema={{"user": str, "at": "timestamp", "amount": float}},
             event_time="at", key="user", partitions={partitions})
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness="1h", features={{
    "n": count(), "paid": sum("amount").over("1h", "24h"), "mean": mean("amount").over("1h"), "newest": last("amount"),
}})
"""


def now_us() -> int:
    return time.time_ns() // 1_000


def send(project: Project, topic: str, count: int, first: int = 0) -> None:
    with EventProducer(project.settings.kafka_bootstrap) as producer:
        for number in range(first, first + count):
            event = {"user": f"u{number % 40}", "at": now_us(), "amount": number * 0.1}
            producer.send(project.repository.topic(topic), event)


def cut(project: Project, topic: str, partitions: int = 2) -> None:
    """Retention takes everything that is there."""
    places = [TopicPartition(topic, partition, -1) for partition in range(partitions)]
    admin = admin_client(project.settings.kafka_bootstrap)
    for done in admin.delete_records(places).values():
        done.result(30)


def looked_up(project: Project) -> tuple[int, set[str]]:
    table = project.store.get_many("by_user", {"user": USERS})
    return sum(table["by_user__n"].to_pylist()), set(table["by_user__status"].to_pylist())


def check_parity(project: Project) -> None:
    [parity] = prove(project.store, [project.repository.view("by_user")], now_us())
    assert parity.mismatches == ()
    assert parity.pairs == len(USERS)


def test_nothing_is_stale_for_ever_where_nothing_was_ever_sent(project: Make, unique: Callable[[str], str]) -> None:
    made = project(definitions(unique("silent")))
    assert looked_up(made) == (0, {"STALE"})
    made.start_worker()
    made.wait_until_said("by_user is complete")
    assert looked_up(made) == (0, {"NOT_FOUND"})


def test_a_flushed_store_says_stale_until_all_is_back_although_kafka_has_lost_the_beginning(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("flushed")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 4_000)
    made.wait_until_applied(worker)
    cut(made, topic)
    sending = threading.Thread(target=send, args=(made, topic, 6_000, 4_000))
    sending.start()
    redis_client.flushall()
    seen: list[tuple[int, set[str]]] = []
    deadline = time.monotonic() + 90
    while True:
        seen.append(looked_up(made))
        assert worker.poll() is None, made.said()
        assert time.monotonic() < deadline, (seen[-1], made.said())
        if seen[-1] == (10_000, {"PRESENT"}):
            break
        time.sleep(0.01)
    sending.join()
    assert seen[0][1] == {"STALE"}, "the first look after the loss"
    # Whatever is called PRESENT has all that was served before the loss, at the least.
    assert min(n for n, statuses in seen if statuses != {"STALE"}) >= 4_000, Counter(map(repr, seen))
    made.wait_until_applied(worker)
    check_parity(made)


def test_a_store_flushed_twice_comes_back_while_nothing_is_sent(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("idle")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 1_000)
    made.wait_until_applied(worker)
    redis_client.flushall()
    assert looked_up(made)[1] == {"STALE"}
    made.wait_until_said("filling")
    redis_client.flushall()
    # Events that the first fill had on their way may be there already.
    assert looked_up(made)[1] == {"STALE"}
    made.wait_until_applied(worker)
    assert looked_up(made) == (1_000, {"PRESENT"})
    check_parity(made)


def test_a_new_view_gets_the_history_that_only_the_log_still_has(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("young")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 2_000)
    made.drain(worker)
    cut(made, topic)
    more = 'total = FeatureView("total", Entity("user", key="user"), paid, features={"n": count()})\n'
    made.define(definitions(topic) + more)
    worker = made.start_worker()
    send(made, topic, 500, first=2_000)
    made.wait_until_applied(worker)
    table = made.store.get_many("total", {"user": USERS})
    assert sum(table["total__n"].to_pylist()) == 2_500
    assert set(table["total__status"].to_pylist()) == {"PRESENT"}
    assert looked_up(made) == (2_500, {"PRESENT"})


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[tuple[Path, int, list[ChildServer]]]:
    """A server of this test alone: its folder, its port, and what runs there last."""
    folder, port = tmp_path / "valkey", free_port()
    running = [start_valkey(folder, port)]
    yield folder, port, running
    running[-1].stop()


@pytest.mark.parametrize("lost", ["an older backup", "no data at all"])
def test_a_server_that_comes_back_with_less_is_brought_up_to_date(
    lost: str, project: Make, unique: Callable[[str], str], own_valkey: tuple[Path, int, list[ChildServer]]
) -> None:
    folder, port, running = own_valkey
    topic = unique("restored")
    made = project(definitions(topic), redis_url=f"redis://127.0.0.1:{port}/0")
    worker = made.start_worker()
    send(made, topic, 2_000)
    made.drain(worker)
    # A cold backup of everything that the server keeps.
    running[-1].stop()
    backup = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    running.append(start_valkey(folder, port))
    worker = made.start_worker()
    send(made, topic, 3_000, first=2_000)
    made.wait_until_applied(worker)
    worker.kill()
    worker.wait()
    cut(made, topic)
    running[-1].stop()
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
    if lost == "an older backup":
        for name, held in backup.items():
            (folder / name).write_bytes(held)
    running.append(start_valkey(folder, port))
    worker = made.start_worker()
    send(made, topic, 500, first=5_000)
    made.wait_until_applied(worker)
    assert "from the event log" in made.said()
    assert looked_up(made) == (5_500, {"PRESENT"})
    check_parity(made)


def test_another_number_of_buckets_is_refused_until_the_store_is_empty(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("buckets")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 400)
    made.drain(worker)
    made.settings = made.settings.model_copy(update={"buckets": 4})
    made.store = FeatureStore(made.settings, made.repository)
    for _ in range(2):
        with pytest.raises(ChangedBucketsError):
            made.store.get("by_user", {"user": "u1"})
    assert made.start_worker().wait(60) != 0
    assert f"{made.settings.project!r} in 8; set buckets back to 8" in made.said()
    with pytest.raises(ChangedBucketsError):
        made.wait_until_applied()
    redis_client.delete(*redis_client.scan_iter(f"{made.settings.project}:*"))
    worker = made.start_worker()
    send(made, topic, 400, first=400)
    made.wait_until_applied(worker)
    assert looked_up(made) == (800, {"PRESENT"})
