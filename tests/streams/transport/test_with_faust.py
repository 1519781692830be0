"""Whole workers on Faust, as processes: how they share, drain, fail, hang and come back; `recorder.py` is one."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from featurestore.local import LocalStack
from streams.watchdog import EXIT_ABANDONED, EXIT_STALLED
from streams.worker import LEAVE_S
from tests import processes
from tests.processes import Process
from tests.streams.transport.harness import LIMIT_S, fill, make_topic

# What a busy machine takes to notice, and to end a process.
SLACK_S = 1.5


class Workers:
    """Workers of one group and their journal."""

    def __init__(self, bootstrap: str, topic: str, folder: Path) -> None:
        self.bootstrap, self.topic, self.folder = bootstrap, topic, folder
        self._running: list[Process] = []

    def start(self, options: dict[str, Any] | None = None, **spec: Any) -> Process:
        said = {
            "name": len(self._running), "topic": self.topic, "group": self.topic, "bootstrap": self.bootstrap,
            "folder": str(self.folder), "options": {"session_s": 4.0, **(options or {})}, **spec,
        }  # fmt: skip
        worker = processes.start(
            "tests.streams.transport.recorder", json.dumps(said), environment=os.environ, output=self.folder / "said"
        )
        self._running.append(worker)
        return worker

    def said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")

    def lines(self, *kinds: str) -> list[list[Any]]:
        journal = self.folder / "journal"
        read = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        return [line for line in read if not kinds or line[1] in kinds]

    def wait(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not what():
            assert time.monotonic() < deadline, (self.lines()[-10:], self.said()[-3_000:])
            time.sleep(0.05)

    def applied(self) -> int:
        return sum(line[5] for line in self.lines("applied"))

    def committed(self) -> dict[int, int]:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        [asked] = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(self.topic)]).values()
        return {each.partition: each.offset for each in asked.result().topic_partitions}

    def check_whole(self, counts: dict[int, int]) -> None:
        """Each partition's ranges follow each other from 0, and hold a record for each offset."""
        for partition, count in counts.items():
            ranges = [line[3:] for line in self.lines("applied") if line[2] == partition]
            assert [first for first, _, _ in ranges] == [0, *(end for _, end, _ in ranges[:-1])], ranges
            assert ranges[-1][1] == sum(each[2] for each in ranges) == count

    def end(self) -> None:
        for worker in self._running:
            worker.kill()
            worker.wait()


@pytest.fixture
def workers(stack: LocalStack, tmp_path: Path, unique: Callable[[str], str]) -> Iterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def make(counts: dict[int, int]) -> Workers:
        topic = unique("faust")
        make_topic(stack.kafka_bootstrap, topic, max(counts) + 1)
        fill(stack.kafka_bootstrap, topic, counts)
        made.append(Workers(stack.kafka_bootstrap, topic, tmp_path))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_partitions_take_turns_and_sigterm_leaves_the_group_where_the_work_is_done(
    workers: Callable[..., Workers],
) -> None:
    counts = dict.fromkeys(range(4), 3_000)
    group = workers(counts)
    worker = group.start({"batch_records_max": 100}, batch_s=0.002)
    group.wait(lambda: group.applied() == 12_000)
    # Trap 10: librdkafka delivers thousands of one partition at a time, and no other starves meanwhile.
    order = [line[2] for line in group.lines("applied")]
    assert {*order[: len(order) // 2]} == {0, 1, 2, 3}
    worker.send_signal(signal.SIGTERM)
    # Trap 21: drained, and with the code of an orderly end.
    assert worker.wait(LIMIT_S) == 0, group.said()[-3_000:]
    group.check_whole(counts)
    assert group.lines("refused") == []
    assert group.committed() == counts
    assert {line[2] for line in group.lines("closed")} == {0, 1, 2, 3}
    # Trap 18: what a definition prints is printed, not wrapped into log lines.
    assert re.search(r"^plain \d+$", group.said(), re.MULTILINE)


@pytest.mark.parametrize("rebalance", ["eager", "cooperative"])
def test_a_second_worker_joins_one_is_killed_and_every_record_is_applied_once(
    workers: Callable[..., Workers], rebalance: str
) -> None:
    # Traps 6, 12 and 13, with Faust: it empties its queues, asks for seeks and bumps generations at each rebalance.
    counts = dict.fromkeys(range(4), 6_000)
    group = workers(counts)
    options = {"batch_records_max": 50, "rebalance": rebalance}
    group.start(options, batch_s=0.1)
    group.wait(lambda: group.applied() > 500)
    second = group.start(options, batch_s=0.1)
    group.wait(lambda: sum(line[0] == 1 for line in group.lines("applied")) > 3)
    assert group.applied() < 24_000
    (group.folder / "fast").touch()
    second.kill()
    group.wait(lambda: group.applied() >= 24_000)
    group.check_whole(counts)


def test_a_worker_that_fell_out_of_the_group_comes_back_and_tells_nothing_of_what_it_lost(
    workers: Callable[..., Workers],
) -> None:
    counts = dict.fromkeys(range(4), 2_000)
    group = workers(counts)
    options = {"batch_records_max": 50, "rebalance": "cooperative", "session_s": 2.0}
    # It falls still at work, and its group learns nothing of what it has applied last.
    zombie = group.start(options, batch_s=0.02, stops_at=500)
    group.wait(lambda: bool(group.lines("stops")))
    (group.folder / "fast").touch()
    group.start(options)
    group.wait(lambda: group.applied() == 8_000 and group.committed() == counts)
    opened = len(group.lines("opened"))
    zombie.send_signal(signal.SIGCONT)
    group.wait(lambda: len([line for line in group.lines("opened")[opened:] if line[0] == 0]) >= 2)
    # All were lost at once, and what was at work counted for nothing.
    assert [0, "lost", [0, 1, 2, 3]] in group.lines("lost")
    assert {line[2] for line in group.lines("closed") if line[0] == 0} == {0, 1, 2, 3}
    assert [0, "duplicate", *group.lines("stops")[0][2:]] in [line[:5] for line in group.lines("duplicate")]
    # Once the group is told of what it has now, it would have been told of the others as well.
    again = {line[2] for line in group.lines("opened")[opened:] if line[0] == 0}
    fill(group.bootstrap, group.topic, dict.fromkeys(again, 500))
    counts.update(dict.fromkeys(again, 2_500))
    group.wait(lambda: all(group.committed()[partition] == 2_500 for partition in again))
    assert group.committed() == counts
    group.check_whole(counts)


def test_a_worker_keeps_nothing_of_partitions_that_have_left(workers: Callable[..., Workers]) -> None:
    # Faust's supervisor keeps every actor that it ever stopped, and each its last batch: a leak at every rebalance.
    group = workers(dict.fromkeys(range(4), 6_000))
    options = {"batch_records_max": 20}
    group.start(options, batch_s=0.02)
    group.wait(lambda: group.applied() > 100)
    for number in (1, 2, 3):
        other = group.start(options, batch_s=0.02)
        group.wait(lambda: any(line[0] == number for line in group.lines("applied")))  # noqa: B023
        opened = len([line for line in group.lines("opened") if line[0] == 0])
        other.send_signal(signal.SIGTERM)
        assert other.wait(LIMIT_S) == 0
        group.wait(lambda: len([line for line in group.lines("opened") if line[0] == 0]) > opened)  # noqa: B023
    # One a partition, and one that is on its way.
    assert max(line[2] for line in group.lines("kept") if line[0] == 0) <= 5


def test_a_body_that_fails_ends_the_worker_and_its_batch_is_not_committed(workers: Callable[..., Workers]) -> None:
    # Trap 22 and F5: restarted in place, the agent would go on with the next batch and commit past this one.
    group = workers({0: 1_000})
    worker = group.start({"batch_records_max": 100}, fails_at=500)
    assert worker.wait(LIMIT_S) == 1, group.said()[-3_000:]
    done = max(line[4] for line in group.lines("applied"))
    assert done <= 500
    assert group.committed().get(0, 0) <= done
    group.start({"batch_records_max": 100})
    group.wait(lambda: group.applied() == 1_000)
    group.check_whole({0: 1_000})


def test_a_worker_that_fails_has_the_deadline_of_one_that_is_stopped(workers: Callable[..., Workers]) -> None:
    group = workers({0: 1_000})
    worker = group.start({"batch_records_max": 100, "drain_s": 1.0}, fails_at=500, close_s=600.0)
    group.wait(lambda: bool(group.lines("closed")))
    began_s = time.monotonic()
    assert worker.wait(LIMIT_S) == EXIT_ABANDONED, group.said()[-3_000:]
    assert time.monotonic() - began_s < 1.0 + LEAVE_S + SLACK_S
    assert "the body fails" in group.said()


def test_a_stuck_body_is_given_up_within_the_bound_with_a_code_of_its_own(workers: Callable[..., Workers]) -> None:
    # Traps 14, 16 and 21: the bound holds once although Faust waits twice, and the code is not 0. The partition is
    # another's then, whatever the stuck thread still does: its sinks compare and set.
    group = workers({0: 1_000})
    worker = group.start({"batch_records_max": 100, "drain_s": 1.0}, hangs_at=500)
    group.wait(lambda: bool(group.lines("hangs")))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(LIMIT_S) == EXIT_ABANDONED, group.said()[-3_000:]
    assert group.said().count("was not finished within 1.0 s (worker_drain_s)") == 1
    group.start({"batch_records_max": 100})
    group.wait(lambda: group.applied() == 1_000)
    group.check_whole({0: 1_000})


def test_a_stuck_body_does_not_hold_up_a_rebalance(workers: Callable[..., Workers]) -> None:
    # Trap 14: the other worker gets the partitions, and the stuck one ends by itself.
    group = workers({0: 1_000, 1: 1_000})
    options = {"batch_records_max": 100, "drain_s": 1.0}
    stuck = group.start(options, hangs_at=500)
    group.wait(lambda: bool(group.lines("hangs")))
    group.start(options)
    assert stuck.wait(LIMIT_S) == EXIT_ABANDONED, group.said()[-3_000:]
    group.wait(lambda: group.applied() == 2_000)
    group.check_whole({0: 1_000, 1: 1_000})


def test_a_worker_that_does_nothing_with_its_records_ends_itself(workers: Callable[..., Workers]) -> None:
    # Trap 24: nobody else would notice; Faust's own detection is out of use here.
    group = workers({0: 1_000})
    worker = group.start({"batch_records_max": 100}, hangs_at=500, stall_s=2.0, log_format="json")
    assert worker.wait(LIMIT_S) == EXIT_STALLED, group.said()[-3_000:]
    told = [json.loads(line) for line in group.said().splitlines() if line.startswith("{")]
    [stalled] = [line for line in told if "no batch was finished" in line["message"]]
    assert (stalled["level"], stalled["error"]) == ("error", "StalledError")
    [opened] = [line for line in told if line["message"].startswith("reading ")]
    assert opened["places"] == [{"topic": group.topic, "partition": 0, "offset": 0}]


def test_a_partition_is_applied_again_from_where_the_store_stands(workers: Callable[..., Workers]) -> None:
    # Faust drops what lies before the last offset that it has seen of a partition; after a seek back that is wanted.
    group = workers({0: 2_000})
    worker = group.start({"batch_records_max": 50}, lose_at=1_000, lose_to=200)
    group.wait(lambda: any(line[4] == 2_000 for line in group.lines("applied")))
    ranges = [line[3:5] for line in group.lines("applied")]
    back = next(index for index, (first, _) in enumerate(ranges) if index and first == 200 < ranges[index - 1][1])
    assert [first for first, _ in ranges[back:]] == [200, *(end for _, end in ranges[back:-1])]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(LIMIT_S) == 0
    assert group.committed() == {0: 2_000}


def test_a_worker_tells_what_its_transport_does(workers: Callable[..., Workers]) -> None:
    group = workers({0: 1_000})
    group.start()
    group.wait(lambda: group.applied() == 1_000 and "metrics and health at" in group.said())
    found = re.search(r"metrics and health at (http://127\.0\.0\.1:\d+)", group.said())
    assert found is not None

    def metrics() -> dict[str, float]:
        with urlopen(f"{found[1]}/metrics", timeout=10) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in lines}

    prefix = "featurestore_transport_"
    # librdkafka tells its figures once a second, those of the broker later than its own.
    group.wait(lambda: any(name.startswith(f"{prefix}broker_round_trip") for name in metrics()))
    # Also what was thrown away and read again, as librdkafka does when it is told where to begin.
    group.wait(lambda: metrics()[prefix + "received_records_total"] >= 1_000)
    said = metrics()
    assert said[prefix + "records_total"] == 1_000
    assert said[prefix + "batches_total"] >= 1
    assert said[prefix + "rebalances_total"] == 1
    for name in ("waiting_bytes", "in_hand_batches", "fetch_queue_bytes", "paused_partitions"):
        assert said[prefix + name] == 0
