"""A range of a topic run again: what came out is what plain arithmetic says, and nothing that is served has moved."""

from __future__ import annotations

import re
import shutil
import signal
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis
from confluent_kafka import KafkaError, KafkaException

from featurestore.errors import BrokerError, EventLogError, LostTailError, ReplayError, TopicError
from featurestore.event_time import HOUR_US, Mark
from featurestore.kernel import in_records
from featurestore.local import environment_of
from featurestore.offline import log_schema
from streams.decided import dead_at
from streams.letters import NO_POSITION, DeadLetter
from streams.producer import EventProducer
from streams.replay import Replay, Source, _FileLetters
from streams.tail import Tail
from streams.transport import Batch
from tests import processes
from tests.project import Project
from tests.streams.test_rebuild import cut, definitions, now_us, send

Make = Callable[..., Project]


def served(project: Project, client: redis.Redis) -> dict[bytes, object]:
    """Everything that the project keeps in the online store, scratch places left out, as bytes."""
    names = [name for name in client.scan_iter(f"{project.settings.project}:*") if b":replay:" not in name]
    return {name: client.dump(name) for name in names}


@pytest.mark.parametrize("source", ["kafka", "log"])
def test_a_replayed_range_is_exact_and_leaves_what_is_served_alone_whatever_is_killed(
    source: str, project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("again")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    send(made, topic, 1_000)
    moment = now_us()
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        producer.send_raw(topic, b"u1", b"{broken")
        late = {"user": "u1", "at": moment - 600_000_000, "amount": 1_000.0}
        producer.send(made.repository.topic(topic), late)
        producer.send(made.repository.topic(topic), {**late, "at": moment - 7_200_000_000})
    send(made, topic, 500, first=1_000)
    made.drain(worker)
    before, version = served(made, redis_client), made.store.event_log(made.repository.topic(topic)).version()
    if source == "log":
        cut(made, topic, partitions=1)
        with pytest.raises(ReplayError, match="say --source log"):
            Replay(made.settings, made.repository, topic, first="600", end="1100").run()
    killed = processes.run(
        *("tests.streams.killed_replay", topic, "600", "1100", source, "1"), environment=environment_of(made.settings)
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    command = ("replay", topic, "--from", "600", "--to", "1100", "--source", source)
    shown = made.command(*command)
    assert shown.returncode == 0, shown.stderr
    # Offsets 600 to 999 are plain; 1000 is broken, 1001 late, 1002 too late; then plain again.
    replay = Replay(
        made.settings, made.repository, topic, first="600", end="1100", source="log" if source == "log" else "kafka"
    )
    done = replay.run()
    [view] = done.views
    assert (done.offsets, done.events) == (500, 499)
    assert (view.applied, view.late >= 1, view.too_late, view.rows) == (498, True, 1, 40)
    assert done.dead == ({"broken_json": 1, "too_late": 1} if source == "kafka" else {})
    numbers = [*range(600, 1_000), *range(1_000, 1_097)]
    for row in view.sample:
        expected = sum(f"u{number % 40}" == row["user"] for number in numbers) + (row["user"] == "u1")
        assert row["n"] == expected, row
    assert re.search(r"by_user\s*│\s*498", shown.stdout), shown.stdout
    assert served(made, redis_client) == before
    assert made.store.event_log(made.repository.topic(topic)).version() == version
    assert list(redis_client.scan_iter(f"{made.settings.project}:replay:*"))

    def cut_off(point: str) -> None:
        # As a drop leaves it that is killed: these rows are gone, and the marks that vouch for them are not.
        redis_client.delete(*redis_client.scan_iter(f"{made.settings.project}:replay:*:row:*"))
        raise KeyboardInterrupt(point)

    dropping = Replay(made.settings, made.repository, topic, name=replay.name, at=cut_off)
    with pytest.raises(KeyboardInterrupt):
        dropping.drop()
    assert replay.run() == done
    with pytest.raises(KeyboardInterrupt):
        dropping.drop()
    assert made.command(*command, "--drop").stdout.strip() == "dropped"
    assert not list(redis_client.scan_iter(f"{made.settings.project}:replay:*"))
    assert not list(done.folder.parent.iterdir())


def test_what_was_taken_back_counts_once_in_a_replay_as_it_does_where_it_is_served(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("taken")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for number in range(5):
            broken = {"user": "u1", "at": now_us() + number, "amount": None}
            producer.send_raw(topic, b"u1", msgspec.json.encode(broken))
    send(made, topic, 2)
    made.drain(worker)
    made.define(definitions(topic, partitions=1).replace("partitions=1)", 'partitions=1, nullable=("amount",))'))
    worker = made.start_worker()
    made.wait_until_applied(worker)
    # The fifth letter stays one: a mended definition takes it where it stands.
    for number in range(4):
        back = made.command("dead-letters", "replay", "--place", f"{topic}/0/{number}")
        assert back.returncode == 0, back.stderr
    made.wait_until_applied(worker)
    assert made.store.get("by_user", {"user": "u1"})["by_user__n"] == 5
    done = Replay(made.settings, made.repository, topic).run()
    [view] = done.views
    [row] = [row for row in view.sample if row["user"] == "u1"]
    assert (row["n"], view.applied, done.events, done.taken_back, done.dead) == (6, 7, 7, 4, {})
    # Where their range ends before they come again they are what they were, and no others are named.
    earlier = Replay(made.settings, made.repository, topic, first="1", end="7").run()
    assert (earlier.views[0].applied, earlier.taken_back) == (3, 3)
    shown = made.command("replay", topic, "--from", "1", "--to", "7")
    assert "3 taken back by `dead-letters replay`" in shown.stdout, (shown.stdout, shown.stderr)


def test_rows_and_whole_records_that_were_taken_back_are_left_out_by_their_places() -> None:
    rows = dead_at(np.array([3, 1, 1, 3]), np.array([2, NO_POSITION, 5, 4]), is_batched=True)
    places = [(0, 9), (1, 0), (1, 5), (1, 9), (2, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 5)]
    offsets, positions = np.array(places).T
    dead = rows.is_dead(in_records(offsets, positions))
    assert [place for place, is_dead in zip(places, dead, strict=True) if is_dead] == [
        (1, 0),
        (1, 5),
        (1, 9),
        (3, 2),
        (3, 4),
    ]
    whole = dead_at(np.array([7, 5]), np.full(2, NO_POSITION), is_batched=False)
    assert whole.is_dead(np.arange(4, 9)).tolist() == [0, 1, 0, 1, 0]


def test_a_range_that_retention_cut_since_the_replay_began_says_the_way_on(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("cut-since")
    made = project(definitions(topic, partitions=1))
    worker = made.start_worker()
    send(made, topic, 400)
    made.drain(worker)

    def cut_off(point: str) -> None:
        raise KeyboardInterrupt(point)

    asked = {"first": "100", "end": "300"}
    with pytest.raises(KeyboardInterrupt):
        # Before anything of it was kept.
        Replay(made.settings, made.repository, topic, at=cut_off, **asked).run()
    cut(made, topic, partitions=1)
    command = ("replay", topic, "--from", "100", "--to", "300")
    for _ in range(2):
        refused = made.command(*command)
        assert (refused.returncode, refused.stdout) == (1, ""), refused.stdout
        assert "since it began Kafka has deleted offsets 100 to 400 of partition 0" in refused.stderr
        assert "--drop, then say --source log" in refused.stderr
        assert "skip-expired" not in refused.stderr
    assert made.command(*command, "--drop").stdout.strip() == "dropped"
    again = made.command(*command, "--source", "log")
    assert (again.returncode, "200 offsets, 200 events" in again.stdout) == (0, True), again.stderr


def test_a_range_that_is_done_is_told_again_whatever_retention_took_of_it_and_however_much_later(
    project: Make, unique: Callable[[str], str], redis_client: redis.Redis
) -> None:
    topic = unique("done")
    # Rows of such a view expire where it is served.
    made = project(re.sub(r"(count\(\)|last\(\"amount\"\))", r'\1.over("1h")', definitions(topic, partitions=1)))
    send(made, topic, 100)
    for _ in range(2):
        assert Replay(made.settings, made.repository, topic, end="100").run().events == 100
        cut(made, topic, partitions=1)
        # Its marks stay, so its rows must: without them it would be told of as done, and short.
        rows = list(redis_client.scan_iter(f"{made.settings.project}:replay:*:row:*"))
        assert {redis_client.pttl(row) for row in rows} == {-1}


def test_a_topic_that_no_view_reads_is_not_replayed(project: Make, unique: Callable[[str], str]) -> None:
    topic, lone = unique("read"), unique("lone")
    unread = f"""lone = Topic({lone!r}, schema={{"user": str, "at": "timestamp"}}, event_time="at", partitions=1)\n"""
    made = project(definitions(topic, partitions=1) + unread)
    for more in ((), ("--drop",), ("--source", "log")):
        refused = made.command("replay", lone, *more)
        assert refused.returncode == 1
        assert f"replay of topic {lone!r}: no feature view reads it" in " ".join(refused.stderr.split()), refused.stderr
    # A scratch place that has a name can be deleted by it when the view is gone.
    send(made, topic, 10)
    assert made.command("replay", topic, "--name", "kept").returncode == 0
    made.define(definitions(topic, partitions=1).split("by_user =")[0])
    assert made.command("replay", topic, "--name", "kept", "--drop").stdout.strip() == "dropped"


@pytest.mark.parametrize("source", ["kafka", "log"])
def test_of_a_topic_that_was_made_again_nothing_is_replayed(
    source: Source, project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("remade")
    made = project(definitions(topic, partitions=1))
    send(made, topic, 3)
    log = made.store.event_log(made.repository.topic(topic))
    log.append(log_schema(log.topic).empty_table(), {0: Mark(3, now_us(), "the one before")})
    replay = Replay(made.settings, made.repository, topic, source=source)
    with pytest.raises(TopicError, match=r"deleted and made again.*another name"):
        replay.run()
    assert not replay.folder.exists()


def test_events_left_out_as_repeats_are_not_called_too_late(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("twice")
    plain = definitions(topic, partitions=1)
    assert plain.count('"amount": float}') == plain.count("partitions=1)") == 1
    plain = plain.replace('"amount": float}', '"amount": float, "id": int}')
    made = project(plain.replace("partitions=1)", 'partitions=1, dedupe="id", within="1h")'))
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for number in range(200):
            event = {"user": f"u{number % 40}", "at": now_us(), "amount": 1.0, "id": number % 150}
            producer.send(made.repository.topic(topic), event)
    done = Replay(made.settings, made.repository, topic, first="0", end="200").run()
    [view] = done.views
    assert (done.events, view.applied, view.too_late, view.repeats, done.dead) == (200, 150, 0, 50, {})
    assert re.search(r"repeats.*\n.*\n.*by_user\s*│\s*150\s*│.*│\s*0\s*│\s*50", made.command("replay", topic).stdout)


def test_a_name_stands_for_one_question(project: Make, unique: Callable[[str], str], redis_client: redis.Redis) -> None:
    topic = unique("named")
    made = project(definitions(topic, partitions=1))
    send(made, topic, 100)
    named = ("replay", topic, "--name", "x")
    asked = (*named, "--from", "0", "--to", "50")
    for _ in range(2):
        shown = made.command(*asked)
        assert (shown.returncode, "50 offsets, 50 events" in shown.stdout) == (0, True), shown.stderr
    for other in ((*named, "--from", "50", "--to", "100"), named, (*asked, "--source", "log")):
        refused = made.command(*other)
        assert (refused.returncode, refused.stdout) == (1, ""), refused.stdout
        assert f"'x' is another replay, of {topic} --from 0 --to 50 --source kafka with by_user@" in refused.stderr
        assert "--drop" in refused.stderr
    for text in ("\N{SUPERSCRIPT TWO}", "-5", "soon"):
        refused = made.command("replay", topic, f"--from={text}")
        assert (refused.returncode, "is neither an offset nor a moment" in refused.stderr) == (1, True), refused.stderr
    for option, source in (("--from", "kafka"), ("--to", "kafka"), ("--from", "log")):
        for text in ("1969-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z"):
            refused = made.command("replay", topic, f"{option}={text}", "--source", source)
            assert (refused.returncode, "where moments begin" in refused.stderr) == (1, True), refused.stderr
            assert "Traceback" not in refused.stderr
    # A changed definition finds the place of before, by its name or without one.
    assert made.command(*asked[:2], *asked[4:]).returncode == 0
    changed = definitions(topic, partitions=1).replace('lateness="1h"', 'lateness="2h"')
    made.define(changed)
    for again in (asked, (*asked[:2], *asked[4:])):
        refused = made.command(*again)
        assert (refused.returncode, "is another replay" in refused.stderr) == (1, True), refused.stderr
        assert made.command(*again, "--drop").stdout.strip() == "dropped"
    assert not list(redis_client.scan_iter(f"{made.settings.project}:replay:*"))


def test_nobody_drops_what_a_replay_is_at_work_on_and_a_log_that_is_gone_is_not_made_anew(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("at-work")
    made = project(definitions(topic, partitions=1))
    send(made, topic, 10)

    def at(point: str) -> None:
        for again in (Replay.run, Replay.drop):
            with pytest.raises(ReplayError, match=f"another run of '{replay.name}' is at work; wait"):
                again(Replay(made.settings, made.repository, topic))
        shutil.rmtree(replay.folder / "log")

    replay = Replay(made.settings, made.repository, topic, at=at)
    with pytest.raises(EventLogError, match="it is gone from"):
        replay.run()
    assert Replay(made.settings, made.repository, topic).drop()


def test_letters_of_a_file_are_counted_once_each_and_no_more_of_them_is_held(tmp_path: Path) -> None:
    kept = _FileLetters(tmp_path / "letters.jsonl")
    assert kept.reasons() == {}
    large = b"x" * 1_000_000
    letters = [DeadLetter("t", 0, n, "too_late" if n < 5 else "broken_json", "", large) for n in range(20)]
    kept.put(letters[:12])
    # As a process leaves it that is killed; the next one writes its letters again.
    with (tmp_path / "letters.jsonl").open("ab") as file:
        file.write(b'{"topic": "t", "part')
    kept.put(letters[8:])
    tracemalloc.start()
    try:
        assert kept.reasons() == {"too_late": 5, "broken_json": 15}
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_name_is_no_way_out_of_the_folder_of_replays(project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("way-out")
    made = project(definitions(topic, partitions=1))
    kept = made.folder / "offline" / "kept"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("a log")
    for name in ("../offline", "..", ".", "", str(kept.parent), "a/b", "a[1]", "x" * 65, "-x"):
        refused = made.command("replay", topic, f"--name={name}", "--drop")
        assert (refused.returncode, "is no name for a replay" in refused.stderr) == (1, True), (name, refused.stdout)
    assert kept.read_text() == "a log"


def test_letters_of_a_range_that_ends_among_records_have_their_keys(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("cut-keys")
    made = project(definitions(topic, partitions=1))
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for number in range(100):
            producer.send_raw(topic, f"k{number}".encode(), b"{broken")
    done = Replay(made.settings, made.repository, topic, end="50").run()
    assert done.dead == {"broken_json": 50}
    lines = filter(None, (done.folder / "letters.jsonl").read_bytes().splitlines())
    letters = [msgspec.json.decode(line, type=DeadLetter) for line in lines]
    assert [(one.offset, one.record_key) for one in letters] == [(n, f"k{n}".encode()) for n in range(50)]


def test_what_some_view_takes_is_no_dead_letter_of_a_replay_of_another(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("patient")
    patient = 'FeatureView("patient", Entity("user", key="user"), paid, lateness="3h", features={"n": count()})'
    made = project(definitions(topic, partitions=1) + f"patient = {patient}\n")
    send(made, topic, 10)
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for hours in (2, 4):
            event = {"user": "u1", "at": now_us() - hours * HOUR_US, "amount": 1.0}
            producer.send(made.repository.topic(topic), event)
    done = Replay(made.settings, made.repository, topic, views=["by_user"]).run()
    assert ([view.too_late for view in done.views], done.dead) == ([2], {"too_late": 1})


def test_a_partition_that_gives_nothing_is_noticed_beside_one_that_gives(
    project: Make, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = unique("deaf")
    made = project(definitions(topic, partitions=2))
    send(made, topic, 100)
    given: list[Batch] = []

    def read(self: Tail, timeout_s: float) -> list[Batch]:
        time.sleep(0.01)
        given.extend(batch for batch in whole(self, timeout_s) if batch.partition == 0)
        return given[-1:]

    whole = Tail.read
    monkeypatch.setattr(Tail, "read", read)
    monkeypatch.setattr("streams.replay._SILENT_MAX_S", 2.0)
    with pytest.raises(ReplayError, match="the broker gave nothing of partition 1 for 2 s"):
        Replay(made.settings, made.repository, topic).run()
    assert given
    # What else may come of a read, or of the commit of what was read before, is told as the end that it is.
    lost = LostTailError("by_user", topic, 1, 7)
    away = KafkaException(KafkaError(KafkaError._TRANSPORT))
    for raised, said in ((away, "no Kafka broker answers at"), (lost, f"stand at offset 7 of {topic}/1 again; run it")):

        def fail(self: Tail, timeout_s: float, error: Exception = raised) -> list[Batch]:
            raise error

        monkeypatch.setattr(Tail, "read", fail)
        with pytest.raises((BrokerError, ReplayError), match=said):
            Replay(made.settings, made.repository, topic).run()


def test_a_range_by_moments_holds_what_arrived_between_them(project: Make, unique: Callable[[str], str]) -> None:
    from featurestore.event_time import as_datetime

    topic = unique("between")
    made = project(definitions(topic, partitions=2))
    send(made, topic, 100)
    first = as_datetime(now_us() + 2_000).isoformat()
    send_after(first)
    send(made, topic, 60, first=100)
    end = as_datetime(now_us() + 2_000).isoformat()
    send_after(end)
    send(made, topic, 30, first=160)
    done = Replay(made.settings, made.repository, topic, first=first, end=end).run()
    assert done.events == done.views[0].applied == 60


def send_after(moment: str) -> None:
    """Until the clock has passed a moment, which the broker stamps by."""
    from datetime import datetime

    from featurestore.event_time import moment_us

    while now_us() <= moment_us(datetime.fromisoformat(moment)):
        pass
