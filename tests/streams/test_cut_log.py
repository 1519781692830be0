"""A broker's log that loses its end, as by an unclean leader election: offsets that were applied are other events."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from featurestore.errors import RecordsGoneError
from featurestore.event_time import SECOND_US
from featurestore.local import LocalStack
from streams.engine import Engine
from streams.online_sink import OnlineSink
from streams.producer import EventProducer
from streams.transport import Batch, ReaderOptions
from streams.worker import EnginePort
from tests.campaign.servers import Broker
from tests.project import Project
from tests.simulation.world import (
    START_US,
    VIEWS,
    Server,
    SimulatedLetters,
    SimulatedLog,
    SimulatedStore,
    SteppedThread,
    Table,
)
from tests.simulation.world import TOPIC as PAID
from tests.streams.test_worker import counted, definitions, now_us

TOPIC = "cut"


def cut(folder: Path, end: int) -> None:
    """Take the records from an offset on out of the files of a stopped broker."""
    [log] = folder.glob(f"data/{TOPIC}-0/*.log")
    data, at = log.read_bytes(), 0
    while at < len(data):
        first, size = struct.unpack_from(">qi", data, at)
        if first >= end:
            break
        at += 12 + size
    log.write_bytes(data[:at])
    # What is said of the file beside it would not fit any more; a broker that was killed makes all of it again.
    for file in log.parent.iterdir():
        if file.suffix in (".index", ".timeindex", ".snapshot", ".txnindex"):
            file.unlink()
    (folder / "data" / ".kafka_cleanshutdown").unlink(missing_ok=True)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path / "kafka").start()
    yield running
    running.stop()


def send(broker: Broker, project: Project, count: int) -> None:
    """Each in a batch of its own, which is what a log can be cut between."""
    with EventProducer(broker.bootstrap) as producer:
        for number in range(count):
            event = {"user": f"u{number % 50}", "at": now_us(), "amount": 1.0}
            producer.send(project.repository.topic(TOPIC), event)
            producer.flush()


@pytest.mark.parametrize("is_running", [True, False])
def test_a_worker_does_not_go_on_where_other_records_have_taken_the_place_of_those_that_it_applied(
    is_running: bool, broker: Broker, stack: LocalStack, tmp_path: Path
) -> None:
    at: Any = SimpleNamespace(kafka_bootstrap=broker.bootstrap, redis_url=stack.redis_url)
    made = Project(at, tmp_path / "project", f"cut-{is_running}".lower(), definitions(TOPIC, partitions=1))
    worker = made.start_worker()
    try:
        send(broker, made, 30)
        made.wait_until_applied(worker)
        if not is_running:
            worker.terminate()
            assert worker.wait(30) == 0, made.said()
        broker.stop()
        cut(broker.folder, 20)
        broker.start()
        # As long as before and longer: no offset is out of range.
        send(broker, made, 40)
        if is_running:
            assert worker.wait(60) == 1, made.said()
        for _ in range(2):
            # Nor does it after another start.
            worker = made.start_worker()
            assert worker.wait(60) == 1, made.said()
            assert "cut/0 was cut below 30, and other records have taken the place" in made.said()
        assert counted(made) == 30
    finally:
        made.stop()


def test_a_log_that_is_whole_under_another_leader_is_read_on(broker: Broker, stack: LocalStack, tmp_path: Path) -> None:
    at: Any = SimpleNamespace(kafka_bootstrap=broker.bootstrap, redis_url=stack.redis_url)
    made = Project(at, tmp_path / "project", "whole", definitions(TOPIC, partitions=1))
    worker = made.start_worker()
    try:
        for number in range(1, 4):
            send(broker, made, 10)
            made.wait_until_applied(worker)
            assert counted(made) == 10 * number
            if number == 2:
                # Also from a start behind the last record of the leader before.
                worker.terminate()
                assert worker.wait(30) == 0, made.said()
            broker.stop()
            broker.start()
            if number == 2:
                worker = made.start_worker()
        send(broker, made, 10)
        made.wait_until_applied(worker)
        assert counted(made) == 40
    finally:
        made.stop()


def test_a_partition_that_was_given_up_is_taken_over_behind_its_last_record_whose_epoch_is_known() -> None:
    server, table = Server(), Table()

    def engine() -> Engine:
        store = SimulatedStore(server, lambda: os.urandom(16), lambda: "")
        log: Any = SimulatedLog(table, lambda: "")
        sinks, letters = [OnlineSink(store, view, SteppedThread()) for view in VIEWS], SimulatedLetters({})
        return Engine(PAID, "id", sinks, 60 * SECOND_US, log, letters, lambda: START_US, SteppedThread())

    first = engine()
    first.open(0)
    value = b'{"user": "u", "shop": "s", "at": %d, "amount": 1.0, "id": null}' % START_US
    offset = np.array([6])
    first.apply(Batch(PAID.name, 0, 0, 7, [value], offset, np.full(1, START_US), 5))
    first.close(0)
    # No event has touched most of the buckets.
    second = engine()
    assert second.open(0) == 7
    assert EnginePort({PAID.name: second}, ReaderOptions()).epochs([(PAID.name, 0), (PAID.name, 1)]) == {
        (PAID.name, 0): 5
    }


def test_a_log_that_was_cut_is_not_mended_by_a_longer_retention() -> None:
    for bounds in ((0, 20), (0, 60)):
        said = str(RecordsGoneError("paid", 0, 40, "out of range", bounds))
        assert "from a topic of another name, or in another project, with an offline_path of its own" in said
        assert "retention" not in said
