"""Which batches a worker applies together, and who is told what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from featurestore.errors import LostTailError
from streams.transport import Batch, ReaderOptions
from streams.worker import EnginePort

TOPIC = "paid"


class Engine:
    """Notes what comes together; loses the tail of partitions when it is told to."""

    def __init__(self, lost: Sequence[int] = ()) -> None:
        self.topic = self
        self.name, self.groups = TOPIC, list[list[int]]()
        self.lost, self.reopened = list(lost), set[int]()

    def apply(self, *batches: Batch) -> None:
        self.groups.append([batch.partition for batch in batches])
        if self.lost:
            first, *also = self.lost
            self.lost = []
            raise LostTailError("view", TOPIC, first, 0, frozenset(also))

    def reopen(self, partition: int) -> None:
        self.reopened.add(partition)

    def stands(self, partition: int) -> int:
        return 100 + partition


def batch(partition: int, first: int = 0, size_bytes: int = 1) -> Batch:
    offsets = np.arange(first, first + 1)
    return Batch(TOPIC, partition, first, first + 1, [bytes(size_bytes)], offsets, offsets)


def port_of(engine: Any, **options: Any) -> EnginePort:
    return EnginePort({TOPIC: engine}, ReaderOptions(**options))


def test_where_to_read_again_from_is_told_to_one_who_still_waits() -> None:
    # Whoever stands first may have been ended meanwhile; the others' partitions would wait for records for ever.
    engine = Engine(lost=[2, 3])
    port = port_of(engine)

    async def ask() -> list[Any]:
        bodies = [asyncio.ensure_future(port.apply(batch(partition))) for partition in range(3)]
        while len(port._waiting.get(TOPIC, [])) < 3:
            await asyncio.sleep(0)
        while port._waiting[TOPIC]:
            await asyncio.sleep(0)
        # Taken together, and not answered yet: no answer comes without a turn of this loop.
        bodies[0].cancel()
        return await asyncio.gather(*bodies, return_exceptions=True)

    ended, first, second = asyncio.run(ask())
    assert isinstance(ended, asyncio.CancelledError)
    assert first == {(TOPIC, partition): 100 + partition for partition in range(4)}
    assert second == {}
    assert engine.groups == [[0, 1, 2]]
    assert engine.reopened == {2, 3}


@pytest.mark.parametrize(
    ("options", "groups"),
    [({}, [[0, 1, 2, 3, 4]]), ({"batch_bytes_max": 1_000}, [[0, 1], [2, 3], [4]])],
    ids=["no bound in the way", "two batches' bytes"],
)
def test_large_records_of_all_partitions_are_not_decoded_at_once(options: dict[str, Any], groups: list[Any]) -> None:
    engine = Engine()
    port = port_of(engine, **options)

    async def ask() -> None:
        await asyncio.gather(*(port.apply(batch(partition, size_bytes=1_000)) for partition in range(5)))

    asyncio.run(ask())
    assert engine.groups == groups
