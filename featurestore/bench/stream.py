"""Our worker with all views that the demo has on arrivals, and the log, against plain Faust with one of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from featurestore.bench.report import Bench, Figure, load_now
from featurestore.demo.flights import json_lines, load_flights
from featurestore.errors import FeatureStoreError
from featurestore.local import LocalStack, local_settings, start_worker
from featurestore.settings import Settings
from featurestore.spec import Repository, collect, load
from streams.producer import EventProducer
from streams.progress import Progress
from streams.topics import Topics

_TOPIC = "flight-arrivals"
_LIMIT_S = 300.0
# Plain Faust handles about ten thousand events a second, whatever is asked of it; ours does three views and the log.
_TARGET = 3.0

Say = Callable[[str], None]


def bench_stream(definitions: Path, *, days: int, rounds: int, say: Say) -> Bench:
    """Both read the same topic from its beginning, in turn, `rounds` times each."""
    load_before = load_now()
    repository = load(definitions)
    views = repository.views_of(_TOPIC)
    small = collect(views)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory(prefix="bench-stream-") as name, LocalStack(Path(name) / "stack", say) as stack:
        settings = local_settings(stack, Path(name), definitions, "bench")
        topic = repository.topic(_TOPIC)
        Topics(stack.kafka_bootstrap).create(repository.topics.values())
        lines = json_lines(load_flights(time.time_ns() // 1_000, days).events[_TOPIC])
        # Plain Faust cannot read lz4 without more packages.
        with EventProducer(stack.kafka_bootstrap, compression="none") as producer:
            for line in lines:
                producer.send_json(topic, line)
        say(f"{len(lines):,} arrivals are in the topic")
        for number in range(rounds):
            folder = Path(name) / f"round-{number}"
            folder.mkdir()
            mine = settings.model_copy(update={"project": f"bench-{number}", "offline_path": folder / "offline"})
            ours.append(_our_rate(mine, small, folder, len(lines)))
            say(f"round {number + 1}: ours {ours[-1]:,.0f} events/s with {len(views)} views and the log")
            theirs.append(_faust_rate(stack, folder, f"vanilla-{number}", len(lines)))
            say(f"round {number + 1}: plain Faust {theirs[-1]:,.0f} events/s with one view")
    raw = {"ours_events_per_s": median(ours), "faust_events_per_s": median(theirs), "views": len(views)}
    ratio = raw["ours_events_per_s"] / raw["faust_events_per_s"]
    figure = Figure("arrivals, all views, against plain Faust with one", ratio, "x", _TARGET, "higher", raw)
    return Bench("stream", (figure,), load_before)


def _our_rate(settings: Settings, repository: Repository, folder: Path, total: int) -> float:
    """Events a second from the first look that sees any applied to the last."""
    progress = Progress(settings, repository)
    worker = start_worker(settings, folder)
    began = time.monotonic()
    try:
        while True:
            [now] = [one for one in progress.look() if one.topic == _TOPIC]
            seconds = time.monotonic() - began
            if now.done >= total:
                return total / seconds
            worker.check()
            if seconds > _LIMIT_S:
                raise FeatureStoreError(f"bench stream: our worker is at {now.done} of {total} after {seconds:.0f} s")
            time.sleep(0.2)
    finally:
        worker.stop()


def _faust_rate(stack: LocalStack, folder: Path, group: str, total: int) -> float:
    command = [sys.executable, "-m", "featurestore.bench.peers.vanilla_faust"]
    arguments = [stack.kafka_bootstrap, stack.redis_url, _TOPIC, group, str(total)]
    log = folder / "vanilla.log"
    with log.open("wb") as output:
        peer = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=output, text=True)
    try:
        assert peer.stdout is not None
        for line in peer.stdout:
            if line.startswith("{"):
                said = json.loads(line)
                return float(said["events"] / said["seconds"])
        raise FeatureStoreError(f"bench stream: plain Faust ended too early:\n{log.read_text()[-2_000:]}")
    finally:
        peer.kill()
        peer.wait()
