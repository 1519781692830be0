"""How throughput and freshness trade: a backlog by the bound of a batch, then steady loads, each point a run."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from featurestore.bench.payments import UNIFORM, write_definitions
from featurestore.bench.probe import Probe, cpu_s, percentile_ms
from featurestore.bench.report import load_now, machine
from featurestore.bench.runs import (
    backlog_rate,
    bench_settings,
    bench_worker,
    send_backlog,
    shares_of,
    steady_payments,
    worker_sums,
)
from featurestore.client import FeatureStore
from featurestore.errors import FeatureStoreError
from featurestore.local import LocalStack
from featurestore.local.process import ChildServer
from featurestore.settings import Settings
from featurestore.spec import load
from streams.producer import EventProducer
from streams.progress import Progress, TopicProgress

_LIVE = "payments-live"
_WAIT_MAX_S, _LOOK_S = 60.0, 0.1
# A generator that sends less than this share of what it was asked for is at its end: larger loads tell nothing.
_REACHED = 0.9
_BACKLOG_COLUMNS = ("batch_records_max", "events/s", "events a batch", "rows an event")
_LOAD_COLUMNS = (
    "sent/s",
    "applied/s",
    "p50 ms",
    "p99 ms",
    "events a batch",
    "rows an event",
    "worker's cores",
    "Valkey's",
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured; what stands here takes some minutes.

    events         payments of the backlog
    rounds         how often the backlog is worked off under each bound; the median counts
    batch_records  bounds of a batch, ascending
    loads          events a second, ascending; those that the generator cannot send are left out
    settle_s       of each load, before it is measured
    measured_s     of each load
    """

    events: int = 1_000_000
    rounds: int = 3
    batch_records: tuple[int, ...] = (1_000, 5_000, 20_000, 50_000, 100_000)
    loads: tuple[int, ...] = (2_000, 20_000, 60_000, 120_000)
    settle_s: float = 3.0
    measured_s: float = 8.0


@dataclass(frozen=True, slots=True)
class BacklogPoint:
    """A backlog under one bound of a batch."""

    batch_records_max: int
    events_a_second: float
    rows_an_event: float
    events_a_batch: float


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One steady load; `sent` and `applied` are what the broker and the rows got of it."""

    asked_a_second: int
    sent_a_second: float
    applied_a_second: float
    p50_ms: float
    p99_ms: float
    probes: int
    events_a_batch: float
    rows_an_event: float
    worker_cores: float
    valkey_cores: float


@dataclass(frozen=True, slots=True)
class Trade:
    """Both sides, measured on one stack in one run."""

    backlogs: tuple[BacklogPoint, ...]
    loads: tuple[LoadPoint, ...]
    sizes: Sizes
    load_before: float

    def as_json(self) -> str:
        """One object."""
        said = {"bench": "trade", "machine": machine(), "load": self.load_before, **asdict(self)}
        del said["load_before"]
        return json.dumps(said)

    def as_markdown(self) -> str:
        """The same for people: two tables, and how they were made."""
        backlogs = [
            [
                f"{one.batch_records_max:,}",
                f"{one.events_a_second:,.0f}",
                f"{one.events_a_batch:,.0f}",
                f"{one.rows_an_event:.2f}",
            ]
            for one in self.backlogs
        ]
        loads = [
            [
                f"{one.sent_a_second:,.0f}",
                f"{one.applied_a_second:,.0f}",
                f"{one.p50_ms:,.0f}",
                f"{one.p99_ms:,.0f}",
                f"{one.events_a_batch:,.0f}",
                f"{one.rows_an_event:.2f}",
                f"{one.worker_cores:.2f}",
                f"{one.valkey_cores:.2f}",
            ]
            for one in self.loads
        ]
        return "\n\n".join((_table(_BACKLOG_COLUMNS, backlogs), _table(_LOAD_COLUMNS, loads), self._how()))

    def _how(self) -> str:
        made = f"`featurestore bench trade` on {machine()}, load average {self.load_before:.1f} before it"
        backlog = f"a backlog of {self.sizes.events:,} payments, median of {self.sizes.rounds}"
        return (
            f"Made by {made}: {backlog}; then each load for {self.sizes.measured_s:g} s.\n"
            "Batches of several partitions that are there at once are applied together; *events a batch* counts each\n"
            "partition's share by itself."
        )


def bench_trade(sizes: Sizes, say: Say) -> Trade:
    """All bounds in turn, `rounds` times, so that each meets the machine alike; then all loads, from small to large."""
    load_before = load_now()
    with tempfile.TemporaryDirectory(prefix="bench-trade-") as name, LocalStack(Path(name) / "stack", say) as stack:
        backlogs = _backlogs(stack, Path(name), sizes, say)
        loads = _loads(stack, Path(name), sizes, say)
    return Trade(backlogs, loads, sizes, load_before)


def _backlogs(stack: LocalStack, folder: Path, sizes: Sizes, say: Say) -> tuple[BacklogPoint, ...]:
    definitions = write_definitions(folder / "definitions-backlog", UNIFORM.topic)
    send_backlog(stack, definitions, UNIFORM, sizes.events, say)
    runs: dict[int, list[BacklogPoint]] = {bound: [] for bound in sizes.batch_records}
    for number in range(sizes.rounds):
        for bound in sizes.batch_records:
            project = f"backlog-{bound}-{number}"
            (folder / project).mkdir()
            run = _backlog(bench_settings(stack, folder / project, definitions, project, bound), sizes.events, folder)
            runs[bound].append(run)
            say(
                f"batches of up to {bound:,}: {run.events_a_second:,.0f} events/s, "
                f"{run.rows_an_event:.2f} rows an event"
            )
    return tuple(
        BacklogPoint(
            bound,
            median(run.events_a_second for run in each),
            median(run.rows_an_event for run in each),
            median(run.events_a_batch for run in each),
        )
        for bound, each in runs.items()
    )


def _backlog(settings: Settings, events: int, folder: Path) -> BacklogPoint:
    progress, began = Progress(settings, load(settings.definitions)), time.monotonic()
    worker = bench_worker(settings, folder / settings.project)
    try:
        rate, _ = backlog_rate(progress, events, [worker], began)
        return BacklogPoint(settings.batch_records_max, rate, *shares_of(worker_sums(settings.worker_port)))
    finally:
        worker.stop()


def _loads(stack: LocalStack, folder: Path, sizes: Sizes, say: Say) -> tuple[LoadPoint, ...]:
    definitions = write_definitions(folder / "definitions-live", _LIVE)
    (folder / "live").mkdir()
    settings = bench_settings(stack, folder / "live", definitions, "live")
    worker, points = bench_worker(settings, folder / "live"), []
    try:
        with EventProducer(stack.kafka_bootstrap) as producer:
            measure = _Live(stack, settings, worker, Probe(FeatureStore(settings), producer, _LIVE))
            for asked in sizes.loads:
                point = measure.load(asked, sizes)
                points.append(point)
                say(
                    f"{point.sent_a_second:,.0f} events/s: p50 {point.p50_ms:,.0f} ms, p99 {point.p99_ms:,.0f} ms, "
                    f"worker {point.worker_cores:.2f} and Valkey {point.valkey_cores:.2f} cores"
                )
                if point.sent_a_second < _REACHED * asked:
                    say(f"the generator was asked for {asked:,} events/s and sends fewer: no larger load is tried")
                    break
    finally:
        worker.stop()
    return tuple(points)


class _Live:
    """A worker that goes on from load to load, and what it is measured with."""

    def __init__(self, stack: LocalStack, settings: Settings, worker: ChildServer, probe: Probe) -> None:
        self._stack, self._settings, self._probe = stack, settings, probe
        self._worker = worker
        self._pids = {"worker": worker.pid, "valkey": stack.valkey_pid}
        self._progress = Progress(settings, load(settings.definitions))

    def load(self, asked: int, sizes: Sizes) -> LoadPoint:
        # Ended as soon as all is measured; one probe behind a long queue may outlast the time that it was given.
        limit_s = sizes.settle_s + sizes.measured_s + 2 * _WAIT_MAX_S
        [idle] = self._progress.look()
        stream = steady_payments(self._stack, _LIVE, asked, limit_s)
        try:
            # Its interpreter and its login take longer than some loads settle.
            self._wait("the load has not begun", lambda now: now.end > idle.end)
            self._probe.freshness_for(sizes.settle_s)
            before = self._seen()
            fresh = self._probe.freshness_for(sizes.measured_s)
            after = self._seen()
            if stream.poll() is not None:
                raise FeatureStoreError("bench trade: the steady load ended before the measurement did")
        finally:
            stream.kill()
            stream.wait()
        # The next load starts without what this one has left.
        self._wait("payments of a load that has ended still wait", lambda now: now.online >= now.end)
        grown = {
            name: (after[name] - before[name]) / (after["at_s"] - before["at_s"])
            for name in ("sent", "online", *self._pids)
        }
        rows, events = shares_of(after, before)
        return LoadPoint(
            asked,
            grown["sent"],
            grown["online"],
            percentile_ms(fresh, 50),
            percentile_ms(fresh, 99),
            len(fresh),
            events,
            rows,
            grown["worker"],
            grown["valkey"],
        )

    def _seen(self) -> dict[str, float]:
        # Stamped at its begin: the broker is asked first, and the rest may take long.
        at_s = time.perf_counter()
        [now] = self._progress.look()
        used = {name: cpu_s(pid) for name, pid in self._pids.items()}
        return {**worker_sums(self._settings.worker_port), **used, "at_s": at_s, "sent": now.end, "online": now.online}

    def _wait(self, what: str, is_over: Callable[[TopicProgress], bool]) -> None:
        deadline = time.monotonic() + _WAIT_MAX_S
        while True:
            [now] = self._progress.look()
            if is_over(now):
                return
            self._worker.check()
            if time.monotonic() > deadline:
                raise FeatureStoreError(
                    f"bench trade: {what} after {_WAIT_MAX_S:.0f} s, {now.online:,} of {now.end:,} are in rows"
                )
            time.sleep(_LOOK_S)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, columns right-aligned."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = [columns, [f"{'-' * (width - 1)}:" for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
