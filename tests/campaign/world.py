"""The world of one row: a store of its own, a topic, workers, and the record of what was sent."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from featurestore.client import FeatureStore
from featurestore.event_time import duration_us
from featurestore.settings import Settings
from featurestore.spec import load
from featurestore.spec.contract import Format
from streams.bounds import bounds_of
from streams.topics import Topics
from tests.campaign import audit, payments
from tests.campaign.client import Reader
from tests.campaign.oracle import Expected
from tests.campaign.oracle import expect as judge
from tests.campaign.recorder import Recorder, Sent
from tests.campaign.servers import Broker, Valkey
from tests.campaign.sinks import Sinks, Standing
from tests.campaign.supervisor import Supervised
from tests.campaign.verdict import FailedError, expect

Say = Callable[[str], None]
_POLL_S = 0.2
# A worker looks once a second whether rows are complete.
_TOLD_S = 20.0
# A row that takes long on a busy machine need not become a large one.
_ENOUGH = 20_000


class World:
    """Everything that a row needs and may break. Attributes that are servers start at their first use.

    kafka     the campaign's broker, shared with other rows; a row that hurts it takes one of its own by `own_broker`
    patience  times every limit of a wait, for machines that do other things as well
    """

    def __init__(self, kafka: Broker, folder: Path, number: int, seed: int, say: Say, patience: float = 1.0) -> None:
        self.broker, self.folder, self.say, self.patience = kafka, folder, say, patience
        self.draw = random.Random(f"{seed}/{number}")
        self.topic = f"row{number}"
        self.name = f"row{number}-{seed % 1_000_000}"
        self._to_stop: list[Callable[[], None]] = []
        self._workers: list[Supervised] = []
        self._valkey: Valkey | None = None
        # Of what takes the place of one Valkey.
        self.online_url: str | None = None
        self._recorder: Recorder | None = None
        self._recorders: list[Recorder] = []
        self.partitions, self.lateness = 3, "1h"
        self.within: str | None = None
        self.is_priced = False
        # Record -> the same in JSON, which is all that the oracle reads; of formats that are none.
        self.means: dict[bytes, bytes] = {}
        folder.mkdir(parents=True)

    def beside(self, name: str) -> World:
        """A world of its own for the same row: another project, another store, ended with this one at the latest."""
        made = World(self.broker, self.folder / name, 0, self.draw.randrange(10**6), self.say, self.patience)
        made.name = f"{self.name}-{name}"
        # What is sent to a topic is known to whoever reads it.
        made._recorders = self._recorders
        self.on_stop(made.stop)
        return made

    # -- what there is --------------------------------------------------------------------------------------------

    def on_stop(self, act: Callable[[], None]) -> None:
        """Run when the row is over, newest first."""
        self._to_stop.append(act)

    def own_broker(self, settings: dict[str, object] | None = None, proxy_port: int | None = None) -> Broker:
        broker = Broker(self.folder / "kafka", settings)
        if proxy_port is not None:
            broker.proxied(proxy_port)
        self.on_stop(broker.stop)
        self.broker = broker.start()
        return broker

    def new_valkey(self, *options: str) -> Valkey:
        made = Valkey(self.folder / f"valkey-{len(self._to_stop)}", *options)
        self.on_stop(made.stop)
        return made

    @property
    def valkey(self) -> Valkey:
        if self._valkey is None:
            self._valkey = self.new_valkey()
        return self._valkey

    def define(
        self,
        *,
        partitions: int = 3,
        lateness: str = "1h",
        within: str | None = None,
        is_priced: bool = False,
        topic: str | None = None,
        create: bool = True,
        format: Format = "json",
        renamed: Mapping[str, str] = MappingProxyType({}),
        **settings: Any,
    ) -> None:
        """Write the definitions, create the topic, and say where everything is.

        within     repeats of an event id are left out for so long
        is_priced  events may have a decimal
        topic      of another world, read from its beginning; by default one of its own
        format     of the records; for others than JSON `means` is to say what each means
        """
        self.partitions, self.lateness, self.within, self.is_priced = partitions, lateness, within, is_priced
        # One topic name a seed, since rows of several rounds share a broker.
        self.topic = topic or f"{self.name}-payments"
        definitions = self.folder / "definitions"
        definitions.mkdir(exist_ok=True)
        chosen: dict[str, Any] = {"is_priced": is_priced, "format": format, "renamed": renamed}
        text = payments.definitions(self.topic, partitions, lateness, within, **chosen)
        (definitions / "payments.py").write_text(text)
        self.repository = load(definitions)
        self.settings = Settings.model_validate(
            {
                "project": self.name,
                "definitions": definitions,
                "kafka_bootstrap": self.broker.bootstrap,
                "redis_url": self.online_url or self.valkey.url,
                "offline_path": self.folder / "offline",
                "training_path": self.folder / "training",
                "registry_url": f"sqlite:///{self.folder / 'registry.db'}",
                "buckets": 8,
                "batch_records_max": 500,
                **settings,
            }
        )
        self.admin = AdminClient({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})
        if create:
            Topics(self.broker.bootstrap).create(self.repository.topics.values(), self.name)
        # Audits go around any proxy.
        self.direct = self.settings.model_copy(
            update={"redis_url": self.online_url or self.valkey.url, "kafka_bootstrap": self.broker.bootstrap}
        )
        self.sinks = Sinks(self.direct, self.repository, self.topic, self.admin)
        self.store = FeatureStore(self.direct, self.repository)

    def look_at(self, valkey: Valkey) -> None:
        """From now on this one is the online store, as far as audits are concerned."""
        self._valkey = valkey
        self.direct = self.direct.model_copy(update={"redis_url": valkey.url})
        self.sinks = Sinks(self.direct, self.repository, self.topic, self.admin)
        self.store = FeatureStore(self.direct, self.repository)

    @property
    def log_path(self) -> Path:
        return self.settings.offline_path / self.topic

    def recorder(self, **config: Any) -> Recorder:
        """A producer whose sends count for the oracle; without settings it is always the same one."""
        if config or self._recorder is None:
            made = Recorder(self.broker.bootstrap, **config)
            self._recorders.append(made)
            if config:
                return made
            self._recorder = made
        return self._recorder

    def pour(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Send keys and payloads that are only timed, to the first partition: the oracle does not know of them."""
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "linger.ms": 50, "enable.idempotence": True})
        for key, payload in records:
            while True:
                try:
                    producer.produce(self.topic, payload, key, 0)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        expect(producer.flush(60.0) == 0, "the broker did not take all")
        end = bounds_of(self.admin, self.topic, [0])[0].end
        expect(end == len(records), f"{end} of {len(records)} records were taken")

    def worker(self, name: str = "w1", *, restarting: bool = True, group: str = "", **settings: Any) -> Supervised:
        chosen = self.settings.model_copy(update=settings)
        log = self.folder / f"worker-{name}-{len(self._workers)}.log"
        made = Supervised(chosen, name, log, restarting=restarting, group=group)
        self._workers.append(made)
        return made

    @property
    def restarts(self) -> int:
        return sum(worker.restarts for worker in self._workers)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        while self._to_stop:
            self._to_stop.pop()()

    # -- sends ----------------------------------------------------------------------------------------------------

    def send(self, count: int, users: int = 40) -> None:
        """So many payments of now, acknowledged when this returns."""
        recorder = self.recorder()
        for key, payload in payments.payloads(self.draw, count, users):
            recorder.send(self.topic, payload, key)
        recorder.flush()

    def reader(self, users: int = 40) -> Reader:
        """A client of so many users that keeps every answer, and takes the way to the store that workers take."""
        return Reader(FeatureStore(self.settings, self.repository), [f"u{n}" for n in range(users)], keep=True)

    def send_steadily(self, a_second: int) -> Steady:
        """Payments go on beside the row until `stop`."""
        steady = Steady(self, a_second)
        self.on_stop(steady.end)
        return steady

    def sent(self) -> list[Sent]:
        return [one for recorder in self._recorders for one in recorder.sent() if one.topic == self.topic]

    # -- waits ----------------------------------------------------------------------------------------------------

    def until(self, held: Callable[[], bool], limit_s: float, what: str) -> float:
        """Wait for a condition; seconds that it took. Raises FailedError past the limit."""
        began, limit_s = time.monotonic(), limit_s * self.patience
        while not held():
            if time.monotonic() - began > limit_s:
                raise FailedError(f"{what}: not within {limit_s:.0f} s{self._last_words()}")
            time.sleep(_POLL_S)
        return time.monotonic() - began

    def until_said(self, worker: Supervised, text: str, limit_s: float = 90.0) -> float:
        return self.until(lambda: text in worker.said(), limit_s, f"the worker says {text!r}")

    def until_reading(self, worker: Supervised, limit_s: float = 90.0) -> float:
        """Until it was given partitions; nothing else says that it is up."""
        return self.until_said(worker, "reading ", limit_s)

    def until_applied(self, limit_s: float) -> float:
        """Liveness: every sink holds every acknowledged record, and the group was told."""
        ends = self.expected_ends()

        def held() -> bool:
            try:
                standing = self.sinks.look()
            except Exception as error:  # a store that is down is not done
                self.say(f"waiting: {type(error).__name__}")
                return False
            return all(standing.lowest(partition) >= end for partition, end in ends.items())

        return self.until(held, limit_s, "every acknowledged record is in every sink")

    def until_told(self, expected: Expected) -> None:
        """Liveness of what clients are told: what was lost for a while is PRESENT again."""
        wrong = ""

        def told() -> bool:
            nonlocal wrong
            wrong = audit.wrong_status(self.store, expected)
            return not wrong

        try:
            self.until(told, _TOLD_S, "lookups call complete rows complete")
        except FailedError as error:
            raise FailedError(f"{error}; {wrong}") from error

    def _last_words(self) -> str:
        """Why the workers are not where they should be, in their own words."""
        for worker in self._workers:
            lines = [line for line in worker.said().splitlines() if _WORDS.search(line)]
            if lines:
                return f"; {worker.name} (restarted {worker.restarts} times) said: {lines[-1][-300:]}"
        return ""

    # -- the oracle -----------------------------------------------------------------------------------------------

    def expected_ends(self) -> dict[int, int]:
        """Partition -> the offset after its last acknowledged record."""
        ends: dict[int, int] = {}
        for one in self.sent():
            ends[one.partition] = max(ends.get(one.partition, 0), one.offset + 1)
        return ends

    def expected(self, sent: Iterable[Sent] | None = None) -> Expected:
        within_us = None if self.within is None else duration_us(self.within)
        contract = payments.contract(duration_us(self.lateness), within_us, is_priced=self.is_priced)
        return judge(contract, self.sent() if sent is None else sent, self.means)

    def check(self, moments: int = 3) -> str:
        """Everything, at rest: status, values, log, letters, marks. Returns a sentence of what was compared."""
        expected = self.expected()
        self.until_told(expected)
        audit.check_log(str(self.log_path), expected)
        repeats = audit.check_letters(self.broker.bootstrap, self.settings.project, self.topic, expected)
        newest_us = expected.newest_us
        later = [newest_us, newest_us + 1, newest_us + 59_000_000 + self.draw.randrange(2_000_000)]
        later += [newest_us + 3_540_000_000 + self.draw.randrange(120_000_000)]
        past = [newest_us - self.draw.randrange(90_000_000) for _ in range(moments)]
        values = audit.check_values(self.store, expected, later, past)
        standing = self.sinks.look(group=True)
        bounds = bounds_of(self.admin, self.topic, expected.ends)
        for partition, end in expected.ends.items():
            # Behind the last record may be markers of transactions, which the sinks pass over, soon or later.
            last = bounds[partition].end
            ends = {standing.log.get(partition, 0), *(each.get(partition, 0) for each in standing.online.values())}
            where = f"partition {partition}, whose records end at {end} and whose markers at {last}"
            expect(all(end <= each <= last for each in ends), f"sinks stand at {sorted(ends)} in {where}")
            told = standing.group.get(partition, 0)
            expect(told <= last, f"the group was told {told} of {where}")
        dead = f"{len(expected.dead):,} dead" + (f" ({repeats} letters twice)" if repeats else "")
        restarts = f", worker restarted {self.restarts}x" if self.restarts else ""
        records = f"{len(expected.payloads):,} records: {len(expected.logged):,} logged, {dead}"
        return f"{records}; {values:,} values exact{restarts}"

    def check_standing(self) -> tuple[Standing, int]:
        """While no worker runs: the sinks hold what their watermarks say. Returns where they stand."""
        standing = self.sinks.look(group=True)
        expected = self.expected()
        client = self.valkey.client
        compared = audit.check_standing(
            self.store, client, expected, standing, str(self.log_path), expected.newest_us + 1
        )
        return standing, compared


_WORDS = re.compile(r"error|refused|\[ERROR\]|Error", re.IGNORECASE)


class Steady:
    """A thread that sends payments at a rate, and at a tenth of it once a row has enough to be judged by."""

    def __init__(self, world: World, a_second: int) -> None:
        self._world, self._a_second = world, a_second
        self._draw = random.Random(world.draw.random())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sends", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop without asking for acknowledgements: the row is over."""
        self._stopping.set()
        self._thread.join()

    def stop(self) -> None:
        """Stop, and wait until all are acknowledged."""
        self.end()
        self._world.recorder().flush()

    def _run(self) -> None:
        recorder, step_s, sent = self._world.recorder(), 0.05, 0
        due = time.monotonic()
        while not self._stopping.is_set():
            rate = self._a_second if sent < _ENOUGH else self._a_second / 10
            for key, payload in payments.payloads(self._draw, max(1, int(rate * step_s))):
                recorder.send(self._world.topic, payload, key)
                sent += 1
            due += step_s
            self._stopping.wait(max(0.0, due - time.monotonic()))
