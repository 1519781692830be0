"""Faust's consumer on top of the reader: fetch, acknowledgement and commit are the reader's; agents stay Faust's.

An event that Faust hands to an agent is a `Batch`. The agent's body says `finished` when the batch is done and
`settle` when every sink holds it; Faust's own acknowledgements are out of use (`topic(acks=False)`), since they
commit past unfinished work when an agent fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Protocol

from faust.transport import base
from faust.types import TP, ConsumerMessage

from featurestore.errors import TransportError
from streams.broker import client_config
from streams.transport.batch import Batch
from streams.transport.reader import Place, Reader, ReaderOptions

# Two batches a partition: one at work, one waiting, so that the body never waits for the loop.
_CREDIT = 2
# A batch takes a second at most; what takes longer than this is stuck, and the process is better restarted.
_DRAIN_S = 30.0
_REBALANCE_S = 60.0


class Port(Protocol):
    """What stands behind the agents: it knows where to read from. Called from the poll thread."""

    reader_options: ReaderOptions

    def open(self, places: list[Place]) -> Mapping[Place, int]: ...

    def close(self, places: list[Place]) -> Mapping[Place, int]:
        """Give partitions up; where all sinks stand in them."""


class Consumer(base.Consumer):
    """One member of the group. `app.port` is what it reads for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._port: Port = self.app.port  # type: ignore[attr-defined]  # a StreamApp has one
        self._reader: Reader | None = None
        self._assigned: set[TP] = set()
        # By identity: what was handed out before a rebalance may still lie in Faust's queues, and is another's by then.
        self._handed: dict[int, Batch] = {}
        self._at_work: dict[int, Batch] = {}
        self._wake = asyncio.Event()
        self._turn = 0

    # -- what agents say -------------------------------------------------------------------------------------------

    def begun(self, batch: Batch) -> bool:
        """Whether the batch is still this worker's to apply; then it is waited for before its partition leaves."""
        is_ours = id(batch) in self._handed
        if is_ours:
            self._at_work[id(batch)] = batch
        return is_ours

    def finished(self, batch: Batch) -> None:
        """The body is done with the batch: there is room for another one of its partition."""
        self._handed.pop(id(batch), None)
        self._at_work.pop(id(batch), None)
        self._wake.set()

    def settle(self, ends: Mapping[Place, int]) -> None:
        """Every sink holds these partitions up to these offsets."""
        if self._reader is not None:
            for place, end in ends.items():
                self._reader.settle(place, end)

    def seek_back(self, place: Place, offset: int) -> None:
        if self._reader is not None:
            self._reader.seek_back(place, offset)

    def ends(self) -> Mapping[Place, int]:
        """End offsets of the assigned partitions; none before the first assignment."""
        return {} if self._reader is None else self._reader.ends()

    # -- what the reader says, from its thread ---------------------------------------------------------------------

    def assigned(self, places: list[Place]) -> Mapping[Place, int]:
        starts = self._port.open(places)
        self._bridge(self._on_assigned({TP(*place) for place in places}))
        return starts

    def revoked(self, places: list[Place]) -> None:
        if not self.should_stop:
            self._bridge(self._on_revoked({TP(*place) for place in places}))
        self.settle(self._port.close(places))

    def lost(self, places: list[Place]) -> None:
        self.revoked(places)

    def ready(self) -> None:
        self.loop.call_soon_threadsafe(self._wake.set)

    def failed(self, error: BaseException) -> None:
        self.log.error("reading from Kafka failed: %s", error)
        asyncio.run_coroutine_threadsafe(self.crash(error), self.loop)

    def _bridge(self, work: Coroutine[Any, Any, None]) -> None:
        """Run on the event loop and wait, serving the reader meanwhile: a commit from there must not deadlock."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        deadline = time.monotonic() + _REBALANCE_S
        while not future.done():
            if time.monotonic() > deadline:
                future.cancel()
                raise TransportError(f"a rebalance was not finished within {_REBALANCE_S:.0f} s")
            if self._reader is not None:
                self._reader.serve()
            time.sleep(0.002)
        future.result()

    async def _on_assigned(self, assigned: set[TP]) -> None:
        # librdkafka sends no revoke before the first assign, but Faust wants to hear of a rebalance each time.
        self.app.on_rebalance_start()
        self.app.consumer_generation_id += 1
        self._assigned = assigned
        self._handed.clear()
        await self.on_partitions_assigned(assigned, self.app.consumer_generation_id)

    async def _on_revoked(self, revoked: set[TP]) -> None:
        self.app.on_rebalance_start()
        await self.on_partitions_revoked(revoked)
        self._handed.clear()
        self._assigned = self._assigned - revoked

    # -- what Faust asks -------------------------------------------------------------------------------------------

    async def subscribe(self, topics: Iterable[str]) -> None:
        # The conductor may ask again for the same topics; the reader already has them.
        if self._reader is None:
            config = {
                **client_config(",".join(f"{url.host}:{url.port}" for url in self.transport.url)),
                "group.id": self.app.conf.id,
                "client.id": self.app.conf.broker_client_id,
            }
            self._reader = Reader(config, self._port.reader_options, self)
            self._reader.start(sorted(topics))

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, list[Batch]]:
        """One batch, of the next partition in turn that has one and room for it."""
        while not self.should_stop:
            self._wake.clear()
            if self.flow_active and self._reader is not None:
                places = sorted(self._reader.places())
                for index in range(len(places)):
                    place = places[(self._turn + index) % len(places)]
                    tp = TP(*place)
                    if tp not in (active_partitions or ()) or self._credit_used(place) >= _CREDIT:
                        continue
                    batch = self._reader.take(place)
                    if batch is not None:
                        self._turn += index + 1
                        return {tp: [batch]}
            try:
                await asyncio.wait_for(self._wake.wait(), timeout)
            except TimeoutError:
                break
        return {}

    def _credit_used(self, place: Place) -> int:
        return sum((batch.topic, batch.partition) == place for batch in self._handed.values())

    def _to_message(self, tp: TP, batch: Batch) -> ConsumerMessage:
        self._handed[id(batch)] = batch
        # Faust drops what lies before the last offset that it saw of a partition; after a seek back that is wanted.
        self._read_offset[tp] = None
        return ConsumerMessage(
            batch.topic,
            batch.partition,
            batch.end_offset - 1,
            float(batch.timestamps_us[-1]) / 1e6 if len(batch.timestamps_us) else 0.0,
            0,
            [],
            None,
            batch,  # type: ignore[arg-type]  # the raw codec hands any value on untouched
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def wait_empty(self) -> None:
        """Until no batch is at work; raises TransportError when one is stuck.

        Batches that wait in Faust's queues are not waited for: Faust stops handing them on before it asks for this.
        """
        deadline = time.monotonic() + _DRAIN_S
        while self._at_work:
            if self.crashed or self.app.crashed:
                return
            if time.monotonic() > deadline:
                raise TransportError(f"a batch was not finished within {_DRAIN_S:.0f} s")
            await asyncio.sleep(0.005)

    async def on_stop(self) -> None:
        await self.wait_empty()
        if self._reader is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._reader.stop)

    def close(self) -> None:
        """`on_stop` has closed the reader."""

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """The reader commits what is settled, on its own."""
        return False

    async def perform_seek(self) -> None:
        """Positions are the reader's; Faust asks for this in the middle of a rebalance, where it would do harm."""

    async def seek_to_committed(self) -> Mapping[TP, int]:
        return {}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        return False

    async def _seek(self, partition: TP, offset: int) -> None:
        raise TransportError("seek through the engine: it knows what the sinks hold")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        if partitions:
            raise TransportError("Faust tables are not supported by this transport")

    async def position(self, tp: TP) -> int | None:
        return None

    def assignment(self) -> set[TP]:
        return set(self._assigned)

    def highwater(self, tp: TP) -> int:
        return 0

    def on_buffer_full(self, tp: TP) -> None:
        """Credit bounds what is handed out; Faust's own back-pressure sleeps a second when queues are small."""

    def on_buffer_drop(self, tp: TP) -> None:
        """See `on_buffer_full`."""

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def topic_partitions(self, topic: str) -> int | None:
        return None

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return {}

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return {}

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        return partition

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        raise TransportError(f"topic {topic!r} does not exist; run `featurestore apply` first")
