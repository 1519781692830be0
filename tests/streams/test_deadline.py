"""A worker that was told to stop ends within one deadline, whoever does not answer, and the next one loses nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from featurestore.local import LocalStack
from featurestore.settings import Settings
from streams.dead_letters import read_letters
from streams.ledger import ledgers
from streams.producer import EventProducer
from streams.watchdog import EXIT_ABANDONED, end_within
from streams.worker import LEAVE_S
from tests.campaign.servers import tell
from tests.processes import Process
from tests.project import Project
from tests.streams.test_worker import Make, counted, definitions, now_us, send

DRAIN_S = 2.0
# What a busy machine takes to run a signal's handler and to end a process.
SLACK_S = 1.5


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """It keeps its connections, and answers nothing."""
    tell(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def terminated(made: Project, worker: Process) -> tuple[int, str]:
    """Its code, and what it said; it ends in time."""
    began_s = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    code = worker.wait(60)
    assert time.monotonic() - began_s < DRAIN_S + LEAVE_S + SLACK_S, made.said()
    return code, made.said()


def check_whole(made: Project, topic: str, events: int, letters: int) -> None:
    """The next worker brings everything, once."""
    said = made.log.read_text().count("metrics and health at")
    worker = made.start_worker()
    wait_until(lambda: made.log.read_text().count("metrics and health at") > said, made)
    made.wait_until_applied(worker)
    assert counted(made) == events
    assert len(made.store.event_log(made.repository.topic(topic)).read(["offset"])) == events
    assert len(read_letters(made.settings.kafka_bootstrap, made.settings.project, [topic])) == letters
    [ledger] = ledgers(made.settings, made.repository)
    assert ledger.balanced
    worker.terminate()
    assert worker.wait(30) == 0, made.said()


def wait_until(so: Callable[[], bool], made: Project) -> None:
    deadline = time.monotonic() + 60
    while not so():
        assert time.monotonic() < deadline, made.said()
        time.sleep(0.02)


def test_the_deadline_is_under_ten_seconds_where_nobody_says_otherwise() -> None:
    assert Settings.model_fields["worker_drain_s"].default + LEAVE_S < 10


def test_the_end_comes_although_nobody_can_say_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> list[str]:
        raise RuntimeError("dictionary changed size during iteration")

    codes: list[int] = []
    for undrained in (broken, list, lambda: ["5 letters wait"]):
        ended = threading.Event()
        end_within(0.01, undrained, lambda code, ended=ended: (codes.append(code), ended.set()))  # type: ignore[misc]
        assert ended.wait(10)
    assert codes == [EXIT_ABANDONED] * 3
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "cannot be told" in told[0]
    assert "5 letters wait" in told[2]


def test_a_broker_that_does_not_answer_holds_no_end_up_and_the_sinks_get_what_was_read(
    project: Make, unique: Callable[[str], str], stack: LocalStack
) -> None:
    topic = unique("mute-broker")
    made = project(definitions(topic, partitions=1), worker_drain_s=DRAIN_S)
    worker = made.start_worker()
    made.wait_until_said("reading ")
    send(made, topic, 1_000)
    made.wait_until_applied(worker)
    send(made, topic, 500, first=1_000)
    wait_until(lambda: counted(made) == 1_500, made)
    with stopped(stack.kafka_pid):
        # What the log holds by then is settled, and the group cannot be told.
        time.sleep(1.5)
        code, said = terminated(made, worker)
    assert code == EXIT_ABANDONED
    assert "the consumer group has not been left" in said
    assert len(made.store.event_log(made.repository.topic(topic)).read(["offset"])) == 1_500
    check_whole(made, topic, 1_500, 0)


def test_a_store_that_does_not_answer_holds_no_end_up(
    project: Make, unique: Callable[[str], str], stack: LocalStack
) -> None:
    topic = unique("mute-store")
    made = project(definitions(topic, partitions=1), worker_drain_s=DRAIN_S)
    worker = made.start_worker()
    made.wait_until_said("reading ")
    send(made, topic, 1_000)
    made.wait_until_applied(worker)
    with stopped(stack.valkey_pid):
        send(made, topic, 500, first=1_000)
        # It asks once a second, if nothing else.
        time.sleep(1.5)
        code, said = terminated(made, worker)
    assert code == EXIT_ABANDONED
    assert f"{topic}/0 1000 to " in said or f"the rows of by_user of {topic}/0 up to 1000 of" in said
    check_whole(made, topic, 1_500, 0)


def test_letters_that_the_broker_does_not_take_hold_no_end_up(
    project: Make, unique: Callable[[str], str], stack: LocalStack
) -> None:
    topic = unique("letters-wait")
    # Small batches, so that much that was read waits when the broker falls silent.
    made = project(definitions(topic, partitions=1), worker_drain_s=DRAIN_S, batch_records_max=20)
    send(made, topic, 1)
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for number in range(1, 8_000):
            event = b'{"user": "u%d", "at": %d, "amount": 1.0}' % (number % 50, now_us())
            producer.send_raw(topic, b"u1", event if number % 2 else b"{broken")
    worker = made.start_worker()
    wait_until(lambda: counted(made) > 200, made)
    with stopped(stack.kafka_pid):
        code, said = terminated(made, worker)
    assert counted(made) < 4_000
    assert code == EXIT_ABANDONED
    assert re.search(r"the broker is not known to have \d+ dead letters", said), said
    assert re.search(rf"the event log has the events of {topic}/0 up to \d+ of \d+", said), said
    check_whole(made, topic, 4_001, 3_999)


@pytest.mark.parametrize(("what", "code"), [("stop", 70), ("stall", 71)])
def test_a_log_that_nobody_reads_keeps_no_worker_from_its_end(what: str, code: int) -> None:
    # Who logs into a full pipe holds the lock that the last words would need.
    program = f"""
import logging, os, threading
from streams.watchdog import end_within, watch
read, write = os.pipe()
os.dup2(write, 2)
logging.basicConfig(level=logging.INFO)
if {what!r} == "stop":
    end_within(0.2, lambda: ["something"])
else:
    watch(0.2, lambda: (0, "something"))
for _ in range(10**6):
    logging.info("x" * 1_000)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=30).returncode == code
