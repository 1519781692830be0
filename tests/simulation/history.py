"""One history: a seed draws events, workers, and what goes wrong; plain arithmetic says what must be there."""

from __future__ import annotations

import random
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pyarrow as pa

from featurestore.errors import CommitRetriesError, DeadLetterError, EventLogError, OnlineStoreError
from featurestore.event_time import FUTURE_MAX_US, REPEATED_US, SECOND_US
from featurestore.kernel import roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.online import TOKEN_BYTES
from streams.engine import Engine
from streams.online_sink import OnlineSink
from streams.transport import ReaderOptions
from streams.worker import EnginePort, _tell
from tests.histories import ViolationError
from tests.simulation.world import (
    BUCKETS,
    PARTITIONS,
    TOPIC,
    VIEWS,
    Record,
    Server,
    SimulatedLetters,
    SimulatedLog,
    SimulatedStore,
    Step,
    SteppedThread,
    Table,
    batch_of,
    records,
)

_EVENTS_MAX = 60
_STEPS = 100
# Of a step, in the order of `_step`.
_WEIGHTS = [40, 12, 14, 4, 4, 5, 4, 4, 4]
# A round of everybody reading to the end and ticking mends one thing that was lost, at the least.
_ROUNDS_MAX = 20
_CRASHES = (OnlineStoreError, EventLogError, DeadLetterError, CommitRetriesError)


@dataclass
class Worker:
    """The engine behind its port, where each partition is read, and its threads."""

    port: EnginePort
    threads: list[SteppedThread]
    position: dict[int, int] = field(default_factory=dict)

    @property
    def engine(self) -> Engine:
        return self.port.engines[TOPIC.name]

    def open(self, partition: int) -> None:
        self.position[partition] = self.engine.open(partition)

    def steps(self) -> list[Step]:
        """What its other threads have been given, done or not."""
        return [step for thread in self.threads for step in thread.steps]


class History:
    """Everything that one seed draws. `trace` says what happened, for people."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self.trace: list[str] = []
        sent = records(self._draw, _EVENTS_MAX)
        # Some come while things go wrong, one by one or long before they are read; the others after that, so that a
        # loss is met where nothing came for long.
        meanwhile = [held[: self._draw.randrange(len(held))] for held in sent]
        self._later = [held[len(some) :] for held, some in zip(sent, meanwhile, strict=True)]
        at_first = [self._draw.randrange(len(some) + 1) for some in meanwhile]
        self._held: list[list[Record]] = [some[:count] for some, count in zip(meanwhile, at_first, strict=True)]
        self._coming = [some[count:] for some, count in zip(meanwhile, at_first, strict=True)]
        self._server, self._table = Server(), Table()
        # A server that has all rows is sent calls of several buckets at once. Of a cluster each node may lose its own.
        self._has_all = self._draw.random() < 0.5
        # Of four events each bucket can have a slice of its own, or all of them go in one.
        self._slice_events = self._draw.choice([2, 1_000])
        self._letters: dict[tuple[int, int], str] = {}
        # Places of records that the broker has no more.
        self._gone: set[tuple[int, int]] = set()
        self._workers: list[Worker] = []
        self._zombies: list[Worker] = []
        self._faulty = True
        # (view, partition, bucket) -> the furthest mark that there ever was, as far as the store lost any.
        self._furthest: dict[tuple[str, int, int], int] = {}
        self._tokens = 0
        self._now_us = 0
        # Heartbeats wait for what is at work: where they come between all batches, little is ever under way.
        self._step_us = self._draw.choice([SECOND_US // 20, SECOND_US // 5, SECOND_US])

    def run(self) -> None:
        """Play it; raises ViolationError."""
        self._workers = [self._worker() for _ in range(2)]
        for partition in range(PARTITIONS):
            self._try(self._workers[partition % 2], lambda worker, p=partition: worker.open(p))
        # Each history has its own mind: some faults often, others never, so that they meet in many ways.
        weights = [weight * self._draw.choice([0, 1, 1, 3]) for weight in _WEIGHTS[2:]]
        for _ in range(_STEPS):
            self._step([*_WEIGHTS[:2], *weights])
            self._check_counts()
        self._heal()
        self._check_counts()
        self._check()

    # -- what may happen --------------------------------------------------------------------------------------------

    def _step(self, weights: list[int]) -> None:
        self._now_us += self._draw.randrange(0, self._step_us)
        if self._draw.random() < 0.3:
            self._come(self._draw.randrange(PARTITIONS), 1)
        may_happen = [
            self._deliver,
            self._tick,
            self._other_thread,
            self._again,
            self._kill,
            self._move,
            self._lose_tail,
            self._lose_what_was_read,
            self._compact,
        ]
        self._draw.choices(may_happen, weights)[0]()

    def _come(self, partition: int, count: int) -> None:
        """Events that the broker takes."""
        coming = self._coming[partition]
        self._held[partition].extend(coming[:count])
        del coming[:count]

    def _deliver(self) -> None:
        self._delivered(self._draw.choice([*self._workers, *self._zombies]))

    def _delivered(self, worker: Worker) -> None:
        if not worker.position:
            return
        # Batches of several partitions that are there at once are applied together.
        together = self._draw.sample(list(worker.position), self._draw.randint(1, len(worker.position)))
        batches = []
        for partition in together:
            first = worker.position[partition]
            coming = [record.offset for record in self._held[partition] if record.offset >= first]
            if coming:
                end = coming[: self._draw.choice([1, 2, 5, 20])][-1] + 1
                worker.position[partition] = end
                self.trace.append(f"{self._name(worker)} reads {partition}: {first} to {end}")
                batches.append((partition, first, end))
        if batches:
            self._apply(worker, *batches)

    def _again(self) -> None:
        """A batch comes twice, or one that was read before a seek back, with edges of its own."""
        worker = self._draw.choice([*self._workers, *self._zombies])
        if not worker.position:
            return
        partition = self._draw.choice(list(worker.position))
        ends = [record.offset for record in self._held[partition]]
        if not ends:
            return
        first, end = sorted((self._draw.choice(ends), self._draw.choice(ends) + 1))
        self.trace.append(f"{self._name(worker)} is handed {partition}: {first} to {end} once more")
        self._apply(worker, (partition, first, end))

    def _apply(self, worker: Worker, *spans: tuple[int, int, int]) -> None:
        batches = [batch_of(partition, self._records(partition), first, end) for partition, first, end in spans]

        def apply(worker: Worker) -> None:
            # As the port does it for bodies that wait each for their own batch.
            bodies: list[Any] = [(batch, Future()) for batch in batches]
            try:
                _tell(bodies, worker.port._apply(batches))
            except _CRASHES as error:
                _tell(bodies, error)
            for _, done in bodies:
                for (_, back), offset in done.result().items():
                    self.trace.append(f"{self._name(worker)} goes back in {back} to {offset}")
                    worker.position[back] = offset

        self._try(worker, apply)

    def _tick(self) -> None:
        self._try(self._draw.choice([*self._workers, *self._zombies]), self._ticked)

    def _ticked(self, worker: Worker) -> None:
        settled, back = worker.port._tick()
        for (_, partition), offset in back.items():
            self.trace.append(f"{self._name(worker)} goes back in {partition} to {offset}")
            worker.position[partition] = offset
        for (_, partition), end in settled.items():
            self._check_settled(partition, end, self._furthest)

    def _other_thread(self) -> None:
        """A commit that is at work gets done."""
        steps = [step for worker in [*self._workers, *self._zombies] for step in worker.steps()]
        if steps:
            self._draw.choice(steps).step()

    def _kill(self) -> None:
        self._end(self._draw.randrange(len(self._workers)))

    def _move(self) -> None:
        """A partition changes hands: given up in order, or taken from a worker that does not know it yet."""
        giver, taker = self._draw.sample(self._workers, 2)
        if not giver.position:
            return
        partition = self._draw.choice(list(giver.position))
        if self._draw.random() < 0.5:
            self.trace.append(f"{self._name(giver)} gives {partition} up")
            del giver.position[partition]
            self._try(giver, lambda worker: worker.engine.close(partition))
        else:
            self.trace.append(f"{self._name(giver)} is a zombie")
            self._zombies.append(giver)
            self._workers[self._workers.index(giver)] = self._worker()
            for each in list(giver.position):
                if each != partition:
                    self._try(self._workers[-1], lambda worker, p=each: worker.open(p))
        self._try(taker if taker in self._workers else self._workers[0], lambda worker: worker.open(partition))

    def _lose_tail(self) -> None:
        """The store comes back without its last calls, one, some, or all, and much else happens at that time."""
        calls = self._draw.choice([1, 1, 2, 3, 5, 10, 30, 1_000])
        nodes = [] if self._has_all else [f"{{b{bucket}}}".encode() for bucket in range(BUCKETS)]
        self._lose(calls, self._draw.choice([b"", *nodes]))
        for _ in range(self._draw.randrange(6)):
            self._draw.choice([self._deliver, self._other_thread, self._move, self._tick])()

    def _lose(self, calls: int, tag: bytes) -> None:
        for place, end in self._marks():
            self._furthest[place] = max(self._furthest.get(place, 0), end)
        calls = self._server.lose(calls, tag)
        self.trace.append(f"the store loses its last {calls} calls {tag.decode()}")

    def _lose_what_was_read(self) -> None:
        """One worker is about to write rows with events in them that the store loses, and the other writes them again.

        By chance alone that is rare, and a version that counts commits stands where it stood in few of those.
        """
        both = [worker for worker in self._workers if worker.position]
        if len(both) < 2:
            return
        reader, writer = self._draw.sample(both, 2)
        for partition in range(PARTITIONS):
            self._come(partition, self._draw.randrange(1, 4))
        for each in both:
            # No heartbeat comes meanwhile.
            self._try(each, self._ticked)
            self._do_all(each)
        self._delivered(writer)
        self._do_all(writer)
        self._delivered(reader)
        self._lose(self._draw.choice([1, 1, 2, 3]), b"")
        for _ in range(self._draw.randrange(2, 6)):
            for partition in writer.position:
                # It is with the next events that it hears of the loss.
                self._come(partition, 1)
            # Who has failed is replaced.
            if writer in self._workers:
                self._delivered(writer)
                self._do_all(writer)
        self._do_all(reader)

    @staticmethod
    def _do_all(worker: Worker) -> None:
        for step in worker.steps():
            step.step()

    def _compact(self) -> None:
        """The broker forgets some of the records that all have read, and that the log has."""
        for partition, logged in self._table.marks.items():
            stands = [worker.engine.stands(partition) for worker in [*self._workers, *self._zombies]]
            end = min([logged.offset, *(offset for offset in stands if offset is not None)])
            passed = [record.offset for record in self._held[partition] if record.offset < end]
            gone = self._draw.sample(passed, self._draw.randint(0, len(passed)))
            self.trace.append(f"the broker forgets {sorted(gone)} of {partition}")
            self._gone.update((partition, offset) for offset in gone)

    def _records(self, partition: int) -> list[Record]:
        """What the broker gives to whoever reads."""
        return [record for record in self._held[partition] if (partition, record.offset) not in self._gone]

    # -- workers ----------------------------------------------------------------------------------------------------

    def _worker(self) -> Worker:
        store = SimulatedStore(self._server, self._token, lambda: self._fails(0.03), has_all=self._has_all)
        log = SimulatedLog(self._table, lambda: self._fails(0.03))
        threads = [SteppedThread() for _ in range(len(VIEWS) + 1)]
        sinks = [
            OnlineSink(store, view, thread, slice_events=self._slice_events)
            for view, thread in zip(VIEWS, threads[1:], strict=True)
        ]
        lateness_us = max(view.lateness_us for view in VIEWS)
        # Flushes with letters are few: some three of a history.
        letters: Any = SimulatedLetters(self._letters, lambda: self._fails(0.1))
        engine = Engine(TOPIC, "id", sinks, lateness_us, log, letters, lambda: self._now_us, threads[0])  # type: ignore[arg-type]
        return Worker(EnginePort({TOPIC.name: engine}, ReaderOptions()), threads)

    def _try(self, worker: Worker, what: Any) -> None:
        try:
            what(worker)
        except _CRASHES as error:
            self.trace.append(f"{self._name(worker)} ends: {error}")
            if worker in self._zombies:
                self._zombies.remove(worker)
            elif worker in self._workers:
                self._end(self._workers.index(worker))

    def _end(self, place: int) -> None:
        """Killed; what it had sent off may still arrive."""
        worker = self._workers[place]
        self.trace.append(f"{self._name(worker)} is killed")
        for step in worker.steps():
            if self._draw.random() < 0.5:
                step.step()
        self._workers[place] = self._worker()
        # Mostly the one who takes its place gets its partitions.
        heirs = [*self._workers, self._workers[place]]
        for partition in list(worker.position):
            self._try(self._draw.choice(heirs), lambda each, p=partition: each.open(p))

    def _name(self, worker: Worker) -> str:
        known = [*self._workers, *self._zombies]
        return f"worker {known.index(worker)}" if worker in known else "a worker of before"

    def _fails(self, chance: float) -> str:
        if self._faulty and self._draw.random() < chance:
            return self._draw.choice(["before", "within", "after"])
        return ""

    def _token(self) -> bytes:
        self._tokens += 1
        return self._tokens.to_bytes(16, "little")

    # -- the end ----------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """No more faults, and the last events come: those who work, or one who is new, bring everything to its end.

        Who works must see by himself what the store has lost. A new one asks where it stands.
        """
        self._faulty = False
        for worker in [*self._workers, *self._zombies]:
            self._do_all(worker)
        self._zombies = []
        for partition, later in enumerate(self._later):
            self._coming[partition].extend(later)
            self._come(partition, len(self._coming[partition]))
        if self._draw.random() < 0.5:
            self._workers = [self._worker()]
        taken = {partition for worker in self._workers for partition in worker.position}
        for partition in set(range(PARTITIONS)) - taken:
            self._workers[0].open(partition)
        for _ in range(_ROUNDS_MAX):
            self._round()
            if all(self._settled(partition) for partition in range(PARTITIONS)):
                for partition, held in enumerate(self._held):
                    self._check_settled(partition, held[-1].offset + 1, {})
                return
        stands = [(worker.position, worker.engine.settled()) for worker in self._workers]
        raise ViolationError(f"nobody brings the partitions to their ends: read and settled are {stands}")

    def _round(self) -> None:
        for worker in list(self._workers):
            for partition in list(worker.position):
                # Who has failed once fails at the next call and is replaced; its partitions are then with another.
                while partition in worker.position and worker in self._workers:
                    first, end = worker.position[partition], self._held[partition][-1].offset + 1
                    if first >= end:
                        break
                    worker.position[partition] = end
                    self._apply(worker, (partition, first, end))
        self._now_us += 20 * SECOND_US
        for worker in list(self._workers):
            self._try(worker, self._ticked)
            self._try(worker, lambda each: each.engine.flush())

    def _settled(self, partition: int) -> bool:
        end = self._held[partition][-1].offset + 1
        return any(worker.engine.settled().get(partition) == end for worker in self._workers)

    def _check_settled(self, partition: int, end: int, furthest: dict[tuple[str, int, int], int]) -> None:
        """What the group is told must be held by every sink, or have been held by it before the store lost it.

        furthest  what the store held once; empty where it must hold all of it now
        """
        logged = self._table.marks.get(partition)
        if logged is None or logged.offset < end:
            raise ViolationError(f"the group was told {end} of {partition}, the log holds {logged}")
        for place, held in self._marks():
            view_id, of, bucket = place
            if of == partition and max(held, furthest.get(place, 0)) < end:
                raise ViolationError(
                    f"the group was told {end} of {partition}, bucket {bucket} of {view_id} stands at {held}"
                )

    def _marks(self) -> list[tuple[tuple[str, int, int], int]]:
        """Where every bucket stands in every partition: (view, partition, bucket), end offset."""
        store = SimulatedStore(self._server, self._token, lambda: "")
        out = []
        for view in VIEWS:
            stored = store.marks(view.id, TOPIC.name)
            for partition in range(PARTITIONS):
                for bucket, mark in enumerate(stored.get(partition, [None] * BUCKETS)):
                    out.append(((view.id, partition, bucket), 0 if mark is None else mark.offset))
        return out

    def _check_counts(self) -> None:
        """What a worker tells of itself adds up, and nothing is counted twice."""
        for worker in [*self._workers, *self._zombies]:
            counts = worker.engine.counts
            if counts.records != counts.applied + counts.repeated + counts.dead.total():
                raise ViolationError(f"{self._name(worker)} has counts that do not add up: {counts}")
            if counts.records > sum(map(len, self._held)):
                raise ViolationError(f"{self._name(worker)} counts {counts.records} records, there are fewer")

    def _check(self) -> None:
        applied, dead, newest_us = self._expected()
        logged = sorted((row["partition"], row["offset"]) for row in self._table.rows)
        if logged != sorted({place for place, reason in dead.items() if reason == "too_late"} | applied[""]):
            raise ViolationError("the log does not hold every event once")
        marked = {(r["partition"], r["offset"]) for r in self._table.rows if r["late_by_us"] == REPEATED_US}
        if marked != applied["repeats"]:
            raise ViolationError(f"repeats are {sorted(marked)}, not {sorted(applied['repeats'])}")
        if self._letters != dead:
            raise ViolationError(f"letters are {self._letters}, not {dead}")
        store = SimulatedStore(self._server, self._token, lambda: "")
        for view in VIEWS:
            key = view.entity.keys[0]
            for entity in sorted({r.event[key] for held in self._held for r in held if r.event}):
                payloads = self._stored(store, view.id, entity)
                values = roll_up([payloads], newest_us, view.plan)
                mine = [
                    (r.event, min(r.event["at"], r.arrival_us))
                    for p, held in enumerate(self._held)
                    for r in held
                    if (p, r.offset) in applied[view.name] and r.event and r.event[key] == entity
                ]
                n, paid = len(mine), sum((Fraction(event["amount"]) for event, _ in mine), Fraction(0))
                # Its tail moves by whole seconds.
                begin_us = (newest_us - 60 * SECOND_US) // SECOND_US * SECOND_US
                late = [Fraction(event["amount"]) for event, us in mine if us >= begin_us]
                recent = float(sum(late, Fraction(0))) if late else None
                seen = values["n"][0].as_py(), values["paid"][0].as_py(), values["recent_1m"][0].as_py()
                wanted = n, float(paid) if n else None, recent
                if seen != wanted:
                    raise ViolationError(f"{view.name} of {entity} is {seen}, not {wanted}")

    @staticmethod
    def _stored(store: SimulatedStore, view_id: str, entity: str) -> bytes | None:
        [row] = store.read(view_id, encode_keys([pa.array([entity])])).rows
        return None if row is None else row[TOKEN_BYTES:]

    def _expected(self) -> tuple[dict[str, set[tuple[int, int]]], dict[tuple[int, int], str], int]:
        """By the definition alone: who takes each event, and why the others are dead."""
        applied: dict[str, set[tuple[int, int]]] = defaultdict(set)
        dead: dict[tuple[int, int], str] = {}
        latest_us = 0
        for partition, held in enumerate(self._held):
            newest_us = 0
            taken: list[tuple[str, int]] = []
            for record in held:
                place = partition, record.offset
                if record.event is None:
                    dead[place] = "broken_json"
                    continue
                if record.event["at"] - record.arrival_us > FUTURE_MAX_US:
                    dead[place] = "future"
                    continue
                effective_us = min(record.event["at"], record.arrival_us)
                late_by_us = max(newest_us - effective_us, 0)
                newest_us = max(newest_us, effective_us)
                applied[""].add(place)
                name = record.event["id"]
                if name is not None:
                    if any(name == each and newest_us - seen_us <= TOPIC.within_us for each, seen_us in taken):
                        applied["repeats"].add(place)
                        continue
                    taken.append((name, newest_us))
                takers = [view.name for view in VIEWS if late_by_us <= view.lateness_us]
                for name in takers:
                    applied[name].add(place)
                if not takers:
                    dead[place] = "too_late"
            latest_us = max(latest_us, newest_us)
        return applied, dead, latest_us
