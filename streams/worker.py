"""The worker: one Faust app, one agent a topic, one thread that owns all engines.

Faust carries: it starts, assigns, supervises and stops. What a batch does to the sinks happens on the one engine
thread, in order, off the event loop, so that signals and heartbeats are never held up by arithmetic.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import faust
from faust.types import StreamT

from featurestore.errors import LostTailError
from streams.engine import Engine
from streams.transport import Batch, Consumer, Place, ReaderOptions

_TICK_S = 0.25

_Answer = TypeVar("_Answer")

log = logging.getLogger("featurestore.worker")


class EnginePort:
    """The engines of a worker, behind the transport: partitions open and close between batches."""

    def __init__(self, engines: Mapping[str, Engine], reader_options: ReaderOptions) -> None:
        self.engines, self.reader_options = engines, reader_options
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._closed = threading.Event()

    def open(self, places: list[Place]) -> Mapping[Place, int]:
        starts = {place: self._thread.submit(self.engines[place[0]].open, place[1]).result() for place in places}
        log.info("reading %s", ", ".join(f"{t}/{p} from {o}" for (t, p), o in sorted(starts.items())) or "nothing")
        return starts

    def close(self, places: list[Place]) -> None:
        for topic, partition in places:
            self._thread.submit(self.engines[topic].close, partition).result()

    async def apply(self, batch: Batch) -> LostTailError | None:
        """Apply on the engine thread; a lost tail is an answer, not a failure."""
        return await self._run(lambda: self._apply(batch))

    async def tick(self) -> dict[Place, int]:
        """Heartbeats and the log; returns what every sink holds."""
        return await self._run(self._tick)

    def _apply(self, batch: Batch) -> LostTailError | None:
        engine = self.engines[batch.topic]
        try:
            engine.apply(batch)
        except LostTailError as error:
            engine.reopen(batch.partition)
            return error
        return None

    def _tick(self) -> dict[Place, int]:
        settled = {}
        for topic, engine in self.engines.items():
            engine.tick()
            settled.update({(topic, partition): end for partition, end in engine.settled().items()})
        return settled

    async def _run(self, work: Callable[[], _Answer]) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


class StreamApp(faust.App):
    """A Faust app that its transport can ask for the port behind it."""

    port: EnginePort


def stream_app(group: str, bootstrap: str, port: EnginePort, data_folder: str) -> StreamApp:
    """The app of one worker: an agent for each topic that an engine handles."""
    app = StreamApp(
        group,
        broker=[f"rdkafka://{server}" for server in bootstrap.split(",")],
        datadir=data_folder,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        # A body that raises ends the process: an agent restarted in place would go on with the next batch.
        agent_supervisor="mode.CrashingSupervisor",
        # One event is a batch, and credit allows two a partition.
        stream_buffer_maxsize=1_024,
        worker_redirect_stdouts=False,
    )
    app.port = port
    for topic in port.engines:
        channel = app.topic(topic, key_serializer="raw", value_serializer="raw", acks=False)
        app.agent(channel, name=f"apply-{topic}", isolated_partitions=True)(_body(app, port))

    @app.timer(interval=_TICK_S)  # type: ignore[untyped-decorator]  # Faust publishes no type for it
    async def tick() -> None:
        consumer = cast(Consumer, app.consumer)
        consumer.settle(await port.tick())

    return app


def _body(app: StreamApp, port: EnginePort) -> Callable[[StreamT[Batch]], Any]:
    async def body(stream: StreamT[Batch]) -> None:
        async for batch in stream:
            consumer = cast(Consumer, app.consumer)
            lost = await port.apply(batch)
            if lost is not None:
                log.warning("%s", lost)
                consumer.seek_back((batch.topic, batch.partition), port.engines[batch.topic].stands(batch.partition))
            consumer.finished(batch)

    return body


def run_worker(app: StreamApp, topics: Sequence[str]) -> int:
    """Run until SIGTERM or a failure; returns the exit code."""
    started = time.monotonic()
    worker = faust.Worker(app, loglevel="INFO", blocking_timeout=30.0)
    log.info("worker for %s", ", ".join(topics))
    try:
        worker.execute_from_commandline()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        for topic, engine in app.port.engines.items():
            counts = engine.counts
            log.info("%s: applied %d, clamped %d, dead %s", topic, counts.applied, counts.clamped, dict(counts.dead))
        log.info("worker ended after %.0f s with code %d", time.monotonic() - started, code)
        return code
    return 0
