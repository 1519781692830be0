"""Our worker on the fraud job, rows and log written: backlogs beside plain Faust and the ceiling, then a live load."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from statistics import median

from featurestore.bench.blocks import Ends, seconds_a_record
from featurestore.bench.payments import BAD, INTERLEAVED, PARTITIONS, UNIFORM, ZIPF, Backlog, write_definitions
from featurestore.bench.probe import Probe, cpu_s, held_mb, peak_mb, percentile_ms
from featurestore.bench.report import Bench, Figure, load_now
from featurestore.bench.runs import (
    Run,
    backlog_rate,
    bench_settings,
    bench_worker,
    hidden_backlog,
    partitions_held,
    send_backlog,
    shares_of,
    steady_payments,
    worker_sums,
)
from featurestore.client import FeatureStore
from featurestore.errors import FeatureStoreError
from featurestore.local import ChildServer, LocalStack, free_port
from featurestore.settings import Settings
from featurestore.spec import load
from streams.producer import EventProducer
from streams.progress import Progress, TopicProgress

_LIMIT_S = 300.0
# Plain Faust is slow enough to be measured on fewer.
_FAUST_EVENTS = 60_000
_STEADY_EVENTS_A_SECOND, _STEADY_S, _CORES_S = 20_000, 15.0, 10.0
_KILLS = 3
# One run alone said 0.86 to 1.05 of the same code: all four partitions get their next batch only some twenty times.
_BLOCKS_RUNS = 2
_BLOCKS = "fraud, 10 % bad in every other block"

Say = Callable[[str], None]


def bench_stream(*, events: int, rounds: int, say: Say) -> Bench:
    """All read the same topics from their beginning, in turn, `rounds` times each; then one steady load."""
    load_before = load_now()
    with tempfile.TemporaryDirectory(prefix="bench-stream-") as name, LocalStack(Path(name) / "stack", say) as stack:
        backlogs = _Backlogs(stack, Path(name), events, say)
        for number in range(rounds):
            backlogs.measure(number)
        figures = backlogs.figures() + _steady(stack, Path(name), say)
    return Bench("stream", tuple(figures), load_before)


class _Memory:
    """What workers have, the largest of them, at each look at a run."""

    def __init__(self, pids: Sequence[int], events: int) -> None:
        self._pids, self._events = pids, events
        self.middle_mb = self.end_mb = 0.0

    def look(self, now: TopicProgress) -> None:
        self.end_mb = max(map(held_mb, self._pids))
        if not self.middle_mb and 2 * now.online >= self._events:
            self.middle_mb = self.end_mb


class _Backlogs:
    """Runs every job over its backlog, and keeps what each run gave."""

    def __init__(self, stack: LocalStack, folder: Path, events: int, say: Say) -> None:
        self._stack, self._folder, self._events, self._say = stack, folder, events, say
        self._stores = 0
        self._rates: dict[str, list[float]] = {}
        self._runs: dict[str, list[Run]] = {}
        self._cores: dict[str, dict[str, float]] = {}
        # In milliseconds, with the costs of the worker's run beside which they were made.
        self._lookups: dict[str, float] = {}
        # Seconds a record of the clean blocks, and of those with bad ones, in each run.
        self._blocks: list[tuple[float, float]] = []
        # Blocks of both kinds share a run, so it is longer.
        self._sizes = {UNIFORM: events, INTERLEAVED: events, ZIPF: events, BAD: 2 * events}
        self._definitions = {
            (backlog, heavy): write_definitions(
                folder / f"{backlog.topic}-{'heavy' if heavy else 'fraud'}", backlog.topic, heavy=heavy
            )
            for backlog in self._sizes
            for heavy in (False, True)
        }
        self._borders = {
            backlog: send_backlog(stack, self._definitions[backlog, False], backlog, size, say)
            for backlog, size in self._sizes.items()
        }

    def measure(self, number: int) -> None:
        here = self._folder / f"round-{number}"
        here.mkdir()
        bootstrap = self._stack.kafka_bootstrap
        if not number:
            # First, while the disk is idle: the kernel writes the gigabytes of the other runs down for a while.
            self._look_beside(here)
        # Records of another topic have other keys and lie otherwise: each has a ceiling of its own.
        for what, backlog in (("ceiling", UNIFORM), ("ceiling, interleaved", INTERLEAVED), ("ceiling, zipf", ZIPF)):
            group = f"ceiling-{backlog.topic}-{number}"
            ceiling = ("featurestore.bench.peers.ceiling", bootstrap, backlog.topic, group, str(self._events))
            self._rated(what, _peer(here, *ceiling))
        self._ran("fraud", here, UNIFORM)
        for _ in range(_BLOCKS_RUNS):
            looks = self._ran(_BLOCKS, here, BAD)
            self._blocks.append(seconds_a_record(looks, self._borders[BAD]))
        self._ran("fraud, interleaved", here, INTERLEAVED)
        self._ran("fraud, zipf", here, ZIPF)
        self._ran_together(here, 1)
        self._ran_together(here, 2)
        self._ran("fraud", here, UNIFORM)
        self._ran("fraud, fsync always", here, UNIFORM, fsync="always")
        self._ran("heavy", here, UNIFORM, heavy=True)
        self._ran("heavy, interleaved", here, INTERLEAVED, heavy=True)
        vanilla = ("featurestore.bench.peers.vanilla_faust", bootstrap, self._stack.redis_url, UNIFORM.topic)
        self._rated("plain Faust", _peer(here, *vanilla, f"vanilla-{number}", str(_FAUST_EVENTS)))

    def figures(self) -> list[Figure]:
        top, own, hot, one = "ceiling", "ceiling, interleaved", "ceiling, zipf", "fraud"
        looked = self._lookups
        return [
            self._figure("fraud job against plain Faust with take(1000)", "fraud", "plain Faust", "x", 45.0, 30.0),
            self._figure("fraud job against the ceiling", "fraud", top, "", 0.45, 0.30),
            self._figure("fraud job, interleaved, against its own ceiling", "fraud, interleaved", own, "", 0.28, 0.20),
            self._figure("fraud job, Zipf(1.1) cards, against its own ceiling", "fraud, zipf", hot, "", 0.45, 0.30),
            self._figure("heavy job against the ceiling", "heavy", top, "", 0.35, 0.25),
            self._figure("heavy job, interleaved, against its own ceiling", "heavy, interleaved", own, "", 0.22, 0.14),
            self._scaled(),
            self._poisoned(),
            self._figure("fsync always against each second", "fraud, fsync always", one, "", 0.9, 0.8),
            self._memory(),
            Figure("lookup beside a full-speed worker, p99", looked["p99"], "ms", 2.5, "lower", looked, 5.0),
        ]

    def _figure(self, title: str, of: str, against: str, unit: str, aim: float, floor: float, **more: float) -> Figure:
        """One rate against another one, medians both; what a batch was is told of each side that is ours."""
        ours, theirs = median(self._rates[of]), median(self._rates[against])
        beside = self._costs(against) if against in self._runs else {}
        raw = {
            "events_a_second": ours,
            **self._costs(of),
            "against": theirs,
            **{f"against_{name}": value for name, value in beside.items()},
            **more,
        }
        return Figure(title, ours / theirs, unit, aim, "higher", raw, floor)

    def _scaled(self) -> Figure:
        one, two = (f"fraud, {workers} there before" for workers in (1, 2))
        cores = {
            f"{name}_cores_with_{workers}": used
            for workers, what in ((1, one), (2, two))
            for name, used in self._cores[what].items()
        }
        return self._figure("fraud job, 2 workers against 1", two, one, "x", 1.6, 1.3, **cores)

    def _poisoned(self) -> Figure:
        """In the same runs: from one to the next, and from minute to minute, a machine's speed differs by more."""
        ratios = [clean_s / bad_s for clean_s, bad_s in self._blocks]
        clean, bad = (1 / median(each) for each in zip(*self._blocks, strict=True))
        raw = {
            "events_a_second": bad,
            **self._costs(_BLOCKS),
            "against": clean,
            "lowest_run": min(ratios),
            "highest_run": max(ratios),
        }
        return Figure("10 % bad events against clean", median(ratios), "", 0.95, "higher", raw, 0.90)

    def _memory(self) -> Figure:
        """Of the run that took most; it is flat when the end of a run has no more than its middle."""
        most = max(self._runs["fraud"], key=lambda run: run.peak_mb)
        raw = {
            "events_a_batch": most.events_a_batch,
            "rows_an_event": most.rows_an_event,
            "middle_mb": most.middle_mb,
            "end_mb": most.end_mb,
            "end_against_middle": most.end_mb / most.middle_mb,
        }
        return Figure("worker's memory at 50,000 cards", most.peak_mb, "MB", 400.0, "lower", raw, 600.0)

    def _costs(self, what: str) -> dict[str, float]:
        runs = self._runs[what]
        return {
            "events_a_batch": median(run.events_a_batch for run in runs),
            "rows_an_event": median(run.rows_an_event for run in runs),
            "log_behind_s": median(run.log_behind_s for run in runs),
        }

    def _rated(self, what: str, rate: float) -> None:
        self._rates.setdefault(what, []).append(rate)
        self._say(f"{what}: {rate:,.0f} events/s")

    def _ran(
        self, what: str, folder: Path, backlog: Backlog, *, heavy: bool = False, fsync: str = "everysec"
    ) -> list[tuple[float, Ends]]:
        """Work a backlog off by a new worker; return when its rows were how far in each partition."""
        settings, events = self._settings(folder, what, self._definitions[backlog, heavy]), self._sizes[backlog]
        looks = list[tuple[float, Ends]]()
        progress = Progress(settings, load(settings.definitions))
        with _fsync(self._stack, fsync):
            began = time.monotonic()
            worker = bench_worker(settings, folder / settings.project)
            memory = _Memory([worker.pid], events)

            def looked(now: TopicProgress) -> None:
                looks.append((time.monotonic(), now.rows))
                memory.look(now)

            try:
                rate, behind = backlog_rate(progress, events, [worker], began, looked=looked)
                shares = shares_of(worker_sums(settings.worker_port))
                run = Run(rate, behind, peak_mb(worker.pid), memory.middle_mb, memory.end_mb, *shares)
            finally:
                worker.stop()
        self._runs.setdefault(what, []).append(run)
        self._rated(what, rate)
        return looks

    def _ran_together(self, folder: Path, workers: int) -> None:
        """Some workers that are there before a backlog is, all of which they can read from one moment on.

        Otherwise the first one has done it before the others have partitions.
        """
        what = f"fraud, {workers} there before"
        # Their beginning counts, with batches that grow, and is as long however much there is; two are done sooner.
        events = 2 * self._events
        backlog = Backlog(re.sub(r"\W+", "-", f"payments {what} {folder.name}"))
        definitions = write_definitions(folder / backlog.topic, backlog.topic)
        settings = self._settings(folder, what, definitions)
        own = [settings.model_copy(update={"worker_port": free_port()}) for _ in range(workers)]
        ports = [each.worker_port for each in own]
        progress = Progress(settings, load(definitions))
        # The threads that start workers must outlive them, since a child ends with the thread that made it.
        with ThreadPoolExecutor(workers) as pool:
            running = list(pool.map(bench_worker, own, repeat(folder / settings.project), range(workers)))
            try:
                self._shared_out(ports)
                show = hidden_backlog(self._stack, backlog, events)
                pids = {
                    "workers": [each.pid for each in running],
                    "valkey": [self._stack.valkey_pid],
                    "kafka": [self._stack.kafka_pid],
                }
                before = {name: sum(map(cpu_s, each)) for name, each in pids.items()}
                show()
                began = time.monotonic()

                def applied() -> None:
                    took = time.monotonic() - began
                    self._cores[what] = {
                        name: (sum(map(cpu_s, each)) - before[name]) / took for name, each in pids.items()
                    }

                memory = _Memory(pids["workers"], events)
                rate, behind = backlog_rate(
                    progress, events, running, began, at_once=True, looked=memory.look, applied=applied
                )
                peak = max(peak_mb(each.pid) for each in running)
                run = Run(rate, behind, peak, memory.middle_mb, memory.end_mb, *shares_of(worker_sums(*ports)))
            finally:
                for worker in running:
                    worker.stop()
        self._runs.setdefault(what, []).append(run)
        self._rated(what, rate)

    def _shared_out(self, ports: list[int]) -> None:
        """Return when every worker has its share of the partitions."""
        deadline = time.monotonic() + _LIMIT_S
        while [partitions_held(port) for port in ports] != [PARTITIONS // len(ports)] * len(ports):
            if time.monotonic() > deadline:
                raise FeatureStoreError("bench stream: the workers do not share the partitions out")
            time.sleep(0.1)

    def _look_beside(self, folder: Path) -> None:
        """Single lookups while nothing else goes on, and while a worker works a backlog off."""
        settings = self._settings(folder, "looked at", self._definitions[UNIFORM, False])
        with EventProducer(self._stack.kafka_bootstrap) as producer:
            probe = Probe(FeatureStore(settings), producer, UNIFORM.topic)
            # The first one loads the compiled loops.
            probe.lookups_for(0.1)
            alone, alone_late = probe.lookups_for(2.0)
            worker = bench_worker(settings, folder / settings.project)
            try:
                # It may need seconds until it has its partitions.
                before = self._first_batches(worker, settings)
                began = time.monotonic()
                beside, beside_late = probe.lookups_for(min(2.5, self._events / 1_000_000))
                took, sums = time.monotonic() - began, worker_sums(settings.worker_port)
                records = "featurestore_records_total"
                applied_a_second = (sums[records] - before[records]) / took
                # Of few events the worker may have applied all before: then it says 0, and was not beside the lookups.
                shares = {**_named(shares_of(sums)), "applied_a_second": applied_a_second}
            finally:
                worker.stop()
        self._lookups = {
            "alone_p50": percentile_ms(alone, 50),
            "alone_p99": percentile_ms(alone, 99),
            "p50": percentile_ms(beside, 50),
            "p99": percentile_ms(beside, 99),
            "alone_woken_p99": percentile_ms(alone_late, 99),
            "woken_p99": percentile_ms(beside_late, 99),
        }
        self._say(f"lookups: {', '.join(f'{name} {value:.2f} ms' for name, value in self._lookups.items())}")
        self._lookups.update(shares)

    def _first_batches(self, worker: ChildServer, settings: Settings) -> Mapping[str, float]:
        """Its sums as soon as it has applied something."""
        deadline = time.monotonic() + _LIMIT_S
        while not (sums := worker_sums(settings.worker_port)).get("featurestore_batches_total"):
            worker.check()
            if time.monotonic() > deadline:
                raise FeatureStoreError("bench stream: the worker beside the lookups applies nothing")
            time.sleep(0.02)
        return sums

    def _settings(self, folder: Path, what: str, definitions: Path) -> Settings:
        """A store of its own. What others have left in the same Valkey would make it slower, run after run."""
        self._stack.forget_rows()
        self._stores += 1
        name = re.sub(r"\W+", "-", what)
        project = f"{name}-{self._stores}"
        (folder / project).mkdir()
        return bench_settings(self._stack, folder / project, definitions, project)


@contextmanager
def _fsync(stack: LocalStack, how: str) -> Iterator[None]:
    """How the online store keeps its log, for a while."""
    stack.set_valkey("appendfsync", how)
    try:
        yield
    finally:
        stack.set_valkey("appendfsync", "everysec")


def _steady(stack: LocalStack, folder: Path, say: Say) -> list[Figure]:
    """Twenty thousand payments a second: freshness, processor time, and how soon values are fresh after a kill."""
    topic = "payments-live"
    definitions = write_definitions(folder / topic, topic)
    (folder / "steady").mkdir()
    settings = bench_settings(stack, folder / "steady", definitions, "steady")
    worker = bench_worker(settings, folder / "steady")
    # Longer than all that is measured; it is ended as soon as that is done.
    seconds = _STEADY_S + _CORES_S + _KILLS * _LIMIT_S
    stream = steady_payments(stack, topic, _STEADY_EVENTS_A_SECOND, seconds)
    try:
        with EventProducer(stack.kafka_bootstrap) as producer:
            probe = Probe(FeatureStore(settings), producer, topic)
            probe.freshness_for(4.0)
            pids = {"worker": worker.pid, "valkey": stack.valkey_pid}
            fresh = probe.freshness_for(_STEADY_S)
            # By itself: a probe asks hundreds of times a second whether its event is there yet, at Valkey's cost.
            sums = worker_sums(settings.worker_port)
            before, began = {name: cpu_s(pid) for name, pid in pids.items()}, time.perf_counter()
            time.sleep(_CORES_S)
            took = time.perf_counter() - began
            cores = {name: (cpu_s(pid) - before[name]) / took for name, pid in pids.items()}
            after, records = worker_sums(settings.worker_port), "featurestore_records_total"
            shares = _named(shares_of(after, sums))
            # A machine that is too busy to send or to apply the load tells nothing of it.
            shares["applied_a_second"] = (after[records] - sums[records]) / took
            say(
                f"freshness p50 {percentile_ms(fresh, 50):.0f} ms, p99 {percentile_ms(fresh, 99):.0f} ms, cores {cores}"
            )
            back: list[tuple[float, dict[str, float]]] = []
            for _ in range(_KILLS):
                worker.kill()
                killed = time.perf_counter()
                worker = bench_worker(settings, folder / "steady")
                probe.freshness_s()
                took = time.perf_counter() - killed
                # All that the new worker did until then: it began where the last one left off.
                back.append((took, _named(shares_of(worker_sums(settings.worker_port)))))
                say(f"fresh again {took:.1f} s after SIGKILL")
            if stream.poll() is not None:
                raise FeatureStoreError("bench stream: the steady load ended before the measurement did")
    finally:
        stream.kill()
        stream.wait()
        worker.stop()
    said = {"events_a_second": _STEADY_EVENTS_A_SECOND, **shares, **cores}
    raw = {**said, "probes": len(fresh), "load_average": load_now()}
    p50, p99 = percentile_ms(fresh, 50), percentile_ms(fresh, 99)
    used, (slowest, caught_up) = sum(cores.values()), max(back, key=itemgetter(0))
    again = {"events_a_second": _STEADY_EVENTS_A_SECOND, **caught_up, "kills": _KILLS}
    return [
        Figure("freshness at 20,000 events/s, p50", p50, "ms", 16.0, "lower", raw, 40.0),
        Figure("freshness at 20,000 events/s, p99", p99, "ms", 40.0, "lower", raw, 100.0),
        Figure("worker and Valkey at 20,000 events/s", used, "cores", 0.35, "lower", said, 0.6),
        Figure("fresh again after SIGKILL under load, slowest", slowest, "s", 5.0, "lower", again, 10.0),
    ]


def _named(shares: tuple[float, float]) -> dict[str, float]:
    rows_an_event, events_a_batch = shares
    return {"events_a_batch": events_a_batch, "rows_an_event": rows_an_event}


def _peer(folder: Path, module: str, *arguments: str) -> float:
    log = folder / f"{module.rpartition('.')[2]}.log"
    with log.open("wb") as output:
        peer = subprocess.Popen(
            # Plain Faust makes its folder where it stands.
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            cwd=folder,
        )
    try:
        assert peer.stdout is not None
        for line in peer.stdout:
            if line.startswith("{"):
                said = json.loads(line)
                return float(said["events"] / said["seconds"])
        raise FeatureStoreError(f"bench stream: {module} ended too early:\n{log.read_text()[-2_000:]}")
    finally:
        peer.kill()
        peer.wait()
