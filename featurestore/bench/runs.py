"""Runs of our worker that the benchmarks share: over a backlog, or under a steady load; measured from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from featurestore.bench.blocks import Ends
from featurestore.bench.payments import PARTITIONS, Backlog, block_sizes, payments
from featurestore.errors import FeatureStoreError
from featurestore.local import LocalStack, free_port, local_settings, start_worker
from featurestore.local.process import ChildServer
from featurestore.settings import Settings
from featurestore.spec import load
from streams.bounds import bounds_of
from streams.broker import Broker, admin_client
from streams.producer import EventProducer, kafka_producer
from streams.progress import Progress, TopicProgress
from streams.topics import Topics

BATCH_RECORDS_MAX = 100_000
_LIMIT_S = 300.0
# The longest that brokers allow unless told otherwise.
_TRANSACTION_MS = 900_000
_LOOK_S = 0.1
# Rows wait a second for others before they are logged, and one commit of as many as there may be takes far less.
_LOG_S = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One backlog done: events a second, what it cost, and how often a row was written.

    peak_mb           the most memory that a worker had at once
    middle_mb, end_mb what one had when half of the events were in their rows, and when all were
    """

    rate: float
    log_behind_s: float
    peak_mb: float
    middle_mb: float
    end_mb: float
    rows_an_event: float
    events_a_batch: float


def send_backlog(stack: LocalStack, definitions: Path, backlog: Backlog, events: int, say: Say) -> list[Ends]:
    """Make the backlog's topic, and fill it; return where its blocks begin in each partition, and the end."""
    Topics(stack.kafka_bootstrap).create(load(definitions).topics.values(), "bench")
    admin = admin_client(Broker(stack.kafka_bootstrap))
    borders: list[Ends] = [dict.fromkeys(range(PARTITIONS), 0)]
    sent = payments(backlog, events, time.time_ns() // 1_000)
    # Plain Faust cannot read lz4 without more packages.
    with EventProducer(stack.kafka_bootstrap, compression="none") as producer:
        for size in block_sizes(backlog, events):
            for key, value in islice(sent, size):
                producer.send_raw(backlog.topic, key, value)
            producer.flush()
            bounds = bounds_of(admin, backlog.topic, range(PARTITIONS))
            borders.append({partition: of.end for partition, of in bounds.items()})
    say(f"{events:,} payments are in topic {backlog.topic!r}")
    return borders


def steady_payments(stack: LocalStack, topic: str, events_a_second: int, seconds: float) -> subprocess.Popen[bytes]:
    """A process that sends payments to a topic; whoever starts it ends it."""
    command = ["featurestore.bench.steady", stack.kafka_bootstrap, topic, str(events_a_second), str(seconds)]
    return subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)


def bench_settings(
    stack: LocalStack, folder: Path, definitions: Path, project: str, batch_records_max: int = BATCH_RECORDS_MAX
) -> Settings:
    """A store of its own on the stack: the same topics read from their beginning, rows, log and letters apart."""
    settings = local_settings(stack, folder, definitions, project)
    Topics(stack.kafka_bootstrap).create(load(definitions).topics.values(), project)
    return settings.model_copy(update={"batch_records_max": batch_records_max, "worker_port": free_port()})


def bench_worker(settings: Settings, folder: Path, number: int = 0) -> ChildServer:
    """One worker of a store; it is ready when it reads. Several need settings with ports of their own."""
    return start_worker(settings, folder, name=f"local-{number}")


def hidden_backlog(stack: LocalStack, backlog: Backlog, events: int) -> Callable[[], None]:
    """Send a backlog that no consumer sees before what is returned is called: then all of it is there at once."""
    # Written in one transaction, which the broker would end after a minute.
    more = {"transactional.id": backlog.topic, "transaction.timeout.ms": _TRANSACTION_MS}
    producer = kafka_producer(stack.kafka_bootstrap, "none", more=more)
    producer.init_transactions()
    producer.begin_transaction()
    for key, value in payments(backlog, events, time.time_ns() // 1_000):
        while True:
            try:
                producer.produce(backlog.topic, value, key)
                break
            except BufferError:
                producer.poll(_LOOK_S)
    producer.flush()
    return producer.commit_transaction


def backlog_rate(
    progress: Progress,
    events: int,
    running: Sequence[ChildServer],
    began: float,
    *,
    at_once: bool = False,
    looked: Callable[[TopicProgress], None] = lambda _: None,
    applied: Callable[[], None] = lambda: None,
) -> tuple[float, float]:
    """Events a second until every event is in its row, and the seconds that the log took after that.

    Up to a second of those is the log's own pause for more rows, so they are told apart: a backlog twice as long has
    no more of them. Raises FeatureStoreError when the log takes longer.
    at_once  what is there was seen from `began` on; otherwise what comes before the first look that sees anything is
             taken for start-up
    looked   is called at each look until then
    applied  is called when every event is in its row
    """
    seen_s, seen, rows_s = 0.0, 0, 0.0
    while True:
        [now] = progress.look()
        seconds = time.monotonic() - began
        if not rows_s:
            looked(now)
        if now.online >= events and not rows_s:
            rows_s = seconds
            applied()
            if not at_once and seen in (0, events):
                raise FeatureStoreError(f"bench: {events} events are too few, they were done before the first look")
        if now.done >= events:
            return (events - seen) / (rows_s - seen_s), seconds - rows_s
        if not at_once and not seen and now.online:
            seen_s, seen = seconds, now.online
        for worker in running:
            worker.check()
        if seconds > _LIMIT_S or (rows_s and seconds > rows_s + _LOG_S):
            raise FeatureStoreError(f"bench: our worker is at {now.done} of {events} after {seconds:.0f} s")
        time.sleep(_LOOK_S)


def partitions_held(port: int) -> int:
    """How many partitions a worker reads."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10.0) as answer:
        return sum(len(each) for each in json.load(answer)["partitions"].values())


def worker_sums(*ports: int) -> Mapping[str, float]:
    """The own sums of one worker or more, by name without labels."""
    out: dict[str, float] = {}
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as answer:
            lines = answer.read().decode().splitlines()
        for line in lines:
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                out[name] = out.get(name, 0.0) + float(value)
    return out


def shares_of(now: Mapping[str, float], before: Mapping[str, float] | None = None) -> tuple[float, float]:
    """Rows an event, and events a batch, of all that a worker did or of what it did since `before`.

    A batch is what was read of one partition: where those of several were applied together, each counts as one.
    Raises FeatureStoreError when it did nothing.
    """

    def grown(name: str) -> float:
        return now.get(name, 0.0) - (before or {}).get(name, 0.0)

    events = grown("featurestore_events_applied_total") + grown("featurestore_events_dead_total")
    batches = grown("featurestore_batches_total")
    if not events or not batches:
        raise FeatureStoreError("bench: our worker applied nothing while it was measured")
    return grown("featurestore_rows_written_total") / events, events / batches
