"""Faust's consumer on top of the reader: fetch, acknowledgement and commit are the reader's; agents stay Faust's.

An event that Faust hands to an agent is a `Batch`. The agent's body says `finished` when the batch is done and
`settle` when every sink holds it; Faust's own acknowledgements are out of use (`topic(acks=False)`), since they
commit past unfinished work when an agent fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import wait
from contextlib import suppress
from typing import Any, Protocol

from faust.transport import base
from faust.types import TP, ConsumerMessage

from featurestore.errors import TransportError
from streams.broker import Broker, client_config
from streams.transport.batch import Batch
from streams.transport.options import ReaderOptions
from streams.transport.ranges import Place, Ticket
from streams.transport.reader import Reader
from streams.transport.statistics import ReaderCounts, Statistics

# Beyond the drain, which is bounded itself: what Faust does at a rebalance takes a second at most.
_REBALANCE_S = 60.0
# How often a crash is looked for while a batch is waited for.
_LOOK_S = 0.1
# The last commit and the good-bye to the group.
_LEAVE_S = 5.0
# No call of librdkafka takes that long but on the way out, unless it hangs.
_SILENT_S = 20.0


class Port(Protocol):
    """What stands behind the agents: it knows where to read from. Called from the poll thread."""

    reader_options: ReaderOptions
    login: Mapping[str, str]

    def open(self, places: list[Place]) -> Mapping[Place, int]: ...

    def epochs(self, places: list[Place]) -> Mapping[Place, int]:
        """Leader epochs of the records before these starts, as far as they are known."""

    def close(self, places: list[Place]) -> Mapping[Place, int]:
        """Give partitions up; where all sinks stand in them."""


class Consumer(base.Consumer):
    """One member of the group. `app.port` is what it reads for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._port: Port = self.app.port  # type: ignore[attr-defined]  # a StreamApp has one
        self._reader: Reader | None = None
        self._assigned: set[TP] = set()
        self._topics: list[str] = []
        # By identity: what was handed out before a rebalance may still lie in Faust's queues, and is another's by then.
        self._handed: dict[int, tuple[Batch, Ticket]] = {}
        self._at_work: dict[int, Batch] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._turn = 0
        self._drain_until_s: float | None = None
        # A batch at work was given up: the process must end, since its thread cannot be.
        self.has_abandoned = False

    # -- what agents say -------------------------------------------------------------------------------------------

    def begun(self, batch: Batch) -> bool:
        """Whether the batch is still this worker's to apply; then it is waited for before its partition leaves."""
        entry = self._handed.get(id(batch))
        if entry is None or self._reader is None or not self._reader.begin(entry[1]):
            return False
        self._at_work[id(batch)] = batch
        return True

    def finished(self, batch: Batch) -> None:
        """The body is done with the batch: there is room for another one of its partition."""
        entry = self._handed.pop(id(batch), None)
        if entry is not None and self._reader is not None:
            self._reader.finish(entry[1])
        self._at_work.pop(id(batch), None)
        self._wake.set()
        if not self._at_work:
            self._idle.set()

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

    def statistics(self) -> Statistics:
        """What librdkafka said within the last seconds; safe to ask from any thread, as are the counts."""
        return Statistics() if self._reader is None else self._reader.statistics()

    def counts(self) -> ReaderCounts:
        return ReaderCounts() if self._reader is None else self._reader.counts()

    def progress(self, silent_max_s: float = _SILENT_S) -> tuple[int, str]:
        """Batches finished so far; and what there is to do, in words, empty when there is nothing.

        silent_max_s  a poll thread that is in librdkafka for longer hangs, and to come back is what there is to do
        """
        counts, waiting = self.counts(), []
        if counts.in_hand:
            waiting.append(f"{counts.in_hand} batches are handed out")
        if counts.waiting_records:
            waiting.append(f"{counts.waiting_records} records wait")
        silent_s = 0.0 if self._reader is None else self._reader.silent_s(time.monotonic())
        if silent_s >= silent_max_s:
            waiting.append(f"the broker was not polled for {silent_s:.0f} s")
        return counts.finished, " and ".join(waiting)

    def unread(self) -> dict[Place, int]:
        """Partitions of which the broker has more and nothing is here; where each stands."""
        return {} if self._reader is None else self._reader.unread()

    def undrained(self) -> list[str]:
        """What a worker that is to stop still has to do here, in words; safe to ask from any thread."""
        left = [f"{self._said_at_work()} is at work"] if self._at_work else []
        if self._reader is not None and self._reader.is_at_work:
            left.append("the consumer group has not been left, so its coordinator has to find out (worker_session_s)")
        return left

    def _said_at_work(self) -> str:
        at_work = list(self._at_work.values())
        return ", ".join(f"{b.topic}/{b.partition} {b.first_offset} to {b.end_offset}" for b in at_work)

    # -- what the reader says, from its thread ---------------------------------------------------------------------

    def assigned(self, places: list[Place]) -> Mapping[Place, int]:
        starts = self._port.open(places)
        # Faust is told of all partitions each time, also of those that stay.
        self._bridge(self._on_assigned(self._assigned | {TP(*place) for place in places}))
        return starts

    def epochs(self, places: list[Place]) -> Mapping[Place, int]:
        return self._port.epochs(places)

    def revoked(self, places: list[Place]) -> None:
        if not self.should_stop:
            self._bridge(self._on_revoked({TP(*place) for place in places}))
        # The engine's thread is not to be waited for when it is stuck.
        if not self.has_abandoned:
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
        limit_s = _REBALANCE_S + self._port.reader_options.drain_s
        deadline = time.monotonic() + limit_s
        while wait([future], 0.002).not_done:
            if time.monotonic() > deadline:
                future.cancel()
                raise TransportError(f"a rebalance was not finished within {limit_s:.0f} s")
            if self._reader is not None:
                self._reader.serve()
        future.result()

    async def _on_assigned(self, assigned: set[TP]) -> None:
        # librdkafka sends no revoke before the first assign, but Faust wants to hear of a rebalance each time. It
        # empties its queues when it goes on, and skips batches of an earlier generation.
        self.app.on_rebalance_start()
        self.stop_flow()
        self.app.flow_control.suspend()
        self.app.flow_control.clear()
        self.app.consumer_generation_id += 1
        self._take_back()
        self._assigned = assigned
        await self.on_partitions_assigned(set(assigned), self.app.consumer_generation_id)

    async def _on_revoked(self, revoked: set[TP]) -> None:
        self.app.on_rebalance_start()
        await self.on_partitions_revoked(revoked)
        self._take_back()
        self._assigned = self._assigned - revoked

    def _take_back(self) -> None:
        """What no body has begun waits in the reader again; nothing of partitions that are left for others."""
        if self._reader is not None:
            self._reader.take_back()
        self._handed = {key: entry for key, entry in self._handed.items() if not entry[1].is_void}

    # -- what Faust asks -------------------------------------------------------------------------------------------

    async def subscribe(self, topics: Iterable[str]) -> None:
        wanted = sorted(topics)
        if self._reader is not None:
            # The conductor may ask again for the same topics; the reader already has them.
            if wanted != self._topics:
                raise TransportError(f"topics changed from {self._topics} to {wanted}; start the worker again")
            return
        client = {
            **client_config(Broker(",".join(f"{url.host}:{url.port}" for url in self.transport.url), self._port.login)),
            "group.id": self.app.conf.id,
            "client.id": self.app.conf.broker_client_id,
        }
        self._reader, self._topics = Reader(client, self._port.reader_options, self), wanted
        self._reader.start(wanted)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> dict[TP, list[Batch]]:
        """One batch, of the next partition in turn that has one and room for it; nothing once the flow is stopped.

        Faust looks between two calls whether it is to stop, so this one ends in time however often it is woken: asyncio
        may lose the cancellation that comes at the same moment as a wake.
        """
        deadline = time.monotonic() + timeout
        while not self.should_stop and self.flow_active:
            self._wake.clear()
            if self._reader is not None:
                places = sorted(self._reader.places())
                for index in range(len(places)):
                    place = places[(self._turn + index) % len(places)]
                    tp = TP(*place)
                    taken = self._reader.take(place) if tp in (active_partitions or ()) else None
                    if taken is not None:
                        self._turn += index + 1
                        self._handed[id(taken[0])] = taken
                        return {tp: [taken[0]]}
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left_s)
        return {}

    def _to_message(self, tp: TP, batch: Batch) -> ConsumerMessage:
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
        """Until no batch is at work; when one is stuck, the process is to end.

        Batches that wait in Faust's queues are not waited for: Faust stops handing them on before it asks for this.
        Faust asks twice when it stops; the bound is for both.
        """
        limit_s = self._port.reader_options.drain_s
        if self._drain_until_s is None:
            self._drain_until_s = time.monotonic() + limit_s
        while self._at_work:
            if self.crashed or self.app.crashed or self.has_abandoned:
                return
            if time.monotonic() > self._drain_until_s:
                self.has_abandoned = True
                error = TransportError(
                    f"a batch was not finished within {limit_s:.1f} s (worker_drain_s): {self._said_at_work()}; it is "
                    "given up, and whoever reads its partition next applies it"
                )
                if not (self.should_stop or self.app.should_stop):
                    raise error
                self.log.error("%s", error)
                return
            self._idle.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _LOOK_S)
        self._drain_until_s = None

    async def on_stop(self) -> None:
        await self.wait_empty()
        if self._reader is not None:
            limit_s = _LEAVE_S + self._port.reader_options.drain_s
            loop = asyncio.get_running_loop()
            if not await loop.run_in_executor(None, self._reader.stop, limit_s):
                self.has_abandoned = True
                self.log.error("the group was not left within %.0f s; its coordinator will find out by itself", limit_s)

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
