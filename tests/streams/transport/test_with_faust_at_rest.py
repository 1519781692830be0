"""What the transport promises Faust, and what of Faust is switched off: asked of an app that does not run."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import BrokerError, GrownTopicError, LostTailError, StalledError, TransportError
from streams.logs import JsonLines
from streams.metrics import STUCK_S, WorkerMetrics
from streams.topic_ids import Told
from streams.transport import Batch, Consumer, ReaderOptions
from streams.transport.native import NativeConsumer
from streams.transport.options import consumer_config
from streams.transport.statistics import read_statistics
from streams.watchdog import Stall
from streams.worker import EnginePort, StreamApp, stream_app

TOPIC = "clicks"


@pytest.fixture
def app(tmp_path: Path) -> StreamApp:
    return stream_app("group", "127.0.0.1:1", EnginePort({TOPIC: None}, ReaderOptions(drain_s=0.01)), str(tmp_path))  # type: ignore[dict-item]


def consumer_of(app: StreamApp) -> Consumer:
    consumer = app.consumer
    assert isinstance(consumer, Consumer)
    return consumer


def batch(first: int = 0, end: int = 1) -> Batch:
    offsets = np.arange(first, end, dtype=np.int64)
    return Batch(TOPIC, 0, first, end, [b"x"] * len(offsets), offsets, offsets)


def test_what_keeps_events_from_being_lost_cannot_be_configured_away() -> None:
    # Trap 24: Faust's own `consumer_auto_offset_reset` does nothing here, and librdkafka's is always "error".
    wanted = {
        "enable.auto.commit": True, "enable.auto.offset.store": True, "auto.offset.reset": "earliest",
        "isolation.level": "read_uncommitted", "check.crcs": False, "enable.partition.eof": False,
    }  # fmt: skip
    config = consumer_config(ReaderOptions(config=wanted), wanted)
    assert config["auto.offset.reset"] == "error"
    assert config["isolation.level"] == "read_committed"
    assert config["check.crcs"] is config["enable.partition.eof"] is True
    assert config["enable.auto.commit"] is config["enable.auto.offset.store"] is False


def test_the_way_of_rebalancing_and_membership_are_settings() -> None:
    config = consumer_config(ReaderOptions(rebalance="cooperative", session_s=3, instance_id="one"), {})
    assert config["partition.assignment.strategy"] == "cooperative-sticky"
    assert (config["session.timeout.ms"], config["heartbeat.interval.ms"]) == (3_000, 300)
    assert config["group.instance.id"] == "one"
    assert "group.instance.id" not in consumer_config(ReaderOptions(), {})


def test_a_session_may_be_longer_than_librdkafka_waits_between_two_polls() -> None:
    # It refuses a client that may be silent for less than a session.
    config = consumer_config(
        ReaderOptions(session_s=1_800), {"group.id": "patient", "bootstrap.servers": "127.0.0.1:1"}
    )
    NativeConsumer({**config, "log_level": 0}).close()
    assert config["max.poll.interval.ms"] == 1_800_000
    assert consumer_config(ReaderOptions(), {})["max.poll.interval.ms"] == 300_000


def test_a_worker_that_is_given_a_partition_too_many_says_how_many_the_broker_has() -> None:
    class Grown:
        def open(self, partition: int) -> int:
            raise GrownTopicError(TOPIC, 2, partition + 1)

    def silent() -> dict[str, Told]:
        raise BrokerError("127.0.0.1:1", "no answer")

    def held(ask: Callable[[], Mapping[str, Told]] | None) -> int:
        with pytest.raises(GrownTopicError) as error:
            EnginePort({TOPIC: Grown()}, ReaderOptions(), ask=ask).open([(TOPIC, 2)])  # type: ignore[dict-item]
        return error.value.held

    assert held(lambda: {TOPIC: Told("id", 4)}) == 4
    # What nobody says is what it was given.
    assert held(silent) == held(None) == 3


def test_faust_is_configured_so_that_it_stays_out_of_the_way(app: StreamApp) -> None:
    # Trap 9: its queues hold more than credit hands out, so its own back-pressure never begins.
    assert app.conf.stream_buffer_maxsize > 2 * 100
    # Trap 17: with a leader topic it would subscribe to one that does not exist.
    assert app.conf.topic_disable_leader is True
    # Trap 22: an agent restarted in place would go on with the next batch.
    assert app.conf.agent_supervisor.__name__ == "CrashingSupervisor"
    # Trap 23: its web page answers OK whatever happens.
    assert app.conf.web_enabled is False
    # Trap 18.
    assert app.conf.worker_redirect_stdouts is False
    assert all(not agent.channel.acks for agent in app.agents.values())


def test_full_queues_do_not_take_partitions_out_of_turn(app: StreamApp) -> None:
    # Trap 9: Faust would sleep a second whenever all partitions are "buffered".
    consumer, tp = consumer_of(app), TP(TOPIC, 0)
    consumer._active_partitions = {tp}
    consumer.on_buffer_full(tp)
    consumer.on_buffer_drop(tp)
    assert (consumer._active_partitions, consumer._buffered_partitions) == ({tp}, set())


def test_seeks_and_commits_of_faust_move_nothing(app: StreamApp) -> None:
    # Trap 13: it asks for them in the middle of a rebalance.
    consumer = consumer_of(app)

    async def ask() -> None:
        await consumer.perform_seek()
        assert await consumer.seek_to_committed() == {}
        assert await consumer.commit() is False
        with pytest.raises(TransportError):
            await consumer.seek(TP(TOPIC, 0), 5)

    asyncio.run(ask())
    assert consumer._reader is None


@pytest.mark.parametrize("flows", [True, False])
def test_a_fetch_ends_in_time_however_often_it_is_woken(app: StreamApp, flows: bool) -> None:
    # Python 3.11 loses a cancellation that comes together with a wake; Faust sends one, and waits without an end.
    async def ask() -> None:
        consumer = consumer_of(app)

        async def wake() -> None:
            while True:
                consumer._wake.set()
                await asyncio.sleep(0.001)

        waking = asyncio.create_task(wake())
        fetch = asyncio.create_task(consumer._getmany({TP(TOPIC, 0)}, 60.0 if not flows else 0.3))
        await asyncio.sleep(0.1)
        if not flows:
            consumer.stop_flow()
        async with asyncio.timeout(20):
            assert await fetch == {}
        waking.cancel()

    asyncio.run(ask())


def test_a_second_subscription_to_the_same_topics_changes_nothing(app: StreamApp) -> None:
    # Trap 19: the conductor asks again after a topic changed.
    consumer = consumer_of(app)

    async def ask() -> None:
        await consumer.subscribe([TOPIC])
        reader = consumer._reader
        assert reader is not None
        await consumer.subscribe((TOPIC,))
        assert consumer._reader is reader
        with pytest.raises(TransportError, match="start the worker again"):
            await consumer.subscribe(["other"])
        assert reader.stop(60)

    asyncio.run(ask())


def test_a_drain_is_bounded_once_and_ends_at_once_after_a_crash(app: StreamApp) -> None:
    # Trap 16: Faust asks twice when it stops, and also when it has crashed.
    consumer = consumer_of(app)
    consumer._at_work[0] = batch()

    async def drain() -> None:
        with pytest.raises(TransportError, match=f"{TOPIC}/0 0 to 1"):
            await consumer.wait_empty()
        assert consumer.has_abandoned
        await consumer.wait_empty()

    asyncio.run(drain())
    crashed = consumer_of(app)
    crashed.has_abandoned, crashed._drain_until_s = False, float("inf")
    crashed._crashed.set()
    asyncio.run(crashed.wait_empty())
    assert not crashed.has_abandoned


def test_a_message_goes_back_when_its_partition_does(app: StreamApp) -> None:
    consumer, tp = consumer_of(app), TP(TOPIC, 0)
    consumer._read_offset[tp] = 900
    app.consumer_generation_id = 7
    message = consumer._to_message(tp, batch(10, 20))
    # Faust would drop offset 19, having seen 900; and it skips messages of an earlier generation (trap 12).
    assert consumer._read_offset[tp] is None
    assert (message.offset, message.generation_id) == (19, 7)


def test_health_says_when_the_engine_is_stuck() -> None:
    # Trap 23.
    idle = WorkerMetrics({}, dict, lambda: -1e9)
    status, said = idle.health()
    assert (status, json.loads(said)["status"]) == (503, "stuck")
    assert json.loads(said)["seconds_since_tick"] > STUCK_S


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 1), st.booleans()), max_size=40))
def test_a_stall_is_told_when_nothing_was_done_for_the_limit_though_there_was_something_to_do(
    looks: list[tuple[float, int, bool]],
) -> None:
    # Trap 24: a plain look back over the whole history is the twin.
    stall, now_s, done = Stall(12.0), 0.0, 0
    history: list[tuple[float, int, bool]] = []
    for passed_s, more, is_waiting in looks:
        now_s, done = now_s + passed_s, done + more
        history.append((now_s, done, is_waiting))
        same = 0
        while same < len(history) and history[-1 - same][1] == done and history[-1 - same][2]:
            same += 1
        # The clock starts with the last look at which something was done, or nothing was to do.
        start = len(history) - same
        if start and history[start - 1][1] == done:
            start -= 1
        told = stall.look(now_s, done, "records wait" if is_waiting else "")
        expected = same > 0 and now_s - history[start][0] >= 12.0
        assert (told is not None) == expected


def test_a_json_line_has_what_it_is_about_as_fields() -> None:
    error = LostTailError("by_user", TOPIC, 3, 77)
    record = logging.makeLogRecord(
        {"name": "featurestore.worker", "levelname": "WARNING", "msg": "%s", "args": (error,), "worker": "one"}
    )
    said = json.loads(JsonLines().format(record))
    assert (said["topic"], said["partition"], said["offset"]) == (TOPIC, 3, 77)
    assert (said["level"], said["logger"], said["worker"]) == ("warning", "featurestore.worker", "one")
    assert said["message"] == str(error)
    try:
        raise StalledError(5.0, "records wait")
    except StalledError as raised:
        told: Any = (type(raised), raised, raised.__traceback__)
    failed = logging.makeLogRecord({"msg": "it failed", "exc_info": told})
    said = json.loads(JsonLines().format(failed))
    assert (said["error"], said["seconds"]) == ("StalledError", 5.0)
    assert "Traceback" in said["traceback"]
    assert "\n" not in JsonLines().format(failed)


def test_statistics_that_lack_a_field_are_read_all_the_same() -> None:
    said = {
        "rxmsgs": 5,
        "brokers": {
            "a:1/1": {"nodeid": 1, "state": "UP", "rtt": {"avg": 900, "p99": 2_000}},
            "GroupCoordinator": {"nodeid": 1, "state": "UP"},
            "a:1/bootstrap": {"nodeid": -1, "state": "UP"},
        },
        "topics": {TOPIC: {"partitions": {"0": {"ls_offset": 7, "fetchq_size": 3}, "-1": {}}}},
    }
    read = read_statistics(json.dumps(said))
    assert read.ends == {(TOPIC, 0): 7}
    assert (read.received_records, read.received_bytes, read.fetch_queue_bytes) == (5, 0, 3)
    assert [(each.name, each.is_up, each.rtt_avg_us, each.rtt_p99_us) for each in read.brokers] == [
        ("a:1/1", True, 900, 2_000)
    ]
