"""Records that retention took before they were read: a worker stops, and goes on once a person has said so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import redis
from confluent_kafka import TopicPartition

from featurestore import Entity, FeatureView, Topic, count
from featurestore.errors import TopicError
from featurestore.event_time import DAY_US, Mark
from featurestore.kernel import roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.offline import EventLog, LogSlices, log_schema
from featurestore.online import OneServer, OnlineStore
from streams.bounds import bounds_of
from streams.broker import admin_client
from streams.expired import expired, skip_expired
from streams.fill import LogFill
from streams.ledger import ledgers
from streams.online_sink import OnlineSink
from tests.project import Project
from tests.streams.test_rebuild import check_parity, cut, definitions, looked_up, send

Make = Callable[..., Project]
Unique = Callable[[str], str]
FAR = 3_000_000_000


def ends(project: Project, topic: str) -> dict[int, int]:
    found = bounds_of(admin_client(project.settings.kafka_bootstrap), topic, range(2))
    return {partition: bounds.end for partition, bounds in found.items()}


def cut_before(project: Project, topic: str, offsets: Mapping[int, int]) -> None:
    """Retention takes what lies before."""
    places = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    admin = admin_client(project.settings.kafka_bootstrap)
    for done in admin.delete_records(places).values():
        done.result(30)


def log_of(project: Project, topic: str) -> EventLog:
    return EventLog(project.settings.offline_path, project.repository.topic(topic))


def refuse_to_start(project: Project, topic: str) -> None:
    """A worker ends with words that name the way out, and the log stays where it is."""
    before = log_of(project, topic).marks()
    worker = project.start_worker()
    assert worker.wait(60) != 0
    assert f"featurestore skip-expired --topic {topic}" in project.said()
    assert "nothing is skipped" in project.said()
    assert log_of(project, topic).marks() == before


def skip(project: Project) -> dict[int, tuple[int, int]]:
    """Partition -> from where to where."""
    return {each.partition: (each.first, each.end) for each in skip_expired(project.settings, project.repository)}


def check_all_that_is_left(project: Project, count: int, expired: int) -> None:
    assert looked_up(project) == (count, {"PRESENT"})
    check_parity(project)
    [ledger] = ledgers(project.settings, project.repository)
    assert (ledger.records, ledger.applied, ledger.balanced) == (count + expired, count, True)
    assert ledger.expired == expired


def test_a_new_project_on_an_old_topic_counts_what_is_left_of_it(project: Make, unique: Unique) -> None:
    topic = unique("old")
    made = project(definitions(topic))
    send(made, topic, 4_000)
    lost = ends(made, topic)[1] // 2
    assert lost > 100
    cut_before(made, topic, {1: lost})
    refuse_to_start(made, topic)

    shown = made.command("skip-expired", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "nothing was done" in shown.stdout
    assert f"{lost:,}" in shown.stdout
    assert log_of(made, topic).marks() == {}

    said = made.command("skip-expired", "--topic", topic, "--json")
    assert said.returncode == 0, said.stderr
    wanted = {"topic": topic, "partition": 1, "first": 0, "end": lost, "offsets": lost}
    assert json.loads(said.stdout) == {"dry_run": False, "skipped": [wanted]}
    assert log_of(made, topic).marks() == {1: Mark(lost, 0)}
    assert skip(made) == {}
    assert log_of(made, topic).marks() == {1: Mark(lost, 0)}

    made.wait_until_applied(made.start_worker())
    check_all_that_is_left(made, 4_000 - lost, lost)


def test_a_cut_behind_a_log_leaves_its_events_and_those_after_the_cut(
    project: Make, unique: Unique, redis_client: redis.Redis
) -> None:
    topic = unique("behind")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 1_000)
    made.drain(worker)
    stood = log_of(made, topic).marks()
    send(made, topic, 1_000, first=1_000)
    low = {partition: end - 100 for partition, end in ends(made, topic).items()}
    cut_before(made, topic, low)
    send(made, topic, 500, first=2_000)
    refuse_to_start(made, topic)

    skipped = skip(made)
    assert skipped == {partition: (stood[partition].offset, low[partition]) for partition in (0, 1)}
    # Lateness goes on from the newest event that is known.
    moved = log_of(made, topic).marks()
    assert moved == {partition: replace(stood[partition], offset=low[partition]) for partition in (0, 1)}
    left = 2_500 - sum(end - first for first, end in skipped.values())
    worker = made.start_worker()
    made.wait_until_applied(worker)
    check_all_that_is_left(made, left, 2_500 - left)

    # The rows come back over the gap, by a worker's own fill and by a backfill.
    redis_client.flushall()
    made.wait_until_applied(worker)
    check_all_that_is_left(made, left, 2_500 - left)
    filled = made.command("backfill", "by_user", "--keep-following", "0")
    assert filled.returncode == 0, filled.stderr
    assert "agree" in filled.stdout
    made.wait_until_applied(worker)
    check_all_that_is_left(made, left, 2_500 - left)


def test_where_nothing_is_left_what_comes_next_is_counted(project: Make, unique: Unique) -> None:
    topic = unique("all-gone")
    made = project(definitions(topic))
    send(made, topic, 1_000)
    end = ends(made, topic)
    cut(made, topic)
    refuse_to_start(made, topic)
    assert skip(made) == {partition: (0, offset) for partition, offset in end.items()}
    worker = made.start_worker()
    made.wait_until_applied(worker)
    assert looked_up(made) == (0, {"NOT_FOUND"})
    send(made, topic, 400)
    made.wait_until_applied(worker)
    check_all_that_is_left(made, 400, 1_000)


def test_rows_of_a_backfill_may_be_ahead_of_the_log_or_begin_with_an_empty_one(project: Make, unique: Unique) -> None:
    topic = unique("ahead")
    made = project(definitions(topic))
    send(made, topic, 2_000)
    low = {partition: end // 2 for partition, end in ends(made, topic).items()}
    left = 2_000 - sum(low.values())
    cut_before(made, topic, low)
    # A backfill has no log to fill from and takes what the topic has, which puts its rows ahead of the log.
    filled = made.command("backfill", "by_user", "--keep-following", "0")
    assert filled.returncode == 0, filled.stderr
    refuse_to_start(made, topic)
    assert skip(made) == {partition: (0, offset) for partition, offset in low.items()}
    # And one from a log that has marks and no event yet.
    filled = made.command("backfill", "by_user", "--keep-following", "0")
    assert filled.returncode == 0, filled.stderr
    made.wait_until_applied(made.start_worker())
    check_all_that_is_left(made, left, 2_000 - left)


def test_ids_are_judged_from_where_the_topic_was_cut(project: Make, unique: Unique) -> None:
    topic = unique("ids")
    deduped = definitions(topic, partitions=1).replace("event_time=", 'dedupe="user", within="1h", event_time=')
    made = project(deduped)
    send(made, topic, 100)
    cut_before(made, topic, {0: 90})
    refuse_to_start(made, topic)
    assert skip(made) == {0: (0, 90)}
    made.wait_until_applied(made.start_worker())
    [ledger] = ledgers(made.settings, made.repository)
    # The first 90 had all ids there are: those that come next are no repeats of what nobody has read.
    assert (ledger.records, ledger.applied, ledger.repeated, ledger.expired) == (100, 10, 0, 90)
    assert ledger.balanced


def test_it_is_refused_while_a_worker_runs(project: Make, unique: Unique) -> None:
    topic = unique("busy")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, 500)
    made.wait_until_applied(worker)
    cut(made, topic)
    before = log_of(made, topic).version()
    refused = made.command("skip-expired")
    assert refused.returncode == 1
    assert f"{made.settings.project}-worker" in refused.stderr
    assert "stop them" in refused.stderr
    assert expired(made.settings, made.repository) == []
    assert log_of(made, topic).version() == before
    worker.terminate()
    assert worker.wait(30) == 0
    assert "nothing to skip" in made.command("skip-expired").stdout
    assert log_of(made, topic).version() == before


def test_a_topic_that_is_not_there_is_told(project: Make, unique: Unique) -> None:
    made = project(definitions(unique("known")))
    unknown = made.command("skip-expired", "--topic", "knwon")
    assert unknown.returncode == 1
    assert "'known-" in unknown.stderr
    made.define(definitions(unique("never-made")))
    with pytest.raises(TopicError, match="featurestore apply"):
        skip(made)


STEPS = Topic("steps", schema={"user": str, "at": "timestamp"}, event_time="at", partitions=1)
FOREVER = FeatureView("forever", Entity("user", key="user"), STEPS, {"n": count()})


def events(first: int, moments_us: list[int]) -> pa.Table:
    """Events of one user at offsets from `first` on."""
    rows = [
        {
            "partition": 0,
            "offset": first + number,
            "event_us": moment_us,
            "effective_us": moment_us,
            "arrival_us": moment_us,
            "late_by_us": 0,
            "date": "1970-01-01" if moment_us < DAY_US else "1970-02-10",
            "user": "ann",
            "at": moment_us,
        }
        for number, moment_us in enumerate(moments_us)
    ]
    return pa.Table.from_pylist(rows, schema=log_schema(STEPS))


def test_a_fill_jumps_over_what_the_log_does_not_have(
    redis_client: redis.Redis, unique: Unique, tmp_path: Path
) -> None:
    store = OnlineStore(OneServer(redis_client), namespace=unique("jump"), buckets=2)
    store.ensure_ready()
    log = EventLog(tmp_path, STEPS)
    nothing = log_schema(STEPS).empty_table()

    def filled(row_id: str) -> tuple[list[int], int | None]:
        """The offsets that a fill reached, and how many events were counted."""
        reached: list[int] = []
        slices = LogSlices.newest(log)
        end = LogFill(slices, FOREVER, events_max=10).fill(
            OnlineSink(store, FOREVER, row_id=row_id), 0, "id", reached.append
        )
        assert end is not None
        assert end.offset == slices.marks[0].offset
        assert store.marks(row_id, "steps")[0] == [end, end]
        names = encode_keys([pa.array(["ann"])])
        [payloads] = store.payloads([(row_id, names)])
        return reached, roll_up(payloads, 40 * DAY_US, FOREVER.plan)["n"][0].as_py()

    log.append(nothing, {0: Mark(FAR, 0)})
    began_s = time.monotonic()
    assert filled("empty") == ([FAR], 0)
    log.append(events(FAR, [1, 2, 3]), {0: Mark(FAR + 3, 3)})
    # A gap, then an event whose slice begins with it; at last a gap up to the end.
    log.append(nothing, {0: Mark(2 * FAR, 3)})
    log.append(events(2 * FAR + 7, [40 * DAY_US] * 12), {0: Mark(2 * FAR + 19, 40 * DAY_US)})
    log.append(nothing, {0: Mark(3 * FAR, 40 * DAY_US)})
    whole = [FAR, FAR + 10, 2 * FAR + 7, 2 * FAR + 17, 2 * FAR + 27, 3 * FAR]
    assert filled("whole") == (whole, 15)
    # Again, from where the rows stand: nothing.
    assert filled("whole") == ([], 15)
    # From the middle of a gap.
    sink = OnlineSink(store, FOREVER, row_id="middle")
    sink.open(0, "id")
    sink.heartbeat({0: Mark(FAR + 1_000, 3, "id")})
    assert filled("middle") == ([2 * FAR + 7, 2 * FAR + 17, 2 * FAR + 27, 3 * FAR], 12)
    assert time.monotonic() - began_s < 30

    slices = LogSlices.newest(log)
    assert slices.next_offset(0, 0, 4 * FAR) == FAR
    assert slices.next_offset(0, FAR + 2, 4 * FAR) == FAR + 2
    assert slices.next_offset(0, FAR + 3, 4 * FAR) == 2 * FAR + 7
    assert slices.next_offset(0, FAR + 3, 2 * FAR + 7) == 2 * FAR + 7, "nothing is there: the end"
    assert slices.next_offset(0, 0, 4 * FAR, since_us=2 * DAY_US) == 2 * FAR + 7
    assert slices.next_offset(1, 0, 5) == 5


def test_what_is_too_far_back_for_every_window_is_jumped_over_too(
    redis_client: redis.Redis, unique: Unique, tmp_path: Path
) -> None:
    recent = FeatureView("recent", Entity("user", key="user"), STEPS, {"n": count().over("1h")})
    store = OnlineStore(OneServer(redis_client), namespace=unique("reach"), buckets=2)
    store.ensure_ready()
    log = EventLog(tmp_path, STEPS)
    log.append(events(0, [1] * 1_000 + [40 * DAY_US]), {0: Mark(1_001, 40 * DAY_US)})
    reached: list[int] = []
    LogFill(LogSlices.newest(log), recent, events_max=10).fill(OnlineSink(store, recent), 0, "id", reached.append)
    assert reached == [1_000, 1_001]
    [payloads] = store.payloads([(recent.id, encode_keys([pa.array(["ann"])]))])
    assert roll_up(payloads, 40 * DAY_US + 1, recent.plan)["n_1h"].to_pylist() == [1]


def test_a_replay_from_the_log_jumps_as_well(project: Make, unique: Unique) -> None:
    topic = unique("far")
    made = project(definitions(topic, partitions=1))
    log = log_of(made, topic)
    log.append(log_schema(log.topic).empty_table(), {0: Mark(FAR, 0)})
    done = made.command("replay", topic, "--source", "log")
    assert done.returncode == 0, done.stderr
    assert f"{FAR:,} offsets, 0 events" in done.stdout
