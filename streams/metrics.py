"""What a worker says of itself at its loopback port: `/metrics` for Prometheus, `/health` for whoever restarts it."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from featurestore.errors import SettingError
from featurestore.event_time import SECOND_US
from streams.engine import Engine
from streams.transport import Place

# The worker ticks four times a second; one that has not for so long is stuck, and better restarted.
STUCK_S = 30.0
# Connections at once, each of which holds a thread and a descriptor that the sinks may need: monitors are few. Others
# wait in the system's own queue, and a connection that says nothing, or takes nothing, for so long makes room.
CONNECTIONS_MAX = 8
SILENT_S = 5.0

log = logging.getLogger("featurestore.worker")


class WorkerMetrics:
    """Metrics of all engines of a worker; reads what they counted, and changes nothing.

    Records and events are counted once by a process, however often they are read again (`Counts` says how they add up).
    ends      end offset of each partition as the broker last told it
    ticked_s  when the worker last ticked, of `time.monotonic`
    """

    def __init__(
        self, engines: Mapping[str, Engine], ends: Callable[[], Mapping[Place, int]], ticked_s: Callable[[], float]
    ) -> None:
        self._engines, self._ends, self._ticked_s = engines, ends, ticked_s

    def collect(self) -> Iterator[Metric]:
        """Called by Prometheus' client at every look."""
        records, applied, clamped, repeated, batches = (
            CounterMetricFamily(f"featurestore_{name}", meaning, labels=["topic"])
            for name, meaning in (
                ("records", "Records that came in, each once; applied, repeated and dead add up to it"),
                ("events_applied", "Events taken by a view at least, each once"),
                ("events_clamped", "Applied or left out events of the future, by a little, each once"),
                ("events_repeated", "Events whose id was seen already, left out, each once"),
                ("batches", "Batches applied, also those that are read again"),
            )
        )
        dead = CounterMetricFamily("featurestore_events_dead", "Dead letters, each once", labels=["topic", "reason"])
        rows = CounterMetricFamily(
            "featurestore_rows_written",
            "Rows sent to the online store, also when events are read again",
            labels=["view"],
        )
        held = GaugeMetricFamily("featurestore_partitions", "Partitions that this worker reads", labels=["topic"])
        place = ["topic", "partition"]
        stands = GaugeMetricFamily("featurestore_offset", "Next offset to apply", labels=place)
        newest = GaugeMetricFamily("featurestore_newest_event_seconds", "Newest event time applied", labels=place)
        lag = GaugeMetricFamily("featurestore_lag_events", "Records of the broker not applied yet", labels=place)
        watermark = GaugeMetricFamily(
            "featurestore_watermark_seconds",
            "Every event up to here that was not too late is in the view's rows, of this worker's partitions: "
            "newest event time less lateness, of the one that is furthest behind",
            labels=["view"],
        )
        ends = self._ends()
        for topic, engine in self._engines.items():
            # Taken once: the engine goes on, and what is told must add up.
            counts = engine.counts
            records.add_metric([topic], counts.records)
            applied.add_metric([topic], counts.applied)
            clamped.add_metric([topic], counts.clamped)
            repeated.add_metric([topic], counts.repeated)
            batches.add_metric([topic], counts.batches)
            for reason, count in counts.dead.items():
                dead.add_metric([topic, reason], count)
            for view, count in engine.rows_written().items():
                rows.add_metric([view], count)
            for view, moment_us in engine.watermarks().items():
                watermark.add_metric([view], moment_us / SECOND_US)
            marks = engine.marks()
            held.add_metric([topic], len(marks))
            for partition, mark in marks.items():
                labels = [topic, str(partition)]
                stands.add_metric(labels, mark.offset)
                newest.add_metric(labels, mark.newest_us / SECOND_US)
                if (topic, partition) in ends:
                    lag.add_metric(labels, max(ends[topic, partition] - mark.offset, 0))
        yield from (records, applied, clamped, repeated, dead, batches, rows, held, stands, newest, watermark, lag)

    def health(self) -> tuple[int, bytes]:
        """HTTP status and what it is made from."""
        idle_s = time.monotonic() - self._ticked_s()
        said = {
            "status": "ok" if idle_s < STUCK_S else "stuck",
            "seconds_since_tick": round(idle_s, 3),
            "partitions": {topic: sorted(engine.marks()) for topic, engine in self._engines.items()},
        }
        return (200 if idle_s < STUCK_S else 503), msgspec.json.encode(said)


class _Server(ThreadingHTTPServer):
    """A thread a connection, of which there are only so many."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._room = threading.Semaphore(CONNECTIONS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Waits for room before the next connection is taken."""
        self._room.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            # Such as no thread to be had.
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who went away before the answer was taken is no news; whatever else failed is told."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            log.error("a question at the worker's port has no answer", exc_info=True)


def serve_metrics(metrics: WorkerMetrics, port: int, *more: Collector, silent_s: float = SILENT_S) -> int:
    """Answer on 127.0.0.1 until the process ends; 0 takes any free port. Returns the port.

    Raises SettingError where it cannot have that port.
    """
    registry = CollectorRegistry()
    for each in (metrics, *more):
        registry.register(each)

    class Handler(BaseHTTPRequestHandler):
        timeout = silent_s

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4", generate_latest(registry))
            elif self.path == "/health":
                self._answer(*_typed(metrics.health()))
            else:
                self._answer(404, "text/plain", b"/metrics or /health\n")

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *said: object) -> None:
            """Looks of a monitor are not worth a line each."""

    try:
        server = _Server(("127.0.0.1", port), Handler)
    except OSError as error:
        what = (
            f"is {port}, which cannot be listened on: {error.strerror}; choose another one for each worker of a machine"
        )
        raise SettingError("worker_port", f"{what}, or 0 for any that is free") from error
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_address[1])


def _typed(health: tuple[int, bytes]) -> tuple[int, str, bytes]:
    return health[0], "application/json", health[1]
