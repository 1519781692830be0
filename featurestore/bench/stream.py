"""Our worker on the fraud job, rows and log both written, against plain Faust and against the ceiling."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from featurestore.bench.payments import FRAUD, HEAVY, TOPIC, payments, write_definitions
from featurestore.bench.report import Bench, Figure, load_now
from featurestore.errors import FeatureStoreError
from featurestore.local import LocalStack, local_settings, start_worker
from featurestore.local.process import ChildServer
from featurestore.spec import load
from streams.producer import EventProducer
from streams.progress import Progress
from streams.topics import Topics

_LIMIT_S = 300.0
# Plain Faust is slow enough to be measured on fewer.
_FAUST_EVENTS = 60_000
_BATCH = 50_000

Say = Callable[[str], None]


def bench_stream(*, events: int, rounds: int, say: Say) -> Bench:
    """All read the same topics from their beginning, in turn, `rounds` times each."""
    load_before = load_now()
    rates: dict[str, list[float]] = {}
    memory_mb = 0.0

    with tempfile.TemporaryDirectory(prefix="bench-stream-") as name, LocalStack(Path(name) / "stack", say) as stack:
        folder = Path(name)
        fraud, heavy = (write_definitions(folder / each, text) for each, text in (("fraud", FRAUD), ("heavy", HEAVY)))
        _fill(stack, fraud, events, say)

        def measured(what: str, rate: float) -> None:
            rates.setdefault(what, []).append(rate)
            say(f"{what}: {rate:,.0f} events/s")

        for number in range(rounds):
            here = folder / f"round-{number}"
            here.mkdir()
            place = (stack, here, events)
            ceiling = (
                "featurestore.bench.peers.ceiling",
                stack.kafka_bootstrap,
                TOPIC,
                f"ceiling-{number}",
                str(events),
            )
            measured("ceiling", _peer(here, *ceiling))
            rate, peak_mb = _ours(*place, fraud, f"fraud-{number}", 1)
            memory_mb = max(memory_mb, peak_mb)
            measured("fraud job, 1 worker", rate)
            measured("fraud job, 2 workers", _ours(*place, fraud, f"pair-{number}", 2)[0])
            measured("heavy job, 1 worker", _ours(*place, heavy, f"heavy-{number}", 1)[0])
            peer = ("featurestore.bench.peers.vanilla_faust", stack.kafka_bootstrap, stack.redis_url, TOPIC)
            measured("plain Faust", _peer(here, *peer, f"vanilla-{number}", str(_FAUST_EVENTS)))
    rate_of = {what: median(each) for what, each in rates.items()}
    raw = dict(rate_of)
    one, two, big = (rate_of[what] for what in ("fraud job, 1 worker", "fraud job, 2 workers", "heavy job, 1 worker"))

    def figure(title: str, value: float, unit: str, target: float, floor: float) -> Figure:
        return Figure(title, value, unit, target, "higher", raw | {"batch": _BATCH}, floor)

    figures = (
        figure(
            "fraud job, 1 worker, against plain Faust with take(1000)", one / rate_of["plain Faust"], "x", 45.0, 30.0
        ),
        figure("fraud job, 1 worker, against the ceiling", one / rate_of["ceiling"], "", 0.45, 0.30),
        figure("heavy job, 1 worker, against the ceiling", big / rate_of["ceiling"], "", 0.35, 0.25),
        figure("fraud job, 2 workers against 1", two / one, "x", 1.6, 1.3),
        Figure("worker's memory at 50,000 cards", memory_mb, "MB", 400.0, "lower", {}, 600.0),
    )
    return Bench("stream", figures, load_before)


def _fill(stack: LocalStack, definitions: Path, events: int, say: Say) -> None:
    repository = load(definitions)
    Topics(stack.kafka_bootstrap).create(repository.topics.values())
    # Plain Faust cannot read lz4 without more packages.
    with EventProducer(stack.kafka_bootstrap, compression="none") as producer:
        for key, value in payments(events, time.time_ns() // 1_000, zipf=False):
            producer.send_raw(TOPIC, key, value)
    say(f"{events:,} payments are in the topic")


def _ours(
    stack: LocalStack, folder: Path, events: int, definitions: Path, project: str, workers: int
) -> tuple[float, float]:
    """Events a second from the moment that the workers read to the last event in row and log; the memory of one."""
    made = folder / project
    made.mkdir()
    settings = local_settings(stack, made, definitions, project)
    settings = settings.model_copy(update={"batch_records_max": _BATCH, "offline_path": made / "offline"})
    progress = Progress(settings, load(definitions))
    began = time.monotonic()
    # Side by side: started in turn, the first would be done before the second reads. The threads that start them must
    # outlive them, since a child ends with the thread that made it.
    with ThreadPoolExecutor(workers) as pool:
        running = list(pool.map(lambda number: start_worker(settings, made, name=f"local-{number}"), range(workers)))
        try:
            return _measured(progress, events, running, began), _peak_mb(running[0].pid)
        finally:
            for worker in running:
                worker.stop()


def _measured(progress: Progress, events: int, running: list[ChildServer], began: float) -> float:
    seen_s, seen = 0.0, 0
    while True:
        [now] = progress.look()
        seconds = time.monotonic() - began
        if now.done >= events:
            if seen in (0, events):
                raise FeatureStoreError(
                    f"bench stream: {events} events are too few, they were done before the first look"
                )
            return (events - seen) / (seconds - seen_s)
        if not seen and now.online:
            # What came before the first look that sees anything is start-up.
            seen_s, seen = seconds, now.online
        for worker in running:
            worker.check()
        if seconds > _LIMIT_S:
            raise FeatureStoreError(f"bench stream: our worker is at {now.done} of {events} after {seconds:.0f} s")
        time.sleep(0.1)


def _peak_mb(pid: int) -> float:
    """The most memory that a process had at once; Linux alone tells."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _peer(folder: Path, module: str, *arguments: str) -> float:
    log = folder / f"{module.rpartition('.')[2]}.log"
    with log.open("wb") as output:
        peer = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=output, text=True
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
