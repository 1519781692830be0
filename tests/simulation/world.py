"""A broker, an online store and an event log that live in memory, and fail when they are told to.

The protocol is the real one: the engine, the sinks and the store's Lua function run as they are. Only what they talk
to is made here, with threads that a scheduler steps.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import redis
from lupa import lua51

from featurestore import Entity, FeatureView, Topic, count
from featurestore import sum as total
from featurestore.errors import DeadLetterError, EventLogError
from featurestore.event_time import SECOND_US, Mark
from featurestore.offline import log_schema
from featurestore.online import OneServer, OnlineStore
from featurestore.online.servers import Call
from featurestore.online.wire import flat
from streams.letters import DeadLetter
from streams.transport import Batch

PARTITIONS = 2
BUCKETS = 3
START_US = 1_700_000_000 * SECOND_US
TOPIC = Topic(
    "paid",
    schema={"user": str, "shop": str, "at": "timestamp", "amount": float, "id": str},
    event_time="at",
    key="user",
    partitions=PARTITIONS,
    nullable=("id",),
    dedupe="id",
    within="40s",
)
VIEWS = tuple(
    FeatureView(
        f"by_{key}",
        Entity(key, key=key),
        TOPIC,
        {"n": count(), "paid": total("amount"), "recent": total("amount").over("1m")},
        lateness=lateness,
    )
    for key, lateness in (("user", "20s"), ("shop", "60s"))
)


@dataclass(frozen=True)
class Record:
    """What the broker holds; `event` is None where the bytes keep no contract."""

    offset: int
    value: bytes
    arrival_us: int
    event: Mapping[str, Any] | None


def records(draw: random.Random, count_max: int) -> list[list[Record]]:
    """Partitions with holes in their offsets; some events are late, some of the future, some no events at all."""
    out = []
    for _partition in range(PARTITIONS):
        held, offset, now_us = [], 0, START_US
        for _ in range(draw.randrange(1, count_max)):
            offset += draw.choice([1, 1, 1, 1, 2, 5])
            now_us += draw.randrange(0, 3 * SECOND_US)
            kind = draw.random()
            at_us = now_us - draw.randrange(0, 2 * SECOND_US)
            if kind < 0.2:
                at_us -= draw.randrange(0, 90 * SECOND_US)
            elif kind < 0.25:
                at_us = now_us + draw.randrange(1, 400) * SECOND_US
            event = {
                "user": f"u{draw.randrange(4)}",
                "shop": f"s{draw.randrange(3)}",
                "at": at_us,
                "amount": draw.choice([0.1, 0.2, 1e9, -3.7, 1e-3, 1e12]),
                "id": draw.choice([f"e{offset}", f"e{offset}", f"e{offset}", None]),
            }
            before = [record.event for record in held if record.event is not None]
            if before and draw.random() < 0.2:
                # Sent again: mostly soon, and mostly as it was.
                event = dict(draw.choice(before[-draw.choice([1, 3, 20]) :]))
                event["at"] = draw.choice([event["at"], event["at"], at_us])
            value = json.dumps(event).encode()
            if kind > 0.95:
                held.append(Record(offset, value[:-3], now_us, None))
            else:
                held.append(Record(offset, value, now_us, event))
        out.append(held)
    return out


def batch_of(partition: int, held: Sequence[Record], first: int, end: int) -> Batch:
    """The records in [first, end) as the reader hands them over."""
    some = [record for record in held if first <= record.offset < end]
    return Batch(
        TOPIC.name,
        partition,
        first,
        end,
        [record.value for record in some],
        np.array([record.offset for record in some], dtype=np.int64),
        np.array([record.arrival_us for record in some], dtype=np.int64),
        0,
    )


class Server:
    """The few commands of Redis that the store uses, and its functions in a real Lua.

    What an append-only file or a replica loses is the last calls, each as a whole: `lose` takes them back. Of a
    cluster each node loses its own.
    """

    def __init__(self) -> None:
        self.data: dict[bytes, Any] = {}
        # Of each call that wrote something: what stood there before, None where nothing did.
        self._before: list[dict[bytes, Any]] = []

    def lose(self, calls: int, tag: bytes = b"") -> int:
        """Come back without the last so many calls to keys with this hash tag; how many there were of these."""
        mine = [place for place, before in enumerate(self._before) if all(tag in key for key in before)]
        for place in reversed(mine[len(mine) - min(calls, len(mine)) :]):
            for key, value in self._before.pop(place).items():
                if value is None:
                    del self.data[key]
                else:
                    self.data[key] = value
        return min(calls, len(mine))

    def _put(self, key: bytes, value: Any) -> None:
        self._before[-1].setdefault(key, self.data.get(key))
        self.data[key] = value

    def run(self, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies: list[Any] = []
        queued: list[Any] | None = None
        for call in calls:
            name, *arguments = (each if isinstance(each, bytes) else str(each).encode() for each in flat(call))
            if name == b"MULTI":
                queued = []
                replies.append(b"OK")
            elif name == b"EXEC":
                replies.append(queued)
                queued = None
            elif queued is not None:
                queued.append(self._one(name, arguments))
                replies.append(b"QUEUED")
            else:
                replies.append(self._one(name, arguments))
        return replies

    def _one(self, name: bytes, arguments: list[bytes]) -> Any:
        match name:
            case b"HGET":
                return self.data.get(arguments[0], {}).get(arguments[1])
            case b"HMGET":
                return [self.data.get(arguments[0], {}).get(field) for field in arguments[1:]]
            case b"HSETNX":
                held = self.data.setdefault(arguments[0], {})
                return int(held.setdefault(arguments[1], arguments[2]) is arguments[2])
            case b"HGETALL":
                return [part for pair in self.data.get(arguments[0], {}).items() for part in pair]
            case b"MGET":
                return [self.data.get(key) for key in arguments]
            case b"EVAL":
                # The script of `OnlineStore.keep`: one command of one key.
                return self._one(arguments[3], [arguments[2], *arguments[4:]])
            case b"FCALL":
                keys, rest = arguments[2 : 2 + int(arguments[1])], arguments[2 + int(arguments[1]) :]
                self._before.append({})
                answer = _call_lua(self, arguments[0], keys, rest)
                if not self._before[-1]:
                    self._before.pop()
                return answer
        raise AssertionError(f"the simulated server does not know {name!r}")

    def from_lua(self, name: bytes, *arguments: Any) -> Any:
        match name:
            case b"HMGET":
                held = self.data.get(arguments[0], {})
                return [held.get(each, False) for each in arguments[1:]]
            case b"GETRANGE":
                return self.data.get(arguments[0], b"")[int(arguments[1]) : int(arguments[2]) + 1]
            case b"SET":
                self._put(arguments[0], arguments[1])
            case b"MSETEX":
                count = int(arguments[0])
                for key, value in zip(arguments[1 : 2 * count : 2], arguments[2 : 2 * count + 1 : 2], strict=True):
                    self._put(key, value)
            case b"MSET":
                for key, value in zip(arguments[0::2], arguments[1::2], strict=True):
                    self._put(key, value)
            case b"HSET":
                more = dict(zip(arguments[1::2], arguments[2::2], strict=True))
                self._put(arguments[0], {**self.data.get(arguments[0], {}), **more})
            case _:
                raise AssertionError(f"the simulated server does not know {name!r}")
        return b"OK"


_LUA: dict[str, Any] = {}


def _call_lua(server: Server, name: bytes, keys: list[bytes], arguments: list[bytes]) -> list[Any]:
    if not _LUA:
        runtime = lua51.LuaRuntime(encoding=None)
        functions: dict[bytes, Any] = {}

        def call(command: bytes, *rest: Any) -> Any:
            found = _LUA["server"].from_lua(command, *rest)
            return runtime.table_from(found) if isinstance(found, list) else found

        library = runtime.table_from({b"call": call, b"pcall": call, b"register_function": functions.__setitem__})
        runtime.globals()[b"redis"] = library
        source = files("featurestore.online").joinpath("functions.lua").read_text()
        runtime.execute(source.partition("\n")[2].encode())
        _LUA.update(runtime=runtime, functions=functions)
    _LUA["server"] = server
    runtime = _LUA["runtime"]
    answer = _LUA["functions"][name](runtime.table_from(keys), runtime.table_from(arguments))
    return [list(each.values()) for each in answer.values()]


class SimulatedServers(OneServer):
    """Calls go to a `Server`, or fail before or after it did them."""

    def __init__(self, server: Server, fails: Callable[[], str], *, has_all: bool) -> None:
        self._server, self._fails, self.has_all = server, fails, has_all

    def execute(self, calls: Sequence[Call]) -> list[Any]:
        how = self._fails() if any(call[0] == "FCALL" for call in calls) else ""
        if how == "before":
            raise redis.ConnectionError("the connection broke before the call")
        if how == "within":
            # A pipeline is no transaction: some of its calls may be done.
            self._server.run(calls[: len(calls) // 2])
            raise redis.ConnectionError("the connection broke within the calls")
        replies = self._server.run(calls)
        if how == "after":
            raise redis.ConnectionError("the connection broke before the answer")
        return replies

    def clients(self) -> Sequence[redis.Redis]:
        """Nobody asks it for anything but calls."""
        return []


class SimulatedStore(OnlineStore):
    """The real store on a simulated server."""

    def __init__(
        self, server: Server, new_token: Callable[[], bytes], fails: Callable[[], str], *, has_all: bool = True
    ) -> None:
        servers = SimulatedServers(server, fails, has_all=has_all)
        super().__init__(servers, namespace="sim", buckets=BUCKETS, new_token=new_token)


@dataclass
class Table:
    """What a Delta table holds: rows and marks move together."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    marks: dict[int, Mark] = field(default_factory=dict)


class SimulatedLog:
    """The event log's promise, as `EventLog` gives it, on a `Table`."""

    def __init__(self, table: Table, fails: Callable[[], str]) -> None:
        self.topic, self._table, self._fails = TOPIC, table, fails
        self._known: dict[int, Mark] | None = None

    def append(self, rows: pa.Table, marks: Mapping[int, Mark]) -> None:
        how = self._fails()
        if how == "before":
            raise EventLogError(TOPIC.name, "the disk is full")
        held = self._table.marks
        moved = {p: mark for p, mark in marks.items() if p not in held or held[p].offset < mark.offset}
        if moved:
            told = rows.to_pylist()
            lacking = [r for r in told if r["partition"] not in held or r["offset"] >= held[r["partition"]].offset]
            self._table.rows.extend(lacking)
            self._table.marks = {**held, **moved}
        self._known = dict(self._table.marks)
        if how in ("after", "within"):
            raise EventLogError(TOPIC.name, "the answer was lost")

    def marks(self) -> dict[int, Mark]:
        if self._known is None:
            self._known = dict(self._table.marks)
        return self._known

    def forget(self) -> None:
        self._known = None

    def decided(self, partition: int) -> Mark | None:
        return self.marks().get(partition)

    def between(self, partition: int, first: int, end: int, columns: list[str]) -> pa.Table:
        some = [row for row in self._table.rows if row["partition"] == partition and first <= row["offset"] < end]
        some.sort(key=lambda row: int(row["offset"]))
        schema = log_schema(TOPIC)
        return pa.Table.from_pylist(some, pa.schema([schema.field(name) for name in columns]))

    def between_within(
        self, partition: int, first: int, end: int, columns: list[str], bytes_max: int | None
    ) -> pa.Table | None:
        table = self.between(partition, first, end, columns)
        return None if bytes_max is not None and table.nbytes > bytes_max else table


class SimulatedLetters:
    """Letters that have been put, and those that the broker holds: `DeadLetterBox`'s promise.

    A flush that fails may have stored all, some or none of them, and every later one fails as well.
    """

    def __init__(self, held: dict[tuple[int, int], str], fails: Callable[[], str] = lambda: "") -> None:
        self._held, self._fails = held, fails
        self._waiting: list[DeadLetter] = []
        self._failure: DeadLetterError | None = None

    def put(self, letters: Sequence[DeadLetter]) -> None:
        self._waiting.extend(letters)

    def flush(self) -> None:
        if self._failure is not None:
            raise self._failure
        how = self._fails() if self._waiting else ""
        taken = {"before": 0, "within": len(self._waiting) // 2}.get(how, len(self._waiting))
        for letter in self._waiting[:taken]:
            self._held[letter.partition, letter.offset] = letter.reason
        if how:
            self._failure = DeadLetterError(len(self._waiting), ["the broker did not answer"])
            raise self._failure
        self._waiting.clear()


class Step(Future[Any]):
    """Work that another thread would do: done when somebody steps it, or at the latest when its result is asked for."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def step(self) -> None:
        if not self.done():
            try:
                self.set_result(self._work())
            except Exception as error:
                self.set_exception(error)

    def result(self, timeout: float | None = None) -> Any:
        self.step()
        return super().result(timeout)


class SteppedThread(Executor):
    """An executor whose work waits for the scheduler."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        self.steps = [step for step in self.steps if not step.done()]
        self.steps.append(Step(lambda: work(*arguments, **named)))
        return self.steps[-1]
