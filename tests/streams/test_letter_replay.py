"""Dead letters are taken back exactly once: killed at every step, repeated, or by two at a time, on a real broker."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic

from featurestore import Topic
from featurestore.client import FeatureStore
from featurestore.errors import LetterReplayError
from featurestore.event_time import Mark
from featurestore.local import LocalStack, environment_of
from featurestore.offline import EventLog, log_schema
from featurestore.spec import load
from streams.broker import admin_client
from streams.build import worker_group
from streams.codecs import Decoded
from streams.codecs.json import JsonCodec
from streams.dead_letters import DeadLetterBox, held_letters
from streams.decided import Decided, dead_at
from streams.engine import Engine
from streams.ledger import ledgers
from streams.letter_replay import LetterReplay, LetterReport, Step, Wanted, transactional_id
from streams.letters import NO_POSITION, DeadLetter
from streams.producer import EventProducer, kafka_producer
from streams.taken_back import TakenBack
from streams.transport import Batch
from tests import processes
from tests.parity.test_parity import Letters
from tests.project import Project

Make = Callable[..., Project]
DAY_US = 86_400_000_000
ORDER = [("partition", "ascending"), ("offset", "ascending")]


def definitions(topic: str, nullable: str = "()", lateness: str = "1h") -> str:
    return f"""
from featurestore import Entity, FeatureView, Topic, count, sum

paid = Topic({topic!r}, schema={{"user": str, "at": "timestamp", "amount": float}},
             event_time="at", key="user", partitions=2, nullable={nullable})
by_user = FeatureView("by_user", Entity("user", key="user"), paid, lateness={lateness!r},
                      features={{"n": count(), "paid": sum("amount")}})
"""


def now_us() -> int:
    return time.time_ns() // 1_000


def line(user: str, at_us: int, amount: object) -> bytes:
    return json.dumps({"user": user, "at": at_us, "amount": amount}).encode()


def records(bootstrap: str, topic: str, partitions: int = 2) -> list[Message]:
    """All records of a topic that a reader may see."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "test", "enable.partition.eof": True, "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    out, ended = [], 0
    while ended < partitions:
        message = consumer.poll(30)
        assert message is not None
        error = message.error()
        if error is None:
            out.append(message)
        else:
            assert error.code() == KafkaError._PARTITION_EOF
            ended += 1
    consumer.close()
    return out


def sources(bootstrap: str, topic: str) -> Counter[str]:
    """How often each letter's event was put into its topic again."""
    return Counter(dict(each.headers() or [])["replayed-from"].decode() for each in records(bootstrap, topic))


@pytest.fixture
def lettered(stack: LocalStack, project: Make, unique: Callable[[str], str]) -> Project:
    """A topic with 1,300 letters of a definition that has been mended since, and 20 that are broken for ever."""
    topic = unique("lettered")
    made = project(definitions(topic, '("amount",)'))
    box = DeadLetterBox(kafka_producer(stack.kafka_bootstrap), made.settings.project)
    fresh = now_us()
    box.put(
        [
            DeadLetter(topic, n % 2, n // 2, "wrong_type", "null", line(f"u{n % 7}", fresh, None), f"u{n % 7}".encode())
            for n in range(1_300)
        ]
    )
    box.put([DeadLetter(topic, 0, 10_000 + n, "broken_json", "cut", b"{") for n in range(20)])
    box.flush()
    # As a worker leaves it that passed all of these events: they are dead for good.
    log = EventLog(made.settings.offline_path, made.repository.topic(topic))
    log.append(log_schema(log.topic).empty_table(), {0: Mark(10_020, 0), 1: Mark(650, 0)})
    return made


def test_no_two_of_projects_and_topics_end_each_others_runs() -> None:
    # A topic's name has no ".", and neither has a project's.
    assert transactional_id("a-b", "c") != transactional_id("a", "b-c")


def replay(made: Project, on_step: Callable[[Step, int], None] = lambda step, done: None) -> LetterReplay:
    [topic] = made.repository.topics.values()
    return LetterReplay(made.settings.kafka_bootstrap, made.settings.project, topic, 3_600_000_000, {}, now_us, on_step)


def topic_of(made: Project) -> str:
    return next(iter(made.repository.topics))


KILLED = """
import os, pathlib, signal, sys, time
from featurestore.spec import load
from streams.letter_replay import LetterReplay, Wanted

bootstrap, project, folder, step, batch = sys.argv[1:]
seen = []

def end(at, replayed):
    seen.append(at)
    if at == step and seen.count(at) == int(batch):
        os.kill(os.getpid(), signal.SIGKILL)

[topic] = load(pathlib.Path(folder)).topics.values()
LetterReplay(bootstrap, project, topic, 3_600_000_000, {}, lambda: time.time_ns() // 1_000, end).run(Wanted())
"""


@pytest.mark.parametrize("step", ["begun", "sent", "noted", "committed"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_replay_killed_at_a_step_of_a_batch_is_gone_on_with_and_nothing_comes_twice(
    lettered: Project, step: str, batch: int
) -> None:
    made, bootstrap = lettered, lettered.settings.kafka_bootstrap
    command = [
        sys.executable,
        "-c",
        KILLED,
        bootstrap,
        made.settings.project,
        str(made.settings.definitions),
        step,
        str(batch),
    ]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    report = replay(made).run(Wanted())
    assert report.before == 500 * (batch if step == "committed" else batch - 1)
    assert report.before + report.replayed == 1_300
    assert report.left == {"broken_json": 20}
    again = replay(made).run(Wanted())
    assert (again.replayed, again.before) == (0, 1_300)
    found = sources(bootstrap, topic_of(made))
    assert len(found) == 1_300
    assert set(found.values()) == {1}


def test_a_replay_killed_at_random_moments_takes_every_letter_back_once(lettered: Project) -> None:
    seed = 20_261
    draw = random.Random(seed)
    environment = environment_of(lettered.settings)
    for _ in range(6):
        running = processes.start(
            "featurestore.cli", "dead-letters", "replay", environment=environment, output=Path(os.devnull)
        )
        try:
            running.wait(draw.uniform(0.05, 1.5))
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
    done = lettered.command("dead-letters", "replay", "--json")
    assert done.returncode == 0, done.stderr
    [said] = json.loads(done.stdout)["topics"].values()
    assert said["replayed"] + said["before"] == 1_300, f"seed {seed}"
    found = sources(lettered.settings.kafka_bootstrap, topic_of(lettered))
    assert len(found) == 1_300
    assert set(found.values()) == {1}, f"seed {seed}"


@pytest.mark.parametrize("step", ["begun", "sent", "noted", "committed"])
def test_of_two_replays_at_a_time_the_later_one_goes_on_and_the_earlier_one_says_so(
    lettered: Project, step: Step
) -> None:
    second: list[LetterReport] = []

    def meanwhile(at: Step, replayed: int) -> None:
        if at == step and not second:
            second.append(replay(lettered).run(Wanted()))

    with pytest.raises(LetterReplayError, match="another run began meanwhile"):
        replay(lettered, meanwhile).run(Wanted())
    assert second[0].replayed + second[0].before == 1_300
    assert second[0].before == (500 if step == "committed" else 0)
    found = sources(lettered.settings.kafka_bootstrap, topic_of(lettered))
    assert len(found) == 1_300
    assert set(found.values()) == {1}


def test_many_replays_in_a_race_take_every_letter_back_once(lettered: Project) -> None:
    reports: list[LetterReport] = []
    ended: list[LetterReplayError] = []

    def run() -> None:
        try:
            reports.append(replay(lettered).run(Wanted()))
        except LetterReplayError as error:
            ended.append(error)

    racers = [threading.Thread(target=run) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(reports) + len(ended) == 4
    replay(lettered).run(Wanted())
    found = sources(lettered.settings.kafka_bootstrap, topic_of(lettered))
    assert len(found) == 1_300
    assert set(found.values()) == {1}


def test_an_event_comes_back_with_its_key_into_its_partition_and_says_from_where(lettered: Project) -> None:
    topic = topic_of(lettered)
    report = replay(lettered).run(Wanted(place=f"{topic}/1/3"))
    assert report.replayed == 1
    [record] = records(lettered.settings.kafka_bootstrap, topic)
    assert (record.partition(), record.key(), record.headers()) == (
        1,
        b"u0",
        [("replayed-from", f"{topic}/1/3".encode()), ("replayed-for", lettered.settings.project.encode())],
    )
    held = {
        each.letter.place: each
        for each in held_letters(lettered.settings.kafka_bootstrap, lettered.settings.project, [topic]).letters
    }
    assert {place for place, each in held.items() if each.replayed} == {f"{topic}/1/3"}
    replayed = held[f"{topic}/1/3"].replayed
    assert replayed is not None
    assert replayed.new_offset == record.offset() == 0


def test_a_letter_that_a_worker_writes_again_is_not_taken_back_again(lettered: Project) -> None:
    # A worker that reads the topic again, as after a loss of the online store, writes its letters again.
    replay(lettered).run(Wanted())
    topic = topic_of(lettered)
    box = DeadLetterBox(kafka_producer(lettered.settings.kafka_bootstrap), lettered.settings.project)
    box.put([DeadLetter(topic, 0, 5, "wrong_type", "null", line("u1", now_us(), None))])
    box.flush()
    again = replay(lettered).run(Wanted())
    assert (again.replayed, again.before) == (0, 1_300)


def test_a_trial_says_what_would_be_done_and_does_nothing(lettered: Project) -> None:
    report = replay(lettered).look(Wanted())
    assert (report.replayed, report.left) == (1_300, {"broken_json": 20})
    assert report.example["broken_json"].startswith(f"{topic_of(lettered)}/0/10000: ")
    assert records(lettered.settings.kafka_bootstrap, topic_of(lettered)) == []


def test_letters_that_would_die_of_their_time_are_left_with_the_reason(
    stack: LocalStack, project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("untimely")
    made = project(definitions(topic))
    box, moment = DeadLetterBox(kafka_producer(stack.kafka_bootstrap), made.settings.project), now_us()
    box.put(
        [
            DeadLetter(topic, 0, 0, "future", "ahead", line("a", moment - 60_000_000, 1.0)),
            DeadLetter(topic, 0, 1, "future", "ahead", line("a", moment + DAY_US, 1.0)),
            DeadLetter(topic, 0, 2, "too_late", "late", line("a", moment, 1.0)),
            DeadLetter(topic, 0, 3, "wrong_type", "was", line("a", moment - 2 * 3_600_000_000, 1.0)),
            DeadLetter(topic, 1, 4, "wrong_type", "was", line("a", moment - 2 * 3_600_000_000, 1.0)),
            DeadLetter(topic, 1, 5, "no_value", "tombstone", None),
        ]
    )
    box.flush()
    # Partition 0 has come as far as now; what is two hours behind it is too late for every view.
    taken = LetterReplay(
        stack.kafka_bootstrap, made.settings.project, made.repository.topic(topic), 3_600_000_000, {0: moment}, now_us
    ).run(Wanted())
    assert taken.replayed == 2
    assert taken.left == {"future": 1, "too_late": 2, "no_value": 1}
    assert sorted(sources(stack.kafka_bootstrap, topic)) == [f"{topic}/0/0", f"{topic}/1/4"]


def test_a_letter_whose_event_counts_where_it_stands_or_may_yet_is_left(
    stack: LocalStack, project: Make, unique: Callable[[str], str], tmp_path: Path
) -> None:
    topic = unique("undecided")
    made = project(definitions(topic))
    box, moment = DeadLetterBox(kafka_producer(stack.kafka_bootstrap), made.settings.project), now_us()
    box.put([DeadLetter(topic, 0, n, "wrong_type", "was", line("a", moment, 1.0)) for n in range(3)])
    box.flush()
    # A worker posted the letters and was killed; the next one, with a mended definition, took the second event.
    paid = made.repository.topic(topic)
    log = EventLog(tmp_path, paid)
    place = {"partition": 0, "offset": 1, "event_us": moment, "effective_us": moment, "arrival_us": moment}
    event = {**place, "late_by_us": 0, "date": "2026-01-01", "user": "a", "at": moment, "amount": 1.0}
    log.append(pa.Table.from_pylist([event], log_schema(paid)), {0: Mark(2, moment)})
    taken = LetterReplay(
        stack.kafka_bootstrap, made.settings.project, paid, 3_600_000_000, {}, now_us, log=EventLog(tmp_path, paid)
    )
    report = taken.run(Wanted())
    assert (report.replayed, report.left) == (1, {"applied": 1, "undecided": 1})
    assert list(sources(stack.kafka_bootstrap, topic)) == [f"{topic}/0/0"]


def test_a_mended_definition_takes_its_letters_back_and_all_readers_count_each_event_once(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("mended")
    made = project(definitions(topic))
    worker = made.start_worker()
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for n in range(2_000):
            amount = None if n % 10 == 0 else 1.0
            producer.send_raw(topic, f"u{n % 50}".encode(), line(f"u{n % 50}", now_us(), amount))
        producer.send_raw(topic, b"x", b"{")
    made.drain(worker)
    # The mended view reads the topic from its beginning, where its letters decode by now.
    (made.folder / "definitions" / "all.py").write_text(definitions(topic, '("amount",)'))
    made.repository = load(made.folder / "definitions")
    made.store = FeatureStore(made.settings, made.repository)
    worker = made.start_worker()
    made.wait_until_applied(worker)
    names = [f"u{n}" for n in range(50)]
    assert sum(made.store.get_many("by_user", {"user": names})["by_user__n"].to_pylist()) == 1_800
    tried = made.command("dead-letters", "replay", "--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert "would be replayed" in tried.stdout
    for replayed in (200, 0):
        done = made.command("dead-letters", "replay", "--topic", topic, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["topics"][topic]["replayed"] == replayed
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for partition_key in names:
            producer.send_raw(topic, partition_key.encode(), line(partition_key, now_us(), 1.0))
    made.wait_until_applied(worker)
    online = served(made, names)
    assert (sum(n for n, _ in online), sum(paid for _, paid in online)) == (2_050, 1_850.0)
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced, ledger
    assert (ledger.applied, ledger.dead, ledger.replayed) == (2_050, {"broken_json": 1, "wrong_type": 200}, 200)
    made.drain(worker)
    # The mended definition would take their events where they stood at first, too, once the log is lost.
    log = made.store.event_log(made.repository.topic(topic))
    before, ends = log.read(["partition", "offset"]), {p: mark.offset for p, mark in log.marks().items()}
    shutil.rmtree(made.settings.offline_path)
    forgotten = made.command("forget-log", topic)
    assert forgotten.returncode == 0, forgotten.stderr
    filled = made.command("backfill", "by_user", "--keep-following", "0")
    assert filled.returncode == 0, filled.stderr
    assert served(made, names) == online
    made.drain(made.start_worker())
    assert served(made, names) == online
    again = made.store.event_log(made.repository.topic(topic)).read(["partition", "offset"])
    assert again.sort_by(ORDER).equals(before.sort_by(ORDER))
    assert ledgers(made.settings, made.repository) == [ledger]
    check_what_is_read_of_them(made, ends, 200)


def served(made: Project, names: Sequence[str]) -> list[tuple[int, float]]:
    table = made.store.get_many("by_user", {"user": names})
    return list(zip(table["by_user__n"].to_pylist(), table["by_user__paid"].to_pylist(), strict=True))


def check_what_is_read_of_them(made: Project, ends: dict[int, int], count: int) -> None:
    """Of letters that were taken back, by where a log ends that is read on from there."""
    settings, [topic] = made.settings, made.repository.topics.values()
    broker, admin = settings.kafka_bootstrap, admin_client(settings.kafka_bootstrap)

    def behind(group: str, at: dict[int, int]) -> list[tuple[int, int]]:
        taken = TakenBack(broker, admin, settings.project, group, topic)
        return [(p, int(place)) for p, end in at.items() for place in taken.behind(p, end).gap_first]

    group = worker_group(settings)
    # A partition that was made a moment ago: the broker says nothing of it yet.
    assert behind(group, {len(ends): 0}) == []
    whole = behind(group, dict.fromkeys(ends, 0))
    assert len(whole) == count
    # As a backup has it, or a worker that was killed while it made the log again: the group was told more.
    middle = {p: sorted(offset for partition, offset in whole if partition == p)[20] for p in ends}
    assert behind(group, middle) == [(p, offset) for p, offset in whole if offset >= middle[p]]
    # A group of which nothing is known, up to the end of the topic.
    assert (behind("none", middle), behind("none", ends)) == (behind(group, middle), [])
    # Of a log that is whole nothing is asked.
    consumer = Consumer({"bootstrap.servers": broker, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic.name, p, end) for p, end in middle.items()], asynchronous=False)
    consumer.close()
    assert behind(group, middle) == []


def test_a_letter_larger_than_a_record_may_be_does_not_stop_its_worker(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("large")
    made = project(definitions(topic))
    worker = made.start_worker()
    large = b"{" + b"x" * 950_000
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        producer.send_raw(topic, b"u1", large)
        producer.send(made.repository.topic(topic), {"user": "u1", "at": now_us(), "amount": 1.0})
    made.wait_until_applied(worker)
    [held] = held_letters(made.settings.kafka_bootstrap, made.settings.project, [topic]).letters
    assert held.letter.payload == large
    assert held.letter.record_key == b"u1"
    assert JsonCodec(made.repository.topic(topic)).decode([held.letter.payload]).rejected[0].reason == "broken_json"


def test_letters_that_find_no_room_any_more_are_left_and_all_others_come_back_once_in_order(
    stack: LocalStack, project: Make, unique: Callable[[str], str]
) -> None:
    topic, bound = unique("narrow"), 100_000
    admin = admin_client(stack.kafka_bootstrap)
    [done] = admin.create_topics([NewTopic(topic, 2, 1, config={"max.message.bytes": str(bound)})]).values()
    done.result(30)
    made, moment, draw = project(definitions(topic)), now_us(), random.Random(1)
    # Together the small ones are larger than the topic's bound as well, however they are compressed.
    events = [line(b64encode(draw.randbytes(900)).decode(), moment, 1.0) for _ in range(250)]
    for place in (0, 125, 249):
        # It just found room, without the headers that say that it comes again.
        events[place] = line(
            b64encode(draw.randbytes(bound)).decode()[: bound - 75 - len(line("", moment, 1.0))], moment, 1.0
        )
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap, "enable.idempotence": True, "linger.ms": 0})
    refused: list[KafkaError] = []
    for place in (0, 125, 249):
        producer.produce(
            topic, events[place], partition=1, on_delivery=lambda error, _: error and refused.append(error)
        )
        producer.flush()
    assert not refused
    first = len(records(stack.kafka_bootstrap, topic))
    box = DeadLetterBox(kafka_producer(stack.kafka_bootstrap), made.settings.project)
    box.put([DeadLetter(topic, 0, n, "wrong_type", "was", event) for n, event in enumerate(events)])
    box.flush()
    for before in (0, 247):
        report = replay(made).run(Wanted())
        assert (report.replayed, report.before, report.left) == (247 - before, before, {"too_large": 3})
        assert report.example["too_large"].startswith(f"{topic}/0/0: ")
    back = [each for each in records(stack.kafka_bootstrap, topic) if each.partition() == 0]
    assert (first, [each.value() for each in back]) == (3, [event for event in events if len(event) < 2_000])


def test_of_a_cut_letter_nothing_comes_back(stack: LocalStack, project: Make, unique: Callable[[str], str]) -> None:
    topic = unique("cut")
    made = project(definitions(topic))
    box = DeadLetterBox(kafka_producer(stack.kafka_bootstrap), made.settings.project)
    # Whatever is left of it: it may read as an event.
    event = line("a", now_us(), 1.0)
    box.put([DeadLetter(topic, 0, 0, "wrong_type", "was", event, None, None, 9_000_000)])
    box.put([DeadLetter(topic, 0, 1, "wrong_type", "was", event)])
    box.flush()
    report = replay(made).run(Wanted())
    assert (report.replayed, report.left) == (1, {"too_large": 1})
    assert list(sources(stack.kafka_bootstrap, topic)) == [f"{topic}/0/1"]


def test_letters_are_decoded_in_bounded_parts_and_judged_alike(lettered: Project) -> None:
    asked: list[int] = []

    class Counting(JsonCodec):
        def decode(self, payloads: Sequence[bytes | None]) -> Decoded:
            asked.append(len(payloads))
            return super().decode(payloads)

    [topic] = lettered.repository.topics.values()
    bootstrap, name = lettered.settings.kafka_bootstrap, lettered.settings.project
    report = LetterReplay(bootstrap, name, topic, 3_600_000_000, {}, now_us, codec=Counting(topic)).look(Wanted())
    assert (report.replayed, report.left) == (1_300, {"broken_json": 20})
    assert (max(asked), sum(asked)) == (500, 1_320)


def test_erased_letters_are_gone_and_what_cannot_be_read_is_told_once(
    stack: LocalStack, project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("erased")
    made = project(definitions(topic))
    name, event = f"{topic}.{made.settings.project}.dead", line("a", now_us(), 1.0)
    producer = kafka_producer(stack.kafka_bootstrap)
    box = DeadLetterBox(producer, made.settings.project)

    def put(*offsets: int) -> None:
        box.put([DeadLetter(topic, 0, offset, "wrong_type", "was", event) for offset in offsets])
        box.flush()

    def held() -> dict[int, bytes]:
        found = held_letters(stack.kafka_bootstrap, made.settings.project, [topic])
        return {each.letter.offset: each.kept_under for each in found.letters}

    def write(key: bytes | None, value: bytes | None) -> None:
        producer.produce(name, value, key)
        producer.flush()

    put(0)
    put(1, 2, 3)
    put(3, 4)
    put(5)
    assert list(held()) == [0, 1, 2, 3, 4, 5]
    # Alone; with those that came along, but for one that another record holds as well; and one that comes again.
    write(held()[0], None)
    write(held()[1], None)
    write(held()[5], None)
    assert list(held()) == [3, 4]
    put(5)
    foreign = [(b"x", b""), (b"y", b'{"topic": "\xff"}'), (b"z#replayed", b"[]"), (held()[5], b"{}")]
    for key, value in foreign:
        write(key, value)
    assert list(held()) == [3, 4, 5]
    for command in (("list",), ("show", f"{topic}/0/5"), ("replay", "--dry-run"), ("replay",)):
        said = made.command("dead-letters", *command)
        assert said.returncode == 0, said.stderr
        assert said.stderr.count(f"4 records hold no letter and are left out, such as {name}/0/") == 1
    assert "4 records among the letters hold none" in made.command("ledger").stderr
    assert json.loads(made.command("dead-letters", "list", "--json").stdout)["unreadable"] == 4
    # That it was taken back is erased by its own key.
    report = replay(made).run(Wanted())
    assert (report.replayed, len(report.unreadable)) == (3, 4)
    assert replay(made).look(Wanted()).before == 3
    write(f"{topic}/0/4#replayed".encode(), None)
    assert (replay(made).look(Wanted()).before, replay(made).look(Wanted()).replayed) == (2, 1)


def test_what_one_project_takes_back_counts_for_no_other_that_reads_the_topic(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic = unique("shared")
    strict = definitions(topic).replace("partitions=", 'ranges={"amount": (0.0, 10.0)}, partitions=')
    assert strict != definitions(topic)
    lenient, mending = project(definitions(topic)), project(strict)
    worker, other = lenient.start_worker(), mending.start_worker()
    with EventProducer(lenient.settings.kafka_bootstrap) as producer:
        for amount in (5.0, 50.0, 60.0, 6.0):
            producer.send(lenient.repository.topic(topic), {"user": "a", "at": now_us(), "amount": amount})
        # What neither can apply is a letter of each.
        producer.send_raw(topic, b"a", b"{broken")
    lenient.wait_until_applied(worker)
    mending.wait_until_applied(other)

    def counted(made: Project) -> int:
        return int(made.store.get("by_user", {"user": "a"})["by_user__n"])

    assert (counted(lenient), counted(mending)) == (4, 2)
    other.terminate()
    assert other.wait(30) == 0
    mending.define(definitions(topic))
    other = mending.start_worker()
    replayed = mending.command("dead-letters", "replay", "--json")
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["topics"][topic]["replayed"] == 2
    mending.wait_until_applied(other)
    lenient.wait_until_applied(worker)
    assert (counted(lenient), counted(mending)) == (4, 4)
    [first], [second] = ledgers(lenient.settings, lenient.repository), ledgers(mending.settings, mending.repository)
    assert first.balanced, first
    assert second.balanced, second
    assert (first.records, first.applied, first.dead, first.replayed) == (5, 4, {"broken_json": 1}, 0)
    assert (second.records, second.applied, second.replayed) == (7, 4, 2)
    assert second.dead == {"broken_json": 1, "out_of_range": 2}
    # Who reads the topic beside the workers leaves them out as well.
    assert lenient.command("backfill", "by_user", "--keep-following", "0").returncode == 0
    assert counted(lenient) == 4


def test_a_log_that_is_made_again_takes_an_event_where_it_came_back_to_also_after_a_kill(tmp_path: Path) -> None:
    paid = Topic("t", {"user": str, "at": "timestamp", "amount": float}, "at", partitions=1)
    log, values = EventLog(tmp_path, paid), [line("a", now_us(), 1.0)] * 6
    # What died at 1 and 3 stands again at 4 and 5, and all of it is good by now.
    letters = np.array([1, 3])

    def started() -> Engine:
        def behind(_: int, end: int) -> Decided:
            some = letters[letters >= end]
            return dead_at(some, np.full(len(some), NO_POSITION), is_batched=False)

        return Engine(paid, "id", [], 3_600_000_000, log, Letters(), lambda: 0, taken_back=behind)

    told = []
    for first, end in [(0, 3), (3, 6)]:
        engine = started()
        assert engine.open(0) == first
        offsets = np.arange(first, end)
        engine.apply(Batch("t", 0, first, end, values[first:end], offsets, np.full(len(offsets), now_us())))
        engine.flush()
        told.append(engine.settled())
    assert log.between(0, 0, 6, ["offset"])["offset"].to_pylist() == [0, 2, 4, 5]
    # Were the group told 3, the second one could not see that the log had been longer.
    assert told == [{}, {0: 6}]
