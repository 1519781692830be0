"""Rows 24 to 28: topics cut, made again, grown; groups misled; transactions and compaction."""

from __future__ import annotations

import re
import time

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.cimpl import NewPartitions, NewTopic

from featurestore.spec import load
from streams.ledger import ledgers
from streams.topics import Topics
from tests.campaign import payments
from tests.campaign.audit import check_values, read_all
from tests.campaign.verdict import expect, row
from tests.campaign.world import World

_LIMIT_S = 60.0
# Until a worker ends at partitions that no definition says.
_GROWTH_SEEN_S = 30.0
# A topic is deleted, made again and filled within this, mostly in one.
_REMADE_S = 20.0


def _applied_then_stopped(world: World, count: int = 2_000) -> None:
    worker = world.worker("first")
    world.until_reading(worker)
    world.send(count)
    world.until_applied(_LIMIT_S)
    expect(worker.terminate() == 0, "SIGTERM did not end the worker with 0")


@row(24, "retention cuts unread data", "worker down, DeleteRecords beyond what it read", "stops, tells the range lost")
def cut(world: World) -> str:
    world.define(partitions=1)
    _applied_then_stopped(world)
    world.send(1_000)
    for done in world.admin.delete_records([TopicPartition(world.topic, 0, 2_600)]).values():
        done.result(20.0)
    worker = world.worker("second", restarting=False)
    code = worker.wait(40 * world.patience)
    said = worker.said()
    last = [line for line in said.splitlines() if "2600" in line or "2,600" in line or "out of range" in line.lower()]
    where = last[-1][-260:] if last else "nothing of it"
    held = world.sinks.look().lowest(0)
    expect(held == 2_000, f"the sinks stand at {held} after the cut, though 2000 to 2600 were never read")
    tells = all(re.search(rf"\b{number[0]},?{number[1:]}\b", said) for number in ("2000", "2600"))
    tells = tells and "incomplete" in said.lower()
    expect(code not in (None, 0) or tells, f"it went on without a word: exit code {code}, said {where!r}")
    expect(tells, f"it stopped (exit code {code}), but does not tell the range 2000..2600 as incomplete: {where!r}")
    _, compared = world.check_standing()
    return f"exit code {code}, said {where!r}; {compared:,} values are those of the first 2,000"


@row(25, "topic deleted and made again", "while the worker runs, and while it is down", "stops, clear error")
def made_again(world: World) -> str:
    world.define(partitions=2)
    # It keeps its partitions however long the broker takes: who takes them over anew asks for the topic's identity.
    worker = world.worker("first", restarting=False, worker_session_s=_REMADE_S)
    world.until_reading(worker)
    world.send(1_000)
    world.until_applied(_LIMIT_S)
    whole, expected = world.check(), world.expected()
    before = world.sinks.online_ends()
    # It sees the new topic when that is as long as the old one was, so neither librdkafka nor any offset tells of it.
    worker.freeze()
    for done in world.admin.delete_topics([world.topic], operation_timeout=30).values():
        done.result()
    topics, deadline = Topics(world.broker.bootstrap), time.monotonic() + 30
    while world.topic not in topics.create(world.repository.topics.values(), world.name):
        expect(time.monotonic() < deadline, "the broker is slow to delete")
        time.sleep(0.2)
    recorder = world.recorder(**{"client.id": "again"})
    for partition, end in expected.ends.items():
        for key, payload in payments.payloads(world.draw, end):
            recorder.send(world.topic, payload, key, partition)
    recorder.flush()
    worker.thaw()
    running = worker.wait(30 * world.patience)
    # Not before: what lies beyond the old ends may be counted until the new topic is seen.
    for key, payload in payments.payloads(world.draw, 500):
        recorder.send(world.topic, payload, key)
    recorder.flush()
    at_start = world.worker("second", restarting=False)
    code = at_start.wait(60 * world.patience)
    after = world.sinks.online_ends()
    expect(before == after, f"rows moved from {before} to {after}: two topics are mixed")
    said = []
    for which, ended, one, wanted in (
        ("the running", running, worker, "deleted and made again while this worker read it"),
        ("a new", code, at_start, "deleted and made again after offset"),
    ):
        lines = [line for line in one.said().splitlines() if wanted in line]
        expect(ended not in (None, 0), f"{which} worker went on, or ended as if told to: exit code {ended}")
        expect(bool(lines), f"{which} worker ended with {ended}, but not over this: {one.said()[-300:]!r}")
        said.append(lines[-1][-170:])
    check_values(world.store, expected, [expected.newest_us], [])
    ends = f"running one ended with {running}: {said[0]}; a new one with {code}: {said[1]}"
    return f"{ends}; before and after: {whole}"


@row(26, "partitions grow", "4 -> 12 under load, later the definition too", "seen in 30 s, clear error; then exact")
def grown(world: World) -> str:
    world.define(partitions=4)
    worker = world.worker("first", restarting=False)
    world.until_reading(worker)
    steady = world.send_steadily(1_000)
    time.sleep(2)
    for done in world.admin.create_partitions([NewPartitions(world.topic, 12)]).values():
        done.result(20.0)
    seen_s = world.until(
        lambda: not worker.is_alive, _GROWTH_SEEN_S, "the worker sees partitions that it does not read"
    )
    code, said = worker.wait(1.0), worker.said()
    expect(code not in (None, 0), f"the worker ended with {code}, as if it had been told to")
    clear = "the broker has 12 partitions of it, but its definition says partitions=4" in said
    expect(clear and "say partitions=12" in said, f"it does not say what to do: {said[-300:]!r}")
    world.until(lambda: max(world.expected_ends()) >= 4, 30, "a record goes to a new partition")
    [ledger] = ledgers(world.direct, world.repository)
    expect(ledger.unread == tuple(range(4, 12)), f"the ledger takes {ledger.unread} for what is not read")
    expect(not ledger.balanced, f"the ledger is balanced without partitions 4 to 11: {ledger}")
    again = world.worker("again", restarting=False)
    code = again.wait(60 * world.patience)
    expect(code not in (None, 0) and "say partitions=12" in again.said(), f"a worker started on it: exit code {code}")
    text = payments.definitions(world.topic, 12, world.lateness)
    (world.settings.definitions / "payments.py").write_text(text)
    world.repository, world.partitions = load(world.settings.definitions), 12
    world.look_at(world.valkey)
    second = world.worker("second")
    world.until_reading(second)
    time.sleep(2)
    steady.stop()
    world.until_applied(_LIMIT_S)
    used = len(world.expected().ends)
    expect(used > 4, "no record went to a new partition: nothing was tried")
    expect(world.restarts == 0, f"the workers ended {world.restarts} times")
    [ledger] = ledgers(world.direct, world.repository)
    expect(ledger.balanced and not ledger.unread, f"the ledger is not balanced: {ledger}")
    return f"seen after {seen_s:.1f} s; {used} of 12 partitions have records; {world.check()}"


@row(27, "group offsets", "worker down, records sent, offsets deleted, set to 0, set to the end", "sinks win")
def group(world: World) -> str:
    # A static member's place is kept until its session ends, and only an empty group can be changed.
    world.define(partitions=2, worker_session_s=6.0)
    _applied_then_stopped(world, 1_500)
    seen, heard = [], set[str]()
    for what in ("deleted", "to 0", "to the end"):
        held = world.sinks.look()
        # Before the change, so that a group that stands at the end has skipped something.
        world.send(500)
        world.until(lambda: _change(world, what, heard), 60, f"the group's offsets are {what}")  # noqa: B023
        told = world.sinks.look(group=True).group
        ends = world.expected().ends
        wanted = {"deleted": {}, "to 0": dict.fromkeys(ends, 0), "to the end": ends}[what]
        expect(told == wanted, f"the group stands at {told}, {what} would be {wanted}: nothing was tried")
        worker = world.worker(f"after-{len(seen)}")
        world.until_applied(_LIMIT_S)
        begun = dict(_BEGUN.findall(worker.said()))
        stood = {str(partition): str(held.lowest(partition)) for partition in ends}
        expect(begun == stood, f"offsets {what}: the worker read from {begun}, the sinks stood at {stood}")
        expect(worker.terminate() == 0, "SIGTERM did not end the worker with 0")
        seen.append(f"{what} (stood at {sum(told.values())} of {sum(ends.values())})")
    expect(world.restarts == 0, f"a worker ended {world.restarts} times")
    return f"{', '.join(seen)}; {world.check()}"


# Partition and offset of what a worker says that it reads.
_BEGUN = re.compile(r"/(\d+) from (\d+)")


def _change(world: World, what: str, heard: set[str]) -> bool:
    """Delete the group's offsets or set them; False where the broker has not done all of it, yet.

    heard  what it has said of that already
    """
    name, ends = f"{world.name}-worker", world.expected().ends
    try:
        if what == "deleted":
            [done] = world.admin.delete_consumer_groups([name]).values()
            done.result(20.0)
            return True
        places = [TopicPartition(world.topic, p, 0 if what == "to 0" else end) for p, end in ends.items()]
        [done] = world.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(name, places)]).values()
        # The call as a whole may be done where no partition is.
        errors = [str(one.error.name()) for one in done.result(20.0).topic_partitions if one.error is not None]
    except KafkaException as error:
        errors = [str(error.args[0].name())]
    if errors and (said := f"{what}, not yet: {', '.join(errors)}") not in heard:
        heard.add(said)
        world.say(said)
    return not errors


@row(28, "transactions", "half of the transactions aborted; markers at the ends", "aborted never applied, no gap seen")
def transactions(world: World) -> str:
    world.define(partitions=2)
    worker = world.worker()
    world.until_reading(worker)
    recorder = world.recorder(**{"transactional.id": world.name, "message.timeout.ms": 50_000})
    committed = 0
    for number in range(24):
        recorder.begin()
        for key, payload in payments.payloads(world.draw, world.draw.randrange(1, 200)):
            recorder.send(world.topic, payload, key)
        commit = number % 2 == 1
        recorder.end(commit)
        committed += commit
    world.until_applied(_LIMIT_S)
    worker.kill()
    recorder.begin()
    for key, payload in payments.payloads(world.draw, 50):
        recorder.send(world.topic, payload, key)
    recorder.end(True)
    world.until_applied(_LIMIT_S)
    holes = _compacted(world)
    return f"{committed} committed, {24 - committed} aborted; {world.check()}; then {holes}"


def _compacted(world: World) -> str:
    """The same with holes that compaction left, in a topic and a project of their own."""
    hole = world.beside("holes")
    hole.define(partitions=1, create=False)
    config = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "LogAppendTime",
        "segment.ms": "200",
        "min.cleanable.dirty.ratio": "0.01",
        "max.compaction.lag.ms": "500",
    }
    dead = NewTopic(f"{hole.topic}.{hole.name}.dead", 1, 1, config={"cleanup.policy": "compact"})
    for done in world.admin.create_topics([NewTopic(hole.topic, 1, 1, config=config), dead]).values():
        done.result(20.0)
    for _ in range(4):
        hole.send(500)
        time.sleep(0.3)

    held: dict[tuple[str, int], set[int]] = {}

    def is_compacted() -> bool:
        held[hole.topic, 0] = {message.offset() for message in read_all(hole.broker.bootstrap, hole.topic)}
        return len(held[hole.topic, 0]) < 1_500

    hole.until(is_compacted, 40, "the broker compacts")
    # The cleaner may go on: what it has taken by the time the worker is done is what nobody could have read.
    for done in world.admin.alter_configs(_no_more(hole.topic)).values():
        done.result(20.0)
    time.sleep(2)
    is_compacted()
    hole.recorder().keep(held)
    hole.worker("w1")
    hole.until_applied(_LIMIT_S)
    return f"{2_000 - len(held[hole.topic, 0])} of 2,000 compacted away; {hole.check()}"


def _no_more(topic: str) -> list[object]:
    from confluent_kafka.admin import ConfigResource, ResourceType

    config = {"cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
    return [ConfigResource(ResourceType.TOPIC, topic, set_config=config)]
