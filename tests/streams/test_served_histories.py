"""Seeded histories of served rows: what readers are told is PRESENT never has less than what they were told before.

Two members of a group with the real engine, sink, alias, fill, Delta log and server; only Kafka is a list. The store is
flushed or comes back older, retention takes what the log has, members die and partitions move, at any moment. Fills
wait for as long as the history likes.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import redis

from featurestore import Entity, FeatureView, Topic, count
from featurestore.errors import LostTailError
from featurestore.event_time import SECOND_US
from featurestore.kernel import roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.offline import EventLog
from featurestore.online import NO_EVICTION, Aliases, OneServer, OnlineStore, Run
from streams.bounds import Bounds
from streams.engine import Engine
from streams.serving_sink import ServingSink
from streams.sink import NoLetters
from streams.transport import Batch

PARTITIONS, BUCKETS, STEPS, ROUNDS_MAX = 2, 3, 60, 20
TOPIC = Topic("paid", schema={"user": str, "at": "timestamp"}, event_time="at", key="user", partitions=PARTITIONS)
VIEW = FeatureView("by_user", Entity("user", key="user"), TOPIC, {"n": count()})
USERS = [f"u{number}" for number in range(4)]
KEYS = list(encode_keys([pa.array(USERS)]))
START_US = 1_700_000_000 * SECOND_US


class AtOnce(Executor):
    """Work is done by the time it has been handed over."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **named))
        except BaseException as error:
            done.set_exception(error)
        return done


class Restarted(OnlineStore):
    """Counts the starts of its server, which the tests' own is spared."""

    starts = 0

    def runs(self) -> list[Run]:
        return [Run(str(Restarted.starts), NO_EVICTION, 0)]


class Member:
    """A worker's part of the work on the topic, and where it reads each of its partitions."""

    def __init__(self, world: World) -> None:
        self._world = world
        # Fills wait for it until the history lets them go on.
        self.turn = Lock()
        self.turn.acquire()
        log = EventLog(world.folder, TOPIC)
        self.sink = ServingSink(world.store, VIEW, log, world.bounds, world.clock_us, self.turn, AtOnce())
        own = EventLog(world.folder, TOPIC)
        self.engine = Engine(TOPIC, "", [self.sink], 0, own, NoLetters(), world.clock_us, AtOnce())
        self.position: dict[int, int] = {}

    def open(self, partition: int) -> None:
        self.position[partition] = self.engine.open(partition)

    def close(self, partition: int) -> None:
        self.engine.close(partition)
        del self.position[partition]

    def deliver(self, partition: int, records_max: int) -> None:
        first = self.position[partition]
        end = min(len(self._world.sent[partition]), first + records_max)
        if first < end:
            self.position[partition] = end
            offsets = np.arange(first, end)
            values = self._world.sent[partition][first:end]
            stamps = np.full(len(offsets), self._world.now_us)
            self._trying(lambda: self.engine.apply(Batch(TOPIC.name, partition, first, end, values, offsets, stamps)))

    def tick(self) -> None:
        self._trying(self.engine.tick)

    def end_fills(self) -> None:
        """Whatever waits for its turn has it now, and is done."""
        self.turn.release()
        for filling in self.sink._filling.values():
            filling._thread.join(30)
            assert filling.is_done
        self.turn.acquire()

    def die(self) -> None:
        for partition in self.position:
            self.sink.close(partition)
        self.turn.release()

    def _trying(self, work: Callable[[], None]) -> None:
        """As the worker's port does it."""
        try:
            work()
        except LostTailError as error:
            for partition in sorted({error.partition, *error.also}):
                if partition in self.position:
                    self.engine.reopen(partition)
            for partition in self.position:
                stands = self.engine.stands(partition)
                assert stands is not None
                self.position[partition] = stands


class World:
    """What one seed draws."""

    def __init__(self, seed: int, client: redis.Redis, folder: Path, namespace: str) -> None:
        self._draw, self._client, self.folder = random.Random(seed), client, folder
        self.store = Restarted(OneServer(client), namespace=namespace, buckets=BUCKETS)
        self.store.ensure_ready()
        self._aliases = Aliases(self.store)
        self.sent: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        self.low = [0] * PARTITIONS
        self.now_us = START_US
        self.trace: list[str] = []
        self._saved: dict[bytes, bytes] = {}
        self._floor = 0
        # Members that have not looked since the store came back older: until then nobody can know. 2 stands for one
        # that is gone, so that nobody ever will, until all is in.
        self._blind: set[int] = set()
        self._members = [Member(self) for _ in range(2)]
        for partition in range(PARTITIONS):
            self._members[partition].open(partition)

    def clock_us(self) -> int:
        self.now_us += 1
        return self.now_us

    def bounds(self) -> dict[int, Bounds]:
        return {p: Bounds(self.low[p], len(self.sent[p])) for p in range(PARTITIONS)}

    def play(self) -> None:
        kinds = [self._send, self._deliver, self._tick, self._cut, self._flush, self._save, self._restore]
        kinds += [self._die, self._move]
        # Each history has its own mind.
        weights = [12, 25, 20, *(weight * self._draw.choice([0, 1, 2]) for weight in (4, 3, 3, 2, 2, 2))]
        for _ in range(STEPS):
            self.now_us += self._draw.randrange(SECOND_US)
            self._draw.choices(kinds, weights)[0]()
            self._read()
        self._heal()

    def _send(self) -> None:
        partition = self._draw.randrange(PARTITIONS)
        for _ in range(self._draw.randint(1, 8)):
            user = self._draw.choice(USERS)
            self.sent[partition].append(f'{{"user": "{user}", "at": {self.now_us}}}'.encode())
        self.trace.append(f"{partition} ends at {len(self.sent[partition])}")

    def _deliver(self) -> None:
        partition = self._draw.randrange(PARTITIONS)
        self._deliver_from(partition, self._draw.choice([1, 5, 50]))

    def _deliver_from(self, partition: int, records_max: int) -> None:
        member = self._member_of(partition)
        if member.position[partition] < self.low[partition]:
            # Retention overtook who read again what the log has already: the worker ends, and the next one fills.
            self._replace(self._members.index(member))
            member = self._member_of(partition)
            assert member.position[partition] >= self.low[partition], f"{partition} can never be read again"
        member.deliver(partition, records_max)
        self.trace.append(f"{partition} read to {member.position[partition]}")

    def _tick(self) -> None:
        number = self._draw.randrange(2)
        self._members[number].tick()
        if self._draw.random() < 0.5:
            self._members[number].end_fills()
        # A tick looks once a second.
        if self.now_us - self._members[number].engine._beat_us < 2 * SECOND_US:
            self._members[number].engine._beat_us = 0
            self._members[number].tick()
        self._blind.discard(number)
        self.trace.append(f"{number} ticks")

    def _cut(self) -> None:
        partition = self._draw.randrange(PARTITIONS)
        mark = EventLog(self.folder, TOPIC).marks().get(partition)
        if mark is not None:
            self.low[partition] = max(self.low[partition], mark.offset - self._draw.choice([0, 0, 3]))
            self.trace.append(f"{partition} begins at {self.low[partition]}")

    def _flush(self) -> None:
        self._client.flushall()
        self.trace.append("flushed")

    def _save(self) -> None:
        self._saved = {name: self._client.dump(name) for name in self._client.scan_iter("*")}  # type: ignore[misc]
        self.trace.append("saved")

    def _restore(self) -> None:
        if self._saved:
            self._client.flushall()
            for name, dumped in self._saved.items():
                self._client.restore(name, 0, dumped, replace=True)
            Restarted.starts += 1
            self._blind |= {0, 1}
            self.trace.append("came back older")

    def _die(self) -> None:
        self._replace(self._draw.randrange(2))

    def _replace(self, number: int) -> None:
        dead, self._members[number] = self._members[number], Member(self)
        dead.die()
        for partition in dead.position:
            self._members[number].open(partition)
        self.trace.append(f"{number} died")
        if self._blind:
            # Who is new has not seen the rows before.
            self._blind.add(2)

    def _move(self) -> None:
        partition = self._draw.randrange(PARTITIONS)
        old = self._member_of(partition)
        new = self._members[1 - self._members.index(old)]
        old.close(partition)
        new.open(partition)
        self.trace.append(f"{partition} moved")
        if self._blind:
            self._blind.add(2)

    def _member_of(self, partition: int) -> Member:
        return next(member for member in self._members if partition in member.position)

    def _heal(self) -> None:
        total = sum(map(len, self.sent))
        for _ in range(ROUNDS_MAX):
            for number, member in enumerate(self._members):
                self.now_us += 2 * SECOND_US
                for partition in list(member.position):
                    self._deliver_from(partition, 1_000)
                self._members[number].tick()
                self._members[number].end_fills()
                self._blind.discard(number)
            is_ready, n = self._served()
            if is_ready and n == total:
                break
            if not self._blind:
                self._read()
        assert self._served() == (True, total), f"not whole after {ROUNDS_MAX} rounds"

    def _served(self) -> tuple[bool, int]:
        [served] = self._aliases.read([(VIEW.id, KEYS)])
        values = roll_up(served.payloads, self.now_us, VIEW.plan)["n"]
        return served.is_ready, sum(value or 0 for value in values.to_pylist())

    def _read(self) -> None:
        is_ready, n = self._served()
        total = sum(map(len, self.sent))
        assert n <= total, "an event counts twice"
        if is_ready and n == total:
            self._blind.clear()
        if is_ready and not self._blind:
            assert n >= self._floor, f"PRESENT with {n} events, after {self._floor} were"
            self._floor = n


# The first of each kind of fault that was found, and some more.
@pytest.mark.parametrize("seed", [*range(30), 80, 128, 311])
def test_what_is_called_present_never_goes_back(
    seed: int, redis_client: redis.Redis, unique: Callable[[str], str], tmp_path: Path
) -> None:
    world = World(seed, redis_client, tmp_path, unique("histories"))
    try:
        world.play()
    except BaseException as error:
        error.add_note("\n".join(world.trace))
        raise
