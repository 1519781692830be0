"""Backfills beside live traffic: killed at every point, never read half, and exact in the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.cimpl import NewPartitions

from featurestore.client import FeatureStore
from featurestore.errors import BackfillError, BrokerError, GrownTopicError, LostTailError
from featurestore.event_time import DAY_US
from featurestore.local import environment_of
from featurestore.monitoring import prove
from featurestore.offline import EventLog
from featurestore.online import Aliases
from streams import follow
from streams.backfill import Backfill
from streams.broker import admin_client
from streams.build import online_store
from streams.fill import LogFill
from streams.follow import Follower
from streams.producer import EventProducer
from streams.topics import Topics
from tests import processes
from tests.evictions import evict
from tests.project import Project
from tests.streams.test_rebuild import USERS, cut, looked_up, now_us, send

Make = Callable[..., Project]
HISTORY = 2_000


def definitions(topic: str, extra: str = "", contract: str = "") -> str:
    return f"""
from featurestore import Entity, FeatureView, Topic, count, first, mean, sum

paid = Topic({topic!r}, schema={{"user": str, "at": "timestamp", "amount": float}},
             event_time="at", key="user", partitions=2, {contract})
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness="1h", features={{
    "n": count(), "paid": sum("amount").over("1h", "24h"), "oldest": first("amount"), {extra}
}})
"""


class Reader:
    """Looks all users up all the time, and keeps what it saw."""

    def __init__(self, store: FeatureStore) -> None:
        self._store, self._stop = store, threading.Event()
        self.seen: list[tuple[set[bool], set[str]]] = []
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                table = self._store.get_many("by_user", {"user": USERS})
                oldest = table["by_user__oldest"].to_pylist()
                # Only rows with the history have an amount from it.
                has_history = {value is not None and value < HISTORY * 0.1 for value in oldest}
                self.seen.append((has_history, set(table["by_user__status"].to_pylist())))
                self._stop.wait(0.002)
        except BaseException as error:
            self._failed = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed


class Traffic:
    """Sends a little all the time; `sent` counts from after the history.

    also  what is sent beside it
    """

    def __init__(self, project: Project, topic: str, also: Callable[[], None] = lambda: None) -> None:
        self._project, self._topic, self._also, self._stop = project, topic, also, threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            send(self._project, self._topic, 40, HISTORY + self.sent)
            self.sent += 40
            self._also()
            self._stop.wait(0.1)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def killed(project: Project, point: str, nth: int = 1) -> None:
    environment = environment_of(project.settings)
    done = processes.run("tests.streams.killed_backfill", "by_user", point, str(nth), environment=environment)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def test_readers_see_old_rows_or_new_ones_whatever_is_killed_beside_live_traffic(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("shadowed")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, HISTORY)
    made.wait_until_applied(worker)
    cut(made, topic)
    # What is served has lost its history, as a bug would lose it; the watermarks do not know.
    rows = list(redis_client.scan_iter(f"{made.settings.project}:*:row:*"))
    assert len(rows) == len(USERS)
    redis_client.delete(*rows)
    send(made, topic, 40, HISTORY)
    made.wait_until_applied(worker)
    traffic, reader = Traffic(made, topic), Reader(made.store)
    traffic.sent = 40
    try:
        for point, nth in (("mid-fill", 1), ("mid-fill", 3), ("before-compare", 1), ("before-flip", 1)):
            killed(made, point, nth)
        assert all(history == {False} for history, _ in reader.seen), "nothing has flipped yet"
        for point in ("after-flip", "before-drop"):
            killed(made, point)
        made.wait_until_said("by_user is served from")
        done = made.command("backfill", "by_user")
        assert done.returncode == 0, done.stderr
    finally:
        traffic.stop()
        reader.stop()
    assert worker.poll() is None, made.said()
    assert {frozenset(history) for history, _ in reader.seen} == {frozenset({False}), frozenset({True})}
    flips = sum(one != other for (one, _), (other, _) in zip(reader.seen, reader.seen[1:], strict=False))
    assert flips == 1, "once new, never old again"
    assert {status for _, statuses in reader.seen for status in statuses} == {"PRESENT"}
    made.wait_until_applied(worker)
    assert sum(made.store.get_many("by_user", {"user": USERS})["by_user__n"].to_pylist()) == HISTORY + traffic.sent
    [parity] = prove(made.store, [made.repository.view("by_user")], now_us())
    assert parity.mismatches == ()
    ids = {re.search(rb":(by_user@[^:]*):", key)[1] for key in redis_client.scan_iter(f"{made.settings.project}:*}}:*")}  # type: ignore[index]
    [row_id] = ids
    assert row_id.decode().startswith(f"{made.repository.view('by_user').id}.g2-"), "the old rows are gone"


def test_a_changed_definition_is_filled_while_the_old_one_is_served_and_read(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("changed")
    made = project(definitions(topic, contract='ranges={"amount": (0, None)}'))
    old_worker = made.start_worker()
    send(made, topic, HISTORY)
    made.wait_until_applied(old_worker)
    cut(made, topic)
    old = made.store
    made.define(definitions(topic, extra='"mean": mean("amount").over("24h"),'))
    assert made.store.get("by_user", {"user": "u1"})["by_user__status"] == "STALE"

    def send_refused() -> None:
        # The definition of now takes what the worker, which has the one of before, logs as dead letters.
        with EventProducer(made.settings.kafka_bootstrap) as producer:
            for user in USERS:
                producer.send(made.repository.topic(topic), {"user": user, "at": now_us(), "amount": -1.0})

    traffic = Traffic(made, topic, send_refused)
    try:
        done = made.command("backfill", "by_user", "--keep-following", "2")
    finally:
        traffic.stop()
    assert done.returncode == 0, done.stderr
    assert "agree at" in done.stdout
    assert made.store.get("by_user", {"user": "u1"})["by_user__status"] == "PRESENT"
    assert old.get("by_user", {"user": "u1"})["by_user__status"] == "PRESENT"
    old_worker.terminate()
    assert old_worker.wait(30) == 0
    worker = made.start_worker()
    send(made, topic, 400, HISTORY)
    made.wait_until_applied(worker)
    [parity] = prove(made.store, [made.repository.view("by_user")], now_us())
    assert parity.mismatches == ()
    assert parity.pairs == len(USERS)
    logged = made.store.event_log(made.repository.topic(topic)).dataset().count_rows()
    assert looked_up(made)[0] == logged
    assert HISTORY + traffic.sent + 400 <= logged < HISTORY + 2 * traffic.sent + 400, "the old worker refused some"


def test_a_backfill_that_ended_before_its_flip_catches_up_first(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("waited")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, HISTORY)
    made.wait_until_applied(worker)
    killed(made, "before-flip")
    send(made, topic, 400, HISTORY)
    made.drain(worker)
    killed(made, "after-flip")
    table = made.store.get_many("by_user", {"user": USERS})
    assert set(table["by_user__status"].to_pylist()) == {"PRESENT"}
    assert sum(table["by_user__n"].to_pylist()) == HISTORY + 400


def test_a_second_run_of_a_view_is_refused_while_one_is_at_work_and_not_after_it(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("alone")
    made = project(definitions(topic))
    send(made, topic, 200)
    refused: list[subprocess.CompletedProcess[str]] = []

    def at(point: str) -> None:
        # Before the shadow is compared, and while it follows behind its flip.
        if point in ("before-compare", "before-drop"):
            for more in ((), ("--abandon",)):
                refused.append(made.command("backfill", "by_user", *more))
                assert refused[-1].returncode == 1, refused[-1].stdout
            # Another project with the same view, whose logs lie beside these.
            assert not Backfill(other, view, lambda row_id, log: "").abandon()

    other = made.settings.model_copy(update={"project": unique("other")})
    view = made.repository.view("by_user")
    Backfill(made.settings, view, lambda row_id, log: "", at=at).run(keep_following_s=0)
    said = [(done.returncode, "another run of it is at work" in done.stderr) for done in refused]
    assert said == [(1, True)] * 4, [done.stderr for done in refused]
    assert looked_up(made) == (200, {"PRESENT"})
    assert made.command("backfill", "by_user", "--keep-following", "0").returncode == 0
    assert looked_up(made) == (200, {"PRESENT"})


def test_rows_that_differ_from_the_log_are_not_flipped_to(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("wrong")
    # Rows of such a view expire.
    made = project(re.sub(r"(count\(\)|first\(\"amount\"\))", r'\1.over("24h")', definitions(topic)))
    worker = made.start_worker()
    send(made, topic, HISTORY)
    made.wait_until_applied(worker)
    killed(made, "before-compare")
    view = made.repository.view("by_user")
    aliases = Aliases(online_store(made.settings))
    state = aliases.backfill(view.id)
    assert state is not None
    client = redis.Redis.from_url(made.settings.redis_url)
    row = next(iter(client.scan_iter(f"{made.settings.project}:*:{state.id}:row:*")))
    client.delete(row)
    refused = made.command("backfill", "by_user")
    assert refused.returncode == 1
    assert "differ from the event log" in refused.stderr
    assert "--abandon" in refused.stderr
    assert aliases.id_of(view.id) == view.id

    # What else may come of any stage is told as the end that it is.
    lost = LostTailError("by_user", topic, 1, 7)
    away = KafkaException(KafkaError(KafkaError._TRANSPORT))
    for raised, said in ((away, "no Kafka broker answers at"), (lost, f"stand at offset 7 of {topic}/1 again; run it")):

        def fail(row_id: str, log: EventLog, error: Exception = raised) -> str:
            raise error

        with pytest.raises((BrokerError, BackfillError), match=said):
            Backfill(made.settings, view, fail).run()

    def at(point: str) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        Backfill(made.settings, view, lambda row_id, log: "", at=at).abandon()
    assert made.command("backfill", "by_user", "--abandon").stdout.strip() == "dropped"
    with pytest.raises(KilledError):
        Backfill(made.settings, view, lambda row_id, log: "", at=at).run()
    # Three days later: rows have expired, and the marks say that they are there.
    state = aliases.backfill(view.id)
    assert state is not None
    aliases.save_backfill(view.id, msgspec.structs.replace(state, begun_us=state.begun_us - 3 * DAY_US))
    client.delete(*client.scan_iter(f"{made.settings.project}:*:{state.id}:row:*"))
    assert made.command("backfill", "by_user", "--keep-following", "0").returncode == 0
    assert aliases.id_of(view.id).startswith(f"{view.id}.g4-")
    assert not list(client.scan_iter(f"{made.settings.project}:*:{state.id}:*"))
    # Of a backfill that came back older than its alias the shadow is what is served.
    served = aliases.id_of(view.id)
    rows = set(client.scan_iter(f"{made.settings.project}:*:{served}:row:*"))
    aliases.save_backfill(view.id, msgspec.structs.replace(state, id=served, begun_us=0))
    Backfill(made.settings, view, lambda row_id, log: "").run(keep_following_s=0)
    assert len(rows) == len(USERS)
    assert set(client.scan_iter(f"{made.settings.project}:*:{served}:row:*")) == rows
    alias = aliases.get(view.id)
    assert alias is not None
    assert (alias.id, alias.is_ready) == (served, True)


@pytest.mark.parametrize("what", ["all", "the shadow's newest", "what it evicted"])
def test_a_shadow_that_the_store_lost_before_the_flip_is_not_flipped_to(
    what: str, project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    made = project(definitions(unique("emptied")))
    topic = made.repository.view("by_user").source.name
    send(made, topic, 200)
    if what == "the shadow's newest":
        worker = made.start_worker()
        made.drain(worker)
    # In Kafka and in no log.
    send(made, topic, HISTORY - 200, 200)
    view, saved = made.repository.view("by_user"), dict[bytes, bytes]()

    def at(point: str) -> None:
        if point == "before-compare":
            for name in redis_client.scan_iter(f"{made.settings.project}:*.g2-*:*"):
                saved[name] = redis_client.dump(name)  # type: ignore[assignment]
        elif point == "before-flip" and what == "the shadow's newest":
            assert saved
            for name, dumped in saved.items():
                redis_client.restore(name, 0, dumped, replace=True)
        elif point == "before-flip" and what == "what it evicted":
            evict(redis_client, next(redis_client.scan_iter(f"{made.settings.project}:*.g2-*:row:*")))
        elif point == "before-flip":
            redis_client.flushall()
        elif point == "before-abandoned-drop":
            # As a drop leaves it that is killed: these rows are gone, and the marks that vouch for them are not.
            redis_client.delete(*redis_client.scan_iter(f"{made.settings.project}:*.g2-*:row:*"))
            raise KilledError

    backfill = Backfill(made.settings, view, lambda row_id, log: "not compared", at=at)
    with pytest.raises(BackfillError, match=r"(lost rows of|keys since) by_user@\w+\.g2-\w+ .* --abandon"):
        backfill.run()
    is_served = set(made.store.get_many("by_user", {"user": USERS})["by_user__status"].to_pylist())
    assert is_served == {"PRESENT" if what == "the shadow's newest" else "STALE"}
    if what == "all":
        # The backfill is forgotten as well.
        assert not backfill.abandon()
    else:
        with pytest.raises(KilledError):
            backfill.abandon()
    assert made.command("backfill", "by_user", "--keep-following", "0").returncode == 0
    assert not list(redis_client.scan_iter(f"{made.settings.project}:*.g2-*:*")) or what == "all"
    table = made.store.get_many("by_user", {"user": USERS})
    assert set(table["by_user__status"].to_pylist()) == {"PRESENT"}
    assert sum(table["by_user__n"].to_pylist()) == HISTORY


def test_a_topic_that_grew_while_its_shadow_was_filled_is_not_flipped_to(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("grew")
    made = project(definitions(topic))
    send(made, topic, 200)
    topics, admin = Topics(made.settings.kafka_bootstrap), admin_client(made.settings.kafka_bootstrap)

    def at(point: str) -> None:
        if point == "before-flip":
            [grown] = admin.create_partitions([NewPartitions(topic, 3)]).values()
            grown.result()
            while topics.told([topic])[topic].partitions < 3:
                time.sleep(0.05)

    backfill = Backfill(made.settings, made.repository.view("by_user"), lambda row_id, log: "", at=at)
    with pytest.raises(GrownTopicError, match="has 3 partitions of it, but its definition says partitions=2"):
        backfill.run(keep_following_s=0)
    assert looked_up(made)[1] == {"STALE"}
    made.define(definitions(topic).replace("partitions=2", "partitions=3"))
    send(made, topic, 100, 200)
    Backfill(made.settings, made.repository.view("by_user"), lambda row_id, log: "").run(keep_following_s=0)
    assert looked_up(made) == (300, {"PRESENT"})


@pytest.mark.parametrize("what", ["no events", "no worker"])
def test_a_backfill_needs_neither_events_nor_a_worker(what: str, project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("alone")
    made = project(definitions(topic))
    if what == "no worker":
        send(made, topic, 200)
    done = made.command("backfill", "by_user", "--keep-following", "0")
    assert done.returncode == 0, done.stderr
    table = made.store.get_many("by_user", {"user": USERS})
    assert sum(table["by_user__n"].to_pylist()) == (200 if what == "no worker" else 0)
    assert set(table["by_user__status"].to_pylist()) == ({"PRESENT"} if what == "no worker" else {"NOT_FOUND"})


def test_a_follower_reads_the_topic_only_while_no_worker_does_and_says_who_is_silent(
    project: Make, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_LOOK_S", 0.2)
    monkeypatch.setattr(follow, "_GONE_S", 1.0)
    topic = unique("sources")
    made = project(definitions(topic), worker_session_s=6.0)
    view, store = made.repository.view("by_user"), online_store(made.settings)
    topic_id = Topics(made.settings.kafka_bootstrap).ids([topic])[topic]
    send(made, topic, 200)
    log = made.store.event_log(made.repository.topic(topic))

    def logged() -> int:
        log.forget()
        return sum(mark.offset for mark in log.marks().values())

    def wait_for_log(until: int) -> None:
        deadline = time.monotonic() + 60
        while logged() < until:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def held(follower: Follower, until: int) -> None:
        """Follow until the rows hold so many events."""
        while sum(follower.settled().values()) < until:
            follower.until_caught_up()

    with Follower(made.settings, store, view, "refused", topic_id) as follower:
        held(follower, 200)
        assert not log.exists()
        worker = made.start_worker()
        with pytest.raises(BackfillError, match=rf"workers began to read {topic}/\d from 0 on when .* up to \d+ from"):
            follower.for_seconds(30)
    made.wait_until_applied(worker)
    with Follower(made.settings, store, view, "shadow", topic_id, is_served=lambda: True) as follower:
        held(follower, 200)
        # Neither its log nor its rows move while it stands still, but it is a worker as long as its session.
        os.kill(worker.pid, signal.SIGSTOP)
        send(made, topic, 40, 200)
        monkeypatch.setattr(follow, "_SILENT_MAX_S", -4.0)
        with pytest.raises(BackfillError, match=rf"logged no more of {topic}/\d: their log stands at \d+, and .* stop"):
            follower.until_caught_up()
        monkeypatch.undo()
        assert sum(follower.settled().values()) == 200
        os.kill(worker.pid, signal.SIGCONT)
        wait_for_log(240)
        os.kill(worker.pid, signal.SIGSTOP)
        send(made, topic, 40, 240)

        class Slow(LogFill):
            """Meanwhile the worker logs what this one does not know of yet."""

            def fill(self, *place: Any) -> int:
                os.kill(worker.pid, signal.SIGCONT)
                wait_for_log(280)
                time.sleep(1.5)
                return super().fill(*place)

        monkeypatch.setattr(follow, "LogFill", Slow)
        monkeypatch.setattr(follow, "_SILENT_MAX_S", -5.0)
        with Follower(made.settings, store, view, "slow", topic_id, is_served=lambda: True) as slow:
            held(slow, 280)
        monkeypatch.undo()
        made.drain(worker)
        monkeypatch.setattr(follow, "_GONE_S", 1.0)
        monkeypatch.setattr(follow, "_LOOK_S", 0.2)
        send(made, topic, 40, 280)
        held(follower, 320)


class KilledError(BaseException):
    """Where a process would have been killed."""


def filled_by_a_worker_and_cut(made: Project, topic: str) -> None:
    """Events that only the log has."""
    worker = made.start_worker()
    send(made, topic, HISTORY)
    made.drain(worker)
    cut(made, topic)


def test_what_only_the_log_has_is_not_left_out_where_the_store_is_flushed_between_fill_and_follow(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("between")
    made = project(definitions(topic))
    filled_by_a_worker_and_cut(made, topic)
    send(made, topic, 40, HISTORY)
    points: list[str] = []

    def moved(stage: str, done: int, total: int) -> None:
        if stage == "fill" and done == total and points.count("before-compare") == 1:
            points.append("flushed")
            redis_client.flushall()

    def at(point: str) -> None:
        # Behind the fill that is compared comes another one, of what the log got since.
        points.append(point)

    view = made.repository.view("by_user")
    backfill = Backfill(made.settings, view, lambda row_id, log: "", moved=moved, at=at)
    with pytest.raises(BackfillError, match=r"lost rows of by_user@\w+\.g2-\w+ after they were filled; run it again"):
        backfill.run(keep_following_s=0)
    assert points[-1] == "flushed"
    assert looked_up(made) == (0, {"STALE"})
    backfill.run(keep_following_s=0)
    assert looked_up(made) == (HISTORY + 40, {"PRESENT"})


@pytest.mark.parametrize("point", ["after-flip", "before-drop"])
def test_a_backfill_that_goes_on_behind_its_flip_fills_what_the_store_lost_since(
    point: str, project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("node")
    made = project(definitions(topic))
    filled_by_a_worker_and_cut(made, topic)
    send(made, topic, 40, HISTORY)
    killed(made, point)
    assert looked_up(made) == (HISTORY + 40, {"PRESENT"})
    # What one node of a cluster had, which the aliases are not on.
    half = [f"{made.settings.project}:{{b{bucket}}}:*" for bucket in range(0, made.settings.buckets, 2)]
    redis_client.delete(*(name for pattern in half for name in redis_client.scan_iter(pattern)))
    assert looked_up(made)[0] < HISTORY
    seen = []

    def at(here: str) -> None:
        if here in ("mid-fill", "before-flip", "before-drop"):
            seen.append((here, *looked_up(made)))

    Backfill(made.settings, made.repository.view("by_user"), lambda row_id, log: "", at=at).run(keep_following_s=0)
    assert {statuses == {"STALE"} for here, _, statuses in seen if here == "mid-fill"} == {True}
    assert seen[-2:] == [("before-flip", HISTORY + 40, {"STALE"}), ("before-drop", HISTORY + 40, {"PRESENT"})]
    assert looked_up(made) == (HISTORY + 40, {"PRESENT"})


def test_rows_that_neither_log_nor_topic_have_are_not_called_complete_by_a_backfill(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("nowhere")
    made = project(definitions(topic))
    filled_by_a_worker_and_cut(made, topic)
    send(made, topic, 40, HISTORY)
    killed(made, "before-drop")
    redis_client.delete(*redis_client.scan_iter(f"{made.settings.project}:{{*"))
    cut(made, topic)
    refused = made.command("backfill", "by_user", "--keep-following", "0")
    assert (refused.returncode, "skip-expired" in refused.stderr) == (1, True), refused.stderr
    assert looked_up(made) == (HISTORY, {"STALE"})
    assert made.command("skip-expired").returncode == 0
    assert made.command("backfill", "by_user", "--keep-following", "0").returncode == 0
    assert looked_up(made) == (HISTORY, {"PRESENT"})


@pytest.mark.parametrize("point", ["after-flip", "before-drop", "before-end"])
@pytest.mark.parametrize("is_killed", [False, True])
def test_rows_are_not_dropped_while_an_alias_that_came_back_older_names_them(
    point: str, is_killed: bool, project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("older")
    made = project(definitions(topic))
    send(made, topic, 200)
    assert made.command("backfill", "by_user", "--keep-following", "0").returncode == 0
    view, store = made.repository.view("by_user"), online_store(made.settings)
    aliases = Aliases(store)
    old = aliases.get(view.id)
    assert old is not None
    times, after = 0, list[tuple[int, set[str]]]()

    def at(here: str) -> None:
        nonlocal times
        if here == point and not times:
            times += 1
            redis_client.hset(store.name("aliases"), view.id, old.packed())
            if is_killed:
                raise KilledError
        elif times:
            after.append(looked_up(made))

    backfill = Backfill(made.settings, view, lambda row_id, log: "", at=at)
    try:
        backfill.run(keep_following_s=0)
    except KilledError:
        if point != "after-flip":
            with pytest.raises(BackfillError, match="has flipped already; run it again, so that it ends"):
                backfill.abandon()
        backfill.run(keep_following_s=0)
    assert looked_up(made) == (200, {"PRESENT"})
    alias = aliases.get(view.id)
    assert alias is not None
    assert alias.id.startswith(f"{view.id}.g3-")
    assert aliases.backfill(view.id) is None
    assert (store.rows(old.id), store.rows(alias.id)) == (0, len(USERS)), "what was served before is dropped once"
    # Lookups have all, or are told that they may not.
    assert all(n == 200 for n, statuses in after if statuses != {"STALE"}), after


def test_compact_keeps_the_version_at_which_a_killed_backfill_stands_and_refuses_it_once_it_is_gone(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("compacted")
    made = project(definitions(topic))
    worker = made.start_worker()
    send(made, topic, HISTORY)
    made.wait_until_applied(worker)
    killed(made, "mid-fill")
    log, view = made.store.event_log(made.repository.topic(topic)), made.repository.view("by_user")
    state = Aliases(online_store(made.settings)).backfill(view.id)
    assert state is not None
    before = log.at(state.version).read(["offset"]).num_rows

    def compact_later() -> None:
        shown = made.command("compact", topic)
        assert shown.returncode == 0, shown.stderr
        for path in [*log.path.glob("*/*.parquet"), *log.path.glob("*/*.json")]:
            os.utime(path, (0, 0))

    # A checkpoint behind that version, and another one that is as old: without the backfill, the version would go.
    compact_later()
    send(made, topic, 40, HISTORY)
    made.drain(worker)
    compact_later()
    assert log.at(state.version).read(["offset"]).num_rows == before
    Aliases(online_store(made.settings)).end_backfill(view.id)
    compact_later()
    Aliases(online_store(made.settings)).save_backfill(view.id, state)
    refused = made.command("backfill", "by_user")
    assert refused.returncode == 1
    assert f"version {state.version} of the event log" in refused.stderr
    # Lost, forgotten, and made anew: its versions are others, whatever their numbers.
    log.path.rename(log.path.with_name("lost"))
    online_store(made.settings).forget_log(topic)
    EventLog(made.settings.offline_path, log.topic, project=made.settings.project).claim()
    with pytest.raises(BackfillError, match="another one than the shadow was filled from; run it with --abandon"):
        Backfill(made.settings, view, lambda row_id, log: "").run()
    assert made.command("backfill", "by_user", "--abandon").returncode == 0
    done = made.command("backfill", "by_user", "--keep-following", "0")
    assert done.returncode == 0, done.stderr
    assert made.command("compact", "--keep", "5m").returncode == 2
