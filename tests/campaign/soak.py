"""`make soak MINUTES=n`: full rate, with kills; memory, descriptors, threads and lag must stay flat, values exact.

One worker is never killed and must stay flat; another one is killed at random moments, so that both live through
rebalances all the time. At the end a tally in exact arithmetic, kept while the acknowledgements came, judges every
value.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, Producer
from rich.console import Console
from rich.table import Table

from featurestore.client import FeatureStore
from featurestore.event_time import duration_us
from tests.campaign import payments
from tests.campaign.audit import bits
from tests.campaign.lag import ABOVE_S, RISE_S, RISE_SHARE, Lag, lag_of
from tests.campaign.plot import Panel, as_svg
from tests.campaign.servers import Broker
from tests.campaign.supervisor import Supervised
from tests.campaign.tally import Tally
from tests.campaign.verdict import expect
from tests.campaign.world import World

_SAMPLE_S = 2.0
# Sends wait while so many records are not applied: full rate, but not a backlog for ever.
_LAG_MAX = 200_000
_USERS = 2_000
# Of the run, this share is warm-up, and never less than so long: until every user has had events in all of the windows,
# rows grow, and with them what a batch takes.
_WARM_UP, _WARM_UP_S = 0.4, 180.0
_MINUTES_MIN = 5.0
# Over what follows, the line through the samples may rise by this share of its level; handles by this number, since
# pools of threads fill one by one.
_RSS_RISE_MAX, _HANDLES_RISE_MAX = 0.05, 4.0
# Delta's: as many as there are files to look at just then, each gone after ten seconds without work, so their number
# swings with the commits. They are shown, and must have gone at the end, but for one a core.
_POOL = "tokio-rt-worker"
_POOL_IDLE_S, _POOL_LEFT_MAX = 15.0, (os.cpu_count() or 1) + 4


@dataclass(frozen=True, slots=True)
class Sample:
    """One look; `steady` is the worker that is never killed.

    threads  all but those of Delta's pool
    pool     those
    lag      records that were acknowledged and are in no row yet
    log_lag  those that some sink lacks: the log, or a bucket of a view
    """

    second: float
    steady_rss_mb: float
    killed_rss_mb: float
    descriptors: int
    threads: int
    pool: int
    lag: int
    log_lag: int
    events_a_second: float


class Sends:
    """Payments as fast as the broker takes them, counted by the tally as they are acknowledged."""

    def __init__(self, world: World, tally: Tally, rate: int) -> None:
        self._world, self._tally, self._rate = world, tally, rate
        self._producer = Producer(
            {
                "bootstrap.servers": world.broker.bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "log_level": 0,
            }
        )
        self._draw = random.Random(world.draw.random())
        self._stopping = threading.Event()
        self.failed: list[str] = []
        self.lag = 0
        self._thread = threading.Thread(target=self._run, name="sends", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        left = self._producer.flush(120.0)
        expect(not left and not self.failed, f"{left} records were not acknowledged; {self.failed[:1]}")

    def _run(self) -> None:
        began, sent = time.monotonic(), 0
        while not self._stopping.is_set():
            if self.lag > _LAG_MAX or (self._rate and sent > self._rate * (time.monotonic() - began)):
                self._producer.poll(0.02)
                continue
            for _ in range(100):
                event = payments.event(self._draw, payments.now_us(), _USERS)
                self._send(event)
            sent += 100

    def _send(self, event: dict[str, Any]) -> None:
        while True:
            try:
                key, payload = event["user"].encode(), json.dumps(event).encode()
                self._producer.produce(self._world.topic, payload, key, on_delivery=partial(self._delivered, event))
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)

    def _delivered(self, event: dict[str, Any], error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self.failed.append(str(error))
        else:
            self._tally.add(message.partition(), message.offset(), message.timestamp()[1], event)


def soak(world: World, seconds: float, rate: int, console: Console) -> tuple[list[Sample], list[float], str]:
    """Run, and return the samples, the seconds of the kills, and what was compared at the end."""
    world.define(partitions=4, batch_records_max=50_000)
    steady, killed = world.worker("steady"), world.worker("killed")
    world.until_reading(steady, 120)
    world.until_reading(killed, 120)
    tally = Tally(payments.contract(duration_us(world.lateness)))
    sends = Sends(world, tally, rate)
    samples: list[Sample] = []
    kills: list[float] = []
    began, before, next_kill = time.monotonic(), 0, world.draw.uniform(5, 25)
    while (second := time.monotonic() - began) < seconds:
        if second >= next_kill:
            kills.append(second)
            killed.kill()
            next_kill = second + world.draw.uniform(10, 40)
        ends = sum(tally.ends.values())
        applied, held = _applied(world)
        sends.lag = ends - applied
        rate = (applied - before) / (second - samples[-1].second) if samples else 0.0
        samples.append(_sample(second, steady, killed, sends.lag, ends - held, rate))
        before = applied
        now = samples[-1]
        console.print(
            f"  {second:5.0f} s  {now.events_a_second:8,.0f} events/s  lag {now.lag:8,} {now.log_lag:8,}  "
            f"{now.steady_rss_mb:5.0f} MB  {now.descriptors} descriptors  {now.threads} threads  {len(kills)} kills",
            highlight=False,
        )
        time.sleep(max(0.0, _SAMPLE_S - (time.monotonic() - began - second)))
    sends.stop()

    def is_settled() -> bool:
        standing = world.sinks.look()
        return all(standing.lowest(partition) >= end for partition, end in tally.ends.items())

    world.until(is_settled, 180, "the lag goes back to 0")
    expect(steady.restarts == 0, f"the worker that nobody killed ended {steady.restarts} times: {steady.codes}")
    time.sleep(_POOL_IDLE_S)
    _, _, pool = _handles(steady.pid)
    expect(pool <= _POOL_LEFT_MAX, f"{pool} threads of Delta's pool are left after {_POOL_IDLE_S:.0f} s without work")
    return samples, kills, check(world, tally)


def check(world: World, tally: Tally) -> str:
    """Every value online and by the join, and every offset once."""
    table = deltalake.DeltaTable(str(world.log_path)).to_pyarrow_table(columns=["partition", "offset"])
    places = table["partition"].to_numpy().astype(np.int64) << 48 | table["offset"].to_numpy()
    expect(len(np.unique(places)) == len(places), "the log has offsets more than once")
    expect(len(places) == tally.logged, f"the log has {len(places):,} rows, must have {tally.logged:,}")
    compared = 0
    for moment_us in (tally.newest_us, tally.newest_us + 30_000_000):
        then = FeatureStore(world.direct, world.repository, clock_us=lambda: moment_us)  # noqa: B023
        for view in payments.contract(duration_us(world.lateness)).views:
            names = tally.entities(view)
            served = then.get_many(view.name, {view.key: names})
            moments = pa.array([moment_us] * len(names), pa.int64())
            joined = then.point_in_time(view.name, pa.table({view.key: names, "event_timestamp": moments}))
            for feature in view.outputs:
                wanted = [bits(tally.value(view, name, feature, moment_us)) for name in names]
                for what, given in (("online", served), ("offline", joined)):
                    seen = [bits(value) for value in given[f"{view.name}__{feature}"].to_pylist()]
                    wrong = [place for place in range(len(names)) if seen[place] != wanted[place]]
                    expect(not wrong, f"{what} {view.name} {feature}: {len(wrong)} of {len(names)} are wrong")
                    compared += len(names)
    return (
        f"{tally.records:,} records: {tally.logged:,} logged once, {tally.dead:,} too late; {compared:,} values exact"
    )


def warm_of(samples: list[Sample]) -> list[Sample]:
    """Those after warm-up."""
    begin = max(samples[-1].second * _WARM_UP, _WARM_UP_S)
    return [sample for sample in samples if sample.second >= begin]


def rise(values: Sequence[float]) -> float:
    """How much the line through values rises over them, as a share of its level."""
    warm = np.array(values, dtype=np.float64)
    slope = np.polyfit(np.arange(len(warm)), warm, 1)[0]
    return float(slope * (len(warm) - 1) / max(median(warm), 1e-9))


def lags(warm: list[Sample], kills: Sequence[float]) -> dict[str, Lag]:
    """Of rows and of all sinks."""
    seconds, rates = [sample.second for sample in warm], [sample.events_a_second for sample in warm]
    return {
        "lag of rows": lag_of(seconds, [sample.lag for sample in warm], rates, kills),
        "lag of all sinks": lag_of(seconds, [sample.log_lag for sample in warm], rates, kills),
    }


def _applied(world: World) -> tuple[int, int]:
    """Records that the furthest bucket of each partition holds, and those that every sink holds."""
    standing = world.sinks.look()
    furthest = (max(ends.get(place, 0) for ends in standing.online.values()) for place in range(world.partitions))
    return sum(furthest), sum(map(standing.lowest, range(world.partitions)))


def _sample(second: float, steady: Supervised, killed: Supervised, lag: int, log_lag: int, rate: float) -> Sample:
    return Sample(second, _rss_mb(steady.pid), _rss_mb(killed.pid), *_handles(steady.pid), lag, log_lag, rate)


def _rss_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0  # killed a moment ago


def _handles(pid: int) -> tuple[int, int, int]:
    """Descriptors, threads, and those of Delta's pool."""
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            names.append((task / "comm").read_text().strip())
    pool = names.count(_POOL)
    return len(os.listdir(f"/proc/{pid}/fd")), len(names) - pool, pool


def _panels(samples: list[Sample]) -> list[Panel]:
    def line(name: str) -> list[float]:
        return [float(getattr(sample, name)) for sample in samples]

    return [
        Panel("memory, MB", {"never killed": line("steady_rss_mb"), "killed": line("killed_rss_mb")}),
        Panel("never killed: handles", {name: line(name) for name in ("descriptors", "threads", "pool")}),
        Panel("lag, records", {"rows": line("lag"), "all sinks": line("log_lag")}),
        Panel("applied, records a second", {"rate": line("events_a_second")}),
    ]


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.campaign.soak", description=__doc__)
    asked.add_argument("--minutes", type=float, default=10.0, help=f"{_MINUTES_MIN:.0f} or more")
    asked.add_argument("--seed", type=int)
    asked.add_argument("--rate", type=int, default=0, help="records a second; 0: as fast as they are applied")
    asked.add_argument("--plot", type=Path, default=Path("soak.svg"), help="where the curves go, as SVG")
    asked.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = asked.parse_args()
    if chosen.minutes < _MINUTES_MIN:
        asked.error(
            f"{chosen.minutes:g} minutes are too short: {_MINUTES_MIN:.0f} at least, of which the first 3 are warm-up"
        )
    seed = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    console = Console(stderr=True)
    console.print(f"seed {seed}", highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="featurestore-soak-"))
    kafka = Broker(folder / "kafka")
    world = World(kafka, folder / "soak", 0, seed, console.print)
    try:
        kafka.start()
        samples, kills, seen = soak(world, chosen.minutes * 60, chosen.rate, console)
    finally:
        world.stop()
        kafka.stop()
        shutil.rmtree(folder, ignore_errors=True)
    chosen.plot.write_text(as_svg([sample.second for sample in samples], _panels(samples), kills))
    warm = warm_of(samples)
    found = [("memory", rise([sample.steady_rss_mb for sample in warm]), _RSS_RISE_MAX)]
    for name in ("descriptors", "threads"):
        counts = [float(getattr(sample, name)) for sample in warm]
        found.append((name, rise(counts) * median(counts), _HANDLES_RISE_MAX))
    lagging = lags(warm, kills)
    is_flat = all(rose <= bound for _, rose, bound in found) and all(lag.is_flat for lag in lagging.values())
    rate = fmean(sample.events_a_second for sample in warm)
    if chosen.json:
        said = {"seed": seed, "kills": kills, "seen": seen, "events_a_second": rate, "flat": is_flat}
        judged = {"rise": dict(each[:2] for each in found), "lag": {name: asdict(lag) for name, lag in lagging.items()}}
        print(json.dumps({**said, **judged, "samples": list(map(asdict, samples))}))
    else:
        table = Table("figure", "seen", "bound", title="soak", title_justify="left")
        for name, rose, bound in found:
            shown = (f"{rose:+.1%}", f"{bound:.0%}") if name == "memory" else (f"{rose:+.1f}", f"{bound:.0f}")
            table.add_row(f"{name}, rise after warm-up", *shown)
        table.add_row("memory, median", f"{median(sample.steady_rss_mb for sample in warm):.0f} MB", "")
        for name, lag in lagging.items():
            bound = f"+{max(RISE_S, RISE_SHARE * lag.early_s):.1f} s"
            table.add_row(f"{name}, first third to last", f"{lag.early_s:.1f} s to {lag.late_s:.1f} s of work", bound)
            table.add_row(f"{name}, longest above its median", f"{lag.above_s:.0f} s", f"{ABOVE_S:.0f} s")
        table.add_row("lag, highest after warm-up", f"{max(sample.lag for sample in warm):,}", "back to 0 at the end")
        at_cap = fmean(sample.lag > _LAG_MAX for sample in warm)
        table.add_row("sends wait for the workers", f"{at_cap:.0%} of the time", "")
        table.add_row("applied", f"{rate:,.0f} records/s", "")
        table.add_row("kills", str(len(kills)), "")
        table.add_row("exact", seen, "")
        Console().print(table)
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
