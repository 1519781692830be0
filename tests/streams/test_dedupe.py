"""Idempotence by event id, end to end: real workers killed between events that were sent several times."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import redis

from featurestore.client import FeatureStore
from featurestore.event_time import REPEATED_US
from featurestore.spec import load
from streams.ledger import ledgers
from streams.producer import EventProducer
from tests.project import Project

Make = Callable[..., Project]
USERS = 40


def definitions(topic: str, dedupe: str = 'dedupe="id", within="1h"') -> str:
    return f"""
from featurestore import Entity, FeatureView, Topic, count, sum

paid = Topic({topic!r}, schema={{"user": str, "at": "timestamp", "amount": float, "id": str}},
             event_time="at", key="user", partitions=2, {dedupe})
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness="1h",
                      features={{"n": count(), "paid": sum("amount")}})
"""


def served(project: Project) -> dict[str, tuple[int, float]]:
    table = project.store.get_many("by_user", {"user": [f"u{n}" for n in range(USERS)]})
    return {r["user"]: (r["by_user__n"], r["by_user__paid"]) for r in table.to_pylist()}


def joined(project: Project) -> dict[str, tuple[int, float]]:
    now_us = time.time_ns() // 1_000
    spine = pa.table({"user": [f"u{n}" for n in range(USERS)], "event_timestamp": pa.array([now_us] * USERS)})
    table = project.store.point_in_time("by_user", spine)
    return {r["user"]: (r["by_user__n"], r["by_user__paid"]) for r in table.to_pylist()}


def test_events_sent_several_times_count_once_whatever_is_killed_between(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    seed = int(os.environ.get("FAULT_SEED", "20265"))
    draw = random.Random(seed)
    topic = unique("doubled")
    made = project(definitions(topic), batch_records_max=300)
    paid = made.repository.topic(topic)
    base_us = time.time_ns() // 1_000 - 3_000_000_000
    events = [
        {"user": f"u{draw.randrange(USERS)}", "at": base_us + n * 100_000, "amount": float(n), "id": f"e{n}"}
        for n in range(12_000)
    ]
    sent = Counter[str]()
    worker = made.start_worker()
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for kill in range(6):
            for n in range(kill * 2_000, (kill + 1) * 2_000):
                # Mostly itself, sometimes twice, sometimes one of before: at most 20 minutes back, of one hour.
                for event in [events[n], *draw.choices([events[n], events[max(0, n - draw.randrange(12_000))]], k=2)]:
                    if event is events[n] or draw.random() < 0.5:
                        producer.send(paid, event)
                        sent[event["id"]] += 1
            producer.flush()
            if kill < 5:
                time.sleep(draw.uniform(0.0, 3.0))
                worker.send_signal(signal.SIGKILL)
                worker.wait()
                worker = made.start_worker()
    made.wait_until_applied(worker)
    wanted = {
        f"u{n}": (
            sum(e["user"] == f"u{n}" for e in events),
            float(sum(float(str(e["amount"])) for e in events if e["user"] == f"u{n}")),
        )
        for n in range(USERS)
    }
    assert served(made) == wanted, f"seed {seed}"
    assert joined(made) == wanted, f"seed {seed}"
    repeats = sum(sent.values()) - len(events)
    marks = made.store.event_log(paid).read(["late_by_us"])["late_by_us"].to_pylist()
    assert marks.count(REPEATED_US) == repeats
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced, ledger
    assert (ledger.applied, ledger.repeated, ledger.dead) == (len(events), repeats, {})
    # All is read again, from its beginning, where the log says what was a repeat. More of them show the loss.
    redis_client.flushall()
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for event in events[-200:]:
            producer.send(paid, event)
    deadline = time.monotonic() + 120
    while (now := served(made)) != wanted:
        assert worker.poll() is None, made.said()
        differing = {user: (now[user], wanted[user]) for user in wanted if now[user] != wanted[user]}
        assert time.monotonic() < deadline, (differing, made.said())
        time.sleep(0.2)


def test_a_topic_may_begin_and_end_to_leave_repeats_out(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("turned-on")
    made = project(definitions(topic, ""))
    moment = time.time_ns() // 1_000

    def run(dedupe: str, ids: list[str]) -> int:
        (made.folder / "definitions" / "all.py").write_text(definitions(topic, dedupe))
        made.repository = load(made.folder / "definitions")
        made.store = FeatureStore(made.settings, made.repository)
        worker = made.start_worker()
        with EventProducer(made.settings.kafka_bootstrap) as producer:
            for name in ids:
                event = {"user": "u1", "at": moment, "amount": 1.0, "id": name}
                producer.send(made.repository.topic(topic), event)
        made.drain(worker)
        assert served(made) == joined(made)
        return served(made)["u1"][0]

    assert run("", ["a", "a", "b"]) == 3
    # What came before is known, and stays as it was decided.
    assert run('dedupe="id", within="1h"', ["a", "c", "c", "b"]) == 4
    assert run("", ["c"]) == 5
