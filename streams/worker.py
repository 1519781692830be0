"""The worker: one Faust app, one agent a topic, one thread that owns all engines.

Faust carries: it starts, assigns, supervises and stops. What a batch does to the sinks happens on the one engine
thread, in order, off the event loop, so that signals and heartbeats are never held up by arithmetic.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar, cast

import faust
from faust.tables import TableManager
from faust.types import StreamT

from featurestore.errors import FeatureStoreError, GrownTopicError, LostTailError, TopicError
from streams.dead_letters import DeadLetterBox
from streams.engine import Engine
from streams.logs import json_logging
from streams.metrics import WorkerMetrics, serve_metrics
from streams.topic_ids import Told
from streams.topic_watch import watch_topics
from streams.transport import Agent, Batch, Consumer, Place, ReaderOptions
from streams.transport_metrics import TransportMetrics
from streams.watchdog import EXIT_ABANDONED, end_now, end_within, watch

_TICK_S = 0.25
# A cancelled task ends at its next step; one that does not may not hold the end of the process up.
_CANCEL_S = 1.0
# Beyond the drain: the last flush of what was drained in time, and the good-bye to the group. With the drain's default
# a worker ends within ten seconds of the signal, whoever does not answer.
LEAVE_S = 1.5
# Below so many records a batch costs what it costs however small it is: worth a moment's wait for others.
_SMALL, _GATHER_S = 2_000, 0.002
# So many full batches at once: where entities are spread over partitions, twice the events write hardly more rows.
_TOGETHER = 2

_Answer = TypeVar("_Answer")
# A batch, and who waits for where to read again from.
_Waiting = tuple[Batch, "asyncio.Future[dict[Place, int]]"]

log = logging.getLogger("featurestore.worker")


class EnginePort:
    """The engines of a worker, behind the transport: partitions open and close between batches.

    ask      asks the broker who the topics are; None where nobody compares them
    letters  where the engines put their dead letters
    allowed  raises what keeps this worker from taking partitions over
    loaded   called when a topic's first batch is applied: all that this takes is in memory then
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        reader_options: ReaderOptions,
        login: Mapping[str, str] | None = None,
        ask: Callable[[], Mapping[str, Told]] | None = None,
        letters: DeadLetterBox | None = None,
        allowed: Callable[[], None] = lambda: None,
        loaded: Callable[[], object] = lambda: None,
    ) -> None:
        self._letters, self._allowed, self._loaded = letters, allowed, loaded
        self.engines, self.reader_options, self.login = engines, reader_options, login or {}
        self.ask = ask
        self._refused: TopicError | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._waiting: dict[str, list[_Waiting]] = {}
        self._appliers: dict[str, asyncio.Task[None]] = {}
        # Topics of which a batch was applied.
        self._begun: set[str] = set()
        self.ticked_s = time.monotonic()

    def open(self, places: list[Place]) -> Mapping[Place, int]:
        if places:
            self._allowed()
        try:
            starts = {place: self._thread.submit(self.engines[place[0]].open, place[1]).result() for place in places}
        except GrownTopicError as error:
            raise self._counted(error) from error
        told = [{"topic": topic, "partition": number, "offset": o} for (topic, number), o in sorted(starts.items())]
        said = ", ".join(f"{each['topic']}/{each['partition']} from {each['offset']}" for each in told)
        log.info("reading %s", said or "nothing", extra={"places": told})
        return starts

    def _counted(self, error: GrownTopicError) -> GrownTopicError:
        """With the broker's own count: of the partitions that this worker was given, the last need not be the last."""
        try:
            held = error.held if self.ask is None else self.ask()[error.topic].partitions
        except FeatureStoreError:
            return error
        return GrownTopicError(error.topic, error.said, max(held, error.held))

    def epochs(self, places: list[Place]) -> Mapping[Place, int]:
        marks = {place: self.engines[place[0]].read_from(place[1]) for place in places}
        return {
            place: mark.leader_epoch for place, mark in marks.items() if mark is not None and mark.leader_epoch >= 0
        }

    def close(self, places: list[Place]) -> Mapping[Place, int]:
        ends = {place: self._thread.submit(self.engines[place[0]].close, place[1]).result() for place in places}
        return {place: end for place, end in ends.items() if end is not None}

    async def apply(self, batch: Batch) -> dict[Place, int]:
        """Apply on the engine thread; where to read again from, when the online store lost its tail.

        Batches of one topic that are there at once are applied together: a row that several partitions have events
        for is read and written once, and small batches share what each of them costs.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[dict[Place, int]] = loop.create_future()
        self._waiting.setdefault(batch.topic, []).append((batch, done))
        if batch.topic not in self._appliers:
            self._appliers[batch.topic] = loop.create_task(self._apply_all(batch.topic))
        return await done

    async def _apply_all(self, topic: str) -> None:
        """Until nothing waits. What goes wrong is told to those whose batches they are."""
        waiting = self._waiting[topic]
        try:
            while waiting:
                if sum(len(batch.values) for batch, _ in waiting) < _SMALL:
                    # What the reader has just read of other partitions is on its way.
                    await asyncio.sleep(_GATHER_S)
                group = self._next(waiting)
                if not group:
                    continue
                batches = [batch for batch, _ in group]
                try:
                    back = await self._run(functools.partial(self._apply, batches))
                except Exception as error:
                    _tell(group, error)
                else:
                    _tell(group, back)
        finally:
            del self._appliers[topic]

    def _next(self, waiting: list[_Waiting]) -> list[_Waiting]:
        """The oldest batches, one a partition, up to as many records and bytes as two batches may have."""
        group: dict[int, _Waiting] = {}
        records, records_max = 0, _TOGETHER * self.reader_options.batch_records_max
        # Large records are few: without this bound, those of all partitions would be copied and decoded at once.
        size, bytes_max = 0, _TOGETHER * self.reader_options.batch_bytes_max
        for batch, done in list(waiting):
            if done.cancelled():
                # Its body was ended before it was begun here.
                waiting.remove((batch, done))
                continue
            records, size = records + len(batch.values), size + batch.size_bytes
            if batch.partition in group or (group and (records > records_max or size > bytes_max)):
                break
            group[batch.partition] = batch, done
        for each in group.values():
            waiting.remove(each)
        return list(group.values())

    def refuse(self, error: TopicError) -> None:
        """Apply nothing any more: `apply` raises this. Safe to call from any thread."""
        self._refused = error

    def undrained(self) -> list[str]:
        """What was read and is not known to be held, by whom, in words; safe to ask from any thread."""
        left = [said for engine in self.engines.values() for said in engine.undrained()]
        if self._letters is not None and (count := self._letters.unstored):
            left.append(f"the broker is not known to have {count} dead letters")
        return left

    async def tick(self) -> tuple[dict[Place, int], dict[Place, int]]:
        """Heartbeats and the log; returns what every sink holds, and where to read again from."""
        return await self._run(self._tick)

    def _apply(self, batches: Sequence[Batch]) -> dict[Place, int]:
        engine = self.engines[batches[0].topic]
        if self._refused is not None:
            raise self._refused
        try:
            engine.apply(*batches)
        except LostTailError as error:
            # What was lost may be of another partition; these batches were not applied either.
            return self._reopened(engine, error, {batch.partition for batch in batches})
        if engine.topic.name not in self._begun:
            self._begun.add(engine.topic.name)
            self._loaded()
        return {}

    def _tick(self) -> tuple[dict[Place, int], dict[Place, int]]:
        self.ticked_s = time.monotonic()
        settled: dict[Place, int] = {}
        back: dict[Place, int] = {}
        for topic, engine in self.engines.items():
            try:
                engine.tick()
            except LostTailError as error:
                back.update(self._reopened(engine, error, set()))
            settled.update({(topic, partition): end for partition, end in engine.settled().items()})
        return settled, back

    def _reopened(self, engine: Engine, error: LostTailError, not_applied: set[int]) -> dict[Place, int]:
        log.warning("%s", error)
        dropped = {error.partition, *error.also}
        for partition in sorted(dropped):
            engine.reopen(partition)
        stands = {(engine.topic.name, partition): engine.stands(partition) for partition in dropped | not_applied}
        return {place: offset for place, offset in stands.items() if offset is not None}

    async def _run(self, work: Callable[[], _Answer]) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _tell(group: Sequence[_Waiting], what: dict[Place, int] | Exception) -> None:
    """The outcome to all whose batches were applied together; where to read again from to one that still waits."""
    for _, done in group:
        if done.done():
            continue
        if isinstance(what, Exception):
            done.set_exception(what)
        else:
            done.set_result(what)
            what = {}


class StreamApp(faust.App):
    """A Faust app that its transport can ask for the port behind it."""

    port: EnginePort


class _NoTables(TableManager):
    """Faust waits a second for tables that a program may yet define; we have none."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class _Worker(faust.Worker):
    """Ends once its services have: mode waits a second for tasks that have no end, and one more for nothing.

    begins_to_end  is called at the first signal that tells it to stop, or when a service fails
    """

    begins_to_end: Callable[[], None]

    def _crash(self, reason: BaseException) -> None:
        if not self.crashed:
            self.begins_to_end()
        super()._crash(reason)

    def _schedule_shutdown(self, signal: Any) -> None:
        if self._signal_stop_time is None:
            self.begins_to_end()
        super()._schedule_shutdown(signal)

    def _gather_all(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=_CANCEL_S))

    async def _sentinel_task(self) -> None:
        """What the loop runs last, before it is closed."""


def stream_app(
    group: str, bootstrap: str, port: EnginePort, data_folder: str, client_id: str = "featurestore"
) -> StreamApp:
    """The app of one worker: an agent for each topic that an engine handles.

    client_id  by which the broker knows it
    """
    app = StreamApp(
        group,
        broker=[f"rdkafka://{server}" for server in bootstrap.split(",")],
        broker_client_id=client_id,
        datadir=data_folder,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        # A body that raises ends the process: an agent restarted in place would go on with the next batch.
        agent_supervisor="mode.CrashingSupervisor",
        # One event is a batch, and credit allows two a partition.
        stream_buffer_maxsize=1_024,
        Agent=Agent,
        TableManager=_NoTables,
        worker_redirect_stdouts=False,
    )
    app.port = port
    for topic in port.engines:
        channel = app.topic(topic, key_serializer="raw", value_serializer="raw", acks=False)
        app.agent(channel, name=f"apply-{topic}", isolated_partitions=True)(_body(app, port))

    @app.timer(interval=_TICK_S)  # type: ignore[untyped-decorator]  # Faust publishes no type for it
    async def tick() -> None:
        consumer = cast(Consumer, app.consumer)
        settled, back = await port.tick()
        consumer.settle(settled)
        for place, offset in back.items():
            consumer.seek_back(place, offset)

    return app


def _watch_topics(port: EnginePort, consumer: Consumer) -> None:
    if port.ask is None:
        return

    def failed(error: TopicError) -> None:
        port.refuse(error)
        consumer.failed(error)

    known = {name: Told(engine.topic_id, engine.topic.partitions) for name, engine in port.engines.items()}
    watch_topics(known, port.ask, failed)


def _body(app: StreamApp, port: EnginePort) -> Callable[[StreamT[Batch]], Any]:
    async def body(stream: StreamT[Batch]) -> None:
        async for batch in stream:
            consumer = cast(Consumer, app.consumer)
            if consumer.begun(batch):
                for place, offset in (await port.apply(batch)).items():
                    consumer.seek_back(place, offset)
            consumer.finished(batch)

    return body


def run_worker(
    app: StreamApp,
    topics: Sequence[str],
    metrics_port: int = 0,
    *,
    stall_s: float = 120.0,
    log_format: Literal["text", "json"] = "text",
) -> int:
    """Run until SIGTERM or a failure; returns the exit code, or ends the process when a batch had to be given up.

    metrics_port  of this machine alone; 0 takes any free one
    stall_s       a worker that has records and applies none, or gets none of a partition that the broker has more of,
                  for this long ends with EXIT_STALLED
    """
    started = time.monotonic()
    # Events become objects by the ten thousand: a collector that goes through everything each time costs a third.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    consumer = cast(Consumer, app.consumer)
    metrics = WorkerMetrics(app.port.engines, consumer.ends, lambda: app.port.ticked_s)
    port = serve_metrics(metrics, metrics_port, TransportMetrics(consumer.counts, consumer.statistics))

    def progress() -> tuple[int, str]:
        # A batch may be applied in many parts, and each of them is something done; so are the letters of one.
        finished, waiting = consumer.progress()
        engines = app.port.engines.values()
        return finished + sum(engine.steps for engine in engines), waiting

    watch(stall_s, progress, unread=consumer.unread)
    _watch_topics(app.port, consumer)

    @app.task  # type: ignore[untyped-decorator]  # before it starts, Faust has not set logging up
    async def tell() -> None:
        log.info("metrics and health at http://127.0.0.1:%d, for %s", port, ", ".join(topics))

    config = json_logging("INFO") if log_format == "json" else None
    worker = _Worker(app, loglevel="INFO", logging_config=config, blocking_timeout=30.0)
    limit_s = app.port.reader_options.drain_s + LEAVE_S
    worker.begins_to_end = lambda: end_within(limit_s, lambda: [*consumer.undrained(), *app.port.undrained()])
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        for topic, engine in app.port.engines.items():
            counts = engine.counts
            log.info(
                "%s: %d records, applied %d, repeated %d, clamped %d, dead %s",
                *(topic, counts.records, counts.applied, counts.repeated, counts.clamped, dict(counts.dead)),
            )
        if consumer.has_abandoned:
            code = EXIT_ABANDONED
        log.info("worker ended after %.0f s with code %d", time.monotonic() - started, code)
        if consumer.has_abandoned:
            # A thread that is stuck would hold an orderly end up for ever.
            end_now(code)
        return code
    return 0
