"""Which batches go to the engine together, and who hears what came of it."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from featurestore.errors import LostTailError
from streams.transport import Batch, ReaderOptions
from streams.worker import EnginePort


class Journal:
    """An engine that writes down what it is given, and ends each call as it is told, when it is told.

    outcomes  of its calls, in turn; afterwards all is well
    """

    def __init__(self, *outcomes: Exception | None) -> None:
        self.topic = SimpleNamespace(name="paid")
        self.groups: list[list[tuple[int, int]]] = []
        self.reopened: list[int] = []
        self._outcomes = list(outcomes)
        self._turns, self._begun = threading.Semaphore(0), threading.Semaphore(0)

    def apply(self, *batches: Batch) -> None:
        self.groups.append([(batch.partition, batch.first_offset) for batch in batches])
        self._begun.release()
        assert self._turns.acquire(timeout=10)
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if outcome is not None:
            raise outcome

    async def begun(self) -> None:
        """Return when one more call is at work."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=10)

    def go_on(self, calls: int = 100) -> None:
        self._turns.release(calls)

    def reopen(self, partition: int) -> None:
        self.reopened.append(partition)

    def stands(self, partition: int) -> int:
        return 100 + partition


def batch(partition: int, first: int, count: int = 10, payload: bytes = b"{}") -> Batch:
    numbers = np.arange(first, first + count)
    return Batch("paid", partition, first, first + count, [payload] * count, numbers, numbers)


def port_of(engine: Any, records_max: int = 50, bytes_max: int = 1 << 20) -> EnginePort:
    options = ReaderOptions(batch_records_max=records_max, batch_bytes_max=bytes_max)
    return EnginePort({"paid": engine}, options)


async def behind_one(engine: Journal, port: EnginePort, batches: list[Batch]) -> list[asyncio.Task[Any]]:
    """Asks for batches while the engine is at work with one of partition 9."""
    first = asyncio.create_task(port.apply(batch(9, 0)))
    await engine.begun()
    tasks = [first, *(asyncio.create_task(port.apply(each)) for each in batches)]
    await asyncio.sleep(0)
    return tasks


def test_one_batch_a_partition_goes_together_and_the_next_one_follows() -> None:
    async def run() -> None:
        engine = Journal()
        waiting = [batch(0, 0), batch(1, 0), batch(0, 10), batch(2, 0), batch(1, 10)]
        tasks = await behind_one(engine, port_of(engine), waiting)
        engine.go_on()
        assert await asyncio.gather(*tasks) == [{}] * 6
        # In the order in which they came: what follows a second batch of a partition waits with it.
        assert engine.groups == [[(9, 0)], [(0, 0), (1, 0)], [(0, 10), (2, 0), (1, 10)]]

    asyncio.run(run())


def test_no_more_records_go_together_than_two_batches_may_have() -> None:
    async def run() -> None:
        engine = Journal()
        tasks = await behind_one(engine, port_of(engine, 50), [batch(n, 0, 40) for n in range(4)] + [batch(4, 0, 500)])
        engine.go_on()
        await asyncio.gather(*tasks)
        assert engine.groups[1:] == [[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(4, 0)]]

    asyncio.run(run())


def test_no_more_bytes_go_together_than_two_batches_may_have() -> None:
    async def run() -> None:
        engine = Journal()
        large = [batch(number, 0, 1, b" " * 1_000) for number in range(5)]
        tasks = await behind_one(engine, port_of(engine, bytes_max=1_000), large)
        engine.go_on()
        await asyncio.gather(*tasks)
        assert engine.groups[1:] == [[(0, 0), (1, 0)], [(2, 0), (3, 0)], [(4, 0)]]

    asyncio.run(run())


def test_a_batch_whose_body_was_ended_is_left_out() -> None:
    async def run() -> None:
        engine = Journal()
        tasks = await behind_one(engine, port_of(engine), [batch(0, 0), batch(1, 0)])
        tasks[1].cancel()
        await asyncio.sleep(0)
        engine.go_on()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.groups[1:] == [[(1, 0)]]

    asyncio.run(run())


def test_a_failure_is_told_to_all_whose_batches_it_took() -> None:
    async def run() -> None:
        engine = Journal(None, ValueError("the store is away"))
        tasks = await behind_one(engine, port_of(engine), [batch(0, 0), batch(1, 0)])
        engine.go_on()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert told[0] == {}
        assert [str(each) for each in told[1:]] == ["the store is away"] * 2

    asyncio.run(run())


@pytest.mark.parametrize("ended", [None, 1, 2])
def test_where_to_read_again_from_is_told_once_to_one_that_still_waits(ended: int | None) -> None:
    # What was lost was committed together with a batch of partition 7, which is read again as well.
    lost = LostTailError("by_user", "paid", 5, 3, frozenset({5, 7}))

    async def run() -> None:
        engine = Journal(None, lost)
        tasks = await behind_one(engine, port_of(engine), [batch(0, 0), batch(1, 0)])
        engine.go_on(1)
        await engine.begun()
        if ended is not None:
            tasks[ended].cancel()
            await asyncio.sleep(0)
        engine.go_on()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert told[0] == {}
        [back] = [each for each in told[1:] if isinstance(each, dict) and each]
        assert back == {("paid", partition): 100 + partition for partition in (0, 1, 5, 7)}
        assert engine.reopened == [5, 7]

    asyncio.run(run())
