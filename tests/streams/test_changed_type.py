"""A column whose type changes: refused wherever the change enters, before anything is done, with a way that works."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import redis

from featurestore import Topic
from featurestore.spec.contract import Format
from streams.bounds import bounds_of
from streams.broker import admin_client
from streams.producer import EventProducer
from streams.schemas import schemas_at
from tests.project import Project

Make = Callable[..., Project]


def definitions(topic: str, format: str, columns: str, summed: str, more: str = "") -> str:
    return f"""
from featurestore import Entity, FeatureView, Topic, count, sum

paid = Topic({topic!r}, schema={{"user": str, "at": "timestamp", {columns}}},
             event_time="at", key="user", partitions=1, format={format!r}, {more})
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness="1h",
                      features={{"n": count(), "paid": sum({summed!r})}})
"""


def send(made: Project, topic: Topic, column: str, amounts: list[float]) -> None:
    with EventProducer(made.settings.kafka_bootstrap, schemas=schemas_at(made.settings.schema_address)) as producer:
        for amount in amounts:
            event = {"user": "a", "at": time.time_ns() // 1_000, column: amount}
            if topic.format == "json":
                # As writers send it who know nothing of the definition.
                producer.send_raw(topic.name, b"a", json.dumps(event).encode())
            else:
                producer.send(topic, event)


@pytest.mark.parametrize("format", ["json", "avro"])
def test_a_changed_type_is_refused_by_every_command_before_anything_is_done_and_the_advice_can_be_followed(
    format: Format, project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    name = unique("typed")
    made = project(definitions(name, format, '"amount": int', "amount"))
    floats = Topic(
        name, {"user": str, "at": "timestamp", "amount": float}, "at", key="user", partitions=1, format=format
    )
    worker = made.start_worker()
    send(made, made.repository.topic(name), "amount", [2] * 20)
    send(made, floats, "amount", [1.5] * 10)
    made.drain(worker)
    end = bounds_of(admin_client(made.settings.kafka_bootstrap), name, range(1))[0].end
    keys = set(redis_client.scan_iter(f"{made.settings.project}:*"))

    made.define(definitions(name, format, '"amount": float', "amount"))
    refused = "'amount' has the type long in its event log, and double in its definition"
    # They ask the log, which has no format of its own.
    others = (
        ("apply",),
        ("backfill", "by_user"),
        ("replay", name),
        ("replay", name, "--source", "log"),
        ("dead-letters", "replay", "--dry-run"),
    )
    for command in (("plan",), *(others if format == "json" else ()), ("dead-letters", "replay")):
        done = made.command(*command)
        assert (done.returncode, refused in done.stderr) == (1, True), (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
    worker = made.start_worker()
    assert worker.wait(60) == 1, made.said()
    assert refused in " ".join(made.said().split())
    assert set(redis_client.scan_iter(f"{made.settings.project}:*")) == keys
    assert bounds_of(admin_client(made.settings.kafka_bootstrap), name, range(1))[0].end == end

    if format == "json":
        assert "a column of a new name, such as 'amount_2', that is nullable" in done.stderr
        columns, more = '"amount": int, "amount_2": float', 'nullable=("amount", "amount_2")'
    else:
        more = "renamed={'amount_2': 'amount'} and nullable=('amount_2',)"
        assert more in done.stderr
        columns, more = '"amount_2": float', more.replace(" and", ",")
    made.define(definitions(name, format, columns, "amount_2", more))
    for command in (("plan",), ("apply",), ("backfill", "by_user", "--keep-following", "0")):
        assert made.command(*command).returncode == 0
    worker = made.start_worker()
    send(made, made.repository.topic(name), "amount_2", [2.5] * 5)
    made.wait_until_applied(worker)
    again = made.command("dead-letters", "replay", "--json")
    assert again.returncode == 0, again.stderr
    # Where the former name is read, what died of its type comes back under the new one; whole numbers of before count.
    back, before = (0, 0) if format == "json" else (10, 20 * 2)
    assert json.loads(again.stdout)["topics"][name]["replayed"] == back
    made.drain(worker)
    row = made.store.get("by_user", {"user": "a"})
    assert (row["by_user__n"], row["by_user__paid"]) == (25 + back, before + 5 * 2.5 + back * 1.5)
