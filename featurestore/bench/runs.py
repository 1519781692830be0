"""Runs of our worker that the benchmarks share: over a backlog, or under a steady load; measured from outside."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from featurestore.bench.payments import Backlog, payments
from featurestore.errors import FeatureStoreError
from featurestore.local import LocalStack, free_port, local_settings, start_worker
from featurestore.local.process import ChildServer
from featurestore.settings import Settings
from featurestore.spec import load
from streams.producer import EventProducer
from streams.progress import Progress
from streams.topics import Topics

BATCH_RECORDS_MAX = 100_000
_LIMIT_S = 300.0
_LOOK_S = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One backlog done: events a second, what it cost, and how often a row was written."""

    rate: float
    peak_mb: float
    rows_an_event: float
    events_a_batch: float


def send_backlog(stack: LocalStack, definitions: Path, backlog: Backlog, events: int, say: Say) -> None:
    """Make the backlog's topic, and fill it."""
    Topics(stack.kafka_bootstrap).create(load(definitions).topics.values())
    # Plain Faust cannot read lz4 without more packages.
    with EventProducer(stack.kafka_bootstrap, compression="none") as producer:
        for key, value in payments(backlog, events, time.time_ns() // 1_000):
            producer.send_raw(backlog.topic, key, value)
    say(f"{events:,} payments are in topic {backlog.topic!r}")


def steady_payments(stack: LocalStack, topic: str, events_a_second: int, seconds: float) -> subprocess.Popen[bytes]:
    """A process that sends payments to a topic; whoever starts it ends it."""
    command = ["featurestore.bench.steady", stack.kafka_bootstrap, topic, str(events_a_second), str(seconds)]
    return subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)


def bench_settings(
    stack: LocalStack, folder: Path, definitions: Path, project: str, batch_records_max: int = BATCH_RECORDS_MAX
) -> Settings:
    """A store of its own on the stack: the same topics read from their beginning, rows and log apart from others'."""
    settings = local_settings(stack, folder, definitions, project)
    return settings.model_copy(update={"batch_records_max": batch_records_max, "worker_port": free_port()})


def bench_worker(settings: Settings, folder: Path, number: int = 0, workers: int = 1) -> ChildServer:
    """One worker of `workers`; it is ready when it reads."""
    # Several workers cannot share a port.
    own = settings if workers == 1 else settings.model_copy(update={"worker_port": 0})
    return start_worker(own, folder, name=f"local-{number}")


def backlog_rate(progress: Progress, events: int, running: list[ChildServer], began: float) -> float:
    """Events a second from the moment that the workers read to the last event in row and log."""
    seen_s, seen = 0.0, 0
    while True:
        [now] = progress.look()
        seconds = time.monotonic() - began
        if now.done >= events:
            if seen in (0, events):
                raise FeatureStoreError(f"bench: {events} events are too few, they were done before the first look")
            return (events - seen) / (seconds - seen_s)
        if not seen and now.online:
            # What came before the first look that sees anything is start-up.
            seen_s, seen = seconds, now.online
        for worker in running:
            worker.check()
        if seconds > _LIMIT_S:
            raise FeatureStoreError(f"bench: our worker is at {now.done} of {events} after {seconds:.0f} s")
        time.sleep(_LOOK_S)


def worker_sums(port: int) -> Mapping[str, float]:
    """The worker's own sums, by name without labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as answer:
        lines = answer.read().decode().splitlines()
    out: dict[str, float] = {}
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
