"""Definitions that change go on with the events that their logs have, or say why they cannot."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from streams.producer import EventProducer
from streams.schemas import schemas_at
from tests.project import Project

Make = Callable[..., Project]


def definitions(topic: str, columns: str, key: str, summed: str, more: str) -> str:
    return f"""
from featurestore import Entity, FeatureView, Topic, count, last, sum

paid = Topic({topic!r}, schema={{{columns}, "at": "timestamp"}}, event_time="at", key={key!r}, partitions=1, {more})
by_user = FeatureView("by_user", Entity({key!r}, key={key!r}), paid, lateness="1h",
                      features={{"n": count({summed!r}), "paid": sum({summed!r}), "newest": last({summed!r})}})
"""


def send(made: Project, topic: str, event: dict[str, object], times: int) -> None:
    with EventProducer(made.settings.kafka_bootstrap, schemas=schemas_at(made.settings.schema_address)) as producer:
        for _ in range(times):
            producer.send(made.repository.topic(topic), {**event, "at": time.time_ns() // 1_000})


@pytest.mark.parametrize("is_backfilled", [True, False])
def test_renamed_columns_and_keys_have_their_history_served_by_backfill_and_worker(
    is_backfilled: bool, project: Make, unique: Callable[[str], str]
) -> None:
    name = unique("renamed")
    made = project(definitions(name, '"user": str, "amount": float', "user", "amount", 'format="avro"'))
    worker = made.start_worker()
    send(made, name, {"user": "a", "amount": 2.0}, 10)
    made.drain(worker)
    more = 'format="avro", renamed={"who": "user", "total": "amount"}'
    made.define(definitions(name, '"who": str, "total": float', "who", "total", more))
    if is_backfilled:
        done = made.command("backfill", "by_user", "--keep-following", "0")
        assert done.returncode == 0, done.stderr
    worker = made.start_worker()
    made.wait_until_applied(worker)
    row = dict(made.store.get("by_user", {"who": "a"}))
    assert (row["by_user__n"], row["by_user__paid"], row["by_user__newest"]) == (10, 20.0, 2.0)
    send(made, name, {"who": "a", "total": 3.0}, 1)
    made.drain(worker)
    row = dict(made.store.get("by_user", {"who": "a"}))
    assert (row["by_user__n"], row["by_user__paid"], row["by_user__newest"]) == (11, 23.0, 3.0)


def test_a_view_by_a_new_column_is_backfilled_from_a_log_without_it(
    project: Make, unique: Callable[[str], str]
) -> None:
    name = unique("keyed")
    made = project(definitions(name, '"user": str, "amount": float', "user", "amount", ""))
    worker = made.start_worker()
    send(made, name, {"user": "a", "amount": 2.0}, 5)
    made.drain(worker)
    made.define(
        definitions(name, '"user": str, "amount": float, "shop": str', "user", "amount", 'nullable=("shop",)')
        + 'by_shop = FeatureView("by_shop", Entity("shop", key="shop"), paid, features={"n": count()})\n'
    )
    for command in (("apply",), ("backfill", "by_shop", "--keep-following", "0")):
        done = made.command(*command)
        assert done.returncode == 0, done.stderr


def test_what_the_log_cannot_follow_is_refused_by_commands_and_at_a_workers_start(
    project: Make, unique: Callable[[str], str]
) -> None:
    name = unique("moved")
    columns = '"user": str, "amount": float, "paid_at": "timestamp"'
    made = project(definitions(name, columns, "user", "amount", ""))
    worker = made.start_worker()
    send(made, name, {"user": "a", "amount": 2.0, "paid_at": 5}, 5)
    made.drain(worker)
    moved = definitions(name, columns, "user", "amount", "").replace('event_time="at"', 'event_time="paid_at"')
    gained = definitions(name, columns + ', "shop": str', "user", "amount", "")
    times = "have their times by column 'at', and its definition says event_time='paid_at'"
    lacking = "column 'shop' may not be null in its definition, and the events in its event log lack it"
    for changed, says, commands in ((moved, times, ["plan"]), (gained, lacking, ["plan", "backfill by_user"])):
        made.define(changed)
        for command in map(str.split, commands):
            done = made.command(*command)
            assert (done.returncode, says in done.stderr) == (1, True), (command, done.stderr)
            assert "Traceback" not in done.stderr
        worker = made.start_worker()
        assert worker.wait(60) == 1, made.said()
        assert says in " ".join(made.said().split())
